//! What a load prints: a table for people, a JSON line for scripts.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    errors::ErrorCounts,
    histogram::{Latencies, LatencySummary},
    process::ProcessReport,
    size::format_size,
};

/// The result of a load. Field names are those of the JSON line; scripts rely on them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) driver: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) unique: bool,
    pub(crate) consistency: Option<&'static str>,
    pub(crate) clients: u32,
    pub(crate) connections: u32,
    pub(crate) size: u64,
    pub(crate) keys: Option<u64>,
    pub(crate) scan_length: Option<u64>,
    /// Length of the measurement.
    pub(crate) seconds: f64,
    /// Operations that were answered well within the measurement.
    pub(crate) ops: u64,
    pub(crate) ops_per_second: f64,
    /// Bytes of values per second, in 10^6 bytes.
    pub(crate) mb_per_second: f64,
    pub(crate) latency_us: LatencySummary,
    /// Failures by kind, over the whole run.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Writes among them that may or may not have taken effect.
    pub(crate) unknown: u64,
    /// Reads that found no value or another one than was written. Any at all is a fault of the store.
    pub(crate) wrong_reads: u64,
    /// Operations over the whole run, warm-up included.
    pub(crate) run_ops: u64,
    /// Bytes of keys and values put over the whole run.
    pub(crate) run_logical_bytes_put: u64,
    /// CPU seconds that the load generator itself used over the whole run.
    pub(crate) client_cpu_seconds: f64,
    pub(crate) processes: Vec<ProcessReport>,
    #[serde(skip)]
    pub(crate) error_lines: Vec<String>,
}

/// What the clients counted.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) latencies: Latencies,
    pub(crate) errors: ErrorCounts,
    /// Bytes of values within the measurement.
    pub(crate) value_bytes: u64,
    pub(crate) wrong_reads: u64,
    pub(crate) run_ops: u64,
    pub(crate) run_logical_bytes_put: u64,
}

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new() -> Tally {
        Tally {
            latencies: Latencies::new(),
            errors: ErrorCounts::default(),
            value_bytes: 0,
            wrong_reads: 0,
            run_ops: 0,
            run_logical_bytes_put: 0,
        }
    }

    /// Adds what another client counted.
    pub(crate) fn merge(&mut self, other: Tally) {
        self.latencies.merge(&other.latencies);
        self.errors.merge(other.errors);
        self.value_bytes += other.value_bytes;
        self.wrong_reads += other.wrong_reads;
        self.run_ops += other.run_ops;
        self.run_logical_bytes_put += other.run_logical_bytes_put;
    }
}

impl LoadReport {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut title = format!("{} {}", self.driver, self.operation);
        if self.unique {
            title += ", unique keys";
        }
        if let Some(length) = self.scan_length {
            title += &format!(" of {length} rows");
        }
        if let Some(consistency) = self.consistency {
            title += &format!(", {consistency}");
        }
        let mut lines = vec![
            format!(
                "{title}: {} clients, {} connections, values of {}, {:.1} s",
                self.clients,
                self.connections,
                format_size(self.size),
                self.seconds
            ),
            format!(
                "{} ops   {:.0} ops/s   {:.2} MB/s of values",
                self.ops, self.ops_per_second, self.mb_per_second
            ),
            self.latency_us.line(),
        ];
        if !self.error_lines.is_empty() {
            lines.push(format!(
                "errors, of them {} writes with unknown outcome:",
                self.unknown
            ));
            lines.extend(self.error_lines.iter().map(|line| format!("  {line}")));
        }
        if self.wrong_reads > 0 {
            lines.push(format!("WRONG READS: {}", self.wrong_reads));
        }
        lines.push(format!("client cpu {:.2} s", self.client_cpu_seconds));
        lines.extend(self.processes.iter().map(ProcessReport::line));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::errors::OpError;

    fn report() -> LoadReport {
        let mut tally = Tally::new();
        for ms in 1..=100 {
            tally.latencies.record(Duration::from_millis(ms));
        }
        tally.errors.record(OpError {
            kind: "Unavailable".to_owned(),
            unknown: true,
            leader: None,
            message: "connection reset".to_owned(),
        });
        LoadReport {
            driver: "nezha",
            operation: "put",
            unique: true,
            consistency: None,
            clients: 32,
            connections: 4,
            size: 65_536,
            keys: None,
            scan_length: None,
            seconds: 10.0,
            ops: 100,
            ops_per_second: 10.0,
            mb_per_second: 0.65536,
            latency_us: tally.latencies.summary(),
            errors: tally.errors.by_kind(),
            unknown: tally.errors.unknown(),
            wrong_reads: 0,
            run_ops: 120,
            run_logical_bytes_put: 120 * 65_560,
            client_cpu_seconds: 0.5,
            processes: Vec::new(),
            error_lines: tally.errors.lines(),
        }
    }

    #[test]
    fn the_table_names_what_was_measured() {
        let table = report().table();
        for part in [
            "nezha put, unique keys: 32 clients, 4 connections, values of 64 KiB, 10.0 s",
            "100 ops   10 ops/s   0.66 MB/s",
            "p50 50.0",
            "of them 1 writes with unknown outcome",
            "1 x Unavailable: connection reset",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        assert!(!table.contains("WRONG"));
        let mut wrong = report();
        wrong.wrong_reads = 3;
        assert!(wrong.table().contains("WRONG READS: 3"));
    }

    #[test]
    fn the_json_line_has_the_fields_that_scripts_read() {
        let line = serde_json::to_string(&report()).unwrap();
        assert!(!line.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["ops_per_second"], 10.0);
        assert_eq!(json["errors"]["Unavailable"], 1);
        assert_eq!(json["unknown"], 1);
        assert_eq!(json["keys"], serde_json::Value::Null);
        let p99 = json["latency_us"]["p99"].as_u64().unwrap();
        assert!((98_900..=99_200).contains(&p99), "{p99}");
        assert!(json["processes"].as_array().unwrap().is_empty());
    }
}
