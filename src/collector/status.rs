//! What the collector tells about itself.

use std::sync::atomic::Ordering;

use nezha_gc::plan::{Debt, SegmentStat, debt};

use super::{Collector, HeldUp, Progress, Space};
use crate::pace::UNBOUNDED;
use crate::store::{Holder, Statistics, StoreError};

/// One level's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Number of files.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Bytes of live records in them.
    pub live_bytes: u64,
    /// Bytes that collecting all of them would give back.
    pub garbage_bytes: u64,
}

/// A file that cannot go, or cannot be collected, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// `read`: an open scan may lead to it; `transfer`: a snapshot that is being sent may, or its receiver goes on from
    /// there; `log`: Raft, or a follower that lags, may need its entries; `damage`: it holds a live value that cannot be
    /// copied.
    pub reason: &'static str,
}

/// The job that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Why it was chosen.
    pub reason: String,
    /// Number of its inputs.
    pub inputs: u64,
    /// Level that it writes to.
    pub output_level: u8,
    /// Live bytes that it copies at most.
    pub copy_bytes: u64,
    /// Bytes that it has copied.
    pub copied_bytes: u64,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Bytes that it may copy per second now; 0 while it rests, and without a bound.
    pub bytes_per_second: u64,
}

/// The state of the collector and of the files it looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Jobs start by themselves.
    pub automatic: bool,
    /// No job starts.
    pub paused: bool,
    /// An ordered run is under way.
    pub requested: bool,
    /// Sealed log segments, sorted runs, the bottom run.
    pub levels: [Level; 3],
    /// Bytes of log and value files.
    pub file_bytes: u64,
    /// Bytes of live records in them.
    pub live_bytes: u64,
    /// The job that runs now.
    pub running: Option<Running>,
    /// What cannot go.
    pub pins: Vec<Pin>,
    /// Jobs since the start of the process.
    pub jobs_finished: u64,
    /// Bytes that they copied.
    pub bytes_copied: u64,
    /// Files removed since the start of the process.
    pub files_removed: u64,
    /// Why the last job failed.
    pub last_error: Option<String>,
    /// Bytes that a job copies per second at most; 0: unbounded.
    pub bytes_per_second: u64,
    /// The space taken, and the disk.
    pub space: Space,
    /// How often writes were held up.
    pub held_up: HeldUp,
    /// Work that order asks for.
    pub debt: Debt,
}

impl Collector {
    /// Returns the state now. Blocking: may read the key ranges of sorted segments.
    pub fn status(&self) -> Result<Status, StoreError> {
        let purgeable = self.purgeable();
        let Statistics {
            segments: stats,
            usage,
            ..
        } = self.store.segment_stats(purgeable.index)?;
        let held = self.store.held();
        let damaged = self.store.damaged_segments();
        let mut levels = [Level::default(); 3];
        for stat in &stats {
            let level = &mut levels[usize::from(stat.level)];
            level.files += 1;
            level.bytes += stat.bytes;
            level.live_bytes += stat.live_bytes;
            level.garbage_bytes += stat.garbage_bytes();
        }
        let pin = |stat: &SegmentStat| Pin {
            file: stat.id.to_string(),
            bytes: stat.bytes,
            reason: match held.get(&stat.id) {
                Some(Holder::Transfer) => "transfer",
                Some(Holder::Reader) => "read",
                None if damaged.contains(&stat.id) => "damage",
                None if stat.id.is_log() && purgeable.is_bounded_by_transfer => "transfer",
                None if stat.id.is_log() => "log",
                None => "read",
            },
        };
        let pins = stats.iter().filter(|stat| !stat.eligible).map(pin).collect();
        let debt = debt(&stats, usage, &self.settings.limits);
        let rate = match self.rate.load(Ordering::Relaxed) {
            UNBOUNDED => 0,
            rate => rate,
        };
        let shared = self.shared();
        let running = shared
            .running
            .as_ref()
            .map(|Progress { job, copied, started }| Running {
                reason: job.reason.to_string(),
                inputs: job.inputs.len() as u64,
                output_level: job.output_level,
                copy_bytes: job.copy_bytes,
                copied_bytes: *copied,
                elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                bytes_per_second: rate,
            });
        Ok(Status {
            automatic: self.settings.automatic,
            paused: shared.paused,
            requested: shared.requested,
            levels,
            file_bytes: usage.file_bytes,
            live_bytes: usage.live_bytes,
            running,
            pins,
            jobs_finished: shared.jobs_finished,
            bytes_copied: shared.bytes_copied,
            files_removed: shared.files_removed,
            last_error: shared.last_error.clone(),
            bytes_per_second: self.settings.bytes_per_second,
            space: self.gate.space(),
            held_up: self.gate.held_up(),
            debt,
        })
    }
}
