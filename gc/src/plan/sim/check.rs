//! What a plan promises and a store must show.

use std::collections::{BTreeMap, BTreeSet};

use nezha_vlog::SegmentId;

use super::super::{
    Job, KeyRange, LEVEL_BOTTOM, LEVEL_RUNS, Limits, Reason, SegmentStat, Usage, portion, pressure,
};
use super::{Segment, Sim};

/// Asserts what a plan promises.
pub(in crate::plan) fn check_job(job: &Job, stats: &[SegmentStat], usage: Usage, limits: &Limits) {
    let by_id: BTreeMap<SegmentId, &SegmentStat> = stats.iter().map(|stat| (stat.id, stat)).collect();
    let inputs: BTreeSet<SegmentId> = job.inputs.iter().copied().collect();
    assert_eq!(inputs.len(), job.inputs.len(), "an input twice: {job:?}");
    assert!(!inputs.is_empty());
    let sum = |field: fn(&SegmentStat) -> u64| inputs.iter().map(|id| field(by_id[id])).sum::<u64>();
    assert!(
        inputs.iter().all(|id| by_id[id].eligible),
        "an input is not eligible: {job:?}"
    );
    assert_eq!(job.input_bytes, sum(|stat| stat.bytes));
    assert_eq!(job.copy_bytes, sum(|stat| stat.live_bytes));
    assert!(job.cuts.is_sorted());
    if job.reason == Reason::Empty {
        assert_eq!(job.copy_bytes, 0);
        return;
    }
    assert_eq!(job.freed_bytes, sum(SegmentStat::garbage_bytes));
    assert!(inputs.iter().all(|id| by_id[id].live_bytes > 0));
    let from_log = inputs.iter().any(|id| id.is_log());
    let parts = |keys: &KeyRange| job.cuts.iter().any(|cut| keys.first < *cut && *cut <= keys.last);
    let split = job.keys.as_ref().is_some_and(parts);
    let helps = job.freed_bytes > 0 || inputs.len() > 1 || from_log || split;
    assert!(helps, "neither frees, merges nor parts: {job:?}");
    assert_eq!(job.keys.is_none(), from_log);
    if job.output_level == LEVEL_BOTTOM {
        let hull = job.keys.as_ref().expect("log segments are not merged into L2");
        let others = stats
            .iter()
            .filter(|stat| stat.level == LEVEL_BOTTOM && stat.live_bytes > 0);
        for other in others.filter(|stat| !inputs.contains(&stat.id)) {
            let keys = other.keys.as_ref().unwrap();
            let beside = keys.last < hull.first || keys.first > hull.last;
            // Between two parts of the inputs, each side of a cut.
            let cut = job.cuts.partition_point(|cut| *cut <= keys.last);
            let inputs = inputs.iter().filter_map(|id| by_id[id].keys.as_ref());
            let below = inputs.filter(|input| job.cuts.get(cut).is_none_or(|cut| input.first < *cut));
            let apart = job.cuts.get(cut).is_some() && below.clone().all(|input| input.last < keys.first);
            assert!(beside || apart, "{job:?} overlaps {other:?}");
        }
    }
    if job.output_level == LEVEL_RUNS && !from_log {
        // No output covers a key that no input covered: rewriting never adds to the overlap.
        let mut ranges: Vec<_> = inputs.iter().filter_map(|id| by_id[id].keys.as_ref()).collect();
        ranges.sort_by_key(|keys| &keys.first);
        let mut end = &ranges[0].last;
        for keys in ranges {
            let cut = job.cuts.iter().any(|cut| cut > end && *cut <= keys.first);
            assert!(keys.first <= *end || cut, "no cut before {keys:?}: {job:?}");
            end = end.max(&keys.last);
        }
    }
    let allowed = pressure(stats, usage, limits).allowed_bytes();
    let most = portion(allowed, u64::from(limits.job_per_mille))
        .min(limits.job_bytes_max)
        .max(limits.segment_bytes.saturating_mul(4));
    // The smallest job is a segment alone, or what overlaps in one place of L2: after a crash, old and new of one job.
    let largest = inputs.iter().map(|id| by_id[id].live_bytes).max().unwrap_or(0);
    assert!(
        job.copy_bytes <= most.max(4 * largest),
        "{} bytes copied: {job:?}",
        job.copy_bytes
    );
}

impl Sim {
    pub(super) fn assert_bottom_is_partitioned(&self) {
        let bottom = self
            .segments
            .values()
            .filter(|s| s.level == LEVEL_BOTTOM && s.live > 0);
        let mut ranges: Vec<(u64, u64)> = bottom.map(Segment::ends).collect();
        ranges.sort_unstable();
        let parted = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        assert!(self.crashed || parted, "L2 overlaps: {ranges:?}");
    }

    /// Every key is where the index says, and the counts are exact.
    pub(in crate::plan) fn assert_exact(&self) {
        let live: u64 = self.index.values().map(|place| place.bytes).sum();
        assert_eq!(live, self.live_bytes);
        for (id, segment) in &self.segments {
            let live: u64 = self.live_records(*id).map(|record| record.bytes).sum();
            assert_eq!(live, segment.live, "{id}");
        }
        let files: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        let reserved = self.running.as_ref().map_or(0, |running| running.reserved);
        assert_eq!(files + reserved, self.file_bytes);
    }
}
