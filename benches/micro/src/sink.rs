//! A file system that takes everything and keeps nothing: what is left is the CPU time of whoever writes.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nezha_vlog::fs::{DiskSpace, File, Fs};

/// Knows no file, and creates all.
#[derive(Debug)]
pub struct Sink;

/// Counts its bytes; every read finds nothing.
#[derive(Debug, Default)]
struct SinkFile {
    len: AtomicU64,
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} was not kept", path.display()),
    )
}

impl Fs for Sink {
    fn space(&self, _: &Path) -> io::Result<DiskSpace> {
        Ok(DiskSpace {
            total: u64::MAX,
            free: u64::MAX,
        })
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SinkFile::default()))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Err(missing(path))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Err(missing(path))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Err(missing(path))
    }

    fn exists(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for SinkFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let written: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.len.fetch_max(offset + written as u64, Ordering::Relaxed);
        Ok(())
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn try_read_at(&self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Ok(Some(0))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Relaxed))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }
}
