//! The files of a store in figures: what the planner plans with.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use nezha_gc::plan::{KeyRange, LEVEL_LOG, SegmentStat, Usage};
use nezha_vlog::SegmentId;

use super::Store;
use super::error::StoreError;

/// The files of a store, for the planner.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// Number of the store.
    pub store: u64,
    /// Every sealed file.
    pub segments: Vec<SegmentStat>,
    /// Size of the whole.
    pub usage: Usage,
}

impl Store {
    /// What the planner needs to know: every sealed file, and the size of the whole; and which store it is about.
    ///
    /// `purgeable`: log index up to which Raft may be asked to purge; log segments beyond it are not eligible. Nor is
    /// what is damaged, before nothing in it is live: a job would end there, again and again.
    /// Blocking: the first call reads the key ranges of sorted segments.
    pub fn segment_stats(&self, purgeable: u64) -> Result<Statistics, StoreError> {
        let view = self.view();
        let live = view.index.live_bytes();
        let live_of = |id: &SegmentId| live.get(id).copied().unwrap_or(0);
        let waiting = self.retired().doomed();
        let damaged = self.damaged_segments();
        let may_go = |id: &SegmentId| !waiting.contains(id) && (live_of(id) == 0 || !damaged.contains(id));
        let mut stats = Vec::new();
        let segments = self.log.segments();
        let mut file_bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        file_bytes += self.to_write.load(Ordering::Relaxed);
        let mut last = 0;
        for segment in segments.iter().filter(|segment| segment.sealed) {
            last = last.max(segment.last.unwrap_or(0));
            stats.push(SegmentStat {
                id: segment.id,
                level: LEVEL_LOG,
                bytes: segment.bytes,
                live_bytes: live_of(&segment.id),
                overhead_bytes: 0,
                keys: None,
                eligible: last <= purgeable && may_go(&segment.id),
            });
        }
        for segment in view.values.segments() {
            let summary = segment.summary();
            let (keys, readable) = match view.key_range(&segment) {
                Ok(keys) => (keys, true),
                // Its keys are not known: it stands where no key is, in nobody's way.
                Err(StoreError::Damage { .. }) => (
                    KeyRange {
                        first: Bytes::new(),
                        last: Bytes::new(),
                    },
                    live_of(&summary.id) == 0,
                ),
                Err(error) => return Err(error),
            };
            file_bytes += summary.file_bytes;
            stats.push(SegmentStat {
                id: summary.id,
                level: summary.level,
                bytes: summary.file_bytes,
                live_bytes: live_of(&summary.id),
                overhead_bytes: summary.file_bytes - summary.record_bytes,
                keys: Some(keys),
                eligible: readable && may_go(&summary.id),
            });
        }
        let live_bytes = live.values().sum();
        Ok(Statistics {
            store: view.number,
            segments: stats,
            usage: Usage {
                file_bytes,
                live_bytes,
            },
        })
    }
}
