//! What a run prints: YCSB's text report, or a JSON line.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{
    measures::{Section, Series},
    progress::Second,
    runner::Outcome,
    settings::Settings,
};
use crate::{
    args::YcsbArgs,
    histogram::{Latencies, LatencySummary},
    process::ProcessReport,
};

/// The report as YCSB prints it: lines of `[SECTION], measure, value`. Operations that failed do not count to the
/// throughput. Beyond YCSB's sections there is one for each process that was accounted.
pub(crate) fn text(settings: &Settings, outcome: &Outcome) -> String {
    let mut lines = Lines::default();
    let total = &outcome.measured.total;
    let ms = outcome.elapsed.as_millis();
    lines.put("OVERALL", "RunTime(ms)", ms);
    lines.put(
        "OVERALL",
        "Throughput(ops/sec)",
        format!("{:?}", throughput(outcome)),
    );
    let mut plain: BTreeMap<Section, &Latencies> = BTreeMap::new();
    for (series, latencies) in &total.latencies {
        if !series.intended && !series.failed {
            plain.insert(series.section, latencies);
        }
    }
    // Operations that only ever failed have no latencies under their plain name, but returns.
    let none = Latencies::new();
    for (section, _) in total.returns.keys() {
        plain.entry(*section).or_insert(&none);
    }
    for (section, latencies) in plain {
        lines.latencies(&section.to_string(), latencies, &settings.percentiles);
        for ((of, what), count) in &total.returns {
            if *of == section {
                lines.put(&section.to_string(), &format!("Return={what}"), count);
            }
        }
    }
    for (series, latencies) in &total.latencies {
        if series.intended || series.failed {
            lines.latencies(&series.to_string(), latencies, &settings.percentiles);
        }
    }
    for process in &outcome.processes {
        lines.process(process);
    }
    lines.text
}

/// Operations that succeeded, per second.
pub(crate) fn throughput(outcome: &Outcome) -> f64 {
    outcome.measured.total.ops as f64 / outcome.elapsed.as_secs_f64().max(1e-6)
}

#[derive(Debug, Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn put(&mut self, section: &str, measure: &str, value: impl std::fmt::Display) {
        writeln!(self.text, "[{section}], {measure}, {value}").expect("a String takes all text");
    }

    fn latencies(&mut self, section: &str, latencies: &Latencies, percentiles: &[f64]) {
        self.put(section, "Operations", latencies.count());
        // Java writes a fraction even where it is 0, and so does Debug.
        self.put(section, "AverageLatency(us)", format!("{:?}", latencies.mean()));
        self.put(section, "MinLatency(us)", latencies.min());
        self.put(section, "MaxLatency(us)", latencies.max());
        for percentile in percentiles {
            self.put(
                section,
                &format!("{}PercentileLatency(us)", ordinal(*percentile)),
                latencies.at(percentile / 100.0),
            );
        }
    }

    fn process(&mut self, process: &ProcessReport) {
        let section = format!("PROCESS-{}", process.pid);
        self.put(&section, "WrittenToDisk(bytes)", process.write_bytes);
        if let Some(ratio) = process.write_bytes_per_logical_byte {
            self.put(&section, "WrittenPerLogicalByte", format!("{ratio:.3}"));
        }
        self.put(&section, "Cpu(s)", format!("{:.2}", process.cpu_seconds));
        if let Some(us) = process.cpu_us_per_op {
            self.put(&section, "CpuPerOperation(us)", format!("{us:.1}"));
        }
        self.put(&section, "Resident(bytes)", process.rss_bytes);
        self.put(&section, "ResidentPeak(bytes)", process.rss_peak_bytes);
    }
}

/// A percentile in words: 50th, 1st, 99.9.
fn ordinal(percentile: f64) -> String {
    if percentile.fract() != 0.0 {
        return percentile.to_string();
    }
    let suffix = match (percentile % 100.0 / 10.0).trunc() {
        1.0 => "th",
        _ => match percentile % 10.0 {
            1.0 => "st",
            2.0 => "nd",
            3.0 => "rd",
            _ => "th",
        },
    };
    format!("{percentile}{suffix}")
}

/// The JSON line. Field names are an interface: scripts rely on them.
#[derive(Debug, Serialize)]
pub(crate) struct Json<'r> {
    driver: &'static str,
    phase: &'static str,
    workload: Option<&'r str>,
    consistency: &'static str,
    threads: u32,
    connections: u32,
    target: Option<f64>,
    warmup_seconds: f64,
    seconds: f64,
    /// Operations that succeeded.
    ops: u64,
    ops_per_second: f64,
    failed: u64,
    wrong_reads: u64,
    /// Failures by kind.
    errors: BTreeMap<String, u64>,
    /// Writes among them that may or may not have taken effect.
    unknown: u64,
    bytes_put: u64,
    bytes_read: u64,
    /// By name of the series, such as `READ`, `READ-FAILED`, `Intended-READ`.
    operations: BTreeMap<String, Operations>,
    series: &'r [Second],
    client_cpu_seconds: f64,
    processes: &'r [ProcessReport],
    properties: &'r BTreeMap<String, String>,
}

/// Operations of one series.
#[derive(Debug, Serialize)]
struct Operations {
    count: u64,
    latency_us: LatencySummary,
    /// What became of them; empty for series of latencies only.
    returns: BTreeMap<String, u64>,
}

impl Json<'_> {
    /// What `text` tells, and the rest.
    pub(crate) fn new<'r>(args: &'r YcsbArgs, settings: &'r Settings, outcome: &'r Outcome) -> Json<'r> {
        let total = &outcome.measured.total;
        let mut operations: BTreeMap<String, Operations> = total
            .latencies
            .iter()
            .map(|(series, latencies)| (series.to_string(), operations_of(latencies)))
            .collect();
        let none = Latencies::new();
        for ((section, what), count) in &total.returns {
            let series = Series {
                intended: false,
                section: *section,
                failed: false,
            };
            operations
                .entry(series.to_string())
                .or_insert_with(|| operations_of(&none))
                .returns
                .insert(what.to_string(), *count);
        }
        Json {
            driver: args.driver.name(),
            phase: settings.phase.name(),
            workload: args.workload.as_deref(),
            consistency: args.consistency.name(),
            threads: settings.threads,
            connections: args.connections,
            target: settings.target,
            warmup_seconds: settings.warmup.as_secs_f64(),
            seconds: outcome.elapsed.as_secs_f64(),
            ops: total.ops,
            ops_per_second: throughput(outcome),
            failed: total.failed_ops,
            wrong_reads: total.wrong_reads,
            errors: total.errors.by_kind(),
            unknown: total.errors.unknown(),
            bytes_put: total.bytes_put,
            bytes_read: total.bytes_read,
            operations,
            series: &outcome.measured.seconds,
            client_cpu_seconds: outcome.client_cpu_seconds,
            processes: &outcome.processes,
            properties: &settings.properties,
        }
    }
}

fn operations_of(latencies: &Latencies) -> Operations {
    Operations {
        count: latencies.count(),
        latency_us: latencies.summary(),
        returns: BTreeMap::new(),
    }
}

#[cfg(test)]
mod report_test;
