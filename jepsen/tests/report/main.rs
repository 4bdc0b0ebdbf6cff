//! Goal: the folder of a run has what it must, whatever the run was like. Method: made-up histories with faults and a
//! stale read, written as a run would be; the folders stay in the target directory, for people to look at the pages.

mod synthetic;

use std::fs;
use std::path::{Path, PathBuf};

use nezha_jepsen::check::{self, Options};
use nezha_jepsen::history::{Call, History, edn, jsonl};
use nezha_jepsen::report::{self, Failover, Judgement, Log, Requirement, Run, Summary};
use synthetic::{MILLISECOND, SECOND};

/// An empty folder that stays after the test.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("remove the folder of the last time");
    }
    fs::create_dir_all(&dir).expect("make a folder");
    dir
}

fn run<'a>(seed: u64, history: &'a History, report: &'a check::Report) -> Run<'a> {
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    Run {
        seed,
        command: format!("nezha-jepsen run --seed {seed} --seconds 60 --nodes 3 --only process,network"),
        version: "0.1.0 (655f24b)".into(),
        started_unix_ms: 1_795_900_000_000,
        machine: vec![pair("cores", "2"), pair("kernel", "6.18 <test>")],
        options: vec![pair("nodes", "3"), pair("workload", "register,scan")],
        members: vec!["n1".into(), "n2".into(), "n3".into()],
        history,
        load_until: u64::MAX,
        report,
        requirements: vec![
            Requirement {
                what: "acknowledged operations".into(),
                needed: 1000,
                happened: 3000,
            },
            Requirement {
                what: "kill of a leader".into(),
                needed: 1,
                happened: 2,
            },
        ],
        failovers: (0..12)
            .map(|i| Failover {
                fault: if i % 3 == 0 { "pause" } else { "kill" }.into(),
                member: "n1".into(),
                began: i * 4 * SECOND,
                first_write: (i != 6).then_some(i * 4 * SECOND + 700 * MILLISECOND + i * i * 9 * MILLISECOND),
            })
            .collect(),
        harness_failures: vec![],
        schedule: "5.00 s  kill  leader for 4.0 s\n".into(),
        logs: vec![],
    }
}

fn summary(dir: &Path) -> Summary {
    let bytes = fs::read(dir.join("verdict.json")).expect("a verdict");
    serde_json::from_slice(&bytes).expect("in the documented keys")
}

/// What every page must be: complete, small, and without anything that it would have to load.
fn assert_sound(page: &str) {
    assert!(page.ends_with("</html>\n"));
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    for outside in ["http://", "https://", " src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for wrong in ["NaN", "inf\"", "<evil>"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    for element in [
        "<svg", "<table", "<section", "<details", "<div", "<text", "<title",
    ] {
        let end = element.replace('<', "</");
        let opened =
            page.matches(&format!("{element}>")).count() + page.matches(&format!("{element} ")).count();
        assert_eq!(opened, page.matches(&format!("{end}>")).count(), "{element}");
    }
}

#[test]
fn a_violation_is_told_with_its_witness() {
    let dir = folder("violated");
    let history = synthetic::history(60, 70, true);
    let report = check::check(&history, &Options::default());
    assert_eq!(report.verdict(), check::Verdict::Violated, "{report}");
    let log = dir.join("member.txt");
    fs::write(&log, "a log").unwrap();
    let mut run = run(18_446_744_073_709_551_615, &history, &report);
    run.logs.push(Log {
        name: "n1.log".into(),
        path: log,
    });
    report::write(&dir, &run).unwrap();

    let summary = summary(&dir);
    assert_eq!(summary.verdict, Judgement::Violated);
    assert_eq!(summary.seed, "18446744073709551615", "no reader rounds it");
    assert_eq!(summary.operation_totals().1, history.operations.len() as u64);
    assert_eq!(summary.fault_total(), history.faults.len() as u64);
    let witness: Vec<usize> = summary.findings[0]
        .operations
        .iter()
        .map(|line| line.position)
        .collect();
    assert_eq!(witness, report.findings[0].operations);
    for line in &summary.findings[0].operations {
        assert_eq!(line.operation, history.operations[line.position]);
    }

    let (header, mut read) = jsonl::parse(&fs::read_to_string(dir.join("history.jsonl")).unwrap()).unwrap();
    read.sort();
    assert_eq!(header.seed, u64::MAX);
    assert_eq!(read.operations.len(), history.operations.len());
    let read = edn::parse(&fs::read_to_string(dir.join("history.edn")).unwrap()).unwrap();
    let keyed = history
        .operations
        .iter()
        .filter(|o| !matches!(o.call, Call::Scan { .. }))
        .count();
    assert_eq!(read.operations.len(), keyed, "scans have no place in EDN");
    assert_eq!(fs::read_to_string(dir.join("logs/n1.log")).unwrap(), "a log");
    assert!(
        fs::read_to_string(dir.join("schedule.txt"))
            .unwrap()
            .contains("kill on n1, from")
    );

    let page = fs::read_to_string(dir.join("index.html")).unwrap();
    assert_sound(&page);
    for words in [
        "<strong>Violated</strong>",
        "--seed 18446744073709551615",
        "class=\"operation ok\"",
        "&lt;evil&gt;",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn only_a_run_with_everything_passes() {
    let history = synthetic::history(30, 60, false);
    let mut report = check::check(&history, &Options::default());
    assert_eq!(report.verdict(), check::Verdict::Linearizable, "{report}");
    let root = folder("runs");
    let write = |name: &str, run: &Run<'_>| {
        report::write(&root.join(name), run).unwrap();
        assert_sound(&fs::read_to_string(root.join(name).join("index.html")).unwrap());
        summary(&root.join(name)).verdict
    };
    assert_eq!(write("1-passed", &run(1, &history, &report)), Judgement::Passed);

    let mut missing = run(2, &history, &report);
    missing.requirements[1].happened = 0;
    assert_eq!(write("2-invalid", &missing), Judgement::Invalid);

    let mut failed = run(3, &history, &report);
    failed
        .harness_failures
        .push("n2 did not come up within 30 s: <evil>".into());
    assert_eq!(write("3-harness", &failed), Judgement::HarnessFailed);

    report
        .undecided
        .push("key k3: given up after 2,000,000 states".into());
    assert_eq!(
        write("4-undecided", &run(4, &history, &report)),
        Judgement::Undecided
    );

    // A run that was cut off, and a folder that is none.
    fs::create_dir_all(root.join("5-cut-off")).unwrap();
    fs::write(root.join("5-cut-off/history.jsonl"), "{}").unwrap();
    fs::create_dir_all(root.join("other")).unwrap();
    let totals = report::index(&root).unwrap();
    assert_eq!((totals.runs, totals.passed(), totals.unfinished), (5, 1, 1));
    assert_eq!(
        totals.faults["kill"].count,
        4 * summary(&root.join("1-passed")).faults["kill"].count
    );
    let page = fs::read_to_string(root.join("index.html")).unwrap();
    assert_sound(&page);
    assert!(page.contains("<a href=\"./1-passed/index.html\">") && page.contains("No verdict"));
}

#[test]
fn a_recorded_history_is_not_overwritten_and_a_missing_log_is_an_error() {
    let dir = folder("recorded");
    fs::write(dir.join("history.jsonl"), "recorded").unwrap();
    let history = synthetic::history(5, 40, false);
    let report = check::check(&history, &Options::default());
    let mut run = run(5, &history, &report);
    run.logs.push(Log {
        name: "n1.log".into(),
        path: dir.join("nowhere"),
    });
    run.logs.push(Log {
        name: "../n2.log".into(),
        path: dir.join("history.jsonl"),
    });
    let error = format!("{:#}", report::write(&dir, &run).unwrap_err());
    assert!(
        error.contains("nowhere") && error.contains("\"../n2.log\" is no name"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(dir.join("history.jsonl")).unwrap(), "recorded");
    assert!(dir.join("index.html").exists() && dir.join("history.edn").exists());
    assert!(
        !dir.join("n2.log").exists(),
        "nothing is written outside of logs/"
    );
}

#[test]
fn an_empty_run_has_a_page() {
    let dir = folder("empty");
    let (history, report) = (History::default(), check::Report::default());
    report::write(&dir, &run(6, &history, &report)).unwrap();
    assert_sound(&fs::read_to_string(dir.join("index.html")).unwrap());
}

#[test]
fn a_long_run_of_a_million_operations_has_a_small_page() {
    let dir = folder("long");
    let history = synthetic::history(7200, 140, false);
    assert!(
        history.operations.len() > 1_000_000,
        "{}",
        history.operations.len()
    );
    // What the checkers say is not the point here.
    let report = check::Report::default();
    report::write(&dir, &run(7, &history, &report)).unwrap();
    assert_sound(&fs::read_to_string(dir.join("index.html")).unwrap());
    fs::remove_file(dir.join("history.edn")).unwrap();
    fs::remove_file(dir.join("history.jsonl")).unwrap();
}
