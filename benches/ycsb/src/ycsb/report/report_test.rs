//! Goal: parsers of YCSB's reports read these. Method: the whole text of one outcome, and the fields of its JSON line.

use std::time::Duration;

use super::*;
use crate::{
    errors::OpError,
    ycsb::{
        measures::{Measures, Return},
        progress::Measured,
    },
};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: YcsbArgs,
}

fn args(line: &str) -> YcsbArgs {
    let words = std::iter::once("ycsb").chain(line.split_whitespace());
    <Cli as clap::Parser>::try_parse_from(words).unwrap().args
}

fn latencies(us: &[u64]) -> Latencies {
    let mut latencies = Latencies::new();
    for us in us {
        latencies.record(Duration::from_micros(*us));
    }
    latencies
}

fn outcome() -> Outcome {
    let series = |intended, section, failed| Series {
        intended,
        section,
        failed,
    };
    let mut total = Measures {
        ops: 5,
        failed_ops: 2,
        bytes_put: 64,
        bytes_read: 300,
        ..Measures::default()
    };
    for (series, us) in [
        (series(false, Section::Read, false), &[100, 200, 600][..]),
        (series(true, Section::Read, false), &[1_000, 1_100, 1_800]),
        (series(false, Section::Update, false), &[50, 51]),
        (series(false, Section::Update, true), &[7]),
        (series(false, Section::Insert, true), &[9]),
        (series(false, Section::Cleanup, false), &[1, 1]),
    ] {
        total.latencies.insert(series, latencies(us));
    }
    total.returns.insert((Section::Read, Return::Ok), 3);
    total.returns.insert((Section::Update, Return::Ok), 2);
    total.returns.insert((Section::Update, Return::Error), 1);
    total.returns.insert((Section::Insert, Return::Error), 1);
    total.errors.record(OpError {
        kind: "deadline".to_owned(),
        unknown: true,
        leader: None,
        message: "late".to_owned(),
    });
    Outcome {
        measured: Measured {
            total,
            seconds: vec![Second {
                at: 1.0,
                ops: 5,
                ops_per_second: 5.0,
                failed: 2,
            }],
        },
        elapsed: Duration::from_millis(2_500),
        stopped: None,
        left: 0,
        client_cpu_seconds: 0.25,
        processes: vec![ProcessReport {
            pid: 7,
            write_bytes: 4_096,
            write_bytes_per_logical_byte: Some(64.0),
            cpu_seconds: 0.5,
            cpu_us_per_op: Some(100_000.0),
            rss_bytes: 1_000,
            rss_peak_bytes: 2_000,
        }],
    }
}

#[test]
fn the_text_is_ycsbs() {
    let (settings, _) =
        Settings::resolve(&args("--workload a -p hdrhistogram.percentiles=95,99,99.9")).unwrap();
    let expected = "\
[OVERALL], RunTime(ms), 2500
[OVERALL], Throughput(ops/sec), 2.0
[READ], Operations, 3
[READ], AverageLatency(us), 300.0
[READ], MinLatency(us), 100
[READ], MaxLatency(us), 600
[READ], 95thPercentileLatency(us), 600
[READ], 99thPercentileLatency(us), 600
[READ], 99.9PercentileLatency(us), 600
[READ], Return=OK, 3
[UPDATE], Operations, 2
[UPDATE], AverageLatency(us), 50.5
[UPDATE], MinLatency(us), 50
[UPDATE], MaxLatency(us), 51
[UPDATE], 95thPercentileLatency(us), 51
[UPDATE], 99thPercentileLatency(us), 51
[UPDATE], 99.9PercentileLatency(us), 51
[UPDATE], Return=OK, 2
[UPDATE], Return=ERROR, 1
[INSERT], Operations, 0
[INSERT], AverageLatency(us), 0.0
[INSERT], MinLatency(us), 0
[INSERT], MaxLatency(us), 0
[INSERT], 95thPercentileLatency(us), 0
[INSERT], 99thPercentileLatency(us), 0
[INSERT], 99.9PercentileLatency(us), 0
[INSERT], Return=ERROR, 1
[CLEANUP], Operations, 2
[CLEANUP], AverageLatency(us), 1.0
[CLEANUP], MinLatency(us), 1
[CLEANUP], MaxLatency(us), 1
[CLEANUP], 95thPercentileLatency(us), 1
[CLEANUP], 99thPercentileLatency(us), 1
[CLEANUP], 99.9PercentileLatency(us), 1
[UPDATE-FAILED], Operations, 1
[UPDATE-FAILED], AverageLatency(us), 7.0
[UPDATE-FAILED], MinLatency(us), 7
[UPDATE-FAILED], MaxLatency(us), 7
[UPDATE-FAILED], 95thPercentileLatency(us), 7
[UPDATE-FAILED], 99thPercentileLatency(us), 7
[UPDATE-FAILED], 99.9PercentileLatency(us), 7
[INSERT-FAILED], Operations, 1
[INSERT-FAILED], AverageLatency(us), 9.0
[INSERT-FAILED], MinLatency(us), 9
[INSERT-FAILED], MaxLatency(us), 9
[INSERT-FAILED], 95thPercentileLatency(us), 9
[INSERT-FAILED], 99thPercentileLatency(us), 9
[INSERT-FAILED], 99.9PercentileLatency(us), 9
[Intended-READ], Operations, 3
[Intended-READ], AverageLatency(us), 1300.0
[Intended-READ], MinLatency(us), 1000
[Intended-READ], MaxLatency(us), 1800
[Intended-READ], 95thPercentileLatency(us), 1800
[Intended-READ], 99thPercentileLatency(us), 1800
[Intended-READ], 99.9PercentileLatency(us), 1800
[PROCESS-7], WrittenToDisk(bytes), 4096
[PROCESS-7], WrittenPerLogicalByte, 64.000
[PROCESS-7], Cpu(s), 0.50
[PROCESS-7], CpuPerOperation(us), 100000.0
[PROCESS-7], Resident(bytes), 1000
[PROCESS-7], ResidentPeak(bytes), 2000
";
    assert_eq!(text(&settings, &outcome()), expected);
}

#[test]
fn the_json_line_has_everything() {
    let args = args("--workload a --target 100 --threads 4 --driver etcd");
    let (settings, _) = Settings::resolve(&args).unwrap();
    let outcome = outcome();
    let line = serde_json::to_string(&Json::new(&args, &settings, &outcome)).unwrap();
    assert!(!line.contains('\n'));
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (json["driver"].as_str(), json["phase"].as_str()),
        (Some("etcd"), Some("run"))
    );
    assert_eq!(
        (json["threads"].as_u64(), json["target"].as_f64()),
        (Some(4), Some(100.0))
    );
    assert_eq!(
        (json["ops"].as_u64(), json["failed"].as_u64()),
        (Some(5), Some(2))
    );
    assert_eq!(json["ops_per_second"], 2.0);
    assert_eq!(
        (json["errors"]["deadline"].as_u64(), json["unknown"].as_u64()),
        (Some(1), Some(1))
    );
    let read = &json["operations"]["READ"];
    assert_eq!(
        (read["count"].as_u64(), read["returns"]["OK"].as_u64()),
        (Some(3), Some(3))
    );
    for percentile in ["p50", "p90", "p95", "p99", "p999", "max"] {
        assert!(
            read["latency_us"][percentile].as_u64() >= Some(200),
            "{percentile}"
        );
    }
    assert_eq!(json["operations"]["Intended-READ"]["count"], 3);
    assert_eq!(json["operations"]["INSERT"]["returns"]["ERROR"], 1);
    assert_eq!(json["series"][0]["ops"], 5);
    assert_eq!(json["processes"][0]["pid"], 7);
    assert_eq!(json["properties"]["recordcount"], "1000");
}

#[test]
fn percentiles_are_named_as_in_ycsb() {
    for (percentile, name) in [
        (50.0, "50th"),
        (1.0, "1st"),
        (2.0, "2nd"),
        (3.0, "3rd"),
        (11.0, "11th"),
        (13.0, "13th"),
        (91.0, "91st"),
        (99.99, "99.99"),
        (100.0, "100th"),
    ] {
        assert_eq!(ordinal(percentile), name);
    }
}
