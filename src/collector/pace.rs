//! How fast a job may copy.

use std::time::{Duration, Instant};

/// A rate without a bound.
pub(super) const UNBOUNDED: u64 = u64::MAX;

/// Longest sleep at once, so that a change of the rate or a pause is noticed soon.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Time whose bytes may be taken at once after a rest.
const BURST: Duration = Duration::from_millis(50);

/// Bytes per second, spread evenly, at a rate that changes. Blocking: the caller sleeps here.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Up to when what was taken is paid for.
    paid_until: Instant,
}

impl Throttle {
    pub(super) fn new() -> Throttle {
        Throttle {
            paid_until: Instant::now(),
        }
    }

    /// Takes `bytes` once the time for what was taken before has passed, or `stopped` says so.
    ///
    /// `rate`: bytes per second as of now; 0 for none now, [`UNBOUNDED`].
    pub(super) fn take(&mut self, bytes: u64, rate: impl Fn() -> u64, stopped: impl Fn() -> bool) {
        loop {
            let (now, rate) = (Instant::now(), rate());
            let wait = match rate {
                0 => SLEEP_MAX,
                _ => self.paid_until.saturating_duration_since(now),
            };
            if rate == UNBOUNDED || stopped() || wait.is_zero() {
                self.paid_until = after(self.paid_until, now, bytes, rate);
                return;
            }
            std::thread::sleep(wait.min(SLEEP_MAX));
        }
    }
}

/// Up to when `bytes` more are paid for, at `rate` bytes per second.
fn after(paid_until: Instant, now: Instant, bytes: u64, rate: u64) -> Instant {
    if rate == UNBOUNDED || rate == 0 {
        return now;
    }
    let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
    // What a rest has saved counts for a moment only.
    paid_until.max(now.checked_sub(BURST).unwrap_or(now)) + time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_needs_its_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(after(now, now, 500, 1000), now + second / 2);
        assert_eq!(after(now + second, now, 500, 1000), now + second * 3 / 2);
        assert_eq!(
            after(now, now + second * 60, 500, 1000),
            now + second * 60 + second / 2 - BURST,
            "a rest saves a burst"
        );
        assert_eq!(after(now + second, now, u64::MAX, UNBOUNDED), now);
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let mut throttle = Throttle::new();
        throttle.take(u64::MAX / 2, || 1, || false);
        throttle.take(1, || 1, || true);
        throttle.take(1, || 0, || true);
        throttle.take(1, || UNBOUNDED, || false);
    }
}
