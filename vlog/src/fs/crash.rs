//! A file system in memory that loses what was not synced, and fails on demand.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::crash_disk::{Disk, FailKind, FailWith, Inode, NameChange, Plan};
use super::crash_image::crash_image;
use super::{DiskSpace, File, Fs};

/// An in-memory file system for proofs.
///
/// Models: written bytes live in a page cache until `sync_data`; a crash keeps any subset of the unsynced 512-byte blocks,
/// may tear the last one, and keeps any length between the synced and the current one; created, renamed and removed
/// names are durable after `sync_dir`, and each is kept or lost by itself before. A failed sync leaves the pages marked
/// clean, so that a later sync succeeds without writing them. Directories themselves are durable at once; a removed one is
/// there again when a name in it is.
///
/// Clones share the files. `crash` makes an independent copy: what the disk holds after a power cut.
#[derive(Clone, Debug)]
pub struct CrashFs {
    disk: Arc<Mutex<Disk>>,
}

impl Default for CrashFs {
    fn default() -> CrashFs {
        CrashFs::new()
    }
}

impl CrashFs {
    /// An empty file system.
    pub fn new() -> CrashFs {
        CrashFs { disk: Arc::default() }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no holder of the disk panics")
    }

    /// What the disk holds after a power cut now, chosen by `seed`. The original is unchanged; files open in it stay there.
    pub fn crash(&self, seed: u64) -> CrashFs {
        let image = crash_image(&self.disk(), seed);
        CrashFs {
            disk: Arc::new(Mutex::new(image)),
        }
    }

    /// An independent copy of everything, page cache included: as after the kill of a process.
    pub fn fork(&self) -> CrashFs {
        let mut disk = self.disk().clone();
        disk.plan = None;
        CrashFs {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// Lets `skip` operations of `kind` succeed and the next one fail. A failing write may have written a part.
    pub fn fail(&self, kind: FailKind, skip: u64, with: FailWith) {
        self.disk().plan = Some(Plan {
            kind,
            part: "",
            left: skip,
            with,
            for_good: false,
        });
    }

    /// Lets `skip` operations succeed; all later ones fail, as if the machine were gone.
    pub fn halt_after(&self, skip: u64) {
        self.halt_at(FailKind::Any, skip);
    }

    /// Lets `skip` operations of `kind` succeed; the next one, and from then on all others, fail.
    pub fn halt_at(&self, kind: FailKind, skip: u64) {
        self.halt(kind, "", skip);
    }

    /// Lets `skip` files whose path has `part` in it be created, renamed, removed or opened; the next such operation, and from
    /// then on all others, fail.
    pub fn halt_at_path(&self, part: &'static str, skip: u64) {
        self.halt(FailKind::Any, part, skip);
    }

    fn halt(&self, kind: FailKind, part: &'static str, skip: u64) {
        self.disk().plan = Some(Plan {
            kind,
            part,
            left: skip,
            with: FailWith::Eio,
            for_good: true,
        });
    }

    /// From now on it holds so many bytes at most; `None`: any number. What is there stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// From now on it has room for so many further bytes.
    pub fn fill(&self, leaves: u64) {
        let mut disk = self.disk();
        let space = disk.space();
        disk.capacity = Some(space.total - space.free + leaves);
    }

    /// Whether it holds so many bytes at most.
    pub fn space_is_limited(&self) -> bool {
        self.disk().capacity.is_some()
    }

    /// Calls off a failure that has not happened; false if none was left, or all operations fail already.
    pub fn disarm(&self) -> bool {
        self.disk().plan.take().is_some_and(|plan| !plan.is_halt())
    }

    /// Whether all operations fail by now.
    pub fn is_halted(&self) -> bool {
        self.disk().plan.is_some_and(|plan| plan.is_halt())
    }

    /// Does something whose operations are not counted and do not fail: the look of an observer.
    pub fn quietly<T>(&self, observe: impl FnOnce() -> T) -> T {
        self.disk().is_observed = true;
        let seen = observe();
        self.disk().is_observed = false;
        seen
    }

    /// Bytes of a file as running processes see them; `None` if there is none.
    pub fn bytes(&self, path: &Path) -> Option<u64> {
        let disk = self.disk();
        let inode = disk.inodes.get(disk.names.get(path)?)?;
        Some(inode.bytes.len() as u64)
    }

    /// All files in the order of their paths, and how many of their bytes are on the disk.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk();
        let synced = |inode: &u64| {
            disk.inodes
                .get(inode)
                .map_or(0, |inode| inode.durable.len() as u64)
        };
        disk.names
            .iter()
            .map(|(path, inode)| (path.clone(), synced(inode)))
            .collect()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Unsynced blocks, lengths and names.
    pub fn unsynced(&self) -> u64 {
        let disk = self.disk();
        let inodes = disk
            .inodes
            .values()
            .map(|inode| inode.dirty.len() as u64 + u64::from(inode.len_dirty));
        inodes.sum::<u64>() + disk.name_changes.len() as u64
    }

    /// Inverts one bit, in cache and on disk. False if there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.with_inode(path, |inode| {
            let flipped = inode
                .bytes
                .get_mut(offset as usize)
                .map(|byte| *byte ^= 1 << (bit % 8));
            if let Some(byte) = inode.durable.get_mut(offset as usize) {
                *byte ^= 1 << (bit % 8);
            }
            flipped.is_some()
        })
    }

    /// Replaces a file's bytes, in cache and on disk, creating it if need be.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.disk();
        let id = disk.next_inode;
        disk.next_inode += 1;
        let inode = Inode {
            bytes: bytes.to_vec(),
            durable: bytes.to_vec(),
            ..Inode::default()
        };
        disk.inodes.insert(id, inode);
        disk.names.insert(path.to_path_buf(), id);
        disk.durable_names.insert(path.to_path_buf(), id);
    }

    /// A file's bytes as running processes see them.
    pub fn get(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.inodes.get(disk.names.get(path)?)?;
        Some(inode.bytes.clone())
    }

    fn with_inode(&self, path: &Path, change: impl FnOnce(&mut Inode) -> bool) -> bool {
        let mut disk = self.disk();
        let Ok(id) = disk.inode(path) else { return false };
        disk.inodes.get_mut(&id).is_some_and(change)
    }

    fn open_inode(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let inode = self.disk().inode(path)?;
        Ok(Arc::new(CrashFile {
            disk: self.disk.clone(),
            inode,
        }))
    }
}

impl Fs for CrashFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.operation_on(FailKind::Create, path)?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| disk.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(inode, Inode::default());
        disk.change(NameChange {
            path: path.to_path_buf(),
            inode: Some(inode),
            and: None,
        });
        drop(disk);
        self.open_inode(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk().operation_on(FailKind::Read, path)?;
        self.open_inode(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut disk = self.disk();
        disk.operation(FailKind::Read)?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = disk
            .names
            .keys()
            .chain(&disk.dirs)
            .filter(|path| path.parent() == Some(dir));
        let mut names: Vec<PathBuf> = files
            .filter_map(|path| path.file_name().map(PathBuf::from))
            .collect();
        names.sort();
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut disk = self.disk();
        disk.operation(FailKind::Read)?;
        let inode = disk.inode(path)?;
        Ok(disk
            .inodes
            .get(&inode)
            .map_or(0, |inode| inode.bytes.len() as u64))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut disk = self.disk();
        disk.operation(FailKind::Read)?;
        Ok(disk.names.contains_key(path) || disk.dirs.contains(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation_on(FailKind::Name, to)?;
        if disk.dirs.contains(from) {
            return disk.rename_dir(from, to);
        }
        let inode = disk.inode(from)?;
        disk.change(NameChange {
            path: to.to_path_buf(),
            inode: Some(inode),
            and: Some((from.to_path_buf(), None)),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation_on(FailKind::Name, path)?;
        disk.inode(path)?;
        disk.change(NameChange {
            path: path.to_path_buf(),
            inode: None,
            and: None,
        });
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation_on(FailKind::Name, dir)?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside: Vec<PathBuf> = disk
            .names
            .keys()
            .filter(|path| path.starts_with(dir))
            .cloned()
            .collect();
        for path in inside {
            disk.change(NameChange {
                path,
                inode: None,
                and: None,
            });
        }
        disk.dirs.retain(|other| !other.starts_with(dir));
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation_on(FailKind::Name, dir)?;
        disk.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<DiskSpace> {
        let mut disk = self.disk();
        disk.operation(FailKind::Read)?;
        Ok(disk.space())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation(FailKind::SyncDir)?;
        let changes = std::mem::take(&mut disk.name_changes);
        for change in changes {
            if change.path.parent() == Some(dir) {
                change.apply(&mut disk.durable_names);
            } else {
                disk.name_changes.push(change);
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct CrashFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
}

impl CrashFile {
    fn with<T>(
        &self,
        kind: FailKind,
        run: impl FnOnce(&mut Inode, io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.disk.lock().expect("no holder of the disk panics");
        let outcome = disk.operation(kind);
        let halted = disk.plan.is_some_and(|plan| plan.is_halt());
        let inode = disk.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        match outcome {
            // A machine that is gone does nothing, not even fail in its own way; only a write may have begun.
            Err(e) if halted && kind != FailKind::Write => Err(e),
            outcome => run(inode, outcome),
        }
    }
}

impl CrashFile {
    /// Whether the disk has no room for the file to become so long.
    fn is_full_for(&self, len: u64) -> bool {
        let disk = self.disk.lock().expect("no holder of the disk panics");
        let now = disk
            .inodes
            .get(&self.inode)
            .map_or(0, |inode| inode.bytes.len() as u64);
        disk.capacity.is_some() && len.saturating_sub(now) > disk.space().free
    }
}

impl File for CrashFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let full = self.is_full_for(offset + total as u64);
        self.with(FailKind::Write, |inode, outcome| {
            let outcome = outcome.and_then(|()| match full {
                true => Err(FailWith::Enospc.error()),
                false => Ok(()),
            });
            // A failing write has written the first half.
            let mut left = if outcome.is_ok() { total } else { total / 2 };
            for buf in bufs {
                let part = buf.get(..left.min(buf.len())).unwrap_or_default();
                inode.write(part, offset);
                offset += part.len() as u64;
                left -= part.len();
            }
            outcome
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(FailKind::Read, |inode, outcome| {
            outcome?;
            let from = inode.bytes.get(offset as usize..).unwrap_or_default();
            let n = from.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), from.get(..n)) {
                to.copy_from_slice(from);
            }
            Ok(n)
        })
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(FailKind::Sync, |inode, outcome| {
            match outcome {
                Ok(()) => inode.sync(),
                // The pages count as clean now, but the disk never got them.
                Err(_) => {
                    inode.dirty.clear();
                    inode.len_dirty = false;
                }
            }
            outcome
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(FailKind::Read, |inode, outcome| {
            outcome.map(|()| inode.bytes.len() as u64)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(FailKind::SetLen, |inode, outcome| {
            if outcome.is_ok() {
                inode.set_len(len);
            }
            outcome
        })
    }
}
