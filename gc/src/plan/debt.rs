//! How far the order of the files is from what the limits ask.

use super::map::Map;
use super::{Limits, SegmentStat, Usage, portion, share};

/// Work that order asks for, as a status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    /// Length in bytes of the log segments that have live bytes and may be collected.
    pub l0_bytes: u64,
    /// The length that is allowed; see [`Limits::l0_debt_per_mille`].
    pub l0_bytes_max: u64,
    /// Sorted segments that cover one key, at most; counts segments that may not be collected too.
    pub overlap: u64,
    /// The number that is allowed.
    pub overlap_max: u64,
}

/// Compares L0 and the overlap of L1 and L2 with the limits. Panics as [`super::plan()`] does.
pub fn debt(stats: &[SegmentStat], usage: Usage, limits: &Limits) -> Debt {
    Debt::of(&Map::new(stats), usage.live_bytes, limits)
}

impl Debt {
    pub(super) fn of(map: &Map<'_>, live_bytes: u64, limits: &Limits) -> Debt {
        Debt {
            l0_bytes: map.log.iter().map(|stat| stat.bytes).sum(),
            l0_bytes_max: portion(live_bytes, u64::from(limits.l0_debt_per_mille))
                .max(limits.l0_debt_bytes_min),
            overlap: map.overlap(),
            overlap_max: u64::from(limits.overlap_max.max(1)),
        }
    }

    pub(super) fn exceeds_l0(&self) -> bool {
        self.l0_bytes > self.l0_bytes_max
    }

    pub(super) fn l0_per_mille(&self) -> u64 {
        share(self.l0_bytes, self.l0_bytes_max)
    }

    pub(super) fn overlap_per_mille(&self) -> u64 {
        share(self.overlap, self.overlap_max)
    }
}
