//! Data directories on loop-mounted ext4 images, so that power can be cut: what was not synced is not in the image.
//!
//! RELIABILITY: a copy of the image of a stopped process holds what the file system has been told to make durable,
//! and none of the page cache above it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::must;

/// One mounted image. Unmounted when dropped.
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes and mounts an image of `mib` MiB as `root/name`.
    pub fn new(root: &Path, name: &str, mib: u64) -> LoopDisk {
        let image = root.join(format!("{name}.img"));
        must("truncate", &["-s", &format!("{mib}M"), text(&image)]);
        must(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                text(&image),
            ],
        );
        LoopDisk::mount(image, root.join(name))
    }

    fn mount(image: PathBuf, mount: PathBuf) -> LoopDisk {
        std::fs::create_dir_all(&mount).expect("a mount point can be made");
        must("mount", &["-o", "loop,noatime", text(&image), text(&mount)]);
        LoopDisk { image, mount }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Copies the image as it is now: the state after a power cut. Whoever writes to it must be stopped.
    pub fn copy_image(&self) -> PathBuf {
        let copy = self.image.with_extension("cut");
        must("cp", &["--sparse=always", text(&self.image), text(&copy)]);
        copy
    }

    /// Throws away the running file system and everything in its page cache; mounts `copy` in its place after its
    /// journal was replayed and the file system was found clean.
    pub fn replace_by(&mut self, copy: &Path) {
        unmount(&self.mount);
        std::fs::rename(copy, &self.image).expect("a copy can be renamed");
        // Mounting replays the journal, as after a real power cut; only then can it be checked without changing it.
        must(
            "mount",
            &["-o", "loop,noatime", text(&self.image), text(&self.mount)],
        );
        unmount(&self.mount);
        must("e2fsck", &["-fn", text(&self.image)]);
        must(
            "mount",
            &["-o", "loop,noatime", text(&self.image), text(&self.mount)],
        );
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", text(&self.mount)]).status();
    }
}

/// A small tmpfs: a disk that is soon full.
pub struct TinyDisk {
    mount: PathBuf,
}

impl TinyDisk {
    pub fn new(mount: PathBuf, kib: u64) -> TinyDisk {
        std::fs::create_dir_all(&mount).expect("a mount point can be made");
        must(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k"),
                "tmpfs",
                text(&mount),
            ],
        );
        TinyDisk { mount }
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", text(&self.mount)]).status();
    }
}

fn unmount(mount: &Path) {
    must("umount", &[text(mount)]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[test]
fn a_replaced_disk_has_what_was_synced_and_no_more() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut disk = LoopDisk::new(root.path(), "disk", 64);
    std::fs::write(disk.path().join("synced"), "kept").unwrap();
    for path in [disk.path().join("synced"), disk.path().to_path_buf()] {
        std::fs::OpenOptions::new()
            .read(true)
            .open(path)
            .unwrap()
            .sync_all()
            .unwrap();
    }
    std::fs::write(disk.path().join("unsynced"), "lost").unwrap();
    let copy = disk.copy_image();
    disk.replace_by(&copy);
    assert_eq!(std::fs::read(disk.path().join("synced")).unwrap(), b"kept");
    let lost = std::fs::read(disk.path().join("unsynced")).unwrap_or_default();
    assert!(lost.is_empty(), "what was not synced is gone");
}
