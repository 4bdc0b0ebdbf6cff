//! How fast a job may copy.

use std::time::{Duration, Instant};

use crate::pace::{Pace, UNBOUNDED};

/// Longest sleep at once, so that a job notices a pause soon.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Bytes per second, spread evenly. Blocking: the caller sleeps here.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: u64,
    pace: Pace,
}

impl Throttle {
    /// `bytes_per_second`: 0 for no bound.
    pub(super) fn new(bytes_per_second: u64) -> Throttle {
        Throttle {
            rate: match bytes_per_second {
                0 => UNBOUNDED,
                rate => rate,
            },
            pace: Pace::new(Instant::now()),
        }
    }

    /// Takes `bytes`, and sleeps, for a tenth of a second at most, while more was taken than the time allows.
    pub(super) fn take(&mut self, bytes: u64) {
        let now = Instant::now();
        self.pace.take(now, bytes, self.rate);
        let ahead = self.pace.paid_until().saturating_duration_since(now);
        if !ahead.is_zero() {
            std::thread::sleep(ahead.min(SLEEP_MAX));
        }
    }
}
