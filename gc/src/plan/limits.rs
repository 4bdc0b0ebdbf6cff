//! Thresholds of the planner, in one place.

/// When to collect, and how much at once.
///
/// The defaults were chosen by simulation, see the table in `plan/sim_test.rs`: a data set overwritten 5 times, uniform and
/// zipfian, in stores of 32 to 1024 segments, stays below 1.9 times its live bytes and writes 1.8 to 2.25 bytes per logical
/// byte (log once, and copies).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A segment with at least this much garbage per 1000 bytes is collected. Default 700, range 50..=1000.
    pub garbage_per_mille: u32,
    /// ... once this much of the garbage allowed by the bound can be freed by one job, per 1000 bytes: a job costs syncs
    /// and a flush of the index, however small. Default 30.
    pub garbage_batch_per_mille: u32,
    /// Eligible log segments are collected once their files exceed this many bytes per 1000 live bytes of the store.
    /// Default 500.
    pub l0_debt_per_mille: u32,
    /// ... and exceed this many bytes. Default 512 MiB.
    pub l0_debt_bytes_min: u64,
    /// Sorted segments that may cover one key, the one of L2 included. Default 12, at least 1: fully sorted.
    pub overlap_max: u32,
    /// Bound on bytes of files per 1000 live bytes. Default 2000, at least 1100.
    pub space_amplification_max_per_mille: u32,
    /// Garbage of this many bytes is always allowed: a few segments. Default 1 GiB, at least eight segments of the log.
    pub space_floor_bytes: u64,
    /// Live bytes copied by one job at most, per 1000 bytes of the garbage allowed: outputs and inputs are there together
    /// for a while. Default 125, range 20..=500.
    pub job_per_mille: u32,
    /// ... and at most this many bytes, but always four outputs, or two segments might never be merged. Default 8 GiB.
    pub job_bytes_max: u64,
    /// Length at which an output ends. Default 64 MiB.
    pub segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            garbage_per_mille: 700,
            garbage_batch_per_mille: 30,
            l0_debt_per_mille: 500,
            l0_debt_bytes_min: 512 << 20,
            overlap_max: 12,
            space_amplification_max_per_mille: 2000,
            space_floor_bytes: 1 << 30,
            job_per_mille: 125,
            job_bytes_max: 8 << 30,
            segment_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// The limits while the disk is nearly full: whatever frees most for what it copies, in jobs as small as can be.
    pub fn starved(&self) -> Limits {
        Limits {
            space_amplification_max_per_mille: 1100,
            space_floor_bytes: 0,
            job_per_mille: 20,
            // Nothing for the sake of order.
            garbage_per_mille: 1000,
            l0_debt_bytes_min: u64::MAX,
            overlap_max: u32::MAX,
            ..self.clone()
        }
    }

    /// The limits of a collection asked for by an operator: everything eligible sorted, no key in two sorted segments,
    /// and no segment with more than a tenth of garbage.
    ///
    /// Bound, floor and sizes stay.
    pub fn thorough(&self) -> Limits {
        Limits {
            garbage_per_mille: self.garbage_per_mille.min(100),
            garbage_batch_per_mille: 0,
            l0_debt_per_mille: 0,
            l0_debt_bytes_min: 0,
            overlap_max: 1,
            // The more at once, the less of L2 is rewritten twice.
            job_per_mille: self.job_per_mille.max(500),
            ..self.clone()
        }
    }
}
