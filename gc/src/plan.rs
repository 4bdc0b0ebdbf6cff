//! Decides what to collect next: a pure function of segment statistics and limits.
//!
//! ```text
//! L0  sealed log segments, in arrival order: keys everywhere, read at random
//! L1  runs, one per collected batch of L0: each sorted, together they overlap
//! L2  the bottom run: sorted, partitioned by key, no two segments overlap
//! ```
//!
//! In the order of [`plan`]:
//! 1. `Empty`: segments without live bytes cost nothing and go at once.
//! 2. `SpaceBound`: near the bound on space amplification, the job that frees most per byte copied.
//! 3. `L0Debt` and `Overlap`, whichever limit is exceeded further: a batch of the oldest log segments becomes a run of
//!    L1; where too many segments cover one key, they are merged into L2 with all that they overlap there.
//! 4. `Garbage`: segments with more garbage than a set share; L0 batched, L1 and L2 rewritten in their level or merged
//!    down, whichever frees more per byte copied.
//!
//! All limits but the least ones are shares of the live bytes, so that write amplification does not grow with the store:
//! a fixed batch merged into a growing bottom run costs more per byte the larger the run is.
//!
//! A job that merges L1 into L2 takes every segment of L2 that intersects the hull of its inputs' keys; otherwise its
//! outputs could overlap a segment left in place. One ineligible segment there blocks only the jobs that need it.
//! Which record is live is the index's knowledge, so no job depends on the age of its inputs.

mod candidates;
mod debt;
mod draft;
mod limits;
mod map;
mod pressure;

#[cfg(test)]
mod contract_test;
#[cfg(test)]
mod plan_test;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sim_test;

use std::fmt;

use bytes::Bytes;
use nezha_vlog::SegmentId;

pub use debt::{Debt, debt};
pub use limits::Limits;
pub use pressure::{Pressure, SpaceState, pressure};

use candidates::Candidates;
use map::Map;

/// Level of sealed log segments.
pub const LEVEL_LOG: u8 = 0;
/// Level of sorted runs, which may overlap each other.
pub const LEVEL_RUNS: u8 = 1;
/// Level of the bottom run, whose segments do not overlap.
pub const LEVEL_BOTTOM: u8 = 2;

/// First and last key of a sorted segment, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Smallest key.
    pub first: Bytes,
    /// Largest key, not below `first`.
    pub last: Bytes,
}

/// What the planner knows of one file. The log's active segment is no candidate and is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStat {
    /// The file.
    pub id: SegmentId,
    /// [`LEVEL_LOG`], [`LEVEL_RUNS`] or [`LEVEL_BOTTOM`].
    pub level: u8,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Bytes of the value records in it that the index refers to.
    pub live_bytes: u64,
    /// Bytes that belong to the file and not to a record: header, table and trailer of a sorted segment. A rewrite
    /// writes them again, so they are not garbage. 0 for a log segment, whose frames are not copied.
    pub overhead_bytes: u64,
    /// Keys of a sorted segment; `None` for a log segment.
    pub keys: Option<KeyRange>,
    /// Whether it may be an input now: nothing pins it, no running job has it, and a log segment is purged or may be.
    pub eligible: bool,
}

impl SegmentStat {
    /// Bytes that collecting this file gives back.
    pub fn garbage_bytes(&self) -> u64 {
        self.bytes
            .saturating_sub(self.live_bytes)
            .saturating_sub(self.overhead_bytes)
    }

    /// [`Self::garbage_bytes`] per 1000 bytes of the file.
    pub fn garbage_per_mille(&self) -> u64 {
        share(self.garbage_bytes(), self.bytes)
    }
}

/// Size of the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files of log and values, the active log segment included. While a job runs, its outputs count with
    /// their expected length from the start ([`Job::copy_bytes`]): the space is spoken for.
    pub file_bytes: u64,
    /// Bytes of all value records that the index refers to, in whichever file.
    pub live_bytes: u64,
}

/// Why a job was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No live byte in the inputs: nothing is copied, there is no output.
    Empty,
    /// The store is near its bound on space amplification.
    SpaceBound,
    /// More garbage in a segment than [`Limits::garbage_per_mille`].
    Garbage,
    /// More log segments than [`Limits::l0_debt_per_mille`] allows.
    L0Debt,
    /// More sorted segments over one key than [`Limits::overlap_max`].
    Overlap,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reason::Empty => "no live bytes",
            Reason::SpaceBound => "space bound",
            Reason::Garbage => "garbage",
            Reason::L0Debt => "L0 debt",
            Reason::Overlap => "overlap",
        })
    }
}

/// Segments to collect together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Why.
    pub reason: Reason,
    /// The files, ascending, each once. None has live bytes if the reason is `Empty`.
    pub inputs: Vec<SegmentId>,
    /// Level of the outputs.
    pub output_level: u8,
    /// Hull of the inputs' keys, so that no more of the index needs to be read; `None` if a log segment is among them.
    pub keys: Option<KeyRange>,
    /// Keys, ascending, before each of which an output must end even if it is not full: no output of L2 may reach across a
    /// segment that stays, and runs of L1 that end where segments of L2 do can be merged piece by piece. Outputs also end
    /// at [`Limits::segment_bytes`].
    pub cuts: Vec<Bytes>,
    /// Length of the input files in bytes.
    pub input_bytes: u64,
    /// Live bytes in the inputs: what the job will copy at most.
    pub copy_bytes: u64,
    /// Garbage in the inputs in bytes: what the job will free at least.
    pub freed_bytes: u64,
}

/// Chooses the next job, or `None` if nothing exceeds its limit or no eligible file would help.
///
/// Pure: the same statistics in any order give the same plan. `stats` lists each file once. It is meant for one job at a
/// time: a second one beside it could write into L2 where the first one does.
///
/// Shape: the inputs of a job are eligible; its outputs, written into its level within `keys`, overlap no segment of L2
/// that stays. It copies at most [`Limits::job_per_mille`] and what fits below the line where writes are slowed; but one
/// segment may always be collected, so that there is progress.
/// Panics if a sorted segment has no keys, a log segment has keys, or a level is above 2.
pub fn plan(stats: &[SegmentStat], usage: Usage, limits: &Limits) -> Option<Job> {
    if let Some(job) = empty(stats) {
        return Some(job);
    }
    let pressure = pressure(stats, usage, limits);
    let map = Map::new(stats);
    let debt = Debt::of(&map, usage.live_bytes, limits);
    let candidates = Candidates::new(&map, &debt, &pressure, limits);
    if pressure.state >= SpaceState::Urgent
        && let Some(draft) = candidates.best_gain()
    {
        return Some(draft.into_job(Reason::SpaceBound, &map, limits));
    }
    let l0_debt = || {
        let draft = debt.exceeds_l0().then(|| candidates.l0_debt_batch()).flatten();
        draft.map(|draft| draft.into_job(Reason::L0Debt, &map, limits))
    };
    let overlap = || {
        let draft = candidates.overlap();
        draft.map(|draft| draft.into_job(Reason::Overlap, &map, limits))
    };
    let garbage = || {
        let draft = candidates.garbage();
        draft.map(|draft| draft.into_job(Reason::Garbage, &map, limits))
    };
    // Merges collect garbage on their way; what was rewritten for its garbage before would be copied twice.
    let order = if debt.overlap_per_mille() > debt.l0_per_mille() {
        overlap().or_else(l0_debt)
    } else {
        l0_debt().or_else(overlap)
    };
    order.or_else(garbage)
}

/// All eligible segments without live bytes.
fn empty(stats: &[SegmentStat]) -> Option<Job> {
    let dead = || stats.iter().filter(|stat| stat.eligible && stat.live_bytes == 0);
    let mut inputs: Vec<SegmentId> = dead().map(|stat| stat.id).collect();
    inputs.sort_unstable();
    let input_bytes = dead().map(|stat| stat.bytes).sum();
    (!inputs.is_empty()).then_some(Job {
        reason: Reason::Empty,
        inputs,
        output_level: LEVEL_RUNS,
        keys: None,
        cuts: Vec::new(),
        input_bytes,
        copy_bytes: 0,
        freed_bytes: input_bytes,
    })
}

/// `part` per 1000 of `whole`; `u64::MAX` for a part of nothing.
fn share(part: u64, whole: u64) -> u64 {
    match (part, whole) {
        (0, _) => 0,
        (_, 0) => u64::MAX,
        _ => u64::try_from(u128::from(part) * 1000 / u128::from(whole)).unwrap_or(u64::MAX),
    }
}

/// `per_mille` thousandths of `whole`, rounded down.
fn portion(whole: u64, per_mille: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(per_mille) / 1000).unwrap_or(u64::MAX)
}
