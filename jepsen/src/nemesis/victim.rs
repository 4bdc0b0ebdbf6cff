//! What a nemesis needs of a cluster, so that its bookkeeping is tested without one.

use std::time::Duration;

use anyhow::{Result, bail};

pub use crate::cluster::{Refused, Side};

/// How a process ended that nobody ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// `None`: by a signal.
    pub code: Option<i32>,
    /// The signal.
    pub signal: Option<i32>,
    /// The end of its log.
    pub log: String,
}

/// A cluster that can be hurt. Positions of members are stable; what a cluster elsewhere cannot offer is an error.
pub trait Victim: Send {
    /// Names by position, also of those that were removed.
    fn names(&self) -> Vec<String>;
    /// Client addresses by position.
    fn endpoints(&self) -> Vec<String>;

    /// Whether a process runs there, paused or not.
    fn is_running(&mut self, _member: usize) -> bool {
        true
    }
    /// How its process ended since the last question, if nobody ended it.
    fn exit(&mut self, _member: usize) -> Result<Option<Exit>> {
        Ok(None)
    }
    /// Starts it on the disk that it has.
    fn start(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// SIGKILL.
    fn kill(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// SIGTERM, and waits: how it ended, if not with 0.
    fn terminate(&mut self, _member: usize) -> Result<Option<Exit>> {
        elsewhere()
    }
    /// SIGSTOP.
    fn pause(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// SIGCONT.
    fn resume(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// Starts it, and SIGKILL comes right before an installed snapshot becomes the live store.
    fn start_to_die_at_install(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// The disk writes nothing any more, until power goes.
    fn stall_disk(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// Syncs of the log do not end any more, until power goes; everything else is written.
    fn stall_log(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
    /// Power goes, for all of them at one time.
    fn power_cut(&mut self, _members: &[usize]) -> Result<()> {
        elsewhere()
    }
    /// Nothing passes, or everything again.
    fn cut(&mut self, _from: Side, _to: Side, _cut: bool) -> Result<()> {
        elsewhere()
    }
    /// Loses packets; 0 for none.
    fn loss(&mut self, _from: Side, _to: Side, _percent: u8) -> Result<()> {
        elsewhere()
    }
    /// Delays; zero for none.
    fn delay(&mut self, _from: Side, _to: Side, _delay: Duration, _jitter: Duration) -> Result<()> {
        elsewhere()
    }
    /// Open connections carry nothing, or everything again.
    fn half_open(&mut self, _from: Side, _to: Side, _stuck: bool) -> Result<()> {
        elsewhere()
    }
    /// Everything passes at once.
    fn heal_network(&mut self) -> Result<()> {
        Ok(())
    }
    /// Fills the disk, or frees it.
    fn disk_full(&mut self, _member: usize, _full: bool) -> Result<()> {
        elsewhere()
    }
    /// Syncs fail, or the disk is sound again. The process is not running after the second.
    fn disk_errors(&mut self, _member: usize, _failing: bool) -> Result<()> {
        elsewhere()
    }
    /// Throttles the disk; `None`: no more.
    fn slow_disk(&mut self, _member: usize, _bytes_per_second: Option<u64>) -> Result<()> {
        elsewhere()
    }
    /// Has system calls fail or kill, as strace's `inject` says it; `None`: no more.
    fn inject(&mut self, _member: usize, _injection: Option<&str>) -> Result<()> {
        elsewhere()
    }
    /// Flips bits in a file that nobody writes; says where, `None` if there is no such file yet.
    fn rot(&mut self, _member: usize, _seed: u64) -> Result<Option<String>> {
        elsewhere()
    }
    /// Adds a member, which then runs; its position, perhaps that of one that was removed.
    ///
    /// Errors: [`Refused`] among others: to be asked for again.
    fn join(&mut self) -> Result<usize> {
        elsewhere()
    }
    /// Removes members whose adding was given up and done nevertheless.
    fn remove_strangers(&mut self) -> Result<()> {
        Ok(())
    }
    /// Removes a member and ends its process.
    ///
    /// Errors: likewise.
    fn remove(&mut self, _member: usize) -> Result<()> {
        elsewhere()
    }
}

fn elsewhere<T>() -> Result<T> {
    bail!("this cluster runs elsewhere: only calls of its API are possible")
}

/// Calls of the API that a nemesis makes. None of them is a failure of the harness when it is refused.
pub trait Api: Send {
    /// Whoever leads, as it says itself, among `endpoints`; by position.
    fn leader(&self, endpoints: &[String]) -> Option<usize>;
    /// Has leadership handed to `name`.
    fn transfer(&self, name: &str) -> Result<()>;
    /// Orders a collection.
    fn gc(&self, endpoint: &str) -> Result<()>;
    /// Orders a purge of all that is flushed.
    fn purge(&self, endpoint: &str) -> Result<()>;
}
