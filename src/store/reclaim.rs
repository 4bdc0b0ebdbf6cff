//! Removing what nobody needs any more.
//!
//! A file goes only when the flushed index holds no place in it and no view that may lead to it is held (I5); a log
//! segment also only when Raft has purged it, durably (I4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use nezha_vlog::{Log, SegmentId};

use super::error::StoreError;
use super::planted::{Bug, planted};
use super::view::View;
use super::{Store, remove_store};
use crate::index::Index;

/// Who keeps collected files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An open scan or a read.
    Reader,
    /// A snapshot that is being sent; readers may hold them as well.
    Transfer,
}

impl Store {
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

    /// Removes what nobody reads from any more: collected segments, replaced stores, stagings that were given up.
    /// Blocking: closes indexes and unlinks files. Whatever is not swept goes at the next opening.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let live = self.view.load().number;
        let (free, held) = self.retired().take_unheld(live);
        let mut numbers = self.leftovers.take();
        let mut logs = Vec::new();
        let mut files = 0;
        for Unheld { view, doomed } in free {
            assert_unreferenced(view.index.as_ref(), &doomed);
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
        assert_unreferenced(self.index().as_ref(), &waiting);
        let result = remove_purged(&self.log, &waiting);
        let there: BTreeSet<SegmentId> = self.log.segments().iter().map(|segment| segment.id).collect();
        waiting.retain(|id| there.contains(id));
        let removed = (before - waiting.len()) as u64;
        self.retired().unpurged.extend(waiting);
        result
            .map(|()| removed)
            .map_err(|e| StoreError::log(&self.data.log_dir(), e))
    }

    pub(super) fn retired(&self) -> MutexGuard<'_, Retired> {
        // Every change of it is one push or one take.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Store::sweep`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Replaced views that somebody still reads from.
    pub held: usize,
    /// Segments that were removed.
    pub files: u64,
}

/// Removes segments without live bytes, as a crash between flush and unlink leaves them, or one between copy and
/// relocation; those of the log as far as Raft has purged them.
///
/// For a view that was opened just now: its index is what is on disk, and nobody reads from it yet (I5). What is replayed
/// later refers to unpurged log segments only.
pub(super) fn remove_dead(view: &View) -> Result<(), StoreError> {
    let live = view.index.live_bytes();
    let dead = |id: &SegmentId| !live.contains_key(id);
    let values: Vec<SegmentId> = view
        .values
        .segments()
        .iter()
        .map(|segment| segment.summary().id)
        .filter(dead)
        .collect();
    for id in values {
        view.values
            .remove(id)
            .map_err(|e| StoreError::values(view.values.dir(), e))?;
    }
    let logs: Vec<SegmentId> = view
        .log
        .segments()
        .iter()
        .filter(|segment| segment.sealed)
        .map(|segment| segment.id)
        .filter(dead)
        .collect();
    remove_purged(&view.log, &logs).map_err(|e| StoreError::log(&view.log_dir, e))
}

/// Unlinks log segments as far as Raft has purged them.
fn remove_purged(log: &Log, ids: &[SegmentId]) -> Result<(), nezha_vlog::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    match log.remove_segments(ids) {
        Err(nezha_vlog::Error::NotPurged { .. }) => Ok(()),
        result => result,
    }
}

fn assert_unreferenced(index: &dyn Index, doomed: &[SegmentId]) {
    let (now, flushed) = (index.live_bytes(), index.flushed_live_bytes());
    for id in doomed {
        assert!(
            planted(Bug::UnlinkBeforeFlush) || !(now.contains_key(id) || flushed.contains_key(id)),
            "I5: {id} is to be unlinked with {:?} live bytes, flushed {:?}",
            now.get(id),
            flushed.get(id)
        );
    }
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
            if planted(Bug::UnlinkPinned) {
                return false;
            }
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
    pub(super) fn doomed(&self) -> BTreeSet<SegmentId> {
        let held = self.views.iter().flat_map(|(_, doomed)| doomed);
        held.chain(&self.unpurged).copied().collect()
    }

    /// Whether a view of store `number` is still held.
    fn holds(&self, number: u64) -> bool {
        self.views.iter().any(|(view, _)| view.number == number)
    }
}
