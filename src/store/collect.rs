//! Collecting segments: what is live is copied out in key order, the index moves over, and the files go once nobody can
//! need them (`reclaim`).
//!
//! The order is the safety (I6): copies durable, then relocated where the index still points at the old place, then the
//! index flushed, then the inputs retired.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use nezha_gc::SegmentWriter;
use nezha_gc::plan;
use nezha_vlog::{Head, SegmentId, ValueRef};

use super::Store;
use super::error::StoreError;
use super::planted::{Bug, planted};
use super::reader::{ReadRow, Reader};
use super::view::View;
use crate::index::{
    Apply, Index, IndexEntry, IndexError, Outcome, Place, ScanItem, ScanRange, WriteSet, account,
};

/// Whether a job goes on, asked after every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Go on.
    Go,
    /// Give up: outputs so far stay, the inputs stay too.
    Stop,
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
    /// Applies committed entries to the live index; see [`Apply::run`]. They become visible at once as a whole, unless
    /// somebody wants a view from in between ([`Store::hash`]).
    pub fn apply(
        &self,
        mut heads: Vec<Head>,
        max_node_id: &dyn Fn(&Bytes) -> u64,
    ) -> Result<Vec<Vec<Outcome>>, IndexError> {
        self.applies.fetch_add(1, Ordering::Relaxed);
        let _commits = self.commits();
        self.applies.fetch_sub(1, Ordering::Relaxed);
        let index = self.index();
        let mut outcomes = Vec::with_capacity(heads.len());
        while let Some(first) = heads.first() {
            let halt = self.halts.next().unwrap_or(u64::MAX).max(first.log_id.index);
            let rest = heads.split_off(heads.partition_point(|head| head.log_id.index <= halt));
            outcomes.append(&mut Apply::run(index.as_ref(), heads, max_node_id)?);
            self.halts.reached(self.applied_index());
            heads = rest;
        }
        Ok(outcomes)
    }

    /// Copies the live records of a job's inputs to sorted segments of its level, moves the index over and retires the
    /// inputs.
    ///
    /// Inputs are sealed. Log segments among them must be purged before they can go, not before they are collected.
    /// `store`: the one that the job was planned for; another one may have files of the same names. `pace` is told the
    /// bytes of each record before it is copied, when it may have been read already; it may sleep. After an error or a
    /// stop nothing is lost: what was relocated stays relocated, and the inputs stay.
    /// Errors: `Damage` with file and offset: nothing damaged is copied on; those of the parts.
    /// Blocking: reads the whole index and the live records, writes them once. Memory: the keys of one output, and that of
    /// a [`Reader`].
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
        self.to_write.store(job.copy_bytes, Ordering::Relaxed);
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
            let mut records = Reader::new(Arc::clone(&view));
            let mut visit = |item| {
                let ScanItem::Row { key, entry } = item else {
                    return ControlFlow::Continue(());
                };
                if !entry.segment().is_some_and(|segment| inputs.contains(&segment)) {
                    return ControlFlow::Continue(());
                }
                records.push(key, entry);
                match run.copy_due(&mut records, pace) {
                    Ok(Pace::Go) => ControlFlow::Continue(()),
                    other => {
                        ended = other;
                        ControlFlow::Break(())
                    }
                }
            };
            view.index.scan(&range, &mut visit)?;
            if let Ok(Pace::Go) = ended {
                records.hurry();
                ended = run.copy_due(&mut records, pace);
            }
        }
        let pace = ended?;
        run.finish_output()?;
        let mut done = run.done;
        if pace == Pace::Stop || run.replaced {
            return Ok(done);
        }
        // Nothing refers to the inputs any more, unless the store was replaced meanwhile; durably so after this.
        if !planted(Bug::UnlinkBeforeFlush) {
            view.index.flush()?;
        }
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
        for moves in moves.chunks(self.options.relocate_keys) {
            self.threads().pass();
            // The mutex is not fair: without this, a job would get it again and again before an apply that waits.
            while self.applies.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
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

    pub(super) fn commits(&self) -> MutexGuard<'_, ()> {
        // It guards an order, no data.
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.store.to_write.store(0, Ordering::Relaxed);
    }
}

impl Run<'_> {
    /// Copies the records that are read.
    fn copy_due(
        &mut self,
        records: &mut Reader,
        pace: &mut dyn FnMut(u64) -> Pace,
    ) -> Result<Pace, StoreError> {
        while let Some(row) = records.pop()? {
            if pace(row.entry.record_len(&row.key)) == Pace::Stop {
                return Ok(Pace::Stop);
            }
            self.copy(row)?;
            if self.replaced {
                return Ok(Pace::Stop);
            }
        }
        Ok(Pace::Go)
    }

    fn copy(&mut self, row: ReadRow) -> Result<(), StoreError> {
        let ReadRow { key, entry, record } = row;
        let (Place::At(from), Some(record)) = (entry.place, record) else {
            return Ok(());
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
        Ok(())
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
        let written = writer.finish().map_err(values_error)?;
        // Readers find it before the index points at it.
        self.view.values.add(self.level, id).map_err(values_error)?;
        let to_write = &self.store.to_write;
        let left = to_write.load(Ordering::Relaxed).saturating_sub(written);
        to_write.store(left, Ordering::Relaxed);
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
        let unchanged =
            |old: &IndexEntry| old.place == Place::At(moved.from) || planted(Bug::RelocateWithoutCompare);
        let Some(old) = old.filter(unchanged) else {
            continue;
        };
        let new = IndexEntry {
            place: Place::At(moved.to),
            ..old.clone()
        };
        account(
            &mut state,
            &mut live_delta,
            &moved.key,
            Some(old.outline()),
            Some(new.outline()),
        );
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
