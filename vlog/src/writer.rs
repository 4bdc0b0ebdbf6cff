//! The one writer: groups, syncs, rotation, and the callbacks after them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::content::Content;
use crate::error::Error;
use crate::files::Table;
use crate::format::{FrameHead, SEGMENT_HEADER_LEN, SegmentHeader, segment_path};
use crate::fs::{File, Fs, Reservation};
use crate::ids::{SegmentId, Seq};
use crate::layout::Group;
use crate::log::Shared;
use crate::planted::{Bug, planted};
use crate::queue::{What, Work};
use crate::tail::Place;
use crate::view::{Poison, Sealed};

/// Writes what was submitted to a [`crate::Log`]; there is one per log.
///
/// Owns the active segment's file. Dropping it fails every submission that is still queued.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    file: Arc<dyn File>,
    segment: SegmentId,
    /// End of the last durable group, in bytes from the segment start.
    end: u64,
    reserved: Reservation,
}

/// Where a frame of the group went, to be published once it is durable.
struct Written {
    seq: Seq,
    head: FrameHead,
    offset: u64,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, file: Arc<dyn File>, segment: SegmentId, end: u64) -> Writer {
        Writer {
            shared,
            file,
            segment,
            end,
            reserved: Reservation::default(),
        }
    }

    /// Writes one group: everything queued (bounded by `group_bytes`), one vectored write, one sync, then the callbacks.
    ///
    /// Shape: the highest submission now durable; `None` if nobody waits for anything.
    /// Errors: `Poisoned` after a failed write or sync, now or earlier; every queued callback has then been called.
    /// Blocking: on the disk; never on the queue.
    pub fn step(&mut self) -> Result<Option<Seq>, Error> {
        self.step_with(false)
    }

    /// As `step`; `even_hints` also writes committed hints that nobody waits for.
    fn step_with(&mut self, even_hints: bool) -> Result<Option<Seq>, Error> {
        let mut group = {
            let mut view = self.shared.view();
            if let Some(poison) = &view.poison {
                return Err(poison.error());
            }
            view.queue.take_group(self.shared.options.group_bytes, even_hints)
        };
        let Some(last) = group.last() else { return Ok(None) };
        let seq = last.seq;
        if let Err(poison) = self.write_group(&mut group) {
            return Err(self.shared.poison(poison, group));
        }
        self.shared.set_durable_seq(seq);
        run_dones(&mut group, || Ok(()));
        Ok(Some(seq))
    }

    /// Writes groups until the log is closed and the queue is empty, or something fails. Unlike `step`, waits for a group to
    /// fill, see [`crate::Options::group_wait`].
    ///
    /// Errors: as `step`. Blocking: until the log is closed. `on_durable` is called after the callbacks of each group, with
    /// the time from its first byte's write to its last callback.
    pub fn run(mut self, mut on_durable: impl FnMut(Seq, Duration)) -> Result<(), Error> {
        loop {
            let closed = self.shared.wait_for_work();
            let begun = Instant::now();
            match self.step_with(closed)? {
                Some(seq) => on_durable(seq, begun.elapsed()),
                None if closed => return Ok(()),
                None => {}
            }
        }
    }

    /// Makes `group` durable and publishes where its entries are.
    fn write_group(&mut self, group: &mut [Work]) -> Result<(), Poison> {
        if self.end >= self.shared.options.segment_bytes {
            self.rotate()?;
        }
        let mut layout = Group::new(self.segment, self.end);
        let written = lay_out(group, &mut layout);
        if layout.is_empty() {
            // Barriers alone: everything before them is durable already.
            return Ok(());
        }
        let end = layout.end;
        let long = end - self.end >= self.shared.options.uncached_group_bytes;
        let slices = layout.finish();
        let planned = self.shared.options.segment_bytes;
        self.reserved.reach(self.file.as_ref(), end, planned);
        let written_bytes = match long {
            true => self.file.write_all_uncached_at(&slices, self.end),
            false => self.file.write_all_vectored_at(&slices, self.end),
        };
        written_bytes.map_err(|e| self.failed("write", &e))?;
        // Crash here: the group is torn or gone; recovery cuts it, and nobody was told that it exists. (I2)
        if planted(Bug::AckBeforeFsync) {
            run_dones(group, || Ok(()));
        }
        self.file.sync_data().map_err(|e| self.failed("sync", &e))?;
        // Crash here: the group is durable, nobody was told; recovery keeps it.
        self.end = end;
        self.publish(&written, end);
        Ok(())
    }

    /// Tells readers what became durable and where.
    fn publish(&self, written: &[Written], end: u64) {
        let mut view = self.shared.view();
        for Written { seq, head, offset } in written {
            let follows = view.active.apply(head, *offset);
            assert!(
                follows.is_ok(),
                "{:?} at {offset} of {}: {follows:?}",
                head,
                self.segment
            );
            if head.kind.is_entry() {
                let place = Place {
                    segment: self.segment,
                    offset: *offset,
                };
                view.entry_durable(head.log_id, *seq, place);
            }
        }
        view.active_bytes = end;
        view.tail.evict(self.shared.options.cache_bytes);
    }

    /// Seals the active segment and starts the next one.
    fn rotate(&mut self) -> Result<(), Poison> {
        let (footer, next_state) = {
            let view = self.shared.view();
            (view.active.footer(self.end), view.active.state.clone())
        };
        let bytes = footer.encode();
        self.file
            .write_all_at(&bytes, self.end)
            .map_err(|e| self.failed("write footer of", &e))?;
        self.file
            .sync_data()
            .map_err(|e| self.failed("sync footer of", &e))?;
        self.file.release_reserved();
        // Crash here: sealed without successor; recovery creates the successor.
        let next = SegmentId::new(self.segment.get() + 1);
        let header = SegmentHeader {
            segment: next,
            previous: Some(self.segment),
            state: next_state,
        };
        let file = create_segment(self.shared.files.fs.as_ref(), &self.shared.files.dir, &header)
            .map_err(|(action, e)| self.failed_on(next, action, &e))?;

        let summary = &footer.summary;
        let last = (summary.first + u64::from(summary.count))
            .checked_sub(1)
            .filter(|_| summary.count > 0);
        let sealed = Sealed {
            bytes: self.end + bytes.len() as u64,
            first: last.map(|_| summary.first),
            last,
            max_entry: summary.max_entry,
        };
        let table = Table {
            first: summary.first,
            offsets: footer.offsets,
            end: self.end,
        };
        self.shared.files.keep_table(self.segment, Arc::new(table));
        let mut view = self.shared.view();
        view.sealed.insert(self.segment, sealed);
        view.active = Content::new(next, header.state);
        view.active_bytes = SEGMENT_HEADER_LEN;
        drop(view);
        self.file = file;
        self.reserved = Reservation::default();
        self.segment = next;
        self.end = SEGMENT_HEADER_LEN;
        Ok(())
    }

    fn failed(&self, action: &str, error: &io::Error) -> Poison {
        self.failed_on(self.segment, action, error)
    }

    fn failed_on(&self, segment: SegmentId, action: &str, error: &io::Error) -> Poison {
        let path = segment_path(&self.shared.files.dir, segment);
        Poison {
            kind: error.kind(),
            reason: format!("cannot {action} {}: {error}", path.display()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Each callback is called exactly once, also when nobody will ever write again.
        self.shared.close_for_good();
    }
}

/// Creates a segment, durable in itself and in its directory, before anything is written to it.
///
/// The error says what was tried.
pub(crate) fn create_segment(
    fs: &dyn Fs,
    dir: &std::path::Path,
    header: &SegmentHeader,
) -> Result<Arc<dyn File>, (&'static str, io::Error)> {
    let file = fs
        .create(&segment_path(dir, header.segment))
        .map_err(|e| ("create", e))?;
    // Crash here: an empty file, or none; recovery writes the header anew.
    file.write_all_at(&header.encode(), 0)
        .map_err(|e| ("write header of", e))?;
    file.sync_data().map_err(|e| ("sync header of", e))?;
    // Crash here: the file may be gone, but no group was written to it.
    fs.sync_dir(dir).map_err(|e| ("sync the directory of", e))?;
    Ok(file)
}

fn lay_out(group: &[Work], layout: &mut Group) -> Vec<Written> {
    let mut written = Vec::new();
    for Work { seq, what, .. } in group {
        if let What::Entries(entries) = what {
            for entry in entries {
                let (head, offset) = layout.push_entry(entry);
                written.push(Written {
                    seq: *seq,
                    head,
                    offset,
                });
            }
        } else if let Some(head) = what.control_frame() {
            let offset = layout.push_control(&head);
            written.push(Written {
                seq: *seq,
                head,
                offset,
            });
        }
    }
    written
}

/// Runs the callbacks in submission order.
pub(crate) fn run_dones(works: &mut [Work], result: impl Fn() -> Result<(), Error>) {
    for work in works {
        if let Some(done) = work.done.take() {
            done(result());
        }
    }
}
