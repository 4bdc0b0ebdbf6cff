//! File system and index engine that report their steps. Reads are no steps: they change nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::fs::{DiskSpace, File, Fs};
use nezha_vlog::{LogId, SegmentId};

use super::recorder::{Action, Recorder, What};
use crate::index::{AppliedState, Engine, Index, IndexEntry, IndexError, ScanItem, ScanRange, WriteSet};

/// The recorder's disk.
#[derive(Debug)]
pub struct StepFs(pub Recorder);

#[derive(Debug)]
struct StepFile {
    recorder: Recorder,
    file: Arc<dyn File>,
    what: What,
}

impl StepFs {
    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(StepFile {
            recorder: self.0.clone(),
            file,
            what: What::at(path),
        })
    }
}

impl Fs for StepFs {
    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        self.0.disk.space(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let create = || self.0.disk.create(path);
        let file = self.0.step(Action::Create, What::at(path), create)?;
        Ok(self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, self.0.disk.open(path)?))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, self.0.disk.open_write(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.disk.list(dir)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.0.disk.len(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = || self.0.disk.rename(from, to);
        self.0.step(Action::Rename, What::at(to), rename)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let remove = || self.0.disk.remove(path);
        self.0.step(Action::Unlink, What::at(path), remove)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let remove = || self.0.disk.remove_dir_all(dir);
        self.0.step(Action::RemoveTree, What::at(dir), remove)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let create = || self.0.disk.create_dir_all(dir);
        self.0.step(Action::MakeDir, What::at(dir), create)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let sync = || self.0.disk.sync_dir(dir);
        self.0.step(Action::SyncDir, What::at(dir), sync)
    }
}

impl File for StepFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let write = || self.file.write_all_vectored_at(bufs, offset);
        self.recorder.step(Action::Write, self.what, write)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.try_read_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.recorder
            .step(Action::Sync, self.what, || self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recorder
            .step(Action::Cut, self.what, || self.file.set_len(len))
    }
}

/// The recorder's engine.
pub struct StepEngine(pub Recorder);

struct StepIndex {
    recorder: Recorder,
    index: Arc<dyn Index>,
}

impl Engine for StepEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError> {
        Ok(Arc::new(StepIndex {
            recorder: self.0.clone(),
            index: self.0.engine.open(dir)?,
        }))
    }

    fn removed(&self, dir: &Path) {
        self.0
            .step(Action::Forget, What::Index, || self.0.engine.removed(dir));
    }
}

impl Index for StepIndex {
    fn get(&self, key: &[u8]) -> Result<Option<IndexEntry>, IndexError> {
        self.index.get(key)
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<IndexEntry>>, IndexError> {
        self.index.try_get(key)
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<IndexEntry>>, IndexError> {
        self.index.multi_get(keys)
    }

    fn state(&self) -> AppliedState {
        self.index.state()
    }

    fn live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.index.live_bytes()
    }

    fn commit(&self, set: WriteSet) -> Result<(), IndexError> {
        let before = self.index.state().applied;
        let what = match (before, set.state.applied) {
            (None, _) => What::StagingBatch,
            (before, after) if before == after => What::RelocationBatch,
            _ => What::ApplyBatch,
        };
        self.recorder
            .step(Action::Commit, what, || self.index.commit(set))
    }

    fn scan(
        &self,
        range: &ScanRange,
        visit: &mut dyn FnMut(ScanItem) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        self.index.scan(range, visit)
    }

    fn flush(&self) -> Result<Option<LogId>, IndexError> {
        self.recorder
            .step(Action::Flush, What::Index, || self.index.flush())
    }

    fn flushed(&self) -> Option<LogId> {
        self.index.flushed()
    }

    fn flushed_live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        self.index.flushed_live_bytes()
    }
}
