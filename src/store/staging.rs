//! Builds the store of a received snapshot next to the live one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nezha_gc::SegmentWriter;
use nezha_vlog::{Log, LogId, SegmentId, decode_record};

use super::damage::Damages;
use super::error::StoreError;
use super::view::View;
use super::{Store, StoreOptions, create_store_dir, index_dir, open_view, sync_store_dir, values_dir};
use crate::identity::DataDir;
use crate::index::{AppliedState, Engine, Index, IndexEntry, Place, WriteSet, account};

/// Level of the segments of a snapshot: one run over the whole key space.
const LEVEL: u8 = 2;
/// After so many times the keys of a relocation, or so many bytes, a batch goes to the index.
const BATCH_RELOCATIONS: usize = 8;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a snapshot says besides its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last log id whose effect is in it.
    pub last_log_id: LogId,
    /// Log id of the membership.
    pub membership_log_id: Option<LogId>,
    /// Encoded membership as it stands in the log.
    pub membership: Bytes,
    /// Highest node id ever used.
    pub max_node_id: u64,
}

/// A store being received. Dropped before [`Staging::finish`], it is given up; [`Store::sweep`] removes its files.
///
/// Memory: one batch of entries and one buffer of the value segment. Blocking: every call.
pub struct Staging {
    data: Arc<DataDir>,
    engine: Arc<dyn Engine>,
    log: Log,
    damages: Damages,
    options: StoreOptions,
    index: Arc<dyn Index>,
    state: AppliedState,
    entries: Vec<(Bytes, Option<IndexEntry>)>,
    entries_bytes: usize,
    live_delta: BTreeMap<SegmentId, i64>,
    segment: Option<SegmentWriter>,
    last_key: Option<Bytes>,
    /// Last field: its drop comes after the index has closed.
    claim: Claim,
}

impl Store {
    /// Starts a store for a snapshot that will be received. Several may be under way; each has its own directory.
    pub fn stage(&self) -> Result<Staging, StoreError> {
        let number = self.claim_number();
        let claim = Claim {
            number,
            kept: false,
            leftovers: self.leftovers.clone(),
        };
        create_store_dir(&self.data, number)?;
        let index = self.engine.open(&index_dir(&self.data, number))?;
        // Ids go on from those of the live store, so that no id ever means two files.
        let next_value_segment = self.index().state().next_value_segment;
        Ok(Staging {
            data: Arc::clone(&self.data),
            engine: Arc::clone(&self.engine),
            log: self.log.clone(),
            damages: self.damages.clone(),
            options: self.options.clone(),
            index,
            state: AppliedState {
                next_value_segment,
                ..AppliedState::default()
            },
            entries: Vec::new(),
            entries_bytes: 0,
            live_delta: BTreeMap::new(),
            segment: None,
            last_key: None,
            claim,
        })
    }
}

impl Staging {
    /// Takes the next key: its value record as it stands in the log, and what the index knows besides.
    ///
    /// Errors: `BadSnapshot` if the record is damaged, a delete, or not after the last key in key order.
    pub fn push(&mut self, create_revision: u64, version: u64, bytes: Bytes) -> Result<(), StoreError> {
        let record = decode_record(bytes.clone()).map_err(|e| bad(e.to_string()))?;
        if record.is_delete {
            return Err(bad("it holds a delete record".to_owned()));
        }
        if self.last_key.as_ref().is_some_and(|last| *last >= record.key) {
            return Err(bad("its keys do not ascend".to_owned()));
        }
        if create_revision > record.revision || version == 0 {
            return Err(bad(format!(
                "create revision {create_revision} and version {version} at {}",
                record.revision
            )));
        }
        let inline = record.value.len() <= self.options.inline_value_max as usize;
        let place = match inline {
            true => Place::Inline(Bytes::copy_from_slice(&record.value)),
            false => Place::At(self.segment()?.append(&bytes).map_err(|e| self.values_error(e))?),
        };
        let entry = IndexEntry {
            place,
            create_revision,
            mod_revision: record.revision,
            version,
        };
        // Copied: a key must not keep a whole chunk of the transfer in memory.
        let key = Bytes::copy_from_slice(&record.key);
        account(
            &mut self.state,
            &mut self.live_delta,
            &key,
            None,
            Some(entry.outline()),
        );
        self.entries_bytes += key.len() + if inline { record.value.len() } else { 0 };
        self.last_key = Some(key.clone());
        self.entries.push((key, Some(entry)));
        let entries_max = self.options.relocate_keys * BATCH_RELOCATIONS;
        if self.entries.len() >= entries_max || self.entries_bytes >= BATCH_BYTES_MAX {
            self.commit()?;
        }
        if self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.len() >= self.options.value_segment_bytes)
        {
            self.finish_segment()?;
        }
        Ok(())
    }

    /// Completes the store, makes all of it durable and opens it again, so that installing it takes no time.
    pub fn finish(mut self, meta: SnapshotMeta) -> Result<Staged, StoreError> {
        self.finish_segment()?;
        self.state.applied = Some(meta.last_log_id);
        self.state.installed_at = Some(meta.last_log_id);
        self.state.membership_log_id = meta.membership_log_id;
        self.state.membership = meta.membership;
        self.state.max_node_id = meta.max_node_id;
        self.commit()?;
        self.index.flush()?;
        let Staging {
            data,
            engine,
            log,
            damages,
            index,
            state,
            claim,
            ..
        } = self;
        drop(index);
        sync_store_dir(&data, claim.number)?;
        let view = open_view(&data, engine.as_ref(), claim.number, &log, &damages)?;
        // Assert what will be relied on, after it was read back.
        let found = view.index.state();
        if found != state {
            return Err(bad(format!("read back {found:?}, written {state:?}")));
        }
        Ok(Staged {
            view: Arc::new(view),
            applied: meta.last_log_id,
            claim,
        })
    }

    fn segment(&mut self) -> Result<&mut SegmentWriter, StoreError> {
        if self.segment.is_none() {
            let id = SegmentId::new(self.state.next_value_segment);
            self.state.next_value_segment += 1;
            let created = SegmentWriter::create(Arc::clone(self.data.fs()), &self.values_dir(), LEVEL, id);
            self.segment = Some(created.map_err(|e| self.values_error(e))?);
        }
        Ok(self.segment.as_mut().expect("made above"))
    }

    fn finish_segment(&mut self) -> Result<(), StoreError> {
        if let Some(segment) = self.segment.take() {
            segment.finish().map_err(|e| self.values_error(e))?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.entries_bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        let live_delta = std::mem::take(&mut self.live_delta);
        Ok(self.index.commit(WriteSet {
            entries,
            live_delta,
            state: self.state.clone(),
        })?)
    }

    fn values_dir(&self) -> PathBuf {
        values_dir(&self.data, self.claim.number)
    }

    fn values_error(&self, error: nezha_gc::Error) -> StoreError {
        StoreError::values(&self.values_dir(), error)
    }
}

/// A complete, durable store that is not live. Dropped instead of installed, [`Store::sweep`] removes its files.
pub struct Staged {
    view: Arc<View>,
    applied: LogId,
    claim: Claim,
}

impl Staged {
    /// Last log id whose effect is in it.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// It is live now: its files stay.
    pub(super) fn keep(mut self) {
        self.claim.kept = true;
    }
}

/// Store directories that nobody will use, noted without touching the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<Vec<u64>>>);

impl Leftovers {
    pub(super) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    }
}

/// Owns a store directory until it is kept.
struct Claim {
    number: u64,
    kept: bool,
    leftovers: Leftovers,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.leftovers.note(self.number);
        }
    }
}

fn bad(reason: String) -> StoreError {
    StoreError::BadSnapshot { reason }
}
