//! Bytes per second: what a collection copies and what a snapshot sends.

use std::time::{Duration, Instant};

/// A rate without a bound.
pub(crate) const UNBOUNDED: u64 = u64::MAX;

/// Time whose bytes may be taken at once after a rest.
const BURST: Duration = Duration::from_millis(50);

/// Spreads bytes evenly over time. Never waits by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Up to when what was taken is paid for.
    paid_until: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { paid_until: now }
    }

    /// Returns when more may be taken: in the past, now or later.
    pub(crate) fn paid_until(&self) -> Instant {
        self.paid_until
    }

    /// Takes `bytes` at `rate` bytes per second: 1 and more, or [`UNBOUNDED`].
    pub(crate) fn take(&mut self, now: Instant, bytes: u64, rate: u64) {
        if rate == UNBOUNDED {
            self.paid_until = now;
            return;
        }
        let time = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        // What a rest has saved counts for a moment only.
        let from = self.paid_until.max(now.checked_sub(BURST).unwrap_or(now));
        self.paid_until = from + time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_needs_its_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(now);
        pace.take(now, 500, 1000);
        assert_eq!(pace.paid_until(), now + second / 2);
        pace.take(now, 500, 1000);
        assert_eq!(pace.paid_until(), now + second);
        let later = now + second * 60;
        pace.take(later, 500, 1000);
        assert_eq!(
            pace.paid_until(),
            later + second / 2 - BURST,
            "a rest saves a burst"
        );
        pace.take(now, u64::MAX, UNBOUNDED);
        assert_eq!(pace.paid_until(), now);
    }
}
