//! The file-system port: every file operation of the log and of gc goes through it.
//!
//! [`OsFs`] is the real one. [`CrashFs`] lives in memory, loses what was not synced and fails on demand.

mod crash;
mod crash_disk;
mod crash_image;
#[cfg(test)]
mod crash_test;
mod os;
mod reservation;
mod uncached;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crash::CrashFs;
pub use crash_disk::{FailKind, FailWith};
pub use os::OsFs;
pub use reservation::Reservation;

/// Size and room of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

/// A file system as the storage rooms need it.
///
/// Durability: bytes are durable after `File::sync_data`; a created, renamed or removed name after `sync_dir` of its
/// directory. Blocking: every call may wait for the disk.
pub trait Fs: fmt::Debug + Send + Sync {
    /// Creates a file for reading and writing. Errors: `AlreadyExists`.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading. Errors: `NotFound`.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing. Errors: `NotFound`.
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Lists the names in a directory, sorted; plain names, no paths.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Whether a file or directory has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Gives a file or directory a new name, replacing a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Creates a directory and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Asks how much room there is on the disk of a directory.
    fn space(&self, dir: &Path) -> io::Result<DiskSpace>;
}

/// An open file. Positions are explicit; there is no cursor.
pub trait File: fmt::Debug + Send + Sync {
    /// Writes all of `bufs`, one after the other, at `offset`. An error may leave any part written.
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes as `write_all_vectored_at`, but leaves little of it in the system's page cache: for what is long, and not
    /// read soon. May do no more than that.
    fn write_all_uncached_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_all_vectored_at(bufs, offset)
    }
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads as `read_at`, but only what is in memory: `None` if it would have to wait for the disk.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Says that these bytes will be read soon, so that reads of several places wait for the disk together. Never waits
    /// for them, and may do nothing.
    fn prefetch(&self, _offset: u64, _len: u64) {}
    /// Says that whoever reads asks for all that it needs: the system need not guess what comes next, and read it too.
    fn no_readahead(&self) {}
    /// Sets space aside for `len` bytes from `offset` on, so that a sync of what will be written there need not wait until
    /// its place on the disk is recorded as well. Neither the length nor what can be read changes. May do nothing: if
    /// there is no space, the write will say so.
    fn reserve(&self, _offset: u64, _len: u64) {}
    /// Gives back what was set aside beyond the end of the file.
    fn release_reserved(&self) {}
    /// Makes the bytes and the length durable. After an error nothing written since the last success may be trusted.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_vectored_at(&[IoSlice::new(buf)], offset)
    }

    /// Fills `buf` from `offset`. Errors: `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
