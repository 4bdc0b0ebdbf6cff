//! All sorted value segments of one directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use nezha_vlog::fs::Fs;
use nezha_vlog::{SegmentBytes, SegmentId, ValueRef};

use crate::error::Error;
use crate::format;
use crate::segment::ValueSegment;

/// The sorted value segments of one directory, open for reading. Segments come and go while others read.
#[derive(Debug)]
pub struct ValueSegments {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    by_id: RwLock<BTreeMap<SegmentId, Arc<ValueSegment>>>,
}

impl ValueSegments {
    /// Opens all segments in `dir`, creating it if it is missing, and removes incomplete ones.
    ///
    /// Errors: `Damage`, `UnknownVersion` or `ForeignFile` for the first file that is not a whole segment.
    /// Blocking: reads header and trailer of each segment, no records.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<ValueSegments, Error> {
        fs.create_dir_all(dir).map_err(Error::io("create", dir))?;
        for name in fs.list(dir).map_err(Error::io("list", dir))? {
            if is_temporary(&name) {
                let path = dir.join(name);
                fs.remove(&path).map_err(Error::io("remove", &path))?;
            }
        }
        ValueSegments::open_read_only(fs, dir)
    }

    /// Opens all segments in `dir` and changes nothing; incomplete ones are ignored.
    pub fn open_read_only(fs: &Arc<dyn Fs>, dir: &Path) -> Result<ValueSegments, Error> {
        let (segments, unreadable) = ValueSegments::open_each(fs, dir)?;
        match unreadable.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(segments),
        }
    }

    /// Opens the segments in `dir` that can be opened, changes nothing, and returns why each of the others cannot.
    pub fn open_each(fs: &Arc<dyn Fs>, dir: &Path) -> Result<(ValueSegments, Vec<Error>), Error> {
        let mut by_id = BTreeMap::new();
        let mut unreadable = Vec::new();
        for name in fs.list(dir).map_err(Error::io("list", dir))? {
            if is_temporary(&name) {
                continue;
            }
            let path = dir.join(&name);
            let opened = match format::parse_file_name(&name) {
                Some((level, id)) => {
                    ValueSegment::open(fs.as_ref(), path, level, id).map(|segment| (id, segment))
                }
                None => Err(Error::ForeignFile { path }),
            };
            match opened {
                Ok((id, segment)) => drop(by_id.insert(id, Arc::new(segment))),
                Err(error) => unreadable.push(error),
            }
        }
        Ok((
            ValueSegments {
                fs: fs.clone(),
                dir: dir.to_path_buf(),
                by_id: RwLock::new(by_id),
            },
            unreadable,
        ))
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the segments in the order of their ids.
    pub fn segments(&self) -> Vec<Arc<ValueSegment>> {
        self.read().values().cloned().collect()
    }

    /// Returns one segment.
    pub fn get(&self, id: SegmentId) -> Option<Arc<ValueSegment>> {
        self.read().get(&id).cloned()
    }

    /// Opens a segment that was completed in this directory since.
    ///
    /// Errors: as [`ValueSegments::open`]. Blocking: reads its header and trailer.
    pub fn add(&self, level: u8, id: SegmentId) -> Result<(), Error> {
        let path = self.dir.join(format::file_name(level, id));
        let segment = ValueSegment::open(self.fs.as_ref(), path, level, id)?;
        self.write().insert(id, Arc::new(segment));
        Ok(())
    }

    /// Unlinks a segment; does nothing if there is none. The caller has made sure that no durable index refers to it, and
    /// that nobody who may hold a place in it will read (I5). Blocking: one unlink and one directory sync.
    pub fn remove(&self, id: SegmentId) -> Result<(), Error> {
        let Some(segment) = self.write().remove(&id) else {
            return Ok(());
        };
        let path = segment.path();
        self.fs.remove(path).map_err(Error::io("remove", path))?;
        self.fs.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))
    }

    /// Sum of the file lengths in bytes.
    pub fn bytes(&self) -> u64 {
        self.read()
            .values()
            .map(|segment| segment.summary().file_bytes)
            .sum()
    }

    /// Reads the value at `at`.
    ///
    /// Shape: exactly `at.value_len` bytes.
    /// Errors: `NoSuchSegment`; `Damage` if the record is not intact or not the one of `key` at `revision`.
    /// Blocking: one pread.
    pub fn read_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        self.segment_of(at)?.read_value(at, key, revision)
    }

    /// Reads as `read_value`, but only what is in memory: `None` if it would have to wait for the disk.
    pub fn try_read_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Option<Bytes>, Error> {
        self.segment_of(at)?.try_read_value(at, key, revision)
    }

    /// Verifies every byte of every segment: header, records in order, table, trailer.
    ///
    /// Errors: those of the first segment that is not as it was written.
    pub fn verify(&self) -> Result<(), Error> {
        self.segments()
            .iter()
            .try_for_each(|segment| segment.walk(&mut |_, _| {}))
    }

    /// Reads the whole record at `at`, as it stands there, for copying it on.
    ///
    /// Errors: as [`ValueSegments::read_value`]. Blocking: one pread.
    pub fn read_record(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        self.segment_of(at)?.read_record(at, key, revision)
    }

    /// The bytes of a segment, for reading many records of it. Errors: `NoSuchSegment`.
    pub fn segment_bytes(&self, id: SegmentId) -> Result<SegmentBytes, Error> {
        let segment = self.get(id).ok_or(Error::NoSuchSegment(id))?;
        Ok(segment.bytes())
    }

    fn segment_of(&self, at: ValueRef) -> Result<Arc<ValueSegment>, Error> {
        self.get(at.segment).ok_or(Error::NoSuchSegment(at.segment))
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<SegmentId, Arc<ValueSegment>>> {
        self.by_id.read().expect("no holder of the segment map panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<SegmentId, Arc<ValueSegment>>> {
        self.by_id.write().expect("no holder of the segment map panics")
    }
}

fn is_temporary(name: &Path) -> bool {
    name.as_os_str()
        .as_encoded_bytes()
        .ends_with(format::TEMPORARY_SUFFIX.as_bytes())
}
