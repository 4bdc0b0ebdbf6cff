//! What hurts a member's disk and its system calls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use rustix::process::Signal;

use super::disk::FailingDisk;
use super::rot;
use super::throttle::Throttle;
use super::trace::Tracer;
use super::{Cluster, Disk};

/// New blocks that a failing disk keeps before it fails, KiB.
const HEADROOM_KIB: u64 = 2 << 10;
/// Longer than any stall of a log before power goes.
const STALL_MAX: Duration = Duration::from_secs(20);
/// What a disk still writes before power goes, bytes per second: less than a sector in the time.
const STALLED: u64 = 1 << 10;

impl Cluster {
    /// Cuts the power of several members at one moment, and gives it back: all of them are stopped, then their images
    /// copied, then they are killed, then the copies mounted. Start them again.
    ///
    /// A member without a process loses what it had not synced too. One with failing disk is only killed: what such a
    /// disk keeps is seen when it is made sound.
    ///
    /// By itself it seldom loses anything: the kernel ends a sync that has begun before it stops a process. See
    /// [`Cluster::stall_disk`] and [`Cluster::stall_log`].
    pub fn power_cut(&mut self, which: &[usize]) -> Result<()> {
        for i in which {
            if let Some(process) = &self.member(*i)?.process {
                process.signal(Signal::STOP);
            }
        }
        let mut copies = Vec::new();
        for i in which {
            if let Some(Disk::Sound(disk)) = &self.member(*i)?.disk {
                copies.push((*i, disk.copy_image()?));
            }
        }
        for i in which {
            // The writes that it has held up are done now, on what nobody will see again: before that nobody can die.
            self.throttle(*i)?;
            if let Some(tracer) = self.member_mut(*i)?.tracer.take() {
                tracer.abandon();
            }
            self.kill(*i)?;
        }
        for (i, copy) in copies {
            let member = self.member_mut(i)?;
            if let Some(Disk::Sound(disk)) = &mut member.disk {
                disk.replace_by(&copy)?;
                if member.full {
                    disk.fill()?;
                }
            }
            self.throttle(i)?;
        }
        Ok(())
    }

    /// From now on the disk of a member writes nothing, until its power is cut.
    pub fn stall_disk(&mut self, i: usize) -> Result<()> {
        let slow = self.member(i)?.bytes_per_second;
        self.slow_disk(i, STALLED)?;
        self.member_mut(i)?.bytes_per_second = slow;
        Ok(())
    }

    /// From now on no sync of a running member's log ends, until its power is cut: of the file that is written to now, and
    /// of no other. An injection that was there ends.
    pub fn stall_log(&mut self, i: usize) -> Result<()> {
        let Some(log) = rot::active_log(&self.data_dir(i)?)? else {
            return Ok(());
        };
        let output = self.trace_file(i)?;
        let member = self.member_mut(i)?;
        member.tracer = None;
        if let Some(process) = &member.process {
            let stall = format!("fdatasync,fsync:delay_enter={}", STALL_MAX.as_micros());
            member.tracer = Some(Tracer::inject_into(process.pid(), output, &stall, &log)?);
        }
        Ok(())
    }

    /// Fills a member's disk but for a few KiB.
    pub fn disk_full(&mut self, i: usize) -> Result<()> {
        let member = self.member_mut(i)?;
        member.full = true;
        member.mounted()?.fill()
    }

    /// Undoes [`Cluster::disk_full`].
    pub fn disk_free(&mut self, i: usize) -> Result<()> {
        let member = self.member_mut(i)?;
        member.full = false;
        member.mounted()?.free()
    }

    /// Moves a member to a disk that soon fails: after some 2 MiB of new blocks, writes of its file system fail, and
    /// with them fsync, with EIO. A member that runs is killed for the move and started again.
    pub fn disk_errors(&mut self, i: usize) -> Result<()> {
        let running = self.is_running(i)?;
        self.kill(i)?;
        let (root, mib) = (self.disks.clone(), self.spec.disk_mib);
        let member = self.member_mut(i)?;
        let name = member.next_disk(i);
        if let Some(Disk::Sound(sound)) = &member.disk {
            // Not carried over: this disk is to fail in another way.
            sound.free()?;
            member.full = false;
            let failing = FailingDisk::copy_of(sound, &root, &name, mib, HEADROOM_KIB)?;
            member.disk = Some(Disk::Failing(failing));
        }
        self.throttle(i)?;
        if running {
            self.start(i)?;
        }
        Ok(())
    }

    /// Undoes [`Cluster::disk_errors`]: the member is killed and gets a sound disk with everything that is durable on
    /// the failing one, as after its blocks were copied to a new device: nothing that an fsync has promised is left out,
    /// nothing that the page cache only pretended is brought back. Start it again; if it then ends with exit code 12,
    /// the disk had lost more than a log may lose, and the member must be replaced.
    ///
    /// Answers whether its disk was a failing one.
    pub fn disk_sound(&mut self, i: usize) -> Result<bool> {
        if !matches!(self.member(i)?.disk, Some(Disk::Failing(_))) {
            return Ok(false);
        }
        self.kill(i)?;
        let root = self.disks.clone();
        let member = self.member_mut(i)?;
        let name = member.next_disk(i);
        if let Some(Disk::Failing(failing)) = member.disk.take() {
            member.disk = Some(Disk::Sound(failing.rescue(&root, &name)?));
        }
        self.throttle(i)?;
        Ok(true)
    }

    /// Bounds what a member writes to its disk, also after it was started again.
    pub fn slow_disk(&mut self, i: usize, bytes_per_second: u64) -> Result<()> {
        self.member_mut(i)?.bytes_per_second = Some(bytes_per_second);
        self.throttle(i)
    }

    /// Undoes [`Cluster::slow_disk`].
    pub fn normal_disk(&mut self, i: usize) -> Result<()> {
        self.member_mut(i)?.bytes_per_second = None;
        self.throttle(i)
    }

    /// Bounds the disk that the member has now, if it is to be slow.
    fn throttle(&mut self, i: usize) -> Result<()> {
        let name = format!("{}n{i}", self.network.name());
        let member = self.member_mut(i)?;
        // The old one first: both have the same name.
        member.throttle = None;
        if let Some(rate) = member.bytes_per_second {
            let throttle = Throttle::new(&name, member.mounted()?.device()?, rate)?;
            if let Some(process) = &member.process {
                throttle.add(process.pid())?;
            }
            member.throttle = Some(throttle);
        }
        Ok(())
    }

    fn trace_file(&mut self, i: usize) -> Result<PathBuf> {
        self.traces += 1;
        let name = &self.member(i)?.name;
        Ok(self.disks.join(format!("{name}.{}.trace", self.traces)))
    }

    /// Has system calls of a running member fail, or kill it. `injection` is strace's, such as
    /// `fdatasync:error=EIO:when=3+` or `pwrite64,pwritev:signal=KILL:when=20`; calls are counted from now on, per
    /// thread. One injection at a time: the one before ends. Answers whether there was a process.
    pub fn inject(&mut self, i: usize, injection: &str) -> Result<bool> {
        let output = self.trace_file(i)?;
        let running = self.is_running(i)?;
        let member = self.member_mut(i)?;
        member.tracer = None;
        if let (true, Some(process)) = (running, &member.process) {
            member.tracer = Some(Tracer::inject(process.pid(), output, injection)?);
        }
        Ok(running)
    }

    /// Starts a member that does not run, and kills it right before the file that says which store is live is renamed into
    /// its place: at the end of the installation of a snapshot, if it gets one.
    pub fn start_to_die_at_install(&mut self, i: usize) -> Result<()> {
        let next = self.data_dir(i)?.join("CURRENT.tmp");
        self.start_with(i, "rename,renameat,renameat2:signal=KILL:when=1", Some(&next))
    }

    /// Starts a member that does not run with an injection from its first system call on.
    pub fn start_injected(&mut self, i: usize, injection: &str) -> Result<()> {
        self.start_with(i, injection, None)
    }

    fn start_with(&mut self, i: usize, injection: &str, file: Option<&Path>) -> Result<()> {
        if self.is_running(i)? {
            bail!("{} runs already", self.member(i)?.name);
        }
        let output = self.trace_file(i)?;
        self.start_under(i, &Tracer::wrap(&output, injection, file)?)?;
        let pid = self.pid(i)?.context("it was started")?;
        self.member_mut(i)?.tracer = Some(Tracer::of_wrapped(pid, output));
        Ok(())
    }

    /// Ends an injection; the process, if it still runs, goes on. Answers whether there was one.
    pub fn stop_injecting(&mut self, i: usize) -> Result<bool> {
        Ok(self.member_mut(i)?.tracer.take().is_some())
    }

    /// Flips one bit in a cold file of a member, running or not: a sealed log segment or a value segment. Answers which
    /// file and where; `None` if it has no cold file. Undone by replacing the member.
    pub fn rot(&mut self, i: usize, rng: &mut impl Rng) -> Result<Option<String>> {
        rot::flip_one_bit(&self.data_dir(i)?, rng)
    }
}
