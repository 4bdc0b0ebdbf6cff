//! A cold page cache, and what was read from the disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};

/// Drops the pages of every file below `dir` from the page cache: synced, then `posix_fadvise(DONTNEED)`.
///
/// Other files on the machine stay cached, and so do names. Pages of a file that is open elsewhere go too.
pub fn evict(dir: &Path) -> anyhow::Result<()> {
    let evict_file = |path: &Path| -> io::Result<()> {
        let file = OpenOptions::new().read(true).open(path)?;
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    };
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            evict(&path)?;
        } else {
            evict_file(&path).with_context(|| format!("cannot evict {}", path.display()))?;
        }
    }
    Ok(())
}

/// Reads of this process so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskReads {
    /// Bytes that came from the disk, read ahead or not.
    pub disk_bytes: u64,
    /// System calls that read.
    pub calls: u64,
}

impl DiskReads {
    /// Those until now.
    pub fn now() -> anyhow::Result<DiskReads> {
        let text = fs::read_to_string("/proc/self/io").context("cannot read /proc/self/io")?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim_start_matches(':').trim().parse().ok())
                .with_context(|| format!("/proc/self/io has no {name}"))
        };
        Ok(DiskReads {
            disk_bytes: field("read_bytes")?,
            calls: field("syscr")?,
        })
    }

    /// Those since `before`.
    pub fn since(self, before: DiskReads) -> DiskReads {
        DiskReads {
            disk_bytes: self.disk_bytes - before.disk_bytes,
            calls: self.calls - before.calls,
        }
    }
}
