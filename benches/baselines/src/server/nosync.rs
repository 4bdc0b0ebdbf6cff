//! Files that are never synced: what a store costs without the promise that it makes.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nezha_vlog::fs::{DiskSpace, File, Fs, OsFs};

/// The operating system's files with syncs left out. A killed process loses nothing, a power cut anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSyncFs {
    files: OsFs,
}

fn unsynced(file: Arc<dyn File>) -> Arc<dyn File> {
    Arc::new(NoSyncFile { file })
}

impl Fs for NoSyncFs {
    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        self.files.space(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.files.create(path).map(unsynced)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.files.open(path).map(unsynced)
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.files.open_write(path).map(unsynced)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.files.list(dir)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.files.len(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.files.remove_dir_all(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir_all(dir)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NoSyncFile {
    file: Arc<dyn File>,
}

impl File for NoSyncFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(bufs, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.try_read_at(buf, offset)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.file.prefetch(offset, len);
    }

    fn no_readahead(&self) {
        self.file.no_readahead();
    }

    fn reserve(&self, offset: u64, len: u64) {
        self.file.reserve(offset, len);
    }

    fn release_reserved(&self) {
        self.file.release_reserved();
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
