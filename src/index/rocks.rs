//! The index engine of the node: RocksDB with its write-ahead log off.
//!
//! Everything is in one column family, so that one write batch lands in one memtable and memtables become durable in
//! order: after a crash RocksDB holds an exact prefix of the batches, their applied ids included.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nezha_vlog::{LogId, SegmentId};
use rocksdb::{
    ColumnFamilyDescriptor, DB, ErrorKind, FlushOptions, IteratorMode, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};

use super::format::{self, Malformed};
use super::live::LiveBytes;
use super::rocks_options::RocksOptions;
use super::{AppliedState, FORMAT_VERSION, Index, IndexEntry, IndexError, ScanItem, ScanRange, WriteSet};

const FAMILY: &str = "default";

/// A scan that has visited so many rows, about 1 MiB of the index, leaves no further blocks in the cache, where reads of
/// single keys need theirs, and reads ahead.
const LONG_SCAN_ROWS: u64 = 10_000;
const LONG_SCAN_READAHEAD_BYTES: usize = 256 << 10;

/// Free space that a flush needs beside the bytes of the memtables: for RocksDB's own records.
const FLUSH_MARGIN_BYTES: u64 = 1 << 20;

/// A RocksDB directory that holds one index.
///
/// Dropping it flushes, as RocksDB does when its log is off; a process that stops because its log is poisoned must exit
/// without dropping it (I7).
pub struct RocksIndex {
    db: DB,
    dir: PathBuf,
    inner: Mutex<Inner>,
    /// Reads what is in memory, and nothing else.
    in_memory: ReadOptions,
}

/// In memory what the meta records hold, so that nobody reads them back.
struct Inner {
    state: AppliedState,
    live: LiveBytes,
    /// Commits since it was opened.
    commits: u64,
    flushed: Flushed,
}

/// What a flush has made durable.
#[derive(Clone)]
struct Flushed {
    /// Number of commits that are in it: orders flushes that overlap.
    commits: u64,
    applied: Option<LogId>,
    live: LiveBytes,
}

impl RocksIndex {
    /// Opens the index in `dir`, creating it if there is none.
    ///
    /// Errors: `UnknownFormat`, `Corrupt`, or `Engine` if RocksDB cannot open it.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<RocksIndex, IndexError> {
        RocksIndex::open_with(dir, options.build())
    }

    pub(super) fn open_with(dir: &Path, mut options: rocksdb::Options) -> Result<RocksIndex, IndexError> {
        options.create_if_missing(true);
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db = DB::open_cf_descriptors(&options, dir, [family]).map_err(|e| failure("open", dir, &e))?;
        let index = RocksIndex::load(db, dir)?;
        if index.check_format()? == Content::Empty {
            index.write("create", {
                let mut batch = WriteBatch::default();
                batch.put(format::KEY_FORMAT, format::encode_format());
                batch
            })?;
        }
        Ok(index)
    }

    /// Opens the index of a stopped node without changing a byte of it. `commit` and `flush` fail.
    pub fn open_read_only(dir: &Path, options: &RocksOptions) -> Result<RocksIndex, IndexError> {
        let options = options.build();
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db = DB::open_cf_descriptors_read_only(&options, dir, [family], false)
            .map_err(|e| failure("open", dir, &e))?;
        let index = RocksIndex::load(db, dir)?;
        index.check_format()?;
        Ok(index)
    }

    fn load(db: DB, dir: &Path) -> Result<RocksIndex, IndexError> {
        let dir = dir.to_path_buf();
        let state = read_state(&dir, |key| db.get(key))?;
        let mut records = Vec::new();
        let from = IteratorMode::From(format::PREFIX_LIVE, rocksdb::Direction::Forward);
        for record in db.iterator(from) {
            let (key, value) = record.map_err(|e| failure("open", &dir, &e))?;
            if !key.starts_with(format::PREFIX_LIVE) {
                break;
            }
            records.push((key, value));
        }
        let live = format::collect_live(records.iter().map(|(key, value)| (&key[..], &value[..])))
            .map_err(|e| malformed(&dir, e))?;
        let live = LiveBytes::new(live);
        let flushed = Flushed {
            commits: 0,
            applied: state.applied,
            live: live.clone(),
        };
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        Ok(RocksIndex {
            db,
            in_memory,
            dir,
            inner: Mutex::new(Inner {
                state,
                live,
                commits: 0,
                flushed,
            }),
        })
    }

    fn check_format(&self) -> Result<Content, IndexError> {
        match self
            .db
            .get(format::KEY_FORMAT)
            .map_err(|e| failure("open", &self.dir, &e))?
        {
            Some(bytes) => match format::decode_format(&bytes).map_err(|e| malformed(&self.dir, e))? {
                FORMAT_VERSION => Ok(Content::Known),
                found => Err(IndexError::UnknownFormat {
                    dir: self.dir.clone(),
                    found,
                    supported: FORMAT_VERSION,
                }),
            },
            None => match self.db.iterator(IteratorMode::Start).next() {
                None => Ok(Content::Empty),
                Some(Err(e)) => Err(failure("open", &self.dir, &e)),
                // The format record is in the first batch ever written; without it this is another program's data.
                Some(Ok(_)) => Err(IndexError::Corrupt {
                    file: self.dir.clone(),
                    offset: 0,
                    reason: "no format record in front of the data".to_owned(),
                }),
            },
        }
    }

    fn write(&self, op: &'static str, batch: WriteBatch) -> Result<(), IndexError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(batch, &options)
            .map_err(|e| failure(op, &self.dir, &e))
    }

    /// Refuses a flush that the disk has no room for. RocksDB must not find out by itself: a flush that fails for lack of
    /// space stops all work in the background, and a second one that was asked for meanwhile keeps it from going on when
    /// there is space again.
    fn check_space(&self) -> Result<(), IndexError> {
        let full = |detail| IndexError::NoSpace {
            op: "flush",
            dir: self.dir.clone(),
            detail,
        };
        let stat = rustix::fs::statvfs(&self.dir).map_err(|error| IndexError::Engine {
            op: "flush",
            dir: self.dir.clone(),
            detail: format!("cannot tell the free space: {error}"),
        })?;
        let memtables = self.db.property_int_value("rocksdb.cur-size-all-mem-tables");
        let needed = memtables
            .map_err(|e| failure("flush", &self.dir, &e))?
            .unwrap_or(0)
            + FLUSH_MARGIN_BYTES;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match free < needed {
            true => Err(full(format!("{free} bytes are free, {needed} needed"))),
            false => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Only a broken invariant panics under the lock, before anything is changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decode(&self, bytes: &[u8]) -> Result<IndexEntry, IndexError> {
        format::decode_entry(bytes).map_err(|e| malformed(&self.dir, e))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Empty,
    Known,
}

impl Index for RocksIndex {
    fn get(&self, key: &[u8]) -> Result<Option<IndexEntry>, IndexError> {
        let found = self
            .db
            .get_pinned(format::user_key(key))
            .map_err(|e| failure("get", &self.dir, &e))?;
        found.map(|bytes| self.decode(&bytes)).transpose()
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<IndexEntry>>, IndexError> {
        match self.db.get_pinned_opt(format::user_key(key), &self.in_memory) {
            Ok(found) => found.map(|bytes| self.decode(&bytes)).transpose().map(Some),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(failure("get", &self.dir, &error)),
        }
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<IndexEntry>>, IndexError> {
        if let [key] = keys {
            return Ok(vec![self.get(key)?]);
        }
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| format::user_key(key)).collect();
        let family = self.db.cf_handle(FAMILY).expect("the default family was opened");
        let found = self.db.batched_multi_get_cf(family, keys.iter(), false);
        found
            .into_iter()
            .map(
                |result| match result.map_err(|e| failure("multi-get", &self.dir, &e))? {
                    Some(bytes) => self.decode(&bytes).map(Some),
                    None => Ok(None),
                },
            )
            .collect()
    }

    fn state(&self) -> AppliedState {
        self.lock().state.clone()
    }

    fn live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.lock().live.by_segment().clone()
    }

    fn commit(&self, set: WriteSet) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        for (key, entry) in &set.entries {
            match entry {
                Some(entry) => batch.put(format::user_key(key), format::encode_entry(entry)),
                None => batch.delete(format::user_key(key)),
            }
        }
        // One caller at a time: nothing changes between this copy and the end. No lock during the write, because
        // readers ask for the state.
        let (mut live, membership_log_id) = {
            let inner = self.lock();
            (inner.live.clone(), inner.state.membership_log_id)
        };
        for (segment, bytes) in live.add(&set.live_delta) {
            match format::encode_live(segment, bytes) {
                (key, Some(value)) => batch.put(key, value),
                (key, None) => batch.delete(key),
            }
        }
        batch.put(format::KEY_STATE, format::encode_state(&set.state));
        if membership_log_id != set.state.membership_log_id {
            batch.put(format::KEY_MEMBERSHIP, format::encode_membership(&set.state));
        }
        self.write("commit", batch)?;
        let mut inner = self.lock();
        inner.live = live;
        inner.state = set.state;
        inner.commits += 1;
        Ok(())
    }

    fn scan(
        &self,
        range: &ScanRange,
        visit: &mut dyn FnMut(ScanItem) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let snapshot = self.db.snapshot();
        let view = read_state(&self.dir, |key| snapshot.get(key))?;
        if visit(ScanItem::View(view)).is_break() || range.is_empty() {
            return Ok(());
        }
        let mut rows = snapshot.raw_iterator_opt(scan_options(range));
        if range.reverse {
            rows.seek_to_last();
        } else {
            rows.seek_to_first();
        }
        let mut visited = 0;
        while let Some((key, value)) = rows.item() {
            let row = ScanItem::Row {
                key: Bytes::copy_from_slice(key.get(1..).unwrap_or_default()),
                entry: self.decode(value)?,
            };
            visited += 1;
            if visited == LONG_SCAN_ROWS {
                let at = key.to_vec();
                let mut options = scan_options(range);
                options.fill_cache(false);
                options.set_readahead_size(LONG_SCAN_READAHEAD_BYTES);
                rows = snapshot.raw_iterator_opt(options);
                match range.reverse {
                    true => rows.seek_for_prev(at),
                    false => rows.seek(at),
                }
            }
            if visit(row).is_break() {
                break;
            }
            if range.reverse {
                rows.prev();
            } else {
                rows.next();
            }
        }
        rows.status().map_err(|e| failure("scan", &self.dir, &e))
    }

    fn flush(&self) -> Result<Option<LogId>, IndexError> {
        let captured = {
            let inner = self.lock();
            Flushed {
                commits: inner.commits,
                applied: inner.state.applied,
                live: inner.live.clone(),
            }
        };
        let applied = captured.applied;
        self.check_space()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_opt(&options)
            .map_err(|e| failure("flush", &self.dir, &e))?;
        let mut inner = self.lock();
        // Two flushes may overlap; what was captured later wins.
        if inner.flushed.commits < captured.commits {
            inner.flushed = captured;
        }
        let (flushed, now) = (inner.flushed.applied, inner.state.applied);
        assert!(
            flushed.map(|id| id.index) <= now.map(|id| id.index),
            "I8: flushed {flushed:?} is beyond applied {now:?}"
        );
        Ok(applied)
    }

    fn flushed(&self) -> Option<LogId> {
        self.lock().flushed.applied
    }

    fn flushed_live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.lock().flushed.live.by_segment().clone()
    }
}

fn read_state(
    dir: &Path,
    read: impl Fn(&'static [u8]) -> Result<Option<Vec<u8>>, rocksdb::Error>,
) -> Result<AppliedState, IndexError> {
    let state = read(format::KEY_STATE).map_err(|e| failure("read state", dir, &e))?;
    let membership = read(format::KEY_MEMBERSHIP).map_err(|e| failure("read state", dir, &e))?;
    format::decode_state(state.as_deref(), membership.as_deref()).map_err(|e| malformed(dir, e))
}

fn scan_options(range: &ScanRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(lower_bound(&range.start));
    options.set_iterate_upper_bound(upper_bound(&range.end));
    options
}

fn lower_bound(start: &Bound<Bytes>) -> Vec<u8> {
    match start {
        Bound::Unbounded => vec![format::PREFIX_KEYS],
        Bound::Included(key) => format::user_key(key),
        Bound::Excluded(key) => just_after(key),
    }
}

fn upper_bound(end: &Bound<Bytes>) -> Vec<u8> {
    match end {
        Bound::Unbounded => format::END_OF_KEYS.to_vec(),
        Bound::Included(key) => just_after(key),
        Bound::Excluded(key) => format::user_key(key),
    }
}

fn just_after(key: &[u8]) -> Vec<u8> {
    let mut out = format::user_key(key);
    out.push(0);
    out
}

fn malformed(dir: &Path, error: Malformed) -> IndexError {
    IndexError::Corrupt {
        file: dir.to_path_buf(),
        offset: 0,
        reason: error.to_string(),
    }
}

fn failure(op: &'static str, dir: &Path, error: &rocksdb::Error) -> IndexError {
    let (dir, detail) = (dir.to_path_buf(), error.to_string());
    if error.kind() != ErrorKind::Corruption {
        // RocksDB tells only the operating system's text for ENOSPC.
        return match detail.contains("No space left on device") {
            true => IndexError::NoSpace { op, dir, detail },
            false => IndexError::Engine { op, dir, detail },
        };
    }
    let (file, offset) = damaged_place(&detail).unwrap_or((dir, 0));
    IndexError::Corrupt {
        file,
        offset,
        reason: format!("{op}: {detail}"),
    }
}

/// Finds "... in FILE offset N size M" in RocksDB's words about a bad block.
fn damaged_place(detail: &str) -> Option<(PathBuf, u64)> {
    let (before, after) = detail.split_once(" offset ")?;
    let (_, file) = before.rsplit_once(" in ")?;
    let offset = after.split(' ').next()?.parse().ok()?;
    Some((PathBuf::from(file), offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Place;

    #[test]
    fn a_scan_that_becomes_long_visits_each_row_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let index = RocksIndex::open(dir.path(), &RocksOptions::default()).unwrap();
        let keys: Vec<Bytes> = (0..2 * LONG_SCAN_ROWS + 1)
            .map(|number| Bytes::from(format!("{number:09}")))
            .collect();
        let entry = IndexEntry {
            place: Place::Inline(Bytes::from_static(b"value")),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
        };
        let set = WriteSet {
            entries: keys
                .iter()
                .map(|key| (key.clone(), Some(entry.clone())))
                .collect(),
            live_delta: BTreeMap::new(),
            state: AppliedState::default(),
        };
        index.commit(set).unwrap();
        // From the memtable, then from a table file.
        for _ in 0..2 {
            for reverse in [false, true] {
                let mut seen = Vec::new();
                let mut visit = |item| {
                    if let ScanItem::Row { key, .. } = item {
                        seen.push(key);
                    }
                    ControlFlow::Continue(())
                };
                let all = ScanRange {
                    reverse,
                    ..ScanRange::all()
                };
                index.scan(&all, &mut visit).unwrap();
                if reverse {
                    seen.reverse();
                }
                assert!(seen == keys, "reverse: {reverse}, {} rows", seen.len());
            }
            index.flush().unwrap();
        }
    }

    #[test]
    fn names_file_and_offset_of_a_bad_block() {
        let detail = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /d/000012.sst offset 4096 size 77";
        assert_eq!(
            damaged_place(detail),
            Some((PathBuf::from("/d/000012.sst"), 4096))
        );
        assert_eq!(damaged_place("Corruption: something else"), None);
    }
}
