//! Chooses the rate at which a job copies, so that the foreground hardly notices.
//!
//! What the foreground waits for on this node is the log's groups: one write and one sync each. A job works for
//! [`WORK_TICKS`] and rests for [`REST_TICKS`]; the time of a group while it works is compared with that while it rests,
//! under the same load. If groups take longer by more than [`SLOWDOWN_PER_MILLE`], the rate falls, else it rises. While
//! there are no groups nothing holds a job back, and nothing is learned: whoever comes then finds the rate that the last
//! ones left.

use std::time::Duration;

use crate::pace::UNBOUNDED;

/// Time between two looks.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Ticks of work and of rest, in turn. The first tick of each is not looked at: it holds what came before.
const WORK_TICKS: u32 = 17;
const REST_TICKS: u32 = 3;
/// How much longer a group may take while a job works, per 1000.
const SLOWDOWN_PER_MILLE: u64 = 100;
/// Groups that make a mean; fewer wait for those of the next turns.
const GROUPS_MIN: u64 = 5;
/// After so many ticks without a group nobody is there to be disturbed.
const QUIET_TICKS: u32 = 10;
/// A job is never slower than this, in bytes per second.
const RATE_MIN: f64 = (4 << 20) as f64;
/// Rate at the start, in bytes per second.
const RATE_START: f64 = (16 << 20) as f64;

/// Number of groups, and the time that they took in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) groups: u64,
    pub(super) nanos: u64,
}

impl Sample {
    fn add(&mut self, other: Sample) {
        self.groups += other.groups;
        self.nanos += other.nanos;
    }

    fn mean(self) -> Option<u64> {
        (self.groups >= GROUPS_MIN).then(|| self.nanos / self.groups)
    }
}

/// What the rate depends on besides the groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// A job runs.
    pub(super) copying: bool,
    /// Space is short: the foreground has to wait if it must.
    pub(super) urgent: bool,
    /// Bytes per second that keep space from running short.
    pub(super) needed: u64,
    /// What the operator allows; [`UNBOUNDED`] for no bound.
    pub(super) ceiling: u64,
}

/// Invariant: the rate is between [`RATE_MIN`] and 1000 times [`RATE_START`].
#[derive(Debug)]
pub(super) struct Governor {
    rate: f64,
    tick: u32,
    work: Sample,
    rest: Sample,
    /// Ticks since the last group.
    quiet: u32,
}

impl Governor {
    pub(super) fn new() -> Governor {
        Governor {
            rate: RATE_START,
            tick: 0,
            work: Sample::default(),
            rest: Sample::default(),
            quiet: QUIET_TICKS,
        }
    }

    /// Takes in what the last tick brought, and returns the rate for the next one; 0 in a rest.
    pub(super) fn next(&mut self, sample: Sample, now: Circumstances) -> u64 {
        self.quiet = match sample.groups {
            0 => self.quiet.saturating_add(1),
            _ => 0,
        };
        if now.urgent || !now.copying || self.quiet >= QUIET_TICKS {
            (self.tick, self.work, self.rest) = (0, Sample::default(), Sample::default());
            return now.ceiling;
        }
        match self.tick {
            0 => {}
            tick if tick < WORK_TICKS => self.work.add(sample),
            WORK_TICKS => {}
            _ => self.rest.add(sample),
        }
        self.tick += 1;
        if self.tick == WORK_TICKS + REST_TICKS {
            self.adjust();
            self.tick = 0;
        }
        if self.tick >= WORK_TICKS {
            return 0;
        }
        let rate = self.rate.max(now.needed as f64) as u64;
        rate.min(now.ceiling).min(UNBOUNDED - 1)
    }

    fn adjust(&mut self) {
        let (Some(work), Some(rest)) = (self.work.mean(), self.rest.mean()) else {
            return;
        };
        let longer = |per_mille: u64| work.saturating_mul(1000) > rest.saturating_mul(1000 + per_mille);
        let factor = match () {
            () if longer(1000) => 0.5,
            () if longer(SLOWDOWN_PER_MILLE) => 0.8,
            () => 1.25,
        };
        self.rate = (self.rate * factor).clamp(RATE_MIN, RATE_START * 1000.0);
        (self.work, self.rest) = (Sample::default(), Sample::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Circumstances = Circumstances {
        copying: true,
        urgent: false,
        needed: 0,
        ceiling: UNBOUNDED,
    };

    /// Runs cycles in which a group takes `work` nanoseconds beside a job and `rest` without one; the last working rate.
    fn after_cycles(governor: &mut Governor, cycles: u32, work: u64, rest: u64, now: Circumstances) -> u64 {
        let (mut last, mut rate) = (0, governor.next(Sample::default(), now));
        for _ in 0..cycles * (WORK_TICKS + REST_TICKS) {
            let nanos = if rate == 0 { rest } else { work };
            if rate > 0 {
                last = rate;
            }
            let sample = Sample {
                groups: 100,
                nanos: nanos * 100,
            };
            rate = governor.next(sample, now);
        }
        last
    }

    #[test]
    fn the_rate_follows_the_foreground() {
        let start = RATE_START as u64;
        let mut governor = Governor::new();
        assert!(after_cycles(&mut governor, 10, 1_000_000, 1_000_000, CALM) > start * 4);
        assert!(after_cycles(&mut governor, 60, 1_200_000, 1_000_000, CALM) < start / 2);
        assert_eq!(
            after_cycles(&mut governor, 60, 1_200_000, 1_000_000, CALM),
            RATE_MIN as u64,
            "a job always goes on"
        );
        let needed = Circumstances {
            needed: 3 * start,
            ..CALM
        };
        assert_eq!(
            after_cycles(&mut governor, 3, 1_200_000, 1_000_000, needed),
            3 * start
        );
        let ceiling = Circumstances {
            ceiling: 1000,
            ..needed
        };
        assert_eq!(
            after_cycles(&mut governor, 3, 1_000_000, 1_000_000, ceiling),
            1000
        );
    }

    #[test]
    fn without_a_foreground_or_in_need_nothing_holds_a_job_back() {
        let mut governor = Governor::new();
        let busy = Sample {
            groups: 100,
            nanos: 100,
        };
        assert_eq!(governor.next(busy, CALM), RATE_START as u64);
        for _ in 1..QUIET_TICKS {
            assert!(
                governor.next(Sample::default(), CALM) < UNBOUNDED,
                "it may only rest"
            );
        }
        for _ in 0..10 * (WORK_TICKS + REST_TICKS) {
            assert_eq!(governor.next(Sample::default(), CALM), UNBOUNDED);
        }
        // Once, a job went on for minutes with the rate at which it had worked alone.
        assert_eq!(governor.next(busy, CALM), RATE_START as u64);
        let urgent = Circumstances { urgent: true, ..CALM };
        for _ in 0..2 * (WORK_TICKS + REST_TICKS) {
            assert_eq!(governor.next(busy, urgent), UNBOUNDED, "no rest either");
        }
    }

    #[test]
    fn few_groups_count_together() {
        let mut governor = Governor::new();
        let mut rate = governor.next(Sample::default(), CALM);
        for tick in 0..20 * (WORK_TICKS + REST_TICKS) {
            // One group in most ticks: a rest has fewer than it takes for a mean.
            let groups = u64::from(tick % 4 != 3);
            let nanos = groups * if rate == 0 { 1_000_000 } else { 3_000_000 };
            rate = governor.next(Sample { groups, nanos }, CALM);
        }
        assert_eq!(governor.rate, RATE_MIN);
    }
}
