//! The front of the log: submitting, and asking what was submitted.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crate::entry::Entry;
use crate::error::{Error, Fault};
use crate::files::Files;
use crate::format::segment_path;
use crate::fs::Fs;
use crate::ids::{LogId, SegmentId, Seq, Vote};
use crate::options::Options;
use crate::queue::{Done, Work};
use crate::recover::{self, Recovered};
use crate::view::{Poison, View};
use crate::writer::{Writer, run_dones};

/// The segmented log. Clones share it; when the last one is dropped, the log is closed.
///
/// Submitting locks a short mutex and never touches the disk; the queue's order is the disk's order (I1). The memory of
/// what is submitted but not durable is bounded by the caller's admission.
#[derive(Clone, Debug)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

/// What front and writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    view: Mutex<View>,
    /// Signalled when somebody waits for the writer, and on close.
    work: Condvar,
    durable_seq: AtomicU64,
    pub(crate) files: Files,
    pub(crate) options: Options,
}

/// Closes the log when the last front is gone, so that the writer's loop ends.
#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One segment, as far as it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegmentId,
    /// Bytes of its file.
    pub bytes: u64,
    /// Index of its first entry that was live when it was sealed.
    pub first: Option<u64>,
    /// Index of its last entry that was live when it was sealed.
    pub last: Option<u64>,
    /// Whether nothing is written to it any more.
    pub sealed: bool,
    /// Entry with the highest index ever written to it, truncated ones included.
    pub max_entry: Option<LogId>,
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none.
    ///
    /// Errors: `Refused`, `UnknownVersion`, `MissingSegment`, `ForeignFile`: see the table in [`crate::recover`]; `Io`.
    /// Blocking: reads headers and footers of sealed segments and scans the active one, without values.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: Options) -> Result<(Log, Writer, Recovered), Error> {
        options.validate()?;
        let opened = recover::open(fs.as_ref(), dir)?;
        let files = Files::new(fs, dir.to_path_buf(), options.open_files, options.table_bytes);
        let (segment, end) = (opened.view.active.segment, opened.view.active_bytes);
        let shared = Arc::new(Shared {
            view: Mutex::new(opened.view),
            work: Condvar::new(),
            durable_seq: AtomicU64::new(0),
            files,
            options,
        });
        let writer = Writer::new(shared.clone(), opened.file, segment, end);
        let closer = Arc::new(Closer(shared.clone()));
        Ok((
            Log {
                shared,
                _closer: closer,
            },
            writer,
            opened.recovered,
        ))
    }

    /// Submits entries; they are readable when this returns and durable when `done` is called.
    ///
    /// An empty `entries` makes a barrier: `done` is called once everything submitted before is durable.
    /// Errors: `Hole` unless the first follows the last entry (or lies above the purge point of an empty log) and each
    /// other follows the one before; `TooLarge`; `Malformed` for an index above 2^64 - 2; `Poisoned`; `Closed`. `done` is dropped uncalled on an error.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<Seq, Error> {
        check_sizes(&entries)?;
        self.submit(|view| view.append(entries, done))
    }

    /// Submits a vote.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<Seq, Error> {
        self.submit(|view| view.save_vote(vote, done))
    }

    /// Submits a committed hint. It rides along with the next group and forces no sync.
    pub fn save_committed(&self, committed: Option<LogId>) -> Result<Seq, Error> {
        committed.map_or(Ok(()), check_index)?;
        self.submit(|view| view.save_committed(committed))
    }

    /// Removes the entries above `index` (`None`: all). Entries at or below the purge point are not touched.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<Seq, Error> {
        self.submit(|view| view.truncate_after(index, done))
    }

    /// Moves the purge point; entries up to it are no longer part of the Raft log, their values stay readable (I4).
    ///
    /// May go beyond the last entry: the log is then empty and goes on after `upto`.
    pub fn purge(&self, upto: LogId, done: Done) -> Result<Seq, Error> {
        check_index(upto)?;
        self.submit(|view| view.purge(upto, done))
    }

    fn submit(&self, submission: impl FnOnce(&mut View) -> Result<Seq, Error>) -> Result<Seq, Error> {
        let (seq, wake) = {
            let mut view = self.shared.view();
            // The writer may sleep without a limit: it has to begin its wait for a group.
            let slept = !view.queue.is_forced();
            let seq = submission(&mut view)?;
            let ripe = slept || view.is_ripe(self.shared.options.group_bytes);
            (seq, view.queue.is_forced() && ripe)
        };
        if wake {
            self.shared.work.notify_one();
        }
        Ok(seq)
    }

    /// Unlinks sealed segments whose entries are all purged, and durably so. The caller has made sure that no durable
    /// index refers to them, and that nobody who may hold a place in one will read (I5).
    ///
    /// Errors: `NotPurged` for the first one that Raft may still need: it and those after it stay; `Io`.
    /// Blocking: an unlink each and one directory sync.
    pub fn remove_segments(&self, ids: &[SegmentId]) -> Result<(), Error> {
        let mut ids = ids.to_vec();
        ids.sort();
        let mut result = Ok(());
        for id in ids {
            if let Err(error) = self.remove_segment(id) {
                result = Err(error);
                break;
            }
        }
        let dir = &self.shared.files.dir;
        self.shared
            .files
            .fs
            .sync_dir(dir)
            .map_err(Error::io("sync", dir))?;
        result
    }

    fn remove_segment(&self, id: SegmentId) -> Result<(), Error> {
        if !self.shared.view().forget_sealed(id)? {
            return Ok(());
        }
        self.shared.files.forget(id);
        let path = segment_path(&self.shared.files.dir, id);
        let removed = self.shared.files.fs.remove(&path);
        removed.map_err(Error::io("remove", &path))
    }

    /// Takes no more submissions. The writer's loop ends once the queue is empty.
    pub fn close(&self) {
        self.shared.close();
    }

    /// The last entry, or else the purge point.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.view().state.last
    }

    /// The purge point.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.view().state.purged
    }

    /// The latest vote.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.view().state.vote
    }

    /// The latest committed hint; after opening, clamped to the durable log (I3).
    pub fn committed(&self) -> Option<LogId> {
        self.shared.view().state.committed
    }

    /// Index of the first entry; where it would be, if there is none.
    pub fn first_index(&self) -> u64 {
        self.shared.view().first_index()
    }

    /// Whether a write or sync failed (I7).
    pub fn is_poisoned(&self) -> bool {
        self.shared.view().poison.is_some()
    }

    /// Highest submission that a finished sync covers.
    pub fn durable_seq(&self) -> Seq {
        self.shared.durable_seq.load(Ordering::Acquire)
    }

    /// The last entry that a finished sync covers, or else the durable purge point.
    pub fn durable_log_id(&self) -> Option<LogId> {
        self.shared.view().durable_log_id()
    }

    /// Highest submission among these entries; 0 if none of them is in the tail cache, because then all are durable.
    pub fn seq_of(&self, range: Range<u64>) -> Result<Seq, Error> {
        let view = self.shared.view();
        let slots = view
            .tail
            .from(range.start)
            .take_while(|slot| slot.entry.log_id.index < range.end);
        Ok(slots.map(|slot| slot.seq).max().unwrap_or(0))
    }

    /// Ids of the entries in `range`, as far as they exist.
    pub fn log_ids(&self, range: Range<u64>) -> Vec<LogId> {
        let view = self.shared.view();
        let (start, end) = (
            range.start.max(view.first_index()),
            range.end.min(view.end_index()),
        );
        (start..end).filter_map(|index| view.log_id(index)).collect()
    }

    /// The first entry, the first of each leader, and the last; reads no entries.
    pub fn key_log_ids(&self) -> Vec<LogId> {
        let view = self.shared.view();
        let range = view.first_index()..view.end_index();
        let last = view.state.last.filter(|last| range.contains(&last.index));
        let mut ids = view.runs.firsts(range);
        ids.extend(last.filter(|last| ids.last() != Some(last)));
        ids
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.view().segments()
    }

    /// Memory in bytes of the entries that are cached, the ones that are not durable among them (I12).
    pub fn cached_bytes(&self) -> u64 {
        self.shared.view().tail.bytes()
    }

    /// Bytes of durable log after the entry at `index`, about: within a segment, entries count as equally large.
    pub fn bytes_since(&self, index: u64) -> u64 {
        let view = self.shared.view();
        let bytes_of = |id| match view.sealed.get(&id) {
            Some(sealed) => (sealed.bytes, sealed.first, sealed.last),
            None => (
                view.active_bytes,
                view.active.last().map(|_| view.active.first),
                view.active.last(),
            ),
        };
        let parts = view.extents.parts(index.saturating_add(1)..u64::MAX);
        parts
            .map(|part| {
                let (bytes, first, last) = bytes_of(part.segment);
                let entries = first.zip(last).map_or(1, |(first, last)| last - first + 1);
                (u128::from(bytes) * u128::from(part.last - part.first + 1) / u128::from(entries.max(1)))
                    as u64
            })
            .sum()
    }
}

impl Shared {
    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("no holder of the log's view panics")
    }

    pub(crate) fn set_durable_seq(&self, seq: Seq) {
        self.view().durable_seq = seq;
        self.durable_seq.fetch_max(seq, Ordering::Release);
    }

    /// Waits until somebody waits for the writer, and then, `group_wait` at most, for a group worth its sync; true once the
    /// log is closed.
    pub(crate) fn wait_for_work(&self) -> bool {
        const HELD: &str = "no holder of the log's view panics";
        let mut view = self.view();
        let mut begun = None;
        while !view.closed && view.poison.is_none() {
            if !view.queue.is_forced() {
                view = self.work.wait(view).expect(HELD);
                continue;
            }
            let waited = begun.get_or_insert_with(Instant::now).elapsed();
            let left = self.options.group_wait.saturating_sub(waited);
            if left.is_zero() || view.is_ripe(self.options.group_bytes) {
                break;
            }
            view = self.work.wait_timeout(view, left).expect(HELD).0;
        }
        view.closed
    }

    /// Ends the log after a failure: `group` and everything queued fails, and so does every later submission.
    pub(crate) fn poison(&self, poison: Poison, mut group: Vec<Work>) -> Error {
        {
            let mut view = self.view();
            group.extend(view.queue.take_all());
            view.poison = Some(poison.clone());
        }
        run_dones(&mut group, || Err(poison.error()));
        poison.error()
    }

    fn close(&self) {
        self.view().closed = true;
        self.work.notify_all();
    }

    /// Closes and fails what is still queued: there is no writer any more.
    pub(crate) fn close_for_good(&self) {
        self.close();
        let mut left = self.view().queue.take_all();
        run_dones(&mut left, || Err(Error::Closed));
    }
}

fn check_sizes(entries: &[Entry]) -> Result<(), Error> {
    use crate::format::{APPEND_LEN_MAX, BODY_LEN_MAX, FRAME_HEADER_LEN};
    let mut total: u64 = 0;
    for entry in entries {
        check_index(entry.log_id)?;
        let bytes = entry.encoded_len() - FRAME_HEADER_LEN;
        total = total.saturating_add(entry.encoded_len());
        if bytes > BODY_LEN_MAX {
            return Err(Error::TooLarge {
                what: "an entry",
                bytes,
                limit: BODY_LEN_MAX,
            });
        }
    }
    if total > APPEND_LEN_MAX {
        return Err(Error::TooLarge {
            what: "an append",
            bytes: total,
            limit: APPEND_LEN_MAX,
        });
    }
    Ok(())
}

fn check_index(log_id: LogId) -> Result<(), Error> {
    match log_id.index <= crate::format::INDEX_MAX {
        true => Ok(()),
        false => Err(Fault::Field {
            field: "log index",
            value: log_id.index,
        }
        .into()),
    }
}
