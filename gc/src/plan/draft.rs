//! A job in the making.

use bytes::Bytes;

use super::map::Map;
use super::{Job, KeyRange, LEVEL_BOTTOM, Limits, Reason, SegmentStat, share};

/// Segments that might be collected together, and what that costs and gives.
#[derive(Clone)]
pub(super) struct Draft<'a> {
    members: Vec<&'a SegmentStat>,
    output_level: u8,
    /// Live bytes of L2 that one part of the output should intersect; see `Map::cuts`.
    part_bytes: u64,
    /// Keys before which outputs must end; more may be added for L1.
    pub(super) cuts: Vec<Bytes>,
    pub(super) input_bytes: u64,
    pub(super) copy_bytes: u64,
    pub(super) freed_bytes: u64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(output_level: u8, part_bytes: u64) -> Draft<'a> {
        Draft {
            members: Vec::new(),
            output_level,
            part_bytes,
            cuts: Vec::new(),
            input_bytes: 0,
            copy_bytes: 0,
            freed_bytes: 0,
        }
    }

    pub(super) fn push(&mut self, stat: &'a SegmentStat) {
        self.members.push(stat);
        self.input_bytes += stat.bytes;
        self.copy_bytes += stat.live_bytes;
        self.freed_bytes += stat.garbage_bytes();
    }

    /// Number of inputs.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Garbage per 1000 bytes of the inputs.
    pub(super) fn garbage_per_mille(&self) -> u64 {
        share(self.freed_bytes, self.input_bytes)
    }

    /// Completes the job.
    pub(super) fn into_job(self, reason: Reason, map: &Map<'a>, limits: &Limits) -> Job {
        let keys = self.hull();
        // Parts not much below an eighth of a segment: small files cost an open file each.
        let parts = (self.copy_bytes / (limits.segment_bytes / 8).max(1)).max(1);
        let bottom = map.sums(&(0..map.groups.len())).live;
        let part_bytes = match self.output_level {
            LEVEL_BOTTOM => self.part_bytes,
            _ => self.part_bytes.max(bottom / parts),
        };
        let mut cuts = self.cuts;
        cuts.extend(map.cuts(keys.as_ref(), part_bytes));
        cuts.sort_unstable();
        cuts.dedup();
        let mut inputs: Vec<_> = self.members.iter().map(|stat| stat.id).collect();
        inputs.sort_unstable();
        Job {
            reason,
            inputs,
            output_level: self.output_level,
            keys,
            cuts,
            input_bytes: self.input_bytes,
            copy_bytes: self.copy_bytes,
            freed_bytes: self.freed_bytes,
        }
    }

    fn hull(&self) -> Option<KeyRange> {
        let keys: Option<Vec<&KeyRange>> = self.members.iter().map(|stat| stat.keys.as_ref()).collect();
        let keys = keys?;
        Some(KeyRange {
            first: keys.iter().map(|keys| &keys.first).min()?.clone(),
            last: keys.iter().map(|keys| &keys.last).max()?.clone(),
        })
    }
}

/// Keeps the draft with the largest `gain` per byte copied; the first one wins a draw.
pub(super) struct Best<'a> {
    /// Bytes that the syncs and the index flush of any job are worth.
    job_cost_bytes: u64,
    best: Option<(u64, Draft<'a>)>,
}

impl<'a> Best<'a> {
    pub(super) fn new(limits: &Limits) -> Best<'a> {
        Best {
            job_cost_bytes: (limits.segment_bytes / 16).max(1),
            best: None,
        }
    }

    pub(super) fn offer(&mut self, gain: u64, draft: Draft<'a>) {
        let cost = |draft: &Draft<'_>| u128::from(draft.copy_bytes + self.job_cost_bytes);
        let better = self
            .best
            .as_ref()
            .is_none_or(|(most, best)| u128::from(gain) * cost(best) > u128::from(*most) * cost(&draft));
        if better {
            self.best = Some((gain, draft));
        }
    }

    pub(super) fn take(self) -> Option<Draft<'a>> {
        self.best.map(|(_, draft)| draft)
    }
}
