//! Medians of the repetitions: a table for people, JSON lines for scripts.

use std::fmt::Write;

use serde::Serialize;

/// One measurement, or the medians of several. Field names are those of the JSON line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Who was measured.
    pub system: &'static str,
    /// What was scanned.
    pub scan: &'static str,
    /// State of the page cache at the start.
    pub cache: &'static str,
    /// Keys in the set.
    pub keys: u64,
    /// Length of each value in bytes.
    pub value_bytes: u64,
    /// Rows per second.
    pub rows_per_second: f64,
    /// Bytes of keys and values per second, in 10^6 bytes.
    pub mb_per_second: f64,
    /// Bytes read from the disk per byte of keys and values returned.
    pub disk_bytes_per_byte: f64,
    /// Reading system calls per row.
    pub read_calls_per_row: f64,
}

impl Measurement {
    fn is_same_case(&self, other: &Measurement) -> bool {
        (self.scan, self.cache) == (other.scan, other.cache)
    }
}

/// Medians of the repetitions of each case, in the order of their first measurement.
fn medians(measured: &[Measurement]) -> Vec<Measurement> {
    let mut cases: Vec<Measurement> = Vec::new();
    for first in measured {
        let known = |case: &&Measurement| case.is_same_case(first) && case.system == first.system;
        if cases.iter().any(|case| known(&case)) {
            continue;
        }
        let same: Vec<&Measurement> = measured.iter().filter(known).collect();
        let of = |field: fn(&Measurement) -> f64| median(same.iter().map(|one| field(one)).collect());
        cases.push(Measurement {
            rows_per_second: of(|one| one.rows_per_second),
            mb_per_second: of(|one| one.mb_per_second),
            disk_bytes_per_byte: of(|one| one.disk_bytes_per_byte),
            read_calls_per_row: of(|one| one.read_calls_per_row),
            ..first.clone()
        });
    }
    cases
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// A JSON line for each case: the medians.
pub fn json_lines(measured: &[Measurement]) -> serde_json::Result<String> {
    let lines: Result<Vec<String>, _> = medians(measured).iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}

/// A table of the medians, and how many times faster `subject` is than each of `divisors`.
pub fn table(measured: &[Measurement], subject: &str, divisors: &[&str]) -> String {
    let cases = medians(measured);
    let mut out = format!(
        "{:<9} {:<5} {:<17} {:>12} {:>9} {:>10} {:>10}\n",
        "scan", "cache", "system", "rows/s", "MB/s", "disk/byte", "calls/row"
    );
    for case in &cases {
        let _ = writeln!(
            out,
            "{:<9} {:<5} {:<17} {:>12.0} {:>9.1} {:>10.2} {:>10.3}",
            case.scan,
            case.cache,
            case.system,
            case.rows_per_second,
            case.mb_per_second,
            case.disk_bytes_per_byte,
            case.read_calls_per_row
        );
    }
    for case in cases.iter().filter(|case| case.system == subject) {
        for divisor in divisors {
            let other = cases
                .iter()
                .find(|other| other.system == *divisor && other.is_same_case(case));
            if let Some(other) = other {
                let ratio = case.rows_per_second / other.rows_per_second;
                let _ = writeln!(
                    out,
                    "{:<9} {:<5} {subject} / {divisor}: {ratio:.2}",
                    case.scan, case.cache
                );
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(system: &'static str, rows_per_second: f64) -> Measurement {
        Measurement {
            system,
            scan: "all",
            cache: "warm",
            keys: 10,
            value_bytes: 1024,
            rows_per_second,
            mb_per_second: 1.0,
            disk_bytes_per_byte: 0.0,
            read_calls_per_row: 0.5,
        }
    }

    #[test]
    fn medians_and_ratios_are_reported() {
        let all = [
            measured("after", 300.0),
            measured("before", 100.0),
            measured("after", 200.0),
            measured("before", 80.0),
            measured("after", 1.0),
            measured("before", 120.0),
        ];
        let cases = medians(&all);
        assert_eq!(
            cases.iter().map(|case| case.rows_per_second).collect::<Vec<_>>(),
            [200.0, 100.0]
        );
        assert_eq!(median(vec![1.0, 4.0, 2.0, 3.0]), 2.5);
        let table = table(&all, "after", &["before", "nobody"]);
        assert!(table.contains("after / before: 2.00"), "{table}");
        assert!(!table.contains("nobody"), "{table}");
        let lines = json_lines(&all).unwrap();
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.contains(r#""rows_per_second":200.0"#), "{lines}");
    }
}
