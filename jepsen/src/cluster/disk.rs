//! Data directories on loop-mounted ext4 images, so that power can be cut, and disks that are full, fail or are slow.
//!
//! A copy of the image of a stopped process holds what the file system has been told to make durable, and none of the
//! page cache above it.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::command::{run, text};

/// What a full disk still has, bytes.
const FULL_LEAVES_BYTES: u64 = 8 << 10;

/// Directory of the disk's user, beside files of the harness.
const DATA: &str = "data";

const FILLER: &str = "filler";

/// One mounted image. Unmounted when dropped; the image goes too.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes and mounts an image of `mib` MiB as `root/name`.
    pub fn new(root: &Path, name: &str, mib: u64) -> Result<LoopDisk> {
        LoopDisk::make(root.join(format!("{name}.img")), root.join(name), mib)
    }

    fn make(image: PathBuf, mount: PathBuf, mib: u64) -> Result<LoopDisk> {
        let size = format!("{mib}M");
        run("truncate", &["-s", &size, text(&image)?])?;
        let whole = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", whole, text(&image)?])?;
        let disk = LoopDisk { image, mount };
        std::fs::create_dir_all(&disk.mount)
            .with_context(|| format!("cannot make {}", disk.mount.display()))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(
            "mount",
            &["-o", "loop,noatime", text(&self.image)?, text(&self.mount)?],
        )?;
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        run("umount", &[text(&self.mount)?])?;
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The directory for its user.
    pub fn data(&self) -> PathBuf {
        self.mount.join(DATA)
    }

    /// Major and minor number of its block device.
    pub fn device(&self) -> Result<(u32, u32)> {
        let device = std::fs::metadata(&self.mount)
            .with_context(|| format!("cannot look at {}", self.mount.display()))?
            .dev();
        Ok((rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// Copies the image as it is now: the state after a power cut. Whoever writes to it must be stopped.
    pub fn copy_image(&self) -> Result<PathBuf> {
        let copy = self.image.with_extension("cut");
        run("cp", &["--sparse=always", text(&self.image)?, text(&copy)?])?;
        Ok(copy)
    }

    /// Throws away the running file system and everything in its page cache; mounts `copy` in its place after its
    /// journal was replayed and the file system was found clean. It is not full any more, until it is filled again.
    pub fn replace_by(&mut self, copy: &Path) -> Result<()> {
        self.unmount()?;
        std::fs::rename(copy, &self.image).with_context(|| format!("cannot rename {}", copy.display()))?;
        // Mounting replays the journal, as after a real power cut; only then can it be checked without changing it.
        self.mount()?;
        self.unmount()?;
        run("e2fsck", &["-fn", text(&self.image)?])?;
        self.mount()?;
        // That it was removed may not have been durable.
        self.free()
    }

    /// Fills it but for a few KiB; what was written stays.
    pub fn fill(&self) -> Result<()> {
        let path = self.mount.join(FILLER);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let mut bytes = file.metadata().context("cannot look at the filler")?.len();
        // What the blocks of a file need of their own is not known before; the last steps are small.
        loop {
            let space = statvfs(&self.mount).context("cannot ask for free space")?;
            let free = (space.f_bavail * space.f_frsize).saturating_sub(FULL_LEAVES_BYTES);
            let Some(step) = [free, free / 2, 64 << 10, 4 << 10]
                .into_iter()
                .find(|step| *step > 0 && *step <= free)
            else {
                return Ok(());
            };
            let mut step = step;
            loop {
                match fallocate(&file, FallocateFlags::empty(), bytes, step) {
                    Ok(()) => break bytes += step,
                    Err(Errno::NOSPC) if step > 4 << 10 => step /= 2,
                    // Its last blocks are promised to others' unwritten pages.
                    Err(Errno::NOSPC) => return Ok(()),
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
    }

    /// Undoes [`LoopDisk::fill`].
    pub fn free(&self) -> Result<()> {
        let path = self.mount.join(FILLER);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Ok(mount) = text(&self.mount) {
            let _ = run("umount", &["-l", mount]);
        }
        let _ = std::fs::remove_file(&self.image);
    }
}

/// A small tmpfs: a disk that is soon full. Unmounted when dropped.
#[derive(Debug)]
pub struct TinyDisk {
    mount: PathBuf,
}

impl TinyDisk {
    /// Mounts one of `kib` KiB.
    pub fn new(mount: PathBuf, kib: u64) -> Result<TinyDisk> {
        std::fs::create_dir_all(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
        let size = format!("size={kib}k");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&mount)?])?;
        Ok(TinyDisk { mount })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Gives it another size; not less than is used.
    pub fn resize(&self, kib: u64) -> Result<()> {
        let size = format!("remount,size={kib}k");
        run("mount", &["-o", &size, text(&self.mount)?])?;
        Ok(())
    }

    fn used_kib(&self) -> Result<u64> {
        let space = statvfs(&self.mount).context("cannot ask for used space")?;
        Ok(((space.f_blocks - space.f_bfree) * space.f_frsize).div_ceil(1 << 10))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        if let Ok(mount) = text(&self.mount) {
            let _ = run("umount", &["-l", mount]);
        }
    }
}

/// A disk that says it is as large as the one before, and can keep only a little more than what is on it: then writes
/// of the file system fail, and with them fsync, with EIO. The image lies on a tmpfs that is too small.
#[derive(Debug)]
pub struct FailingDisk {
    // Fields are dropped in this order: the image before what it lies on.
    disk: LoopDisk,
    below: TinyDisk,
    mib: u64,
}

impl FailingDisk {
    /// Makes one of `mib` MiB with a copy of `sound`'s data, which fails after some `headroom_kib` of new blocks. Whoever
    /// writes to `sound` must have ended.
    pub fn copy_of(
        sound: &LoopDisk,
        root: &Path,
        name: &str,
        mib: u64,
        headroom_kib: u64,
    ) -> Result<FailingDisk> {
        let whole_kib = mib << 10;
        let below = TinyDisk::new(root.join(format!("{name}-below")), whole_kib + (whole_kib >> 4))?;
        let image = below.path().join("image");
        let disk = LoopDisk::make(image, root.join(format!("{name}-failing")), mib)?;
        copy_data(sound, &disk)?;
        // What the file system still holds back would use up the headroom.
        run("sync", &["-f", text(disk.path())?])?;
        below.resize(below.used_kib()? + headroom_kib)?;
        Ok(FailingDisk { disk, below, mib })
    }

    /// Where it is mounted.
    pub fn disk(&self) -> &LoopDisk {
        &self.disk
    }

    /// Makes a sound disk with what is durable on this one: pages that it failed to write are thrown away, as by a
    /// restart of the machine, and the file system's journal is replayed. Whoever writes to it must have ended.
    ///
    /// Errors: among others, the file system cannot be repaired; then its user must be replaced.
    pub fn rescue(self, root: &Path, name: &str) -> Result<LoopDisk> {
        // The disk takes writes again; what it has refused is not among them, for unmounting drops those pages.
        self.disk.unmount()?;
        let whole_kib = self.mib << 10;
        self.below.resize(whole_kib + (whole_kib >> 4))?;
        let image = text(&self.disk.image)?;
        if let Err(error) = run("e2fsck", &["-fy", image]) {
            // Exit code 1: errors were found, and corrected.
            if !error.to_string().contains("exit status: 1:") {
                bail!(error.context("a failing disk cannot be read any more: replace the member"));
            }
        }
        self.disk.mount()?;
        let sound = LoopDisk::new(root, name, self.mib)?;
        copy_data(&self.disk, &sound)?;
        Ok(sound)
    }
}

fn copy_data(from: &LoopDisk, to: &LoopDisk) -> Result<()> {
    if from.data().exists() {
        run("cp", &["-a", text(&from.data())?, text(to.path())?])?;
        // Or the next power cut takes what an fsync on the old disk has promised.
        run("sync", &["--file-system", text(to.path())?])?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
