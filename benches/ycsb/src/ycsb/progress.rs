//! Once a second: takes what the clients counted, and prints YCSB's status line on stderr.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::oneshot, task::JoinHandle};

use super::measures::{Measures, Recorder, Series};
use crate::{acks::unix_us, histogram::Latencies};

/// One second of a run. Field names are those of the JSON line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Second {
    /// When it ended, in seconds since the measurement began; the last one may be shorter than the others.
    pub(crate) at: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_second: f64,
    pub(crate) failed: u64,
}

/// How the status line is printed.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    pub(crate) label: String,
    pub(crate) interval: Duration,
    /// Operations of the whole run; `None` when time ends it.
    pub(crate) operations: Option<u64>,
}

/// Everything that was counted, and when.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) total: Measures,
    pub(crate) seconds: Vec<Second>,
}

/// Takes the counts of a recorder until it is told to finish.
#[derive(Debug)]
pub(crate) struct Sampler {
    finish: oneshot::Sender<()>,
    task: JoinHandle<Measured>,
}

impl Sampler {
    /// Begins now; the status line appears if `display` says how.
    pub(crate) fn start(recorder: Arc<Recorder>, display: Option<Display>) -> Sampler {
        let (finish, finished) = oneshot::channel();
        let task = tokio::spawn(sample(recorder, display, finished));
        Sampler { finish, task }
    }

    /// Takes the last counts, and returns all.
    ///
    /// Errors: the task panicked.
    pub(crate) async fn finish(self) -> Result<Measured, tokio::task::JoinError> {
        let _ended_before = self.finish.send(());
        self.task.await
    }
}

async fn sample(
    recorder: Arc<Recorder>,
    display: Option<Display>,
    mut finished: oneshot::Receiver<()>,
) -> Measured {
    let began = Instant::now();
    let mut ticks = tokio::time::interval_at((began + Duration::from_secs(1)).into(), Duration::from_secs(1));
    let mut measured = Measured::default();
    let (mut last, mut shown) = (began, began);
    let mut unshown = Measures::default();
    loop {
        let done = tokio::select! {
            _ = ticks.tick() => false,
            _ = &mut finished => true,
        };
        let counted = recorder.take();
        let now = Instant::now();
        let passed = (now - last).as_secs_f64().max(1e-6);
        last = now;
        measured.seconds.push(Second {
            at: (now - began).as_secs_f64(),
            ops: counted.ops,
            ops_per_second: counted.ops as f64 / passed,
            failed: counted.failed_ops,
        });
        if let Some(display) = &display {
            unshown.merge(counted.clone());
            measured.total.merge(counted);
            let since = now - shown;
            // A tick may come a little early beside the last one.
            if done || since + Duration::from_millis(100) >= display.interval {
                let interval = std::mem::take(&mut unshown);
                let line = status_line(display, now - began, since, measured.total.ops, &interval);
                eprintln!("{} {line}", timestamp(unix_us() / 1_000));
                shown = now;
            }
        } else {
            measured.total.merge(counted);
        }
        if done {
            return measured;
        }
    }
}

/// The status line without its time.
fn status_line(
    display: &Display,
    elapsed: Duration,
    since: Duration,
    total: u64,
    interval: &Measures,
) -> String {
    let mut line = format!("{} sec: {total} operations; ", elapsed.as_secs());
    if !display.label.is_empty() {
        line.insert_str(0, &format!("{} ", display.label));
    }
    if total > 0 {
        let current = interval.ops as f64 / since.as_secs_f64().max(1e-6);
        line += &format!("{current:.2} current ops/sec; ");
    }
    if let Some(left) = display.operations.map(|all| all.saturating_sub(total))
        && left > 0
        && total > 0
    {
        let seconds = (left as f64 * elapsed.as_secs_f64() / total as f64).ceil();
        line += &format!("est completion in {} ", remaining(seconds as u64));
    }
    if interval.failed_ops > 0 {
        line += &format!("{} failed; ", interval.failed_ops);
    }
    for (series, latencies) in &interval.latencies {
        line += &summary(series, latencies);
    }
    line.trim_end().to_owned()
}

fn summary(series: &Series, latencies: &Latencies) -> String {
    let at = |quantile| latencies.at(quantile);
    format!(
        "[{series}: Count={}, Max={}, Min={}, Avg={:.2}, 50={}, 90={}, 99={}, 99.9={}, 99.99={}] ",
        latencies.count(),
        latencies.max(),
        latencies.min(),
        latencies.mean(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(0.9999)
    )
}

/// A time span as YCSB writes it: the units that it has, from days to seconds.
fn remaining(seconds: u64) -> String {
    let units = [
        (seconds / 86_400, "day"),
        (seconds / 3_600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let parts: Vec<String> = units
        .iter()
        .filter(|(count, unit)| *count > 0 || (*unit == "second" && seconds == 0))
        .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    parts.join(" ")
}

/// `yyyy-MM-dd HH:mm:ss:SSS` in UTC, from milliseconds since 1970.
fn timestamp(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // The civil calendar in eras of 400 years that begin on 1 March: leap days come last.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02} {:02}:{:02}:{:02}:{:03}",
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1_000 % 60,
        ms % 1_000
    )
}

#[cfg(test)]
mod tests {
    use super::super::{
        measures::{Clock, Recorder, Section},
        settings::Interval,
    };
    use super::*;

    fn display(label: &str, operations: Option<u64>) -> Display {
        Display {
            label: label.to_owned(),
            interval: Duration::from_secs(1),
            operations,
        }
    }

    #[test]
    fn times_are_written_as_ycsb_does() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00:000");
        assert_eq!(timestamp(951_782_400_123), "2000-02-29 00:00:00:123");
        assert_eq!(timestamp(1_795_389_724_007), "2026-11-22 23:22:04:007");
        assert_eq!(timestamp(4_107_542_399_999), "2100-02-28 23:59:59:999");
        assert_eq!(timestamp(4_107_542_400_000), "2100-03-01 00:00:00:000");
        assert_eq!(remaining(0), "0 seconds");
        assert_eq!(remaining(61), "1 minute 1 second");
        assert_eq!(remaining(90_002), "1 day 1 hour 2 seconds");
    }

    #[test]
    fn the_status_line_is_ycsbs() {
        let mut interval = Measures {
            ops: 250,
            ..Measures::default()
        };
        let line = status_line(
            &display("x", Some(4_000)),
            Duration::from_secs(2),
            Duration::from_secs(1),
            1_000,
            &interval,
        );
        assert_eq!(
            line,
            "x 2 sec: 1000 operations; 250.00 current ops/sec; est completion in 6 seconds"
        );
        let now = Instant::now();
        let clock = Clock {
            intended: now,
            started: now,
        };
        interval.time(Section::Read, clock, false, Interval::Operation);
        let line = status_line(
            &display("", None),
            Duration::from_secs(2),
            Duration::from_secs(1),
            1_000,
            &interval,
        );
        assert!(line.contains("current ops/sec; [READ: Count=1, Max="), "{line}");
        let nothing = status_line(
            &display("", Some(9)),
            Duration::ZERO,
            Duration::ZERO,
            0,
            &Measures::default(),
        );
        assert_eq!(nothing, "0 sec: 0 operations;");
    }

    #[tokio::test]
    async fn every_count_is_in_the_total_and_in_one_second() {
        let recorder = Arc::new(Recorder::new(2));
        let sampler = Sampler::start(recorder.clone(), None);
        for _ in 0..130 {
            recorder.of(0).ops += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        recorder.of(1).failed_ops += 1;
        let measured = sampler.finish().await.unwrap();
        assert_eq!((measured.total.ops, measured.total.failed_ops), (130, 1));
        assert!(measured.seconds.len() >= 2);
        assert_eq!(measured.seconds.iter().map(|s| s.ops).sum::<u64>(), 130);
        assert!(measured.seconds.is_sorted_by(|a, b| a.at < b.at));
    }
}
