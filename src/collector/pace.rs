//! How fast a job may copy.

use std::time::{Duration, Instant};

/// Longest sleep at once, so that a job notices a pause soon.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Bytes per second, spread evenly. Blocking: the caller sleeps here.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    started: Instant,
    taken: u64,
}

impl Throttle {
    /// `bytes_per_second`: 0 for no bound.
    pub(super) fn new(bytes_per_second: u64) -> Throttle {
        Throttle {
            bytes_per_second,
            started: Instant::now(),
            taken: 0,
        }
    }

    /// Takes `bytes`, and sleeps, for a tenth of a second at most, while more was taken than the time allows.
    pub(super) fn take(&mut self, bytes: u64) {
        self.taken += bytes;
        let ahead = self.due(self.started.elapsed());
        if !ahead.is_zero() {
            std::thread::sleep(ahead.min(SLEEP_MAX));
        }
    }

    /// How long what was taken is ahead of its time.
    fn due(&self, elapsed: Duration) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let time = Duration::from_secs_f64(self.taken as f64 / self.bytes_per_second as f64);
        time.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_needs_its_time() {
        let mut throttle = Throttle::new(1000);
        throttle.taken = 500;
        assert_eq!(
            throttle.due(Duration::from_millis(200)),
            Duration::from_millis(300)
        );
        assert_eq!(throttle.due(Duration::from_secs(2)), Duration::ZERO);
        let mut unbounded = Throttle::new(0);
        unbounded.taken = u64::MAX;
        assert_eq!(unbounded.due(Duration::ZERO), Duration::ZERO);
    }
}
