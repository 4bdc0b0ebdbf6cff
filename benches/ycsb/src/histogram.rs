//! Latency of operations.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies from 1 microsecond up to an hour, with three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

/// Longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

impl Latencies {
    /// No latency yet.
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3)
            .expect("1 us to 1 h with three digits are bounds that the histogram accepts");
        Latencies { histogram }
    }

    /// Counts one operation that took `duration`.
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US);
        self.histogram.saturating_record(us.clamp(1, LONGEST_US));
    }

    /// Adds the counts of `other`.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.histogram
            .add(&other.histogram)
            .expect("both histograms have the same bounds");
    }

    /// Operations counted.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency, in microseconds, that the share `quantile` of the operations did not exceed.
    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The average, in microseconds.
    pub(crate) fn mean(&self) -> f64 {
        self.histogram.mean()
    }

    /// The shortest, in microseconds; 0 when nothing was counted.
    pub(crate) fn min(&self) -> u64 {
        self.histogram.min()
    }

    /// The longest, in microseconds.
    pub(crate) fn max(&self) -> u64 {
        self.histogram.max()
    }

    /// The usual percentiles.
    pub(crate) fn summary(&self) -> LatencySummary {
        LatencySummary {
            mean: self.mean().round() as u64,
            min: self.min(),
            p50: self.at(0.5),
            p90: self.at(0.9),
            p95: self.at(0.95),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.max(),
        }
    }
}

/// Percentiles in microseconds; zeros when nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) mean: u64,
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl LatencySummary {
    /// One line of milliseconds.
    pub(crate) fn line(&self) -> String {
        let ms = |us: u64| us as f64 / 1000.0;
        format!(
            "latency ms   p50 {:.3}   p90 {:.3}   p99 {:.3}   p99.9 {:.3}   max {:.3}",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_thousandth() {
        let mut latencies = Latencies::new();
        for us in 1..=100_000 {
            latencies.record(Duration::from_micros(us));
        }
        assert_eq!(latencies.count(), 100_000);
        let summary = latencies.summary();
        for (got, want) in [
            (summary.p50, 50_000),
            (summary.p90, 90_000),
            (summary.p95, 95_000),
            (summary.p99, 99_000),
            (summary.p999, 99_900),
            (summary.max, 100_000),
            (summary.mean, 50_000),
        ] {
            let difference = got.abs_diff(want) as f64;
            assert!(difference <= want as f64 * 0.002, "{got} for {want}");
        }
    }

    #[test]
    fn merging_equals_recording_together() {
        let (mut left, mut right, mut both) = (Latencies::new(), Latencies::new(), Latencies::new());
        for us in 1..2_000 {
            let duration = Duration::from_micros(us * 7);
            if us % 3 == 0 { &mut left } else { &mut right }.record(duration);
            both.record(duration);
        }
        left.merge(&right);
        assert_eq!(left.count(), both.count());
        assert_eq!(left.summary(), both.summary());
    }

    #[test]
    fn extremes_are_kept() {
        let mut latencies = Latencies::new();
        assert_eq!((latencies.summary().min, latencies.summary().max), (0, 0));
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 2);
        assert_eq!(latencies.summary().p50, 1);
        assert!(latencies.summary().max >= LONGEST_US);
    }
}
