//! Open segment files and the offset tables of sealed segments, both bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Fault};
use crate::format::{SUMMARY_LEN, Summary, segment_path};
use crate::fs::{File, Fs};
use crate::ids::SegmentId;

/// Offset table of a sealed segment.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) first: u64,
    pub(crate) offsets: Vec<u32>,
    /// Where the groups end.
    pub(crate) end: u64,
}

impl Table {
    pub(crate) fn offset(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.offsets.get(at).map(|&offset| offset.into())
    }
}

/// Opens segments and loads offset tables on demand.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    handles: Mutex<Cache<SegmentId, Arc<dyn File>>>,
    tables: Mutex<Cache<SegmentId, Arc<Table>>>,
}

impl Files {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: PathBuf, open_files: u64, table_bytes: u64) -> Files {
        let (handles, tables) = (
            Mutex::new(Cache::new(open_files)),
            Mutex::new(Cache::new(table_bytes)),
        );
        Files {
            fs,
            dir,
            handles,
            tables,
        }
    }

    /// A segment's file, open for reading. Errors: `NoSuchSegment`.
    pub(crate) fn file(&self, segment: SegmentId) -> Result<Arc<dyn File>, Error> {
        if let Some(file) = lock(&self.handles).get(&segment) {
            return Ok(file);
        }
        let path = segment_path(&self.dir, segment);
        let file = self.fs.open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoSuchSegment(segment),
            _ => Error::Io {
                action: "open",
                path,
                source,
            },
        })?;
        lock(&self.handles).insert(segment, file.clone(), 1);
        Ok(file)
    }

    /// Closes a segment that is about to go.
    pub(crate) fn forget(&self, segment: SegmentId) {
        lock(&self.handles).remove(&segment);
        lock(&self.tables).remove(&segment);
    }

    /// The offset table of a sealed segment.
    pub(crate) fn table(&self, segment: SegmentId) -> Result<Arc<Table>, Error> {
        if let Some(table) = lock(&self.tables).get(&segment) {
            return Ok(table);
        }
        let file = self.file(segment)?;
        let io = || Error::io("read", &segment_path(&self.dir, segment));
        let len = file.len().map_err(io())?;
        let at = len.saturating_sub(SUMMARY_LEN);
        let mut bytes = vec![0; SUMMARY_LEN.min(len) as usize];
        file.read_exact_at(&mut bytes, at).map_err(io())?;
        let summary = Summary::decode(&bytes, segment, len).map_err(Error::damage(segment, at))?;
        let mut bytes = vec![0; summary.table_len() as usize];
        file.read_exact_at(&mut bytes, summary.offset).map_err(io())?;
        let offsets = summary
            .decode_table(&bytes)
            .map_err(Error::damage(segment, summary.offset))?;
        let table = Arc::new(Table {
            first: summary.first,
            offsets,
            end: summary.offset,
        });
        self.keep_table(segment, table.clone());
        Ok(table)
    }

    pub(crate) fn keep_table(&self, segment: SegmentId, table: Arc<Table>) {
        let weight = 64 + 4 * table.offsets.len() as u64;
        lock(&self.tables).insert(segment, table, weight);
    }

    /// Where the frame of the entry at `index` of a sealed segment is.
    pub(crate) fn frame_offset(&self, table: &Table, segment: SegmentId, index: u64) -> Result<u64, Error> {
        let fault = Fault::Mismatch {
            field: "index in the offset table",
            expected: index,
            got: table.first + table.offsets.len() as u64,
        };
        table
            .offset(index)
            .ok_or_else(|| Error::damage(segment, table.end)(fault))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of a file cache panics")
}

/// A small least-recently-used cache, bounded by weight; the newest item always stays.
#[derive(Debug)]
struct Cache<K, V> {
    items: HashMap<K, Item<V>>,
    weight: u64,
    weight_max: u64,
    clock: u64,
}

#[derive(Debug)]
struct Item<V> {
    value: V,
    weight: u64,
    used: u64,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    fn new(weight_max: u64) -> Cache<K, V> {
        Cache {
            items: HashMap::new(),
            weight: 0,
            weight_max,
            clock: 0,
        }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let item = self.items.get_mut(key)?;
        item.used = self.clock;
        Some(item.value.clone())
    }

    fn remove(&mut self, key: &K) {
        let removed = self.items.remove(key);
        self.weight -= removed.map_or(0, |item| item.weight);
    }

    fn insert(&mut self, key: K, value: V, weight: u64) {
        self.clock += 1;
        self.weight += weight;
        if let Some(old) = self.items.insert(
            key,
            Item {
                value,
                weight,
                used: self.clock,
            },
        ) {
            self.weight -= old.weight;
        }
        while self.weight > self.weight_max && self.items.len() > 1 {
            // Linear, but only on a miss, and a miss reads from a file.
            let oldest = self
                .items
                .iter()
                .min_by_key(|(_, item)| item.used)
                .map(|(key, _)| *key);
            let removed = oldest.and_then(|key| self.items.remove(&key));
            self.weight -= removed.map_or(0, |item| item.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(10);
        cache.insert(1, "a", 4);
        cache.insert(2, "b", 4);
        assert_eq!(cache.get(&1), Some("a"));
        cache.insert(3, "c", 4);
        assert_eq!(
            (cache.get(&1), cache.get(&2), cache.get(&3)),
            (Some("a"), None, Some("c"))
        );
        cache.insert(4, "d", 40);
        assert_eq!(
            (cache.get(&3), cache.get(&4), cache.weight),
            (None, Some("d"), 40)
        );
    }
}
