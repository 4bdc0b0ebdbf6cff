//! The core workload, from its properties: names and defaults are YCSB's.

use std::time::Duration;

use super::{
    generators::{Distribution, Mix, ScanLength, Span, Zipfian},
    properties::Properties,
    record::Layout,
};
use crate::errors::BenchError;

/// Largest number of records, and of operations: far above what can be run, far below what overflows.
const COUNT_MAX: u64 = 1 << 48;
/// Largest value that a store can be configured to accept.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// The workloads that come with YCSB: letter, name of the file, contents.
pub(crate) const BUILT_IN: [(&str, &str, &str); 6] = [
    ("a", "workloada", include_str!("../../workloads/workloada")),
    ("b", "workloadb", include_str!("../../workloads/workloadb")),
    ("c", "workloadc", include_str!("../../workloads/workloadc")),
    ("d", "workloadd", include_str!("../../workloads/workloadd")),
    ("e", "workloade", include_str!("../../workloads/workloade")),
    ("f", "workloadf", include_str!("../../workloads/workloadf")),
];

/// How often a failed insert of the load is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Retries {
    pub(crate) limit: u64,
    /// Pause before each, on average.
    pub(crate) interval: Duration,
    /// Whether the load goes on after an insert that failed for good.
    pub(crate) keep_going: bool,
}

/// What to do, and on which records.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) layout: Layout,
    /// Records in the table after the load; transactions insert from this number on.
    pub(crate) record_count: u64,
    /// The records that this process loads, and sends requests to.
    pub(crate) span: Span,
    /// Transactions to run; 0 for as many as the time allows.
    pub(crate) operation_count: u64,
    pub(crate) mix: Mix,
    pub(crate) requests: Distribution,
    pub(crate) scan_length: ScanLength,
    /// Whether updates write all fields, or one.
    pub(crate) write_all_fields: bool,
    /// Whether checks of what is read are reported; they are always made.
    pub(crate) data_integrity: bool,
    pub(crate) retries: Retries,
}

impl Workload {
    /// Reads the properties of the core workload; notes about those without effect go to `notes`.
    ///
    /// Errors: `Usage` for a value that is none, is not supported, or does not go with another one.
    pub(crate) fn from(p: &mut Properties, notes: &mut Vec<String>) -> Result<Workload, BenchError> {
        check_class(p)?;
        let record_count = p.whole("recordcount", 0..=COUNT_MAX)?.unwrap_or(0);
        if record_count == 0 {
            let place = p.place("recordcount");
            return usage(format!("{place}: set how many records the table has, at least 1"));
        }
        let layout = layout(p)?;
        let operation_count = p.whole("operationcount", 0..=COUNT_MAX)?.unwrap_or(0);
        let mix = mix(p)?;
        let span = span(p, record_count, operation_count, &mix)?;
        let requests = requests(p)?;
        let scan_length = scan_length(p)?;
        if p.flag("readallfields")? == Some(false) {
            let place = p.place("readallfields");
            notes.push(format!(
                "{place} has no effect: a record is one value, which is read as a whole"
            ));
        }
        Ok(Workload {
            layout,
            record_count,
            span,
            operation_count,
            mix,
            requests,
            scan_length,
            write_all_fields: p.flag("writeallfields")?.unwrap_or(false),
            data_integrity: p.flag("dataintegrity")?.unwrap_or(false),
            retries: retries(p)?,
        })
    }
}

fn usage<T>(text: String) -> Result<T, BenchError> {
    Err(BenchError::Usage(text))
}

/// Refuses other workload classes than the core one, by its present or its older package.
fn check_class(p: &mut Properties) -> Result<(), BenchError> {
    let core = [
        "site.ycsb.workloads.CoreWorkload",
        "com.yahoo.ycsb.workloads.CoreWorkload",
    ];
    p.choice("workload", &core.map(|class| (class, ())))?;
    Ok(())
}

fn layout(p: &mut Properties) -> Result<Layout, BenchError> {
    let table = p.text("table").unwrap_or_else(|| "usertable".to_owned());
    if table.is_empty() || table.len() > 1024 {
        return usage(format!("{}: expected 1 to 1024 bytes", p.place("table")));
    }
    p.choice("fieldlengthdistribution", &[("constant", ())])?;
    let field_count = p.whole("fieldcount", 1..=1_000_000)?.unwrap_or(10);
    let field_length = p.whole("fieldlength", 0..=RECORD_BYTES_MAX)?.unwrap_or(100);
    if field_count.saturating_mul(field_length) > RECORD_BYTES_MAX {
        return usage(format!(
            "records of {field_count} fields of {field_length} bytes are above the largest value, 64 MiB; lower \
             fieldcount or fieldlength"
        ));
    }
    let ordered = p.choice("insertorder", &[("hashed", false), ("ordered", true)])?;
    let zero_padding = p.whole("zeropadding", 0..=1024)?.unwrap_or(1);
    Ok(Layout {
        table,
        ordered: ordered.unwrap_or(false),
        // In range: all three are far below 2^32.
        zero_padding: zero_padding as usize,
        field_count: field_count as usize,
        field_length: field_length as usize,
    })
}

fn mix(p: &mut Properties) -> Result<Mix, BenchError> {
    let mut share =
        |name, default| -> Result<f64, BenchError> { Ok(p.fraction(name, 0.0..=1e9)?.unwrap_or(default)) };
    let mix = Mix {
        read: share("readproportion", 0.95)?,
        update: share("updateproportion", 0.05)?,
        insert: share("insertproportion", 0.0)?,
        scan: share("scanproportion", 0.0)?,
        read_modify_write: share("readmodifywriteproportion", 0.0)?,
    };
    if mix.total() == 0.0 {
        return usage(
            "all proportions of operations are 0; set readproportion or another above 0".to_owned(),
        );
    }
    Ok(mix)
}

fn span(p: &mut Properties, record_count: u64, operation_count: u64, mix: &Mix) -> Result<Span, BenchError> {
    let first = p.whole("insertstart", 0..=COUNT_MAX)?.unwrap_or(0);
    let left = record_count.saturating_sub(first);
    // Some property files set 0 for "the rest".
    let count = match p.whole("insertcount", 0..=COUNT_MAX)? {
        None | Some(0) => left,
        Some(count) => count,
    };
    if count == 0 || count > left {
        return usage(format!(
            "{} and {} reach beyond recordcount ({record_count})",
            p.place("insertstart"),
            p.place("insertcount")
        ));
    }
    // As YCSB: twice the inserts that are expected, so that requests do not run out of room.
    let added = operation_count as f64 * mix.insert / mix.total() * 2.0;
    Ok(Span {
        first,
        count,
        added: added as u64,
    })
}

fn requests(p: &mut Properties) -> Result<Distribution, BenchError> {
    let hotspot = Distribution::Hotspot {
        data: p.fraction("hotspotdatafraction", 0.0..=1.0)?.unwrap_or(0.2),
        operations: p.fraction("hotspotopnfraction", 0.0..=1.0)?.unwrap_or(0.8),
    };
    let exponential = Distribution::Exponential {
        percentile: p
            .fraction("exponential.percentile", 0.001..=99.999)?
            .unwrap_or(95.0),
        fraction: p
            .fraction("exponential.frac", 1e-9..=1.0)?
            .unwrap_or(0.857_142_857_1),
    };
    let known = [
        ("uniform", Distribution::Uniform),
        ("zipfian", Distribution::Zipfian),
        ("latest", Distribution::Latest),
        ("hotspot", hotspot),
        ("sequential", Distribution::Sequential),
        ("exponential", exponential),
    ];
    Ok(p.choice("requestdistribution", &known)?
        .unwrap_or(Distribution::Uniform))
}

fn scan_length(p: &mut Properties) -> Result<ScanLength, BenchError> {
    let min = p.whole("minscanlength", 1..=1_000_000)?.unwrap_or(1);
    let max = p.whole("maxscanlength", 1..=1_000_000)?.unwrap_or(1_000);
    if min > max {
        return usage(format!(
            "{} is above {}",
            p.place("minscanlength"),
            p.place("maxscanlength")
        ));
    }
    let zipfian = p.choice("scanlengthdistribution", &[("uniform", false), ("zipfian", true)])?;
    Ok(if zipfian.unwrap_or(false) {
        ScanLength::Zipfian {
            min,
            extra: Zipfian::new(max - min + 1),
        }
    } else {
        ScanLength::Uniform { min, max }
    })
}

fn retries(p: &mut Properties) -> Result<Retries, BenchError> {
    let interval = p.fraction("core_workload_insertion_retry_interval", 0.0..=3_600.0)?;
    Ok(Retries {
        limit: p
            .whole("core_workload_insertion_retry_limit", 0..=1_000_000)?
            .unwrap_or(0),
        interval: Duration::from_secs_f64(interval.unwrap_or(3.0)),
        keep_going: p
            .flag("core_workload_insertion_keep_going_on_error")?
            .unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::super::properties::Origin;
    use super::*;

    fn workload(text: &str) -> Result<Workload, BenchError> {
        let mut properties = Properties::default();
        properties.set_all("w", text).unwrap();
        Workload::from(&mut properties, &mut Vec::new())
    }

    fn refusal(text: &str) -> String {
        workload(text).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_ycsbs() {
        let w = workload("recordcount=1000").unwrap();
        assert_eq!((w.record_count, w.operation_count), (1_000, 0));
        assert_eq!(
            w.span,
            Span {
                first: 0,
                count: 1_000,
                added: 0
            }
        );
        assert_eq!((w.layout.field_count, w.layout.field_length), (10, 100));
        assert_eq!((w.layout.ordered, w.layout.zero_padding), (false, 1));
        assert_eq!(w.layout.table, "usertable");
        assert_eq!((w.mix.read, w.mix.update, w.mix.total()), (0.95, 0.05, 1.0));
        assert_eq!(w.requests, Distribution::Uniform);
        assert!(matches!(
            w.scan_length,
            ScanLength::Uniform { min: 1, max: 1_000 }
        ));
        assert!(!w.write_all_fields && !w.data_integrity);
        assert_eq!((w.retries.limit, w.retries.keep_going), (0, false));
        assert_eq!(w.retries.interval, Duration::from_secs(3));
    }

    #[test]
    fn built_in_workloads_are_the_standard_mixes() {
        let expected = [
            ("a", [0.5, 0.5, 0.0, 0.0, 0.0], Distribution::Zipfian),
            ("b", [0.95, 0.05, 0.0, 0.0, 0.0], Distribution::Zipfian),
            ("c", [1.0, 0.0, 0.0, 0.0, 0.0], Distribution::Zipfian),
            ("d", [0.95, 0.0, 0.05, 0.0, 0.0], Distribution::Latest),
            ("e", [0.0, 0.0, 0.05, 0.95, 0.0], Distribution::Zipfian),
            ("f", [0.5, 0.0, 0.0, 0.0, 0.5], Distribution::Zipfian),
        ];
        for ((letter, file, text), (name, shares, requests)) in BUILT_IN.into_iter().zip(expected) {
            assert_eq!((letter, file), (name, format!("workload{name}").as_str()));
            let mut properties = Properties::default();
            properties.set_all(file, text).unwrap();
            let mut notes = Vec::new();
            let w = Workload::from(&mut properties, &mut notes).unwrap();
            let Mix {
                read,
                update,
                insert,
                scan,
                read_modify_write,
            } = w.mix;
            assert_eq!(
                [read, update, insert, scan, read_modify_write],
                shares,
                "{letter}"
            );
            assert_eq!(w.requests, requests, "{letter}");
            assert_eq!((w.record_count, w.operation_count), (1_000, 1_000), "{letter}");
            assert!(notes.is_empty() && properties.unread().is_empty(), "{letter}");
            if letter == "e" {
                assert!(matches!(w.scan_length, ScanLength::Uniform { min: 1, max: 100 }));
            }
        }
    }

    #[test]
    fn parts_of_a_table_can_be_given_to_several_processes() {
        let w = workload("recordcount=100\ninsertstart=40\ninsertcount=20").unwrap();
        assert_eq!((w.span.first, w.span.count), (40, 20));
        let w = workload("recordcount=100\ninsertstart=40").unwrap();
        assert_eq!((w.span.first, w.span.count), (40, 60));
        for (start, count) in [(90, 20), (100, 0), (200, 1)] {
            let text = refusal(&format!(
                "recordcount=100\ninsertstart={start}\ninsertcount={count}"
            ));
            assert!(
                text.contains("w:2") && text.contains("recordcount (100)"),
                "{text}"
            );
        }
    }

    #[test]
    fn expected_inserts_make_room_for_zipfian_requests() {
        let w = workload("recordcount=100\noperationcount=1000\ninsertproportion=0.05\nreadproportion=0.9")
            .unwrap();
        assert_eq!(w.span.added, 100);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_place() {
        for (text, parts) in [
            ("", vec!["recordcount (not set)", "at least 1"]),
            ("recordcount=0", vec!["recordcount=0 (w:1)"]),
            ("recordcount=ten", vec!["recordcount=ten (w:1)", "whole number"]),
            (
                "recordcount=1\nfieldlengthdistribution=zipfian",
                vec!["fieldlengthdistribution=zipfian (w:2)", "write constant"],
            ),
            (
                "recordcount=1\nrequestdistribution=normal",
                vec!["requestdistribution=normal (w:2)", "uniform or zipfian or latest"],
            ),
            (
                "recordcount=1\nworkload=site.ycsb.workloads.RestWorkload",
                vec!["RestWorkload (w:2)"],
            ),
            (
                "recordcount=1\nreadproportion=0\nupdateproportion=0",
                vec!["all proportions"],
            ),
            (
                "recordcount=1\nreadproportion=-1",
                vec!["readproportion=-1 (w:2)"],
            ),
            (
                "recordcount=1\nminscanlength=5\nmaxscanlength=4",
                vec!["w:2", "w:3"],
            ),
            (
                "recordcount=1\nfieldcount=1000\nfieldlength=1000000",
                vec!["64 MiB"],
            ),
            ("recordcount=1\nexponential.percentile=100", vec!["w:2"]),
        ] {
            let error = refusal(text);
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
    }

    #[test]
    fn properties_without_effect_are_noted() {
        let mut properties = Properties::default();
        properties.set("recordcount", "1", Origin::Option("-p"));
        properties.set("readallfields", "false", Origin::Option("-p"));
        let mut notes = Vec::new();
        Workload::from(&mut properties, &mut notes).unwrap();
        assert!(notes[0].contains("readallfields=false (-p)"), "{notes:?}");
    }
}
