//! The index engine of tests and simulations: an ordered map that is durable only where it is told to flush.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nezha_vlog::{LogId, SegmentId};

use super::live::LiveBytes;
use super::{AppliedState, Index, IndexEntry, IndexError, ScanItem, ScanRange, WriteSet};

/// An ordered map with explicit flush points. Shares no code with [`super::RocksIndex`] but [`super::Apply`], so that
/// each checks the other.
///
/// Clones share the map.
#[derive(Debug, Default, Clone)]
pub struct MapIndex {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Image,
    flushed: Image,
    /// What was committed since, in order.
    unflushed: Vec<WriteSet>,
}

#[derive(Debug, Default, Clone)]
struct Image {
    entries: BTreeMap<Bytes, IndexEntry>,
    live: LiveBytes,
    state: AppliedState,
}

impl Image {
    fn apply(&mut self, set: WriteSet) {
        self.live.add(&set.live_delta);
        for (key, entry) in set.entries {
            match entry {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
        self.state = set.state;
    }
}

impl MapIndex {
    /// Returns an empty index.
    pub fn new() -> MapIndex {
        MapIndex::default()
    }

    /// Loses everything since the last flush, as a crash does.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.now = inner.flushed.clone();
        inner.unflushed.clear();
    }

    /// Number of commits that a crash may lose.
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    /// An independent index as a crash may leave this one: what was flushed and the first `kept` commits since. An
    /// engine may flush by itself at any time.
    pub fn after_crash(&self, kept: usize) -> MapIndex {
        let inner = self.lock();
        let mut image = inner.flushed.clone();
        for set in inner.unflushed.iter().take(kept) {
            image.apply(set.clone());
        }
        MapIndex {
            inner: Arc::new(Mutex::new(Inner {
                now: image.clone(),
                flushed: image,
                unflushed: Vec::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock is a broken invariant of a test; the image behind it is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MapIndex {
    fn get(&self, key: &[u8]) -> Result<Option<IndexEntry>, IndexError> {
        Ok(self.lock().now.entries.get(key).cloned())
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<IndexEntry>>, IndexError> {
        self.get(key).map(Some)
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<IndexEntry>>, IndexError> {
        let inner = self.lock();
        Ok(keys
            .iter()
            .map(|key| inner.now.entries.get(key).cloned())
            .collect())
    }

    fn state(&self) -> AppliedState {
        self.lock().now.state.clone()
    }

    fn live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.lock().now.live.by_segment().clone()
    }

    fn commit(&self, set: WriteSet) -> Result<(), IndexError> {
        let mut inner = self.lock();
        inner.now.apply(set.clone());
        inner.unflushed.push(set);
        Ok(())
    }

    fn scan(
        &self,
        range: &ScanRange,
        visit: &mut dyn FnMut(ScanItem) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let image = self.lock().now.clone();
        if visit(ScanItem::View(image.state)).is_break() || range.is_empty() {
            return Ok(());
        }
        let bounds: (Bound<Bytes>, Bound<Bytes>) = (range.start.clone(), range.end.clone());
        let rows = image.entries.range(bounds);
        let rows: Box<dyn Iterator<Item = _>> = if range.reverse {
            Box::new(rows.rev())
        } else {
            Box::new(rows)
        };
        for (key, entry) in rows {
            if visit(ScanItem::Row {
                key: key.clone(),
                entry: entry.clone(),
            })
            .is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<Option<LogId>, IndexError> {
        let mut inner = self.lock();
        inner.flushed = inner.now.clone();
        inner.unflushed.clear();
        Ok(inner.flushed.state.applied)
    }

    fn flushed(&self) -> Option<LogId> {
        self.lock().flushed.state.applied
    }

    fn flushed_live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.lock().flushed.live.by_segment().clone()
    }
}
