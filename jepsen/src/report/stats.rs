//! Figures of a history: counts by kind, rates and latencies over time. Pure, one pass over the operations.

use std::collections::BTreeMap;

use super::svg::seconds;
use crate::history::{Call, Fault, History, Operation, Outcome};

/// Words for the kinds of calls, in the order in which tables and legends show them.
pub(super) const KINDS: [&str; 6] = ["read", "write", "cas", "delete", "append", "scan"];
/// Widths of buckets in seconds: a plot has the finest that suits, and at most [`BUCKETS_MAX`] of them.
const BUCKET_SECONDS: [f64; 12] = [
    0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];
const BUCKETS_MAX: f64 = 400.0;
/// So many buckets a plot has in any case.
const BUCKETS_MIN: f64 = 60.0;
/// So many operations a bucket has on average, as far as [`BUCKETS_MIN`] allows.
const OPERATIONS_MIN: f64 = 30.0;

/// The place of a call's kind in [`KINDS`].
pub(super) fn kind(call: &Call) -> usize {
    match call {
        Call::Read { .. } => 0,
        Call::Write { .. } => 1,
        Call::Cas { .. } => 2,
        Call::Delete { .. } => 3,
        Call::Append { .. } => 4,
        Call::Scan { .. } => 5,
    }
}

/// The value below or at which `percent` of the sorted values lie (nearest rank).
pub(crate) fn percentile(sorted: &[u64], percent: f64) -> Option<u64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The last moment of a history in nanoseconds.
pub(super) fn end(history: &History) -> u64 {
    let operations = history.operations.iter().map(|o| o.ended.unwrap_or(o.invoked));
    let faults = history.faults.iter().map(|f| f.ended.unwrap_or(f.began));
    operations.chain(faults).max().unwrap_or(0)
}

/// Latencies in nanoseconds of what was acknowledged within a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latency {
    pub median: u64,
    pub p99: u64,
    pub max: u64,
}

/// What was answered in one stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bucket {
    /// From, and for how long, in seconds.
    pub from: f64,
    pub span: f64,
    /// Acknowledged, by kind.
    pub ok: [u64; KINDS.len()],
    pub fail: u64,
    pub unknown: u64,
    pub latency: Option<Latency>,
}

/// A run cut into stretches of equal width, so that a page does not grow with its operations.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Width of each but the last, in seconds.
    pub width: f64,
    pub buckets: Vec<Bucket>,
}

impl Buckets {
    /// Counts operations that were asked up to `until` where they ended. A rest shorter than half a bucket belongs to the last.
    pub(super) fn of(history: &History, until: u64) -> Buckets {
        let total = seconds(end(history)).max(1e-3);
        // Few operations need wide buckets, or a rate is nothing but noise; yet not so wide that nothing is seen.
        let calm = OPERATIONS_MIN * total / history.operations.len().max(1) as f64;
        let at_least = (total / BUCKETS_MAX).max(calm.min(total / BUCKETS_MIN));
        let width = BUCKET_SECONDS
            .iter()
            .copied()
            .find(|w| *w >= at_least)
            .unwrap_or(at_least);
        let last = ((total / width).round() as usize).max(1) - 1;
        let mut buckets: Vec<Bucket> = (0..=last)
            .map(|i| {
                let from = i as f64 * width;
                let span = if i == last { total - from } else { width };
                Bucket {
                    from,
                    span,
                    ..Bucket::default()
                }
            })
            .collect();
        let mut latencies: Vec<Vec<u64>> = vec![Vec::new(); buckets.len()];
        for operation in history
            .operations
            .iter()
            .filter(|operation| operation.invoked <= until)
        {
            let at = operation.ended.unwrap_or(operation.invoked);
            let i = ((seconds(at) / width) as usize).min(last);
            match operation.outcome {
                Outcome::Ok { .. } => {
                    buckets[i].ok[kind(&operation.call)] += 1;
                    latencies[i].push(took(operation));
                }
                Outcome::Fail { .. } => buckets[i].fail += 1,
                Outcome::Unknown { .. } => buckets[i].unknown += 1,
            }
        }
        for (bucket, mut latencies) in buckets.iter_mut().zip(latencies) {
            latencies.sort_unstable();
            bucket.latency = percentile(&latencies, 50.0)
                .zip(percentile(&latencies, 99.0))
                .zip(latencies.last())
                .map(|((median, p99), max)| Latency {
                    median,
                    p99,
                    max: *max,
                });
        }
        Buckets { width, buckets }
    }
}

/// Nanoseconds from invocation to answer.
pub(super) fn took(operation: &Operation) -> u64 {
    operation
        .ended
        .unwrap_or(operation.invoked)
        .saturating_sub(operation.invoked)
}

/// Faults by kind: how many, and for how long in all. Those that need no undoing have no length.
pub(super) fn faults(faults: &[Fault]) -> BTreeMap<String, (u64, u64)> {
    let mut kinds = BTreeMap::new();
    for fault in faults {
        let (count, nanoseconds): &mut (u64, u64) = kinds.entry(fault.kind.clone()).or_default();
        *count += 1;
        *nanoseconds += fault.ended.map_or(0, |ended| ended.saturating_sub(fault.began));
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    const SECOND: u64 = 1_000_000_000;

    fn operation(invoked: u64, ended: Option<u64>, outcome: Outcome) -> Operation {
        Operation {
            process: 1,
            invoked,
            ended,
            endpoint: String::new(),
            call: Call::Write {
                key: "k".into(),
                value: "v".into(),
            },
            outcome,
        }
    }

    fn written() -> Outcome {
        Outcome::Ok {
            answer: Answer::Written { revision: None },
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50.0), Some(50));
        assert_eq!(percentile(&hundred, 99.0), Some(99));
        assert_eq!(percentile(&[1, 2, 3], 50.0), Some(2));
        assert_eq!(percentile(&[1, 2, 3], 99.0), Some(3));
        assert_eq!(percentile(&[7], 0.0), Some(7));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn operations_count_where_they_ended() {
        let timeout = Outcome::Unknown {
            why: "timeout".into(),
        };
        let refused = Outcome::Fail {
            why: "no leader".into(),
        };
        let operations = vec![
            operation(0, Some(SECOND / 10), written()),
            operation(0, Some(SECOND * 3 / 10), written()),
            operation(SECOND / 10, Some(SECOND * 99 / 100), refused),
            operation(SECOND * 5 / 10, None, timeout),
        ];
        let buckets = Buckets::of(
            &History {
                operations,
                faults: vec![],
            },
            u64::MAX,
        );
        assert_eq!(buckets.width, 0.2);
        let counts: Vec<_> = buckets
            .buckets
            .iter()
            .map(|b| (b.ok[1], b.fail, b.unknown))
            .collect();
        assert_eq!(counts, [(1, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0), (0, 1, 0)]);
        let latency = SECOND * 3 / 10;
        assert_eq!(
            buckets.buckets[1].latency,
            Some(Latency {
                median: latency,
                p99: latency,
                max: latency
            })
        );
        assert_eq!(buckets.buckets[2].latency, None);
        assert!(
            (buckets.buckets[4].span - 0.19).abs() < 1e-9,
            "the last bucket ends with the run"
        );
    }

    #[test]
    fn long_runs_have_few_buckets() {
        let day = vec![operation(0, Some(86_400 * SECOND), written())];
        let buckets = Buckets::of(
            &History {
                operations: day,
                faults: vec![],
            },
            u64::MAX,
        );
        assert!(buckets.buckets.len() <= 400, "{}", buckets.buckets.len());
        assert_eq!(
            Buckets::of(&History::default(), u64::MAX).buckets.len(),
            1,
            "an empty run"
        );
    }

    #[test]
    fn faults_add_up_by_kind() {
        let fault = |kind: &str, began, ended| Fault {
            kind: kind.into(),
            members: vec![],
            detail: String::new(),
            began,
            ended,
        };
        let all = [
            fault("kill", 1, Some(5)),
            fault("gc", 2, None),
            fault("kill", 8, Some(9)),
        ];
        let expected = [("gc".to_string(), (1, 0)), ("kill".to_string(), (2, 5))];
        assert_eq!(faults(&all).into_iter().collect::<Vec<_>>(), expected);
    }
}
