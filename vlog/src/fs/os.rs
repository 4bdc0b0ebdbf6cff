//! The operating system's files.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};

use super::uncached::Uncached;
use super::{DiskSpace, File, Fs};

/// At most this many buffers go to one system call (Linux: IOV_MAX).
const IOV_MAX: usize = 1024;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFs;

impl Fs for OsFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(OsFile::new(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile::new(fs::File::open(path)?)))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(OsFile::new(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(PathBuf::from(entry?.file_name()));
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        let stat = statvfs(dir)?;
        Ok(DiskSpace {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
    uncached: Uncached,
}

impl OsFile {
    fn new(file: fs::File) -> OsFile {
        OsFile {
            file,
            uncached: Uncached::default(),
        }
    }
}

impl File for OsFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut owned: Vec<IoSlice<'_>> = bufs.iter().filter(|b| !b.is_empty()).copied().collect();
        let mut rest = owned.as_mut_slice();
        while !rest.is_empty() {
            let batch = rest.get(..rest.len().min(IOV_MAX)).unwrap_or_default();
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    // A short write is no error by itself: the rest goes next, and a full disk then says so.
                    offset += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn write_all_uncached_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        match self.uncached.write_all(&self.file, bufs, offset)? {
            true => Ok(()),
            false => self.write_all_vectored_at(bufs, offset),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        use rustix::io::{Errno, ReadWriteFlags};
        match rustix::io::preadv2(
            &self.file,
            &mut [IoSliceMut::new(buf)],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(n) => Ok(Some(n)),
            // Also where the file system knows no NOWAIT: the caller then reads the ordinary way.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A length of zero would mean the rest of the file. A hint that fails costs time, never the read.
        if let Some(len) = NonZeroU64::new(len) {
            let _ = fadvise(&self.file, offset, Some(len), Advice::WillNeed);
        }
    }

    fn no_readahead(&self) {
        let _ = fadvise(&self.file, 0, None, Advice::Random);
    }

    fn reserve(&self, offset: u64, len: u64) {
        // What is refused here, the write will be refused as well, and says so.
        let _ = fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len);
    }

    fn release_reserved(&self) {
        // Cutting a file to its own length frees what it holds beyond. What is not freed goes with the file.
        if let Ok(len) = self.len() {
            let _ = self.set_len(len);
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_and_empty_buffers_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = OsFs.create(&path).unwrap();
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![i as u8; (i % 3) as usize]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        file.write_all_vectored_at(&slices, 7).unwrap();
        let whole: Vec<u8> = parts.concat();
        let mut back = vec![0; whole.len()];
        file.read_exact_at(&mut back, 7).unwrap();
        assert_eq!(back, whole);
        assert_eq!(file.len().unwrap(), 7 + whole.len() as u64);
        assert_eq!(
            file.try_read_at(&mut back, 7).unwrap().unwrap_or(whole.len()),
            whole.len()
        );
        assert_eq!(
            OsFs.create(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }
}
