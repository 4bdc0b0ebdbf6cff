//! What a workload came to.

use std::collections::BTreeMap;

use super::super::Reason;

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub(in crate::plan) struct Figures {
    pub(in crate::plan) logical_bytes: u64,
    pub(in crate::plan) log_bytes: u64,
    pub(in crate::plan) copied_bytes: u64,
    /// Largest bytes of files beyond live bytes, per 1000 of what the bound allows.
    pub(in crate::plan) allowance_max_per_mille: u64,
    /// Largest bytes of files per 1000 live bytes, above the floor.
    pub(in crate::plan) amplification_max_per_mille: u64,
    pub(in crate::plan) amplification_sum: u64,
    pub(in crate::plan) samples: u64,
    pub(in crate::plan) files_max: u64,
    pub(in crate::plan) overlap_max: u64,
    pub(in crate::plan) overlap_sum: u64,
    pub(in crate::plan) l0_sum: u64,
    pub(in crate::plan) refused: u64,
    pub(in crate::plan) slowed: u64,
    pub(in crate::plan) jobs: BTreeMap<Reason, u64>,
}

impl Figures {
    /// Bytes written per logical byte.
    pub(in crate::plan) fn write_amplification(&self) -> f64 {
        (self.log_bytes + self.copied_bytes) as f64 / self.logical_bytes as f64
    }

    pub(in crate::plan) fn line(&self) -> String {
        let mean = |sum: u64| sum as f64 / self.samples.max(1) as f64;
        format!(
            "writes {:.2}; space mean {:.2} max {:.2}; files {}; overlap mean {:.1} max {}; L0 {:.2} of live; \
             slowed {} refused {}; jobs {:?}",
            self.write_amplification(),
            mean(self.amplification_sum) / 1000.0,
            self.amplification_max_per_mille as f64 / 1000.0,
            self.files_max,
            mean(self.overlap_sum),
            self.overlap_max,
            mean(self.l0_sum) / 1000.0,
            self.slowed,
            self.refused,
            self.jobs,
        )
    }
}
