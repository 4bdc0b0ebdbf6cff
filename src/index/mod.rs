//! The key index: `key -> place of its value`, together with everything that must be exact with it (applied log id,
//! membership, live bytes per segment, counts).
//!
//! One port, [`Index`], and two engines: [`RocksIndex`] in the node, [`MapIndex`] in tests and simulations. The
//! semantics of a command live in [`Apply`] alone and are shared by both. Neither engine has a log of its own: the
//! Raft log is the log, and after a crash an engine holds an exact prefix of what was committed to it (I3, I8).

mod apply;
mod engine;
mod format;
mod live;
mod map;
mod rocks;
mod rocks_options;

#[cfg(test)]
mod index_test;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;

use bytes::Bytes;
use nezha_vlog::{LogId, SegmentId, ValueRef, record_len};

pub(crate) use apply::account;
pub use apply::{Apply, Outcome};
pub use engine::{Engine, MapEngine, RocksEngine};
pub use map::MapIndex;
pub use rocks::RocksIndex;
pub use rocks_options::{RocksOptions, block_cache};

/// Version of the byte layout in `index/format.rs`; another version is refused by name.
pub const FORMAT_VERSION: u32 = format::VERSION;

/// First id handed to a sorted value segment. The high bit tells value segments from log segments.
pub const FIRST_VALUE_SEGMENT: u64 = (1 << 63) | 1;

/// Where a live value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a value record of a log segment or of a sorted value segment.
    At(ValueRef),
    /// In the index itself (values up to `inline_value_max`).
    Inline(Bytes),
}

/// What the index holds for a live key. Revisions are Raft log indices; their meaning is etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where the value is.
    pub place: Place,
    /// Revision at which the key was created (since it last did not exist).
    pub create_revision: u64,
    /// Revision of the last write.
    pub mod_revision: u64,
    /// Number of writes since the key was created, starting at 1.
    pub version: u64,
}

impl IndexEntry {
    /// Length of the value in bytes.
    pub fn value_len(&self) -> usize {
        match &self.place {
            Place::At(at) => at.value_len as usize,
            Place::Inline(value) => value.len(),
        }
    }

    /// Length of the value record of this entry under `key` in bytes, headers included, wherever the value is: a
    /// measure that does not depend on `inline_value_max`.
    pub fn record_len(&self, key: &[u8]) -> u64 {
        record_len(key.len(), self.value_len())
    }

    /// The segment that holds the value; `None` when it is inline.
    pub fn segment(&self) -> Option<SegmentId> {
        match &self.place {
            Place::At(at) => Some(at.segment),
            Place::Inline(_) => None,
        }
    }

    /// The entry without its value.
    pub fn outline(&self) -> Outline {
        Outline {
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value_len: self.value_len(),
            segment: self.segment(),
        }
    }
}

/// An entry without its value: what a write needs to know of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// As in [`IndexEntry`].
    pub create_revision: u64,
    /// As in [`IndexEntry`].
    pub mod_revision: u64,
    /// As in [`IndexEntry`].
    pub version: u64,
    /// Length of the value in bytes.
    pub value_len: usize,
    /// The segment that holds the value; `None` when it is inline.
    pub segment: Option<SegmentId>,
}

/// What an index holds besides its entries. Committed in the same batch as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedState {
    /// Last log id whose effect is in the index.
    pub applied: Option<LogId>,
    /// Log id of the membership below.
    pub membership_log_id: Option<LogId>,
    /// Encoded membership as it stands in the log; empty before the first one.
    pub membership: Bytes,
    /// Set when this index came from a snapshot: the log id it was installed at. While `applied` equals it, the log
    /// may end before `applied` (I3).
    pub installed_at: Option<LogId>,
    /// Highest node id ever seen in a membership. Node ids are never reused.
    pub max_node_id: u64,
    /// Live keys.
    pub keys: u64,
    /// Sum of the record lengths of all live keys in bytes, inline ones included. The same on every replica, whatever
    /// its `inline_value_max` is.
    pub live_bytes: u64,
    /// Id for the next sorted value segment. Ids are never reused.
    pub next_value_segment: u64,
}

impl Default for AppliedState {
    fn default() -> Self {
        AppliedState {
            applied: None,
            membership_log_id: None,
            membership: Bytes::new(),
            installed_at: None,
            max_node_id: 0,
            keys: 0,
            live_bytes: 0,
            next_value_segment: FIRST_VALUE_SEGMENT,
        }
    }
}

/// One atomic change of an index. Either all of it is there after a crash or nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteSet {
    /// Keys and their new entries; `None` removes. Each key at most once.
    pub entries: Vec<(Bytes, Option<IndexEntry>)>,
    /// Change of live bytes per segment. Inline values count in no segment.
    pub live_delta: BTreeMap<SegmentId, i64>,
    /// The state after this change.
    pub state: AppliedState,
}

/// Part of the key space to visit, in key order or against it.
#[derive(Debug, Clone)]
pub struct ScanRange {
    /// Lower bound.
    pub start: Bound<Bytes>,
    /// Upper bound.
    pub end: Bound<Bytes>,
    /// From the upper bound downwards.
    pub reverse: bool,
}

impl ScanRange {
    /// All keys in ascending order.
    pub fn all() -> ScanRange {
        ScanRange {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            reverse: false,
        }
    }

    /// True if no key can lie between the bounds.
    fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (
                Bound::Included(start) | Bound::Excluded(start),
                Bound::Included(end) | Bound::Excluded(end),
            ) => start >= end,
        }
    }
}

/// What a scan reports: once the view, then the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanItem {
    /// First item: the state that all rows of this scan belong to.
    View(AppliedState),
    /// A live key.
    Row {
        /// The key.
        key: Bytes,
        /// Its entry.
        entry: IndexEntry,
    },
}

/// How an [`IndexError::NoSpace`] says it, also to those who get only its text.
pub const NO_SPACE_LEFT: &str = "no space is left on the disk";

/// Why an index cannot answer. All of them are fatal for the node except `Corrupt` on a read, which fails that read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The engine failed (I/O or a bug in its use).
    #[error("index {op} failed in {}: {detail}", dir.display())]
    Engine {
        /// What was being done.
        op: &'static str,
        /// Directory of the index.
        dir: PathBuf,
        /// The engine's words.
        detail: String,
    },
    /// The disk is full. Flushes may be asked for again: they go on once there is space.
    #[error("index {op} failed in {}: {NO_SPACE_LEFT}: {detail}", dir.display())]
    NoSpace {
        /// What was being done.
        op: &'static str,
        /// Directory of the index.
        dir: PathBuf,
        /// The engine's words.
        detail: String,
    },
    /// Bytes of the index are not what was written.
    #[error("index damage in {} at offset {offset}: {reason}", file.display())]
    Corrupt {
        /// Damaged file; the index directory when the engine does not name one.
        file: PathBuf,
        /// Offset in the file in bytes; 0 when not known.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// Written by another version.
    #[error("index in {} has format version {found}; this program reads {supported}. Start the program version that wrote it", dir.display())]
    UnknownFormat {
        /// Directory of the index.
        dir: PathBuf,
        /// Version found.
        found: u32,
        /// The version this program reads.
        supported: u32,
    },
    /// An entry was handed to apply that does not come after the last applied one.
    #[error("apply out of order: {got} after {applied}")]
    OutOfOrder {
        /// Last applied log id.
        applied: LogId,
        /// The offending one.
        got: LogId,
    },
}

/// The port to an index engine.
///
/// Blocking: every call except `try_get`, `state`, `live_bytes`, `flushed` and `flushed_live_bytes` may read or write
/// files. `commit` has one caller at a time (the state machine's worker); all others may be called from any thread.
pub trait Index: Send + Sync {
    /// Returns the entry of `key`.
    ///
    /// Errors: `Corrupt` if bytes of the index are damaged.
    fn get(&self, key: &[u8]) -> Result<Option<IndexEntry>, IndexError>;

    /// As [`Index::get`], but only from memory: `None` if it would have to read a file. Never blocks.
    fn try_get(&self, key: &[u8]) -> Result<Option<Option<IndexEntry>>, IndexError>;

    /// Returns the entries of `keys`, in their order.
    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<IndexEntry>>, IndexError>;

    /// Returns the outlines of the entries of `keys`, in their order. An engine that holds long values should answer
    /// without reading them: every write asks.
    fn outlines(&self, keys: &[Bytes]) -> Result<Vec<Option<Outline>>, IndexError> {
        let found = self.multi_get(keys)?;
        Ok(found
            .into_iter()
            .map(|entry| entry.map(|entry| entry.outline()))
            .collect())
    }

    /// Returns the state after the last committed batch.
    fn state(&self) -> AppliedState;

    /// Returns the live bytes of every segment that has any.
    fn live_bytes(&self) -> BTreeMap<SegmentId, u64>;

    /// Applies one change atomically. Not durable before the next [`Index::flush`], but possibly earlier: the caller
    /// commits only what is durable in the log (I3).
    fn commit(&self, set: WriteSet) -> Result<(), IndexError>;

    /// Visits one consistent view: `ScanItem::View` first, then rows until `visit` breaks or the range ends.
    fn scan(
        &self,
        range: &ScanRange,
        visit: &mut dyn FnMut(ScanItem) -> ControlFlow<()>,
    ) -> Result<(), IndexError>;

    /// Makes everything committed before the call durable and returns the applied id of that moment.
    fn flush(&self) -> Result<Option<LogId>, IndexError>;

    /// Applied id that is durable for certain; the durable one may be later.
    fn flushed(&self) -> Option<LogId>;

    /// Live bytes of every segment that has any in what is durable for certain.
    fn flushed_live_bytes(&self) -> BTreeMap<SegmentId, u64>;
}
