//! A disk that writes no faster than told, for one process: by the block controller of cgroups, version 1 or 2.
//!
//! What a process syncs is written on its own account; what the kernel writes back later by itself is not held up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const V1: &str = "/sys/fs/cgroup/blkio";
const V2: &str = "/sys/fs/cgroup";

/// A group with a bound. Removed when dropped; the processes in it go back to where the others are.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    root: &'static str,
    /// What lifts the bound, and where it is written.
    lift: (&'static str, String),
}

impl Throttle {
    /// Makes the group `name`, in which writes to `device` are bounded.
    ///
    /// Errors: among others, this machine has no block controller.
    pub fn new(name: &str, device: (u32, u32), bytes_per_second: u64) -> Result<Throttle> {
        let (major, minor) = device;
        let v1 = Path::new(V1).join("blkio.throttle.write_bps_device").exists();
        let controllers = std::fs::read_to_string(format!("{V2}/cgroup.controllers")).unwrap_or_default();
        let v2 = controllers
            .split_whitespace()
            .any(|controller| controller == "io");
        let device = format!("{major}:{minor}");
        let (root, file, bound, lifted) = match (v1, v2) {
            (true, _) => (
                V1,
                "blkio.throttle.write_bps_device",
                format!("{device} {bytes_per_second}"),
                format!("{device} 0"),
            ),
            (_, true) => (
                V2,
                "io.max",
                format!("{device} wbps={bytes_per_second}"),
                format!("{device} wbps=max"),
            ),
            _ => bail!("this machine has no block controller of cgroups, which slow disks need"),
        };
        if root == V2 {
            write(&Path::new(V2).join("cgroup.subtree_control"), "+io")?;
        }
        let group = Path::new(root).join(name);
        std::fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let throttle = Throttle {
            group,
            root,
            lift: (file, lifted),
        };
        write(&throttle.group.join(file), &bound)?;
        Ok(throttle)
    }

    /// Puts a process with all its threads under the bound.
    pub fn add(&self, pid: u32) -> Result<()> {
        write(&self.group.join("cgroup.procs"), &pid.to_string())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Or writes that it holds up would wait on, in a group that nobody finds any more.
        let (file, lifted) = &self.lift;
        if let Err(error) = write(&self.group.join(file), lifted) {
            eprintln!("{error:#}");
        }
        remove(&self.group, Path::new(self.root));
    }
}

/// Removes the groups whose name is to go.
pub fn remove_groups(goes: impl Fn(&str) -> bool) {
    for root in [V1, V2] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&goes) {
                remove(&entry.path(), Path::new(root));
            }
        }
    }
}

fn remove(group: &Path, root: &Path) {
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines() {
        // It may have ended.
        let _ = std::fs::write(root.join("cgroup.procs"), pid);
    }
    if let Err(error) = std::fs::remove_dir(group) {
        eprintln!("{} cannot be removed: {error}", group.display());
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {text:?} to {}", file.display()))
}
