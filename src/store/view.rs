//! One store as readers see it.

use std::sync::Arc;

use bytes::Bytes;
use nezha_gc::ValueSegments;
use nezha_vlog::{Log, SegmentBytes, SegmentId};

use super::error::StoreError;
use crate::index::{Index, IndexEntry, Place};

/// An index and the segments its places point into. Whoever holds one can read every entry of its index, also after
/// another store was installed or segments were collected: files are removed only once nobody holds a view that may
/// lead to them (I5).
#[derive(Clone)]
pub struct View {
    pub(super) number: u64,
    pub(super) index: Arc<dyn Index>,
    pub(super) values: Arc<ValueSegments>,
    pub(super) log: Log,
    pub(super) log_dir: std::path::PathBuf,
}

impl View {
    /// The index. Keep the view as long as places read from it are used.
    pub fn index(&self) -> &dyn Index {
        self.index.as_ref()
    }

    /// The sorted value segments.
    pub fn values(&self) -> &ValueSegments {
        &self.values
    }

    /// Reads the value of `key`, whose entry was read from this view's index.
    ///
    /// Errors: `Damage` with file and offset if the record is not the intact record of this key and revision.
    /// Blocking: at most one pread.
    pub fn read(&self, entry: &IndexEntry, key: &[u8]) -> Result<Bytes, StoreError> {
        match &entry.place {
            Place::Inline(value) => Ok(value.clone()),
            Place::At(at) if at.segment.is_log() => self
                .log
                .read_value(*at, key, entry.mod_revision)
                .map_err(|e| StoreError::log(&self.log_dir, e)),
            Place::At(at) => {
                let value = self.values.read_value(*at, key, entry.mod_revision);
                value.map_err(|e| StoreError::values(self.values.dir(), e))
            }
        }
    }

    /// Reads the record of `key` as it stands in its segment; `None` if its value is inline.
    ///
    /// Errors: as [`View::read`]. Blocking: at most one pread.
    pub fn read_record(&self, entry: &IndexEntry, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let record = match &entry.place {
            Place::Inline(_) => return Ok(None),
            Place::At(at) if at.segment.is_log() => self
                .log
                .read_record(*at, key, entry.mod_revision)
                .map_err(|e| StoreError::log(&self.log_dir, e)),
            Place::At(at) => {
                let record = self.values.read_record(*at, key, entry.mod_revision);
                record.map_err(|e| StoreError::values(self.values.dir(), e))
            }
        };
        record.map(Some)
    }

    /// Reads as [`View::read`], but only what is in memory: `None` if it would have to wait for the disk. Never blocks.
    pub fn try_read(&self, entry: &IndexEntry, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match &entry.place {
            Place::Inline(value) => Ok(Some(value.clone())),
            Place::At(at) if at.segment.is_log() => self
                .log
                .try_read_value(*at, key, entry.mod_revision)
                .map_err(|e| StoreError::log(&self.log_dir, e)),
            Place::At(at) => {
                let value = self.values.try_read_value(*at, key, entry.mod_revision);
                value.map_err(|e| StoreError::values(self.values.dir(), e))
            }
        }
    }

    /// Reads entry and value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<(IndexEntry, Bytes)>, StoreError> {
        let Some(entry) = self.index.get(key)? else {
            return Ok(None);
        };
        let value = self.read(&entry, key)?;
        Ok(Some((entry, value)))
    }

    /// The bytes of a segment that places of this view may point into; `None` if it cannot be opened.
    pub(super) fn segment_reader(&self, segment: SegmentId) -> Option<SegmentBytes> {
        match segment.is_log() {
            true => self.log.segment_bytes(segment).ok(),
            false => self.values.segment_bytes(segment).ok(),
        }
    }

    /// Length in bytes of a segment that places of this view may point into.
    pub(super) fn segment_bytes(&self, segment: SegmentId) -> Option<u64> {
        if segment.is_log() {
            return self
                .log
                .segments()
                .iter()
                .find(|info| info.id == segment)
                .map(|info| info.bytes);
        }
        self.values
            .get(segment)
            .map(|segment| segment.summary().record_bytes)
    }
}
