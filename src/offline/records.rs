//! Reads the records that index entries point at, straight from the files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use nezha_gc::ValueSegments;
use nezha_vlog::fs::{File, Fs};
use nezha_vlog::{SegmentId, ValueRef, decode_record, format, record_len};

use super::Problem;

/// Open log files are forgotten beyond this many.
const FILES_MAX: usize = 256;

/// Reads records of a stopped node by their places.
pub(super) struct Records<'a> {
    pub(super) fs: &'a dyn Fs,
    pub(super) log_dir: PathBuf,
    /// Log segments and where their sound bytes end.
    pub(super) log_ends: BTreeMap<SegmentId, u64>,
    pub(super) values: &'a ValueSegments,
    pub(super) files: BTreeMap<SegmentId, Arc<dyn File>>,
}

impl Records<'_> {
    /// Verifies that `at` is the intact record of `key` at `revision`.
    pub(super) fn verify(&mut self, at: ValueRef, key: &[u8], revision: u64) -> Result<(), Problem> {
        if !at.segment.is_log() {
            return match self.values.read_value(at, key, revision) {
                Ok(_) => Ok(()),
                Err(nezha_gc::Error::Damage { path, offset, fault }) => Err(Problem {
                    file: path,
                    offset,
                    reason: about(key, fault),
                }),
                Err(other) => Err(Problem {
                    file: self.values.dir().into(),
                    offset: 0,
                    reason: about(key, other),
                }),
            };
        }
        let path = format::segment_path(&self.log_dir, at.segment);
        let problem = |reason: String| Problem {
            file: path.clone(),
            offset: at.offset,
            reason: about(key, reason),
        };
        let len = record_len(key.len(), at.value_len as usize);
        let Some(end) = self.log_ends.get(&at.segment).copied() else {
            return Err(problem(
                "the index points into a segment that does not exist".to_owned(),
            ));
        };
        if at.offset.saturating_add(len) > end {
            return Err(problem(format!(
                "the index points beyond the sound bytes, which end at {end}"
            )));
        }
        let file = self.file(at.segment).map_err(|e| problem(e.to_string()))?;
        let mut bytes = BytesMut::zeroed(usize::try_from(len).expect("a record within a segment"));
        file.read_exact_at(&mut bytes, at.offset)
            .map_err(|e| problem(e.to_string()))?;
        let record = decode_record(bytes.freeze()).map_err(|e| problem(e.to_string()))?;
        if record.key != key || record.revision != revision || record.is_delete {
            let found = record.key.escape_ascii();
            return Err(problem(format!(
                "the record there is of key \"{found}\" at revision {}",
                record.revision
            )));
        }
        Ok(())
    }

    fn file(&mut self, segment: SegmentId) -> std::io::Result<Arc<dyn File>> {
        if let Some(file) = self.files.get(&segment) {
            return Ok(Arc::clone(file));
        }
        if self.files.len() >= FILES_MAX {
            self.files.clear();
        }
        let file = self.fs.open(&format::segment_path(&self.log_dir, segment))?;
        self.files.insert(segment, Arc::clone(&file));
        Ok(file)
    }
}

fn about(key: &[u8], reason: impl std::fmt::Display) -> String {
    format!("value of key \"{}\": {reason}", key.escape_ascii())
}
