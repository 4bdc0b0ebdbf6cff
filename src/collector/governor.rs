//! Chooses the rate at which a job copies, so that the foreground hardly notices.
//!
//! What the foreground waits for on this node is the log's groups: one write and one sync each. A job works for
//! [`WORK_TICKS`] and rests for [`REST_TICKS`]; the time of a group while it works is compared with that while it rests,
//! under the same load. If groups take longer by more than [`SLOWDOWN_PER_MILLE`], the rate falls, else it rises.

use std::time::Duration;

use crate::pace::UNBOUNDED;

/// Time between two looks.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Ticks of work and of rest, in turn. The first tick of each is not looked at: it holds what came before.
const WORK_TICKS: u32 = 17;
const REST_TICKS: u32 = 3;
/// How much longer a group may take while a job works, per 1000.
const SLOWDOWN_PER_MILLE: u64 = 100;
/// Groups below which nobody is there to be disturbed.
const GROUPS_MIN: u64 = 5;
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
}

impl Governor {
    pub(super) fn new() -> Governor {
        Governor {
            rate: RATE_START,
            tick: 0,
            work: Sample::default(),
            rest: Sample::default(),
        }
    }

    /// Takes in what the last tick brought, and returns the rate for the next one; 0 in a rest.
    pub(super) fn next(&mut self, sample: Sample, now: Circumstances) -> u64 {
        if now.urgent || !now.copying {
            self.start_cycle();
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
            self.start_cycle();
        }
        if self.tick >= WORK_TICKS {
            return 0;
        }
        let rate = self.rate.max(now.needed as f64) as u64;
        rate.min(now.ceiling).min(UNBOUNDED - 1)
    }

    fn start_cycle(&mut self) {
        (self.tick, self.work, self.rest) = (0, Sample::default(), Sample::default());
    }

    fn adjust(&mut self) {
        let factor = match (self.work.mean(), self.rest.mean()) {
            (Some(work), Some(rest))
                if work.saturating_mul(1000) > rest.saturating_mul(1000 + SLOWDOWN_PER_MILLE) =>
            {
                0.8
            }
            (Some(_), Some(_)) => 1.25,
            // Nobody writes.
            _ => 4.0,
        };
        self.rate = (self.rate * factor).clamp(RATE_MIN, RATE_START * 1000.0);
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
        for _ in 0..10 * (WORK_TICKS + REST_TICKS) {
            governor.next(Sample::default(), CALM);
        }
        assert!(governor.rate > RATE_START * 900.0);
        let urgent = Circumstances { urgent: true, ..CALM };
        for _ in 0..2 * (WORK_TICKS + REST_TICKS) {
            assert_eq!(
                governor.next(Sample::default(), urgent),
                UNBOUNDED,
                "no rest either"
            );
        }
    }
}
