//! What processes of this machine did: bytes they caused to be written, memory, CPU. Linux only, from /proc.

use std::{fs, path::PathBuf};

use anyhow::Context;
use serde::Serialize;

/// The unit of CPU times in /proc, 1/100 s: USER_HZ is 100 on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of one process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Bytes sent to the storage layer, `write_bytes` of /proc/PID/io. Whole pages; a page is counted when it becomes
    /// dirty, so rewriting one that is not yet on disk counts once.
    pub(crate) write_bytes: u64,
    /// User and system CPU time, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory now.
    pub(crate) rss_bytes: u64,
    /// Highest resident memory since the process started.
    pub(crate) rss_peak_bytes: u64,
}

/// Reads the counters of process `pid`.
///
/// Errors: no such process, or it belongs to somebody else.
pub(crate) fn sample(pid: u32) -> anyhow::Result<Sample> {
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let status = read("status")?;
    Ok(Sample {
        write_bytes: field(&read("io")?, "write_bytes:").unwrap_or(0),
        cpu_seconds: cpu_seconds(&read("stat")?)
            .with_context(|| format!("/proc/{pid}/stat has no CPU times"))?,
        rss_bytes: field(&status, "VmRSS:").unwrap_or(0) * 1024,
        rss_peak_bytes: field(&status, "VmHWM:").unwrap_or(0) * 1024,
    })
}

/// CPU seconds that this process used.
pub(crate) fn own_cpu_seconds() -> f64 {
    fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| cpu_seconds(&stat))
        .unwrap_or(0.0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The command name may hold spaces and parentheses: fields are counted from the last one. utime and stime are the
    // 14th and 15th of the line, so the 12th and 13th after the name.
    let (_, after) = stat.rsplit_once(')')?;
    let mut ticks = after.split_whitespace().skip(11);
    let user: f64 = ticks.next()?.parse().ok()?;
    let system: f64 = ticks.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// What one process did during a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProcessReport {
    pub(crate) pid: u32,
    pub(crate) write_bytes: u64,
    /// Bytes written per byte of keys and values put; absent when nothing was put.
    pub(crate) write_bytes_per_logical_byte: Option<f64>,
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_op: Option<f64>,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
}

impl ProcessReport {
    /// The difference of two samples, per byte and operation of the run between them.
    pub(crate) fn between(
        pid: u32,
        before: Sample,
        after: Sample,
        logical_bytes_put: u64,
        ops: u64,
    ) -> ProcessReport {
        let write_bytes = after.write_bytes.saturating_sub(before.write_bytes);
        let cpu_seconds = (after.cpu_seconds - before.cpu_seconds).max(0.0);
        ProcessReport {
            pid,
            write_bytes,
            write_bytes_per_logical_byte: (logical_bytes_put > 0)
                .then(|| write_bytes as f64 / logical_bytes_put as f64),
            cpu_seconds,
            cpu_us_per_op: (ops > 0).then(|| cpu_seconds * 1e6 / ops as f64),
            rss_bytes: after.rss_bytes,
            rss_peak_bytes: after.rss_peak_bytes,
        }
    }

    /// One line of the table.
    pub(crate) fn line(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut line = format!("pid {:<8} written {:.1} MiB", self.pid, mib(self.write_bytes));
        if let Some(ratio) = self.write_bytes_per_logical_byte {
            line += &format!(" ({ratio:.3} per logical byte)");
        }
        line += &format!("   cpu {:.2} s", self.cpu_seconds);
        if let Some(us) = self.cpu_us_per_op {
            line += &format!(" ({us:.0} us per op)");
        }
        line += &format!(
            "   resident {:.1} MiB, peak {:.1} MiB",
            mib(self.rss_bytes),
            mib(self.rss_peak_bytes)
        );
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_sampled() {
        let own = sample(std::process::id()).unwrap();
        assert!(own.rss_bytes > 0 && own.rss_peak_bytes >= own.rss_bytes);
        assert!(own_cpu_seconds() >= own.cpu_seconds);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        let error = sample(u32::MAX).unwrap_err();
        assert!(error.to_string().contains("/proc/4294967295/"), "{error}");
    }

    #[test]
    fn cpu_times_are_found_behind_odd_names() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (x) S 1"), None);
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn the_report_is_per_byte_and_operation() {
        let before = Sample {
            write_bytes: 1_000,
            cpu_seconds: 1.0,
            rss_bytes: 1,
            rss_peak_bytes: 2,
        };
        let after = Sample {
            write_bytes: 3_000,
            cpu_seconds: 1.5,
            rss_bytes: 10,
            rss_peak_bytes: 20,
        };
        let report = ProcessReport::between(9, before, after, 1_600, 100);
        assert_eq!(report.write_bytes, 2_000);
        assert_eq!(report.write_bytes_per_logical_byte, Some(1.25));
        assert_eq!(report.cpu_us_per_op, Some(5_000.0));
        assert!(report.line().contains("(1.250 per logical byte)"));
        let idle = ProcessReport::between(9, before, before, 0, 0);
        assert_eq!(idle.write_bytes_per_logical_byte, None);
        assert_eq!(idle.cpu_us_per_op, None);
    }
}
