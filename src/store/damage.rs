//! Files whose bytes are not what was written, as far as this process has met them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nezha_vlog::SegmentId;

use super::Store;
use super::error::StoreError;

/// Files that are remembered. A disk with more of them is no disk any more; those beyond are logged only.
const FILES_MAX: usize = 1024;

/// A file with damage in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The file.
    pub file: PathBuf,
    /// The segment of log or values that it is, if it is one.
    pub segment: Option<SegmentId>,
    /// Where in it, in bytes, damage was found first.
    pub offset: u64,
    /// What was found there.
    pub reason: String,
    /// When, in milliseconds since 1970. For people only.
    pub first_seen_ms: u64,
    /// How often damage was met in it.
    pub count: u64,
}

/// The files of one node that are known to be damaged. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(super) struct Damages(Arc<Mutex<Known>>);

type Known = BTreeMap<PathBuf, DamagedFile>;

impl Damages {
    /// Remembers what a read of `segment` has met, if it was damage: nothing is copied out of it any more.
    pub(super) fn met(&self, segment: SegmentId, error: &StoreError) {
        self.note(Some(segment), error);
    }

    fn note(&self, segment: Option<SegmentId>, error: &StoreError) {
        let StoreError::Damage { file, offset, reason } = error else {
            return;
        };
        let mut known = self.lock();
        if let Some(known) = known.get_mut(file) {
            known.count += 1;
            return;
        }
        tracing::error!(
            file = %file.display(),
            offset,
            reason,
            "stored bytes are damaged: they are neither served nor copied on, and gc leaves the file alone"
        );
        if known.len() >= FILES_MAX {
            return;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let found = DamagedFile {
            file: file.clone(),
            segment,
            offset: *offset,
            reason: reason.clone(),
            first_seen_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            count: 1,
        };
        known.insert(file.clone(), found);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change of it is one insertion or one addition.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Files found damaged since the start, by name.
    pub fn damaged_files(&self) -> Vec<DamagedFile> {
        self.damages.lock().values().cloned().collect()
    }

    /// Whether any file was found damaged since the start.
    pub fn has_damage(&self) -> bool {
        !self.damages.lock().is_empty()
    }

    /// Segments found damaged since the start: no job copies out of them. They go once nothing in them is live.
    pub fn damaged_segments(&self) -> BTreeSet<SegmentId> {
        let known = self.damages.lock();
        known.values().filter_map(|damaged| damaged.segment).collect()
    }

    /// Whether an error is damage of a segment that no job will have as an input again.
    pub fn leaves_alone(&self, error: &StoreError) -> bool {
        let StoreError::Damage { file, .. } = error else {
            return false;
        };
        let known = self.damages.lock();
        known.get(file).is_some_and(|damaged| damaged.segment.is_some())
    }

    /// Remembers damage outside of segments, such as in the index. Segments are remembered by whoever reads them.
    pub fn note_damage(&self, error: &StoreError) {
        if !self.leaves_alone(error) {
            self.damages.note(None, error);
        }
    }
}
