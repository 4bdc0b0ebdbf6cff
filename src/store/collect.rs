//! Collecting segments: what is live is copied out in key order, the index moves over, and the files go once nobody can
//! need them.
//!
//! The order is the safety (I6): copies durable, then relocated where the index still points at the old place, then the
//! index flushed, then the inputs retired; unlinked only when no view that may lead to them is held (I5), and log
//! segments only when Raft has purged them (I4).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use nezha_gc::SegmentWriter;
use nezha_gc::plan::{self, KeyRange, LEVEL_LOG, SegmentStat, Usage};
use nezha_vlog::{Head, SegmentId, ValueRef};

use super::error::StoreError;
use super::view::View;
use super::{Store, remove_store};
use crate::index::{
    Apply, Index, IndexEntry, IndexError, Outcome, Place, ScanItem, ScanRange, WriteSet, account,
};

/// Keys that are relocated at a time, between applies.
const RELOCATE_KEYS: usize = 512;

/// Whether a job goes on, asked after every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Go on.
    Go,
    /// Give up: outputs so far stay, the inputs stay too.
    Stop,
}

/// Who keeps collected files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An open scan or a read.
    Reader,
    /// A snapshot that is being sent; readers may hold them as well.
    Transfer,
}

/// What a job did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Records copied.
    pub records: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Records whose key had moved on meanwhile: copied in vain.
    pub overtaken: u64,
    /// The inputs are retired: they go once nothing pins them.
    pub finished: bool,
}

/// A key on its way from one place to another.
struct Move {
    key: Bytes,
    from: ValueRef,
    to: ValueRef,
}

impl Store {
    /// Applies committed entries to the live index; see [`Apply::run`].
    pub fn apply(
        &self,
        heads: Vec<Head>,
        max_node_id: &dyn Fn(&Bytes) -> u64,
    ) -> Result<Vec<Vec<Outcome>>, IndexError> {
        let _commits = self.commits();
        Apply::run(self.index().as_ref(), heads, max_node_id)
    }

    /// What the planner needs to know: every sealed file, and the size of the whole; and which store it is about.
    ///
    /// `purgeable`: log index up to which Raft may be asked to purge; log segments beyond it are not eligible.
    /// Blocking: the first call reads the key ranges of sorted segments.
    pub fn segment_stats(&self, purgeable: u64) -> Result<Statistics, StoreError> {
        let view = self.view();
        let live = view.index.live_bytes();
        let live_of = |id: &SegmentId| live.get(id).copied().unwrap_or(0);
        let waiting = self.retired().doomed();
        let mut stats = Vec::new();
        let segments = self.log.segments();
        let mut file_bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut last = 0;
        for segment in segments.iter().filter(|segment| segment.sealed) {
            last = last.max(segment.last.unwrap_or(0));
            stats.push(SegmentStat {
                id: segment.id,
                level: LEVEL_LOG,
                bytes: segment.bytes,
                live_bytes: live_of(&segment.id),
                overhead_bytes: 0,
                keys: None,
                eligible: last <= purgeable && !waiting.contains(&segment.id),
            });
        }
        for segment in view.values.segments() {
            let summary = segment.summary();
            let (first, last) = segment
                .key_range()
                .map_err(|e| StoreError::values(view.values.dir(), e))?;
            file_bytes += summary.file_bytes;
            stats.push(SegmentStat {
                id: summary.id,
                level: summary.level,
                bytes: summary.file_bytes,
                live_bytes: live_of(&summary.id),
                overhead_bytes: summary.file_bytes - summary.record_bytes,
                keys: Some(KeyRange { first, last }),
                eligible: !waiting.contains(&summary.id),
            });
        }
        let live_bytes = live.values().sum();
        Ok(Statistics {
            store: view.number,
            segments: stats,
            usage: Usage {
                file_bytes,
                live_bytes,
            },
        })
    }

    /// Collected files that somebody may still read from.
    pub fn held(&self) -> BTreeMap<SegmentId, Holder> {
        let retired = self.retired();
        let mut holder = Holder::Reader;
        let mut held = BTreeMap::new();
        for (view, doomed) in &retired.views {
            // An older view leads to whatever a younger one does.
            if self.transfers.read(view) {
                holder = Holder::Transfer;
            }
            held.extend(doomed.iter().map(|id| (*id, holder)));
        }
        held
    }

    /// Copies the live records of a job's inputs to sorted segments of its level, moves the index over and retires the
    /// inputs.
    ///
    /// Inputs are sealed. Log segments among them must be purged before they can go, not before they are collected.
    /// `store`: the one that the job was planned for; another one may have files of the same names. `pace` is told the bytes of each record before it is copied; it may sleep. After an error or a stop nothing is
    /// lost: what was relocated stays relocated, and the inputs stay.
    /// Errors: `Damage` with file and offset: nothing damaged is copied on; those of the parts.
    /// Blocking: reads the whole index and the live records, writes them once. Memory: the keys of one output.
    pub fn collect(
        &self,
        job: &plan::Job,
        store: u64,
        pace: &mut dyn FnMut(u64) -> Pace,
    ) -> Result<Collected, StoreError> {
        let view = self.view();
        if view.number != store {
            return Ok(Collected::default());
        }
        let inputs: BTreeSet<SegmentId> = job.inputs.iter().copied().collect();
        let range = ScanRange {
            start: job
                .keys
                .as_ref()
                .map_or(Bound::Unbounded, |keys| Bound::Included(keys.first.clone())),
            end: job
                .keys
                .as_ref()
                .map_or(Bound::Unbounded, |keys| Bound::Included(keys.last.clone())),
            reverse: false,
        };
        let mut run = Run {
            store: self,
            view: view.as_ref(),
            level: job.output_level,
            cuts: &job.cuts,
            output: None,
            moves: Vec::new(),
            done: Collected::default(),
            replaced: false,
        };
        let live = view.index.live_bytes();
        let mut ended = Ok(Pace::Go);
        if inputs.iter().any(|input| live.contains_key(input)) {
            let mut visit = |item| match run.visit(item, &inputs, pace) {
                Ok(Pace::Go) => ControlFlow::Continue(()),
                other => {
                    ended = other;
                    ControlFlow::Break(())
                }
            };
            view.index.scan(&range, &mut visit)?;
        }
        let pace = ended?;
        run.finish_output()?;
        let mut done = run.done;
        if pace == Pace::Stop || run.replaced {
            return Ok(done);
        }
        // Nothing refers to the inputs any more, unless the store was replaced meanwhile; durably so after this.
        view.index.flush()?;
        let live = view.index.live_bytes();
        let left: Vec<_> = inputs.iter().filter(|input| live.contains_key(input)).collect();
        assert!(
            left.is_empty(),
            "I6: collected segments have live records: {left:?}"
        );
        done.finished = self.retire(view.number, inputs.iter().copied().collect());
        Ok(done)
    }

    /// Moves keys to their new places where the index still has the old ones. False: another store is live.
    fn relocate(&self, number: u64, moves: &[Move]) -> Result<Option<u64>, StoreError> {
        let mut overtaken = 0;
        for moves in moves.chunks(RELOCATE_KEYS) {
            let _commits = self.commits();
            let view = self.view();
            if view.number != number {
                return Ok(None);
            }
            overtaken += relocate_batch(view.index.as_ref(), moves)?;
        }
        Ok(Some(overtaken))
    }

    /// Gives readers a fresh view, so that `doomed` can go when those of the old one are done. False: another store is
    /// live, and the old one goes as a whole.
    fn retire(&self, number: u64, doomed: Vec<SegmentId>) -> bool {
        let _commits = self.commits();
        let view = self.view();
        if view.number != number {
            return false;
        }
        let fresh = Arc::new(View::clone(&view));
        drop(view);
        let old = self.view.swap(fresh);
        self.retired().push(old, doomed);
        true
    }

    /// Removes what nobody reads from any more: collected segments, replaced stores, stagings that were given up.
    /// Blocking: closes indexes and unlinks files. Whatever is not swept goes at
    /// the next opening, or is collected again.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let live = self.view.load().number;
        let (free, held) = self.retired().take_unheld(live);
        let mut numbers = self.leftovers.take();
        let mut logs = Vec::new();
        let mut files = 0;
        for Unheld { view, doomed } in free {
            for id in doomed {
                match id.is_log() {
                    true => logs.push(id),
                    false => {
                        let removed = view.values.remove(id);
                        removed.map_err(|e| StoreError::values(view.values.dir(), e))?;
                        files += 1;
                    }
                }
            }
            if view.number != live {
                numbers.push(view.number);
            }
        }
        numbers.retain(|number| !self.retired().holds(*number));
        numbers.dedup();
        for number in numbers {
            remove_store(&self.data, self.engine.as_ref(), number)?;
        }
        files += self.remove_log_segments(logs)?;
        Ok(Swept { held, files })
    }

    /// Unlinks collected log segments as far as Raft has purged them, and says how many; the others wait.
    fn remove_log_segments(&self, doomed: Vec<SegmentId>) -> Result<u64, StoreError> {
        let mut waiting = std::mem::take(&mut self.retired().unpurged);
        waiting.extend(doomed);
        waiting.sort();
        let before = waiting.len();
        let result = match waiting.is_empty() {
            true => Ok(()),
            false => self.log.remove_segments(&waiting),
        };
        let there: BTreeSet<SegmentId> = self.log.segments().iter().map(|segment| segment.id).collect();
        waiting.retain(|id| there.contains(id));
        let removed = (before - waiting.len()) as u64;
        self.retired().unpurged.extend(waiting);
        match result {
            Ok(()) | Err(nezha_vlog::Error::NotPurged { .. }) => Ok(removed),
            Err(error) => Err(StoreError::log(&self.data.log_dir(), error)),
        }
    }

    fn commits(&self) -> MutexGuard<'_, ()> {
        // It guards an order, no data.
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn retired(&self) -> MutexGuard<'_, Retired> {
        // Every change of it is one push or one take.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a store, for the planner.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// Number of the store.
    pub store: u64,
    /// Every sealed file.
    pub segments: Vec<SegmentStat>,
    /// Size of the whole.
    pub usage: Usage,
}

/// What [`Store::sweep`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Replaced views that somebody still reads from.
    pub held: usize,
    /// Segments that were removed.
    pub files: u64,
}

/// One run of [`Store::collect`].
struct Run<'a> {
    store: &'a Store,
    view: &'a View,
    level: u8,
    /// Keys before which an output ends, ascending; those behind are taken off.
    cuts: &'a [Bytes],
    output: Option<(SegmentId, SegmentWriter)>,
    moves: Vec<Move>,
    done: Collected,
    /// Another store is live: what is left to do is of no use.
    replaced: bool,
}

impl Run<'_> {
    fn visit(
        &mut self,
        item: ScanItem,
        inputs: &BTreeSet<SegmentId>,
        pace: &mut dyn FnMut(u64) -> Pace,
    ) -> Result<Pace, StoreError> {
        let ScanItem::Row { key, entry } = item else {
            return Ok(Pace::Go);
        };
        let Place::At(from) = entry.place else {
            return Ok(Pace::Go);
        };
        if !inputs.contains(&from.segment) {
            return Ok(Pace::Go);
        }
        if pace(entry.record_len(&key)) == Pace::Stop {
            return Ok(Pace::Stop);
        }
        let Some(record) = self.view.read_record(&entry, &key)? else {
            return Ok(Pace::Go);
        };
        let passed = self.cuts.iter().take_while(|cut| **cut <= key).count();
        if passed > 0 {
            self.cuts = &self.cuts[passed..];
            self.finish_output()?;
        }
        let to = {
            let (_, writer) = self.writer()?;
            writer.append(&record)
        };
        let to = to.map_err(|e| StoreError::values(self.view.values.dir(), e))?;
        self.moves.push(Move { key, from, to });
        self.done.records += 1;
        self.done.bytes += record.len() as u64;
        let full = self.store.options.value_segment_bytes;
        if self
            .output
            .as_ref()
            .is_some_and(|(_, writer)| writer.len() >= full)
        {
            self.finish_output()?;
        }
        if self.replaced {
            return Ok(Pace::Stop);
        }
        Ok(Pace::Go)
    }

    fn writer(&mut self) -> Result<&mut (SegmentId, SegmentWriter), StoreError> {
        if self.output.is_none() {
            let id = SegmentId::new(self.store.next_value.fetch_add(1, Ordering::Relaxed));
            let dir = self.view.values.dir();
            let writer = SegmentWriter::create(Arc::clone(self.store.data.fs()), dir, self.level, id);
            self.output = Some((id, writer.map_err(|e| StoreError::values(dir, e))?));
        }
        Ok(self.output.as_mut().expect("made above"))
    }

    /// Completes the output, and moves its keys over.
    fn finish_output(&mut self) -> Result<(), StoreError> {
        let Some((id, writer)) = self.output.take() else {
            return Ok(());
        };
        let values_error = |e| StoreError::values(self.view.values.dir(), e);
        writer.finish().map_err(values_error)?;
        // Readers find it before the index points at it.
        self.view.values.add(self.level, id).map_err(values_error)?;
        let moves = std::mem::take(&mut self.moves);
        match self.store.relocate(self.view.number, &moves)? {
            Some(overtaken) => self.done.overtaken += overtaken,
            None => self.replaced = true,
        }
        Ok(())
    }
}

/// Relocates in one write; returns how many keys had moved on. The caller keeps everybody else from committing.
fn relocate_batch(index: &dyn Index, moves: &[Move]) -> Result<u64, StoreError> {
    let keys: Vec<Bytes> = moves.iter().map(|moved| moved.key.clone()).collect();
    let mut state = index.state();
    let mut live_delta = BTreeMap::new();
    let mut entries = Vec::new();
    for (moved, old) in moves.iter().zip(index.multi_get(&keys)?) {
        let Some(old) = old.filter(|old| old.place == Place::At(moved.from)) else {
            continue;
        };
        let new = IndexEntry {
            place: Place::At(moved.to),
            ..old.clone()
        };
        account(&mut state, &mut live_delta, &moved.key, Some(&old), Some(&new));
        state.next_value_segment = state.next_value_segment.max(moved.to.segment.get() + 1);
        entries.push((moved.key.clone(), Some(new)));
    }
    let overtaken = (moves.len() - entries.len()) as u64;
    if !entries.is_empty() {
        index.commit(WriteSet {
            entries,
            live_delta,
            state,
        })?;
    }
    Ok(overtaken)
}

/// Lowest id that no segment of this store has had, as far as its files and its index tell.
pub(super) fn first_free_id(view: &View) -> u64 {
    let last = view
        .values
        .segments()
        .last()
        .map(|segment| segment.summary().id.get());
    view.index
        .state()
        .next_value_segment
        .max(last.map_or(0, |last| last + 1))
}

/// Replaced views, oldest first, and what may go with each.
#[derive(Default)]
pub(super) struct Retired {
    views: Vec<(Arc<View>, Vec<SegmentId>)>,
    /// Collected log segments that nobody reads and Raft has not purged.
    unpurged: Vec<SegmentId>,
}

/// A replaced view that nobody holds, nor any older one.
struct Unheld {
    view: Arc<View>,
    doomed: Vec<SegmentId>,
}

impl Retired {
    pub(super) fn push(&mut self, view: Arc<View>, doomed: Vec<SegmentId>) {
        self.views.push((view, doomed));
    }

    /// Takes the views that are done, and says how many are left. An older view may lead to whatever a younger one does,
    /// so the first one that is held keeps those after it.
    fn take_unheld(&mut self, live: u64) -> (Vec<Unheld>, usize) {
        let held = |view: &Arc<View>| {
            // The index of a replaced store must be closed before its files go.
            let sharing = self.views.iter().filter(|(other, _)| other.number == view.number);
            let index_held = view.number != live && Arc::strong_count(&view.index) > sharing.count();
            Arc::strong_count(view) > 1 || index_held
        };
        let done = self.views.iter().position(|(view, _)| held(view));
        let done = done.unwrap_or(self.views.len());
        let free = self
            .views
            .drain(..done)
            .map(|(view, doomed)| Unheld { view, doomed });
        (free.collect(), self.views.len())
    }

    /// Files that were collected and are not gone.
    fn doomed(&self) -> BTreeSet<SegmentId> {
        let held = self.views.iter().flat_map(|(_, doomed)| doomed);
        held.chain(&self.unpurged).copied().collect()
    }

    /// Whether a view of store `number` is still held.
    fn holds(&self, number: u64) -> bool {
        self.views.iter().any(|(view, _)| view.number == number)
    }
}
