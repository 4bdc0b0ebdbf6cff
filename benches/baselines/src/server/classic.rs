//! RocksDB with whole values behind the port of the index: what a store does whose engine is not its Raft log.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nezha::index::{
    AppliedState, Engine, Index, IndexEntry, IndexError, Outline, Place, ScanItem, ScanRange, WriteSet,
};
use nezha_vlog::{LogId, SegmentId};
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBPinnableSlice, ErrorKind, FlushOptions, IteratorMode, ReadOptions,
    ReadTier, WriteBatch, WriteOptions,
};

use super::format::{self, Malformed};

const FAMILY: &str = "default";

/// What RocksDB does with a log of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wal {
    /// There is none: memtables become durable when they are written out.
    Off,
    /// Written with each batch, synced where the store must know what is durable.
    Unsynced,
    /// Written and synced with each batch.
    Synced,
}

/// Opens [`ClassicIndex`], all with one block cache.
pub(super) struct ClassicEngine {
    options: rocksdb::Options,
    wal: Wal,
    fsync: bool,
}

impl ClassicEngine {
    /// `fsync`: whether its own log is ever synced.
    pub(super) fn new(options: rocksdb::Options, wal: Wal, fsync: bool) -> ClassicEngine {
        ClassicEngine { options, wal, fsync }
    }
}

impl Engine for ClassicEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError> {
        let index = ClassicIndex::open(dir, &self.options, self.wal, self.fsync)?;
        Ok(Arc::new(index))
    }

    fn removed(&self, _dir: &Path) {}
}

/// A RocksDB directory with rows and values.
///
/// One column family and one batch per commit: memtables, and the records of RocksDB's log, become durable in order, so
/// that a crash leaves an exact prefix of the commits. With a log of its own that prefix may end after what
/// [`Index::flushed`] says, never after what the Raft log has: apply waits for that.
struct ClassicIndex {
    db: DB,
    dir: PathBuf,
    wal: Wal,
    fsync: bool,
    inner: Mutex<Inner>,
    /// Reads what is in memory, and nothing else.
    in_memory: ReadOptions,
}

struct Inner {
    state: AppliedState,
    flushed: Option<LogId>,
}

impl ClassicIndex {
    fn open(
        dir: &Path,
        options: &rocksdb::Options,
        wal: Wal,
        fsync: bool,
    ) -> Result<ClassicIndex, IndexError> {
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db = DB::open_cf_descriptors(options, dir, [family]).map_err(|e| failure("open", dir, &e))?;
        let is_new = check_format(&db, dir)?;
        let state = read_state(dir, |key| db.get(key))?;
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        let index = ClassicIndex {
            db,
            dir: dir.to_path_buf(),
            wal,
            fsync,
            inner: Mutex::new(Inner {
                // RocksDB writes out what it has replayed from its log before it is open.
                flushed: state.applied,
                state,
            }),
            in_memory,
        };
        if is_new {
            let mut batch = WriteBatch::default();
            batch.put(format::KEY_FORMAT, format::encode_format());
            index.write("create", batch)?;
        }
        Ok(index)
    }

    fn write(&self, op: &'static str, batch: WriteBatch) -> Result<(), IndexError> {
        let mut options = WriteOptions::default();
        options.disable_wal(self.wal == Wal::Off);
        options.set_sync(self.wal == Wal::Synced);
        self.db
            .write_opt(batch, &options)
            .map_err(|e| failure(op, &self.dir, &e))
    }

    /// The records of `keys`, in their order.
    fn records<T>(
        &self,
        op: &'static str,
        keys: &[Vec<u8>],
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Vec<Option<T>>, IndexError> {
        let family = self.db.cf_handle(FAMILY).expect("the default family was opened");
        let found = self.db.batched_multi_get_cf(family, keys, false);
        let record = |found: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>| {
            let bytes = found.map_err(|e| failure(op, &self.dir, &e))?;
            bytes
                .map(|bytes| decode(&bytes).map_err(|e| malformed(&self.dir, e)))
                .transpose()
        };
        found.into_iter().map(record).collect()
    }

    fn row(&self, bytes: &[u8]) -> Result<IndexEntry, IndexError> {
        format::decode_row(bytes).map_err(|e| malformed(&self.dir, e))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of it is a few assignments.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for ClassicIndex {
    fn get(&self, key: &[u8]) -> Result<Option<IndexEntry>, IndexError> {
        let found = self
            .db
            .get_pinned(format::row_key(key))
            .map_err(|e| failure("get", &self.dir, &e))?;
        found.map(|bytes| self.row(&bytes)).transpose()
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<IndexEntry>>, IndexError> {
        match self.db.get_pinned_opt(format::row_key(key), &self.in_memory) {
            Ok(found) => found.map(|bytes| self.row(&bytes)).transpose().map(Some),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(failure("get", &self.dir, &error)),
        }
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<IndexEntry>>, IndexError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| format::row_key(key)).collect();
        self.records("multi-get", &keys, format::decode_row)
    }

    fn outlines(&self, keys: &[Bytes]) -> Result<Vec<Option<Outline>>, IndexError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| format::outline_key(key)).collect();
        self.records("read outlines", &keys, format::decode_outline)
    }

    fn state(&self) -> AppliedState {
        self.lock().state.clone()
    }

    /// No value is in a segment.
    fn live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        BTreeMap::new()
    }

    fn commit(&self, set: WriteSet) -> Result<(), IndexError> {
        assert!(
            set.live_delta.is_empty(),
            "a classic store is given values that are elsewhere: {:?}",
            set.live_delta
        );
        let mut batch = WriteBatch::default();
        for (key, entry) in &set.entries {
            match entry {
                Some(entry) => {
                    let Place::Inline(value) = &entry.place else {
                        unreachable!("it would count in a segment: {entry:?}")
                    };
                    let outline = entry.outline();
                    batch.put(format::outline_key(key), format::encode_outline(&outline));
                    batch.put(format::row_key(key), format::encode_row(&outline, value));
                }
                None => {
                    batch.delete(format::outline_key(key));
                    batch.delete(format::row_key(key));
                }
            }
        }
        batch.put(format::KEY_STATE, format::encode_state(&set.state));
        if self.lock().state.membership_log_id != set.state.membership_log_id {
            batch.put(format::KEY_MEMBERSHIP, format::encode_membership(&set.state));
        }
        self.write("commit", batch)?;
        let mut inner = self.lock();
        inner.state = set.state;
        if self.wal == Wal::Synced {
            inner.flushed = inner.state.applied;
        }
        Ok(())
    }

    fn scan(
        &self,
        range: &ScanRange,
        visit: &mut dyn FnMut(ScanItem) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let snapshot = self.db.snapshot();
        let view = read_state(&self.dir, |key| snapshot.get(key))?;
        let (from, to) = (lower_bound(&range.start), upper_bound(&range.end));
        if visit(ScanItem::View(view)).is_break() || from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mut rows = snapshot.raw_iterator_opt(options);
        match range.reverse {
            true => rows.seek_to_last(),
            false => rows.seek_to_first(),
        }
        while let Some((key, row)) = rows.item() {
            let item = ScanItem::Row {
                key: Bytes::copy_from_slice(key.get(1..).unwrap_or_default()),
                entry: self.row(row)?,
            };
            if visit(item).is_break() {
                break;
            }
            match range.reverse {
                true => rows.prev(),
                false => rows.next(),
            }
        }
        rows.status().map_err(|e| failure("scan", &self.dir, &e))
    }

    /// With a log of its own nothing needs to be written out: what is in the log is there after a crash.
    fn flush(&self) -> Result<Option<LogId>, IndexError> {
        let applied = self.lock().state.applied;
        let done = match self.wal {
            Wal::Off => {
                let mut options = FlushOptions::default();
                options.set_wait(true);
                self.db.flush_opt(&options)
            }
            Wal::Unsynced if self.fsync => self.db.flush_wal(true),
            Wal::Unsynced | Wal::Synced => Ok(()),
        };
        done.map_err(|e| failure("flush", &self.dir, &e))?;
        let mut inner = self.lock();
        // Two flushes may overlap.
        if inner.flushed.map(|id| id.index) < applied.map(|id| id.index) {
            inner.flushed = applied;
        }
        Ok(applied)
    }

    fn flushed(&self) -> Option<LogId> {
        self.lock().flushed
    }

    fn flushed_live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        BTreeMap::new()
    }
}

/// Refuses what another program, or another version of this one, has written. True for an empty directory.
fn check_format(db: &DB, dir: &Path) -> Result<bool, IndexError> {
    let record = db.get(format::KEY_FORMAT).map_err(|e| failure("open", dir, &e))?;
    if let Some(bytes) = record {
        return match format::decode_format(&bytes).map_err(|e| malformed(dir, e))? {
            format::VERSION => Ok(false),
            found => Err(IndexError::UnknownFormat {
                dir: dir.to_path_buf(),
                found,
                supported: format::VERSION,
            }),
        };
    }
    match db.iterator(IteratorMode::Start).next() {
        None => Ok(true),
        Some(Err(e)) => Err(failure("open", dir, &e)),
        Some(Ok(_)) => Err(IndexError::Corrupt {
            file: dir.to_path_buf(),
            offset: 0,
            reason: "rows without a format record: another program wrote them".to_owned(),
        }),
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

/// First key of a range, included.
fn lower_bound(start: &Bound<Bytes>) -> Vec<u8> {
    match start {
        Bound::Unbounded => vec![format::ROWS],
        Bound::Included(key) => format::row_key(key),
        Bound::Excluded(key) => successor(format::row_key(key)),
    }
}

/// First key after a range.
fn upper_bound(end: &Bound<Bytes>) -> Vec<u8> {
    match end {
        Bound::Unbounded => format::END_OF_ROWS.to_vec(),
        Bound::Included(key) => successor(format::row_key(key)),
        Bound::Excluded(key) => format::row_key(key),
    }
}

/// The key that comes next.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
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
    match error.kind() {
        ErrorKind::Corruption => IndexError::Corrupt {
            file: dir,
            offset: 0,
            reason: format!("{op}: {detail}"),
        },
        _ => IndexError::Engine { op, dir, detail },
    }
}
