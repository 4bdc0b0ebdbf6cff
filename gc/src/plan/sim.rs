//! A store without bytes: keys, the segments they are in, and a collector that runs beside the writes.
//!
//! One write is one step. A job copies at a rate relative to the bytes written, sees overwrites and deletes while it
//! runs, and relocates what is unchanged at its end, as the real one does. Every invariant is asserted as it goes.

mod check;
mod collector;
mod figures;
mod files;
pub(super) mod workload;

use std::collections::BTreeMap;

use nezha_vlog::SegmentId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{LEVEL_LOG, LEVEL_RUNS, Limits, Pressure, SegmentStat, Usage, pressure, share};

pub(super) use check::check_job;
pub(super) use figures::Figures;
use files::{Record, Running, Segment};

/// Length of an output segment; a log segment is twice as long, as by default.
pub(super) const SEGMENT_BYTES: u64 = 64 * RECORD_BYTES;
/// Mean length of a record.
pub(super) const RECORD_BYTES: u64 = 4 << 10;
/// Length of a delete in the log.
const DELETE_BYTES: u64 = 64;
const FRAME_BYTES: u64 = 48;
const OVERHEAD_BYTES: u64 = 160;

#[derive(Debug, Clone, Copy)]
struct Place {
    segment: SegmentId,
    revision: u64,
    bytes: u64,
}

/// The store.
pub(super) struct Sim {
    pub(super) rng: StdRng,
    pub(super) limits: Limits,
    /// Bytes that gc copies per byte written while nothing is urgent; more otherwise.
    pub(super) pace: f64,
    pub(super) figures: Figures,
    /// Log segments from this one on are not purged: a lagging follower needs them.
    pub(super) follower: Option<SegmentId>,
    index: BTreeMap<u64, Place>,
    segments: BTreeMap<SegmentId, Segment>,
    active: SegmentId,
    running: Option<Running>,
    revision: u64,
    sorted: u64,
    live_bytes: u64,
    file_bytes: u64,
    credit: f64,
    /// Something changed since the last plan.
    fresh: bool,
    /// A crash may have left segments of L2 that overlap.
    crashed: bool,
}

impl Sim {
    pub(super) fn new(seed: u64, limits: Limits) -> Sim {
        let mut sim = Sim {
            rng: StdRng::seed_from_u64(seed),
            limits,
            pace: 3.0,
            figures: Figures::default(),
            follower: None,
            index: BTreeMap::new(),
            segments: BTreeMap::new(),
            active: SegmentId::new(0),
            running: None,
            revision: 0,
            sorted: 0,
            live_bytes: 0,
            file_bytes: 0,
            credit: 0.0,
            fresh: true,
            crashed: false,
        };
        sim.roll();
        sim
    }

    /// Limits in proportion to the simulated segments.
    pub(super) fn limits() -> Limits {
        let scale = |bytes: u64| bytes / (Limits::default().segment_bytes / SEGMENT_BYTES);
        let limits = Limits::default();
        Limits {
            l0_debt_bytes_min: scale(limits.l0_debt_bytes_min),
            space_floor_bytes: scale(limits.space_floor_bytes),
            job_bytes_max: scale(limits.job_bytes_max),
            segment_bytes: SEGMENT_BYTES,
            ..limits
        }
    }

    pub(super) fn put(&mut self, key: u64) {
        let bytes = self.rng.random_range(RECORD_BYTES / 2..=RECORD_BYTES * 3 / 2);
        self.step(key, Some(bytes));
    }

    pub(super) fn delete(&mut self, key: u64) {
        self.step(key, None);
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.index.keys().next().copied()
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn step(&mut self, key: u64, value: Option<u64>) {
        self.admit(value.unwrap_or(DELETE_BYTES));
        self.revision += 1;
        let revision = self.revision;
        if let Some(old) = self.index.remove(&key) {
            self.segments.get_mut(&old.segment).unwrap().live -= old.bytes;
            self.live_bytes -= old.bytes;
        }
        let segment = self.segments.get_mut(&self.active).unwrap();
        let length = value.unwrap_or(DELETE_BYTES) + FRAME_BYTES;
        segment.bytes += length;
        self.file_bytes += length;
        self.figures.log_bytes += length;
        self.figures.logical_bytes += value.unwrap_or(DELETE_BYTES);
        if let Some(bytes) = value {
            segment.live += bytes;
            segment.records.push(Record { key, revision, bytes });
            self.live_bytes += bytes;
            let place = Place {
                segment: self.active,
                revision,
                bytes,
            };
            self.index.insert(key, place);
        }
        if segment.bytes >= 2 * SEGMENT_BYTES {
            self.roll();
        }
        self.sample();
    }

    fn roll(&mut self) {
        self.active = SegmentId::new(self.active.get() + 1);
        self.segments.insert(self.active, Segment::new(LEVEL_LOG));
        self.fresh = true;
    }

    /// Pins a share of the sealed files, as scans and transfers do, and unpins the others.
    pub(super) fn pin(&mut self, per_mille: u64) {
        let active = self.active;
        for (id, segment) in &mut self.segments {
            segment.pinned = *id != active && self.rng.random_range(0..1000) < per_mille;
        }
        self.fresh = true;
    }

    /// A follower stops at the log's end, or catches up.
    pub(super) fn lag(&mut self, lags: bool) {
        self.follower = lags.then_some(self.active);
        self.fresh = true;
    }

    pub(super) fn stats(&self) -> Vec<SegmentStat> {
        let sealed = self.segments.iter().filter(|(id, _)| **id != self.active);
        let busy = |id: &SegmentId| {
            let running = self.running.as_ref();
            running.is_some_and(|running| running.job.inputs.contains(id))
        };
        let needed = |id: &SegmentId| self.follower.is_some_and(|follower| *id >= follower);
        let stats = sealed.map(|(id, segment)| SegmentStat {
            id: *id,
            level: segment.level,
            bytes: segment.bytes,
            live_bytes: segment.live,
            overhead_bytes: if id.is_log() { 0 } else { OVERHEAD_BYTES },
            keys: (!id.is_log()).then(|| segment.keys()),
            eligible: !(segment.pinned || busy(id) || id.is_log() && needed(id)),
        });
        stats.collect()
    }

    fn usage(&self) -> Usage {
        Usage {
            file_bytes: self.file_bytes,
            live_bytes: self.live_bytes,
        }
    }

    fn pressure(&self) -> Pressure {
        pressure(&[], self.usage(), &self.limits)
    }

    fn sample(&mut self) {
        let now = self.pressure();
        let over = now.file_bytes.saturating_sub(now.live_bytes);
        let figures = &mut self.figures;
        let taken = share(over, now.allowed_bytes());
        figures.allowance_max_per_mille = figures.allowance_max_per_mille.max(taken);
        if self.revision.is_multiple_of(64) {
            let log = self
                .segments
                .values()
                .filter(|segment| segment.level == LEVEL_LOG);
            figures.l0_sum += share(log.map(|segment| segment.bytes).sum(), now.live_bytes).min(100_000);
            figures.samples += 1;
            figures.amplification_sum += now.amplification_per_mille.min(100_000);
            if over > self.limits.space_floor_bytes {
                let most = figures.amplification_max_per_mille;
                figures.amplification_max_per_mille = most.max(now.amplification_per_mille);
            }
            figures.files_max = figures.files_max.max(self.segments.len() as u64);
            if self.revision.is_multiple_of(1024) {
                let overlap = self.overlap();
                self.figures.overlap_sum += overlap * 16;
                self.figures.overlap_max = self.figures.overlap_max.max(overlap);
            }
        }
    }

    /// Sorted segments over one key, at most.
    pub(super) fn overlap(&self) -> u64 {
        let sorted = self
            .segments
            .values()
            .filter(|s| s.level >= LEVEL_RUNS && s.live > 0);
        let mut ends: Vec<(u64, i64)> = Vec::new();
        for (first, last) in sorted.map(Segment::ends) {
            ends.extend([(first * 2, 1), (last * 2 + 1, -1)]);
        }
        ends.sort_unstable();
        let mut open = 0;
        ends.iter()
            .map(|(_, by)| {
                open += by;
                open
            })
            .max()
            .unwrap_or(0) as u64
    }

    /// Starts the figures anew.
    pub(super) fn measure(&mut self) {
        self.figures = Figures::default();
    }

    /// Files, and the number that as many bytes would fill.
    pub(super) fn files(&self) -> (u64, u64) {
        (self.segments.len() as u64, self.file_bytes / SEGMENT_BYTES + 1)
    }
}
