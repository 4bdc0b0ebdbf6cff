//! The disk and page cache behind [`super::CrashFs`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::DiskSpace;

/// Unit in which a crash keeps or loses written bytes.
pub(super) const BLOCK_LEN: u64 = 512;

/// Kinds of operation, for choosing which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailKind {
    /// Any operation.
    Any,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// `sync_data`.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// Creating a file.
    Create,
    /// Renaming, removing.
    Name,
    /// `set_len`.
    SetLen,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailWith {
    /// An input/output error.
    Eio,
    /// No space left on the device.
    Enospc,
}

impl FailWith {
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            FailWith::Eio => 5,
            FailWith::Enospc => 28,
        })
    }
}

/// A failure that is still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) kind: FailKind,
    /// Only operations that name a path with this part in it match; empty: all.
    pub(super) part: &'static str,
    /// Matching operations that still succeed.
    pub(super) left: u64,
    pub(super) with: FailWith,
    /// Whether every operation after it fails too, as after the loss of the machine.
    pub(super) for_good: bool,
}

impl Plan {
    /// Whether every operation fails by now.
    pub(super) fn is_halt(&self) -> bool {
        self.for_good && self.left == 0 && self.kind == FailKind::Any && self.part.is_empty()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) dirs: BTreeSet<PathBuf>,
    /// Names as running processes see them.
    pub(super) names: BTreeMap<PathBuf, u64>,
    /// Names as they are on disk.
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not on disk yet, in order.
    pub(super) name_changes: Vec<NameChange>,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) plan: Option<Plan>,
    pub(super) operations: u64,
    /// Whether what is done now is an observer's, and does not count.
    pub(super) is_observed: bool,
    /// Bytes that it holds at most; `None`: any number.
    pub(super) capacity: Option<u64>,
}

/// A change of a name: what it names from now on.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    pub(super) path: PathBuf,
    pub(super) inode: Option<u64>,
    /// A rename changes two names at once.
    pub(super) and: Option<(PathBuf, Option<u64>)>,
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        let both = [
            Some((&self.path, self.inode)),
            self.and.as_ref().map(|(path, inode)| (path, *inode)),
        ];
        for (path, inode) in both.into_iter().flatten() {
            match inode {
                Some(inode) => names.insert(path.clone(), inode),
                None => names.remove(path),
            };
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// As running processes see it.
    pub(super) bytes: Vec<u8>,
    /// As it is on disk.
    pub(super) durable: Vec<u8>,
    /// Blocks that differ, or may.
    pub(super) dirty: BTreeSet<u64>,
    /// Whether the length waits for a sync.
    pub(super) len_dirty: bool,
}

impl Disk {
    /// Counts an operation that names no path, and fails it if it is the chosen one.
    pub(super) fn operation(&mut self, kind: FailKind) -> io::Result<()> {
        self.operation_on(kind, Path::new(""))
    }

    /// Counts an operation on `path`, and fails it if it is the chosen one.
    pub(super) fn operation_on(&mut self, kind: FailKind, path: &Path) -> io::Result<()> {
        if self.is_observed {
            return Ok(());
        }
        self.operations += 1;
        let Some(plan) = &mut self.plan else { return Ok(()) };
        if plan.kind != FailKind::Any && plan.kind != kind {
            return Ok(());
        }
        if !plan.part.is_empty() && !path.to_string_lossy().contains(plan.part) {
            return Ok(());
        }
        if plan.left > 0 {
            plan.left -= 1;
            return Ok(());
        }
        let with = plan.with;
        if plan.for_good {
            (plan.kind, plan.part) = (FailKind::Any, "");
        } else {
            self.plan = None;
        }
        Err(with.error())
    }

    /// Room for further bytes. A file without a name takes none.
    pub(super) fn space(&self) -> DiskSpace {
        let total = self.capacity.unwrap_or(u64::MAX);
        let inodes = self.names.values().filter_map(|id| self.inodes.get(id));
        let used: u64 = inodes.map(|inode| inode.bytes.len() as u64).sum();
        DiskSpace {
            total,
            free: total.saturating_sub(used),
        }
    }

    pub(super) fn inode(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl Inode {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset as usize + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
            self.len_dirty = true;
        }
        if let Some(place) = self.bytes.get_mut(offset as usize..end) {
            place.copy_from_slice(bytes);
        }
        if !bytes.is_empty() {
            self.dirty
                .extend(offset / BLOCK_LEN..=(end as u64 - 1) / BLOCK_LEN);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.bytes.len() as u64;
        self.bytes.resize(len as usize, 0);
        self.len_dirty |= old != len;
        // What lies past a cut is gone from the cache; growing again reads zeros there.
        self.dirty = self
            .dirty
            .iter()
            .copied()
            .filter(|block| block * BLOCK_LEN < len)
            .collect();
        let from = old.min(len) / BLOCK_LEN;
        if len > old {
            self.dirty.extend(from..len.div_ceil(BLOCK_LEN));
        }
    }

    /// Writes dirty blocks and the length to disk.
    pub(super) fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            self.write_back(block, self.bytes.len());
        }
        self.len_dirty = false;
    }

    /// Copies one block to disk, up to `end`.
    pub(super) fn write_back(&mut self, block: u64, end: usize) {
        let start = (block * BLOCK_LEN) as usize;
        let end = (start + BLOCK_LEN as usize)
            .min(self.bytes.len())
            .min(end)
            .min(self.durable.len());
        if let (Some(to), Some(from)) = (self.durable.get_mut(start..end), self.bytes.get(start..end)) {
            to.copy_from_slice(from);
        }
    }
}

impl Disk {
    /// Renames a directory; durable at once, as directories are.
    pub(super) fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_path_buf(),
            Ok(rest) => to.join(rest),
            Err(_) => path.to_path_buf(),
        };
        self.dirs = self.dirs.iter().map(|path| moved(path)).collect();
        self.names = self
            .names
            .iter()
            .map(|(path, inode)| (moved(path), *inode))
            .collect();
        self.durable_names = self
            .durable_names
            .iter()
            .map(|(path, inode)| (moved(path), *inode))
            .collect();
        for change in &mut self.name_changes {
            change.path = moved(&change.path);
            if let Some((path, _)) = &mut change.and {
                *path = moved(path);
            }
        }
        Ok(())
    }
}
