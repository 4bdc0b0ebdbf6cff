//! The state hash of a key range: the same on every replica that has applied the same log, wherever its values lie.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::{BufMut, Bytes};
use sha2::{Digest, Sha256};

use super::Store;
use super::error::StoreError;
use super::halts::Missed;
use super::view::View;
use crate::index::{IndexEntry, ScanItem, ScanRange};

/// What to hash.
#[derive(Debug, Clone)]
pub struct HashOrder {
    /// Keys, in ascending order.
    pub range: ScanRange,
    /// Index at which the state is hashed; 0: whatever is applied.
    pub applied_index: u64,
    /// How long to wait for that index.
    pub wait_until: Instant,
    /// Lengths of values instead of their bytes: no value file is opened.
    pub keys_only: bool,
    /// Keys at most; 0: all of the range.
    pub keys_max: u64,
}

/// The hash of a range, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Log index of the state.
    pub applied_index: u64,
    /// SHA-256 of the records of all keys, in key order; see [`StateHash`].
    pub digest: [u8; 32],
    /// Number of keys.
    pub keys: u64,
    /// Key and value bytes.
    pub bytes: u64,
    /// The last key; empty if there was none.
    pub last_key: Bytes,
}

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The store is past the index.
    #[error("log index {applied} is applied already")]
    Past {
        /// The index that is applied now.
        applied: u64,
    },
    /// The index was not reached in time.
    #[error("only log index {applied} is applied")]
    NotReached {
        /// The index that is applied now.
        applied: u64,
    },
    /// Told to stop.
    #[error("given up")]
    Stopped,
    /// Reading failed; damage is named by file and offset.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// SHA-256 over one record per key, in ascending order of keys:
///
/// ```text
/// key length u64, key, create_revision u64, mod_revision u64, version u64, value length u64, value
/// ```
///
/// Little-endian. Without values the record ends with their length.
#[derive(Default)]
pub struct StateHash {
    sha: Sha256,
    head: Vec<u8>,
}

impl StateHash {
    /// Takes the next key.
    pub fn add(&mut self, key: &[u8], entry: &IndexEntry, value: Option<&[u8]>) {
        self.head.clear();
        self.head.put_u64_le(key.len() as u64);
        self.head.put_slice(key);
        self.head.put_u64_le(entry.create_revision);
        self.head.put_u64_le(entry.mod_revision);
        self.head.put_u64_le(entry.version);
        self.head.put_u64_le(entry.value_len() as u64);
        self.sha.update(&self.head);
        if let Some(value) = value {
            assert_eq!(value.len(), entry.value_len(), "a value of another length");
            self.sha.update(value);
        }
    }

    /// The hash of what was taken.
    pub fn finish(self) -> [u8; 32] {
        self.sha.finalize().into()
    }
}

impl Store {
    /// Hashes the state of a key range at an applied index: every value is read and verified unless only keys count.
    /// Asks `go_on` before every key, and now and then while it waits, whether to go on.
    ///
    /// Errors: `Past` if the store is past the index, `NotReached` if it was not reached in time, `Stopped`; `Damage`
    /// with file and offset. Blocking: reads the range. Memory: one value.
    pub fn hash(&self, order: &HashOrder, go_on: &mut dyn FnMut() -> bool) -> Result<Hashed, HashError> {
        let applied = || self.applied_index();
        let mut hold = None;
        if order.applied_index != 0 {
            let held = self.hold_at(order.applied_index, order.wait_until, go_on);
            hold = Some(held.map_err(|missed| match missed {
                Missed::Past => HashError::Past { applied: applied() },
                Missed::GivenUp if Instant::now() >= order.wait_until => {
                    HashError::NotReached { applied: applied() }
                }
                Missed::GivenUp => HashError::Stopped,
            })?);
        }
        let view = self.view();
        let mut run = Run {
            view: &view,
            order,
            hash: StateHash::default(),
            done: Hashed {
                applied_index: 0,
                digest: [0; 32],
                keys: 0,
                bytes: 0,
                last_key: Bytes::new(),
            },
        };
        let mut ended = Ok(());
        let mut visit = |item| {
            let step = match item {
                ScanItem::View(state) => {
                    hold.take();
                    run.begin(state.applied.map_or(0, |id| id.index))
                }
                ScanItem::Row { .. } if !go_on() => Err(HashError::Stopped),
                ScanItem::Row { key, entry } => run.row(key, &entry),
            };
            match step {
                Ok(flow) => flow,
                Err(error) => {
                    ended = Err(error);
                    ControlFlow::Break(())
                }
            }
        };
        let scanned = view.index().scan(&order.range, &mut visit);
        scanned.map_err(StoreError::from)?;
        ended?;
        let digest = run.hash.finish();
        Ok(Hashed { digest, ..run.done })
    }
}

/// A hash under way.
struct Run<'a> {
    view: &'a View,
    order: &'a HashOrder,
    hash: StateHash,
    done: Hashed,
}

impl Run<'_> {
    fn begin(&mut self, applied: u64) -> Result<ControlFlow<()>, HashError> {
        self.done.applied_index = applied;
        match self.order.applied_index {
            0 => Ok(ControlFlow::Continue(())),
            asked if asked == applied => Ok(ControlFlow::Continue(())),
            // Apply did not wait for us any longer.
            _ => Err(HashError::Past { applied }),
        }
    }

    fn row(&mut self, key: Bytes, entry: &IndexEntry) -> Result<ControlFlow<()>, HashError> {
        let value = match self.order.keys_only {
            true => None,
            false => Some(self.view.read(entry, &key)?),
        };
        self.hash.add(&key, entry, value.as_deref());
        self.done.keys += 1;
        self.done.bytes += (key.len() + entry.value_len()) as u64;
        self.done.last_key = key;
        match self.done.keys == self.order.keys_max {
            true => Ok(ControlFlow::Break(())),
            false => Ok(ControlFlow::Continue(())),
        }
    }
}
