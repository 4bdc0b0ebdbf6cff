//! Live bytes per segment, as every engine keeps them in memory.

use std::collections::BTreeMap;

use nezha_vlog::SegmentId;

/// Live bytes per segment: the sum of the record lengths of the live records placed there. Exact at all times.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LiveBytes(BTreeMap<SegmentId, u64>);

impl LiveBytes {
    pub(super) fn new(by_segment: BTreeMap<SegmentId, u64>) -> LiveBytes {
        LiveBytes(by_segment)
    }

    pub(super) fn by_segment(&self) -> &BTreeMap<SegmentId, u64> {
        &self.0
    }

    /// Adds `delta` and returns the new absolute values of the segments it touches (0: nothing live is left).
    ///
    /// Panics if a count would fall below zero: the accounting would be wrong, and gc would delete live values.
    pub(super) fn add(&mut self, delta: &BTreeMap<SegmentId, i64>) -> Vec<(SegmentId, u64)> {
        let mut touched = Vec::with_capacity(delta.len());
        for (&segment, &change) in delta {
            let old = self.0.get(&segment).copied().unwrap_or(0);
            let Some(new) = old.checked_add_signed(change) else {
                panic!("live bytes of segment {segment:?} would become {old} + {change}")
            };
            match new {
                0 => self.0.remove(&segment),
                _ => self.0.insert(segment, new),
            };
            touched.push((segment, new));
        }
        touched
    }
}
