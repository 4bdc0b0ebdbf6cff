//! How fast a job may copy.

use std::time::{Duration, Instant};

use crate::pace::{Pace, UNBOUNDED};

/// Longest sleep at once, so that a change of the rate or a pause is noticed soon.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Bytes per second, spread evenly, at a rate that changes. Blocking: the caller sleeps here.
#[derive(Debug)]
pub(super) struct Throttle {
    pace: Pace,
}

impl Throttle {
    pub(super) fn new() -> Throttle {
        Throttle {
            pace: Pace::new(Instant::now()),
        }
    }

    /// Takes `bytes` once the time for what was taken before has passed, or `stopped` says so.
    ///
    /// `rate`: bytes per second as of now; 0 for none now, [`UNBOUNDED`].
    pub(super) fn take(
        &mut self,
        bytes: u64,
        rate: impl Fn() -> u64,
        stopped: impl Fn() -> bool,
        sleep: impl Fn(Duration),
    ) {
        loop {
            let (now, rate) = (Instant::now(), rate());
            let wait = match rate {
                0 => SLEEP_MAX,
                _ => self.pace.paid_until().saturating_duration_since(now),
            };
            if rate == UNBOUNDED || stopped() || wait.is_zero() {
                self.pace.take(now, bytes, rate);
                return;
            }
            sleep(wait.min(SLEEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_the_wait() {
        let mut throttle = Throttle::new();
        throttle.take(1 << 30, || 1, || false, std::thread::sleep);
        throttle.take(1, || 1, || true, std::thread::sleep);
        throttle.take(1, || 0, || true, std::thread::sleep);
        throttle.take(1, || UNBOUNDED, || false, std::thread::sleep);
    }
}
