//! Looks at space and at the foreground, many times a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nezha_gc::plan::{Pressure, SpaceState, pressure};
use nezha_vlog::{Log, SegmentId};
use tokio::time::Instant;

use super::gate::{Disk, Space};
use super::governor::{Circumstances, Governor, Sample, TICK};
use super::{Collector, Failure};
use crate::pace::UNBOUNDED;

/// Ticks between two looks at the space.
const SPACE_TICKS: u32 = 3;
/// Weight of the newest look in the mean rate of writes.
const NEWEST: f64 = 0.2;

/// A rate that is measured again and again.
#[derive(Debug, Default)]
struct Rate(f64);

impl Rate {
    fn note(&mut self, bytes: u64, time: Duration) {
        let now = bytes as f64 / time.as_secs_f64().max(0.001);
        self.0 += (now - self.0) * NEWEST;
    }

    fn per_second(&self) -> u64 {
        self.0 as u64
    }
}

/// How much was written to the log, from its segments.
#[derive(Debug, Default)]
struct Growth {
    last: Option<(SegmentId, u64)>,
}

impl Growth {
    /// Bytes since the last call.
    fn take(&mut self, log: &Log) -> u64 {
        let segments = log.segments();
        let Some(newest) = segments.iter().max_by_key(|segment| segment.id) else {
            return 0;
        };
        let Some((id, bytes)) = self.last.replace((newest.id, newest.bytes)) else {
            return 0;
        };
        let newer = segments.iter().filter(|segment| segment.id >= id);
        newer
            .map(|segment| segment.bytes)
            .sum::<u64>()
            .saturating_sub(bytes)
    }
}

impl Collector {
    pub(super) async fn watch(self: Arc<Self>) {
        let mut governor = Governor::new();
        let mut groups = self.groups();
        let (mut growth, mut written, mut unslowed) = (Growth::default(), Rate::default(), Rate::default());
        let (mut looked, mut needed) = (Instant::now(), 0);
        for tick in 0u32.. {
            tokio::time::sleep(TICK).await;
            if tick % SPACE_TICKS == 0 {
                let time = looked.elapsed();
                looked = Instant::now();
                written.note(growth.take(self.store.log()), time);
                let before = self.gate.space();
                if before.state() < SpaceState::Slow {
                    unslowed.note(self.gate.admitted(), time);
                }
                match self.look(before.disk, unslowed.per_second()).await {
                    Ok(space) => {
                        self.tell(&before, &space);
                        self.store.take_appends(space.disk.takes_appends());
                        self.gate.update(space);
                        needed = needed_rate(written.per_second(), space.pressure);
                    }
                    Err(error) => tracing::warn!(%error, "the space cannot be measured; it is tried again"),
                }
            }
            let now = self.groups();
            let sample = Sample {
                groups: now.groups - groups.groups,
                nanos: now.nanos - groups.nanos,
            };
            groups = now;
            let rate = governor.next(sample, self.circumstances(needed));
            self.rate.store(rate, Ordering::Relaxed);
        }
    }

    fn circumstances(&self, needed: u64) -> Circumstances {
        let shared = self.shared();
        Circumstances {
            copying: shared.running.is_some(),
            urgent: self.gate.space().is_urgent(),
            needed,
            ceiling: match self.settings.bytes_per_second {
                0 => UNBOUNDED,
                bytes => bytes,
            },
        }
    }

    fn groups(&self) -> Sample {
        let (groups, nanos) = self.consensus.group_times().sums();
        Sample { groups, nanos }
    }

    /// Measures space and disk.
    async fn look(&self, disk: Disk, unslowed: u64) -> Result<Space, Failure> {
        let (store, limits) = (self.store.clone(), self.settings.limits.clone());
        let purgeable = self.purgeable().index;
        let (automatic, paused) = (self.settings.automatic, self.shared().paused);
        let threads = store.threads().clone();
        let looked = threads.run(move || -> Result<Space, Failure> {
            let found = store.segment_stats(purgeable)?;
            Ok(Space {
                pressure: automatic.then(|| pressure(&found.segments, found.usage, &limits)),
                paused,
                disk: disk.now(store.disk_space()?.free),
                unslowed,
            })
        });
        looked.await?
    }

    /// Logs what changes for writes, and wakes the worker when space gets short.
    fn tell(&self, before: &Space, now: &Space) {
        if now.is_urgent() && !before.is_urgent() {
            self.wake.notify_one();
        }
        match (before.disk.takes_appends(), now.disk.takes_appends()) {
            (true, false) => tracing::warn!(
                free_bytes = now.disk.free_bytes,
                "the disk has no room for what the leader appends: this member stays behind until it has"
            ),
            (false, true) => tracing::info!("there is room for what the leader appends"),
            _ => {}
        }
        match (before.disk.low, now.disk.low) {
            (false, true) => tracing::warn!(
                free_bytes = now.disk.free_bytes,
                reserve_bytes = now.disk.reserve_bytes,
                "the disk is nearly full: writes are refused until there is more room; free some, gc tries as well"
            ),
            (true, false) => {
                tracing::info!(
                    free_bytes = now.disk.free_bytes,
                    "the disk has room again: writes go on"
                );
            }
            _ => {}
        }
        let Some(pressure) = now.pressure.filter(|_| now.state() != before.state()) else {
            return;
        };
        match now.state() >= SpaceState::Slow {
            true => tracing::warn!(%pressure, "space is short"),
            false => tracing::info!(%pressure, "space"),
        }
    }
}

/// The rate at which a job keeps up with writes of `written` bytes per second: hardly any while there is much room, twice
/// as much where gc would get priority, so that it seldom comes to that. A byte that waits longer to be collected is more
/// likely to be garbage by then.
fn needed_rate(written: u64, pressure: Option<Pressure>) -> u64 {
    let Some(pressure) = pressure else { return 0 };
    let garbage = pressure.file_bytes.saturating_sub(pressure.live_bytes);
    let allowed = (pressure.urgent_bytes - pressure.live_bytes).max(1);
    let share = (garbage as f64 / allowed as f64).min(1.0);
    (written as f64 * 2.0 * share * share) as u64
}

#[cfg(test)]
mod tests {
    use nezha_gc::plan::{Limits, Usage};

    use super::*;

    #[test]
    fn what_is_needed_rises_with_the_garbage() {
        let needed = |file_bytes| {
            let usage = Usage {
                file_bytes,
                live_bytes: 10 << 30,
            };
            needed_rate(1000, Some(pressure(&[], usage, &Limits::default())))
        };
        assert_eq!(needed(10 << 30), 0);
        assert_eq!(needed((10 << 30) + (13 << 30) / 4), 500);
        assert_eq!(needed(100 << 30), 2000);
        assert_eq!(needed_rate(1000, None), 0);
    }

    #[test]
    fn a_rate_follows_what_is_measured() {
        let mut rate = Rate::default();
        for _ in 0..50 {
            rate.note(1000, Duration::from_millis(500));
        }
        assert!((1990..=2000).contains(&rate.per_second()), "{rate:?}");
    }
}
