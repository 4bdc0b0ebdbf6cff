//! One store as readers see it.

use std::sync::Arc;

use bytes::Bytes;
use nezha_gc::plan::KeyRange;
use nezha_gc::{ValueSegment, ValueSegments};
use nezha_vlog::{Log, SegmentBytes, SegmentId};

use super::damage::Damages;
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
    /// Whatever a read finds damaged is remembered there.
    pub(super) damages: Damages,
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
        let at = match &entry.place {
            Place::Inline(value) => return Ok(value.clone()),
            Place::At(at) => *at,
        };
        let revision = entry.mod_revision;
        self.checked(at.segment, || match at.segment.is_log() {
            true => self.of_log(self.log.read_value(at, key, revision)),
            false => self.of_values(self.values.read_value(at, key, revision)),
        })
    }

    /// Reads the record of `key` as it stands in its segment; `None` if its value is inline.
    ///
    /// Errors: as [`View::read`]. Blocking: at most one pread.
    pub fn read_record(&self, entry: &IndexEntry, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let at = match &entry.place {
            Place::Inline(_) => return Ok(None),
            Place::At(at) => *at,
        };
        let revision = entry.mod_revision;
        let record = self.checked(at.segment, || match at.segment.is_log() {
            true => self.of_log(self.log.read_record(at, key, revision)),
            false => self.of_values(self.values.read_record(at, key, revision)),
        });
        record.map(Some)
    }

    /// Reads as [`View::read`], but only what is in memory: `None` if it would have to wait for the disk. Never blocks.
    pub fn try_read(&self, entry: &IndexEntry, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let at = match &entry.place {
            Place::Inline(value) => return Ok(Some(value.clone())),
            Place::At(at) => *at,
        };
        let revision = entry.mod_revision;
        self.checked(at.segment, || match at.segment.is_log() {
            true => self.of_log(self.log.try_read_value(at, key, revision)),
            false => self.of_values(self.values.try_read_value(at, key, revision)),
        })
    }

    /// First and last key of one of the sorted segments. Blocking: the first call reads its table.
    pub(super) fn key_range(&self, segment: &ValueSegment) -> Result<KeyRange, StoreError> {
        self.checked(segment.summary().id, || {
            let (first, last) = self.of_values(segment.key_range())?;
            Ok(KeyRange { first, last })
        })
    }

    /// Remembers the damage that a read of `segment` meets.
    fn checked<T>(
        &self,
        segment: SegmentId,
        read: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read().inspect_err(|error| self.damages.met(segment, error))
    }

    fn of_log<T>(&self, read: Result<T, nezha_vlog::Error>) -> Result<T, StoreError> {
        read.map_err(|e| StoreError::log(&self.log_dir, e))
    }

    fn of_values<T>(&self, read: Result<T, nezha_gc::Error>) -> Result<T, StoreError> {
        read.map_err(|e| StoreError::values(self.values.dir(), e))
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
