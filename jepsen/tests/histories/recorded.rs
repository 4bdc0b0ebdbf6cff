//! Histories of other stores, whose verdicts another checker gave. Method: read each as it is, check it, compare; and the
//! same after a detour through EDN.

use std::path::{Path, PathBuf};

use nezha_jepsen::check::{self, Options, Verdict};
use nezha_jepsen::history::{edn, read};

fn recorded() -> Vec<(PathBuf, Verdict)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/linearizability");
    let verdicts = std::fs::read_to_string(folder.join("verdicts.tsv")).expect("the verdicts are there");
    let verdict = |line: &str| {
        let (file, verdict) = line.split_once('\t').expect("two columns");
        let verdict = match verdict {
            "true" => Verdict::Linearizable,
            "false" => Verdict::Violated,
            other => panic!("{other:?} is no verdict"),
        };
        (folder.join(file), verdict)
    };
    let all: Vec<_> = verdicts.lines().skip(1).map(verdict).collect();
    assert!(all.len() >= 56, "only {} histories", all.len());
    all
}

#[test]
fn every_recorded_verdict_is_agreed_with() {
    for (path, verdict) in recorded() {
        let history = read::read(&path).unwrap();
        assert!(
            history.operations.len() > 20,
            "{} is not all there",
            path.display()
        );
        let report = check::check(&history, &Options::default());
        assert_eq!(report.verdict(), verdict, "{}: {report}", path.display());
        let witnesses = report.findings.iter().map(|finding| finding.operations.len());
        assert!(
            witnesses.clone().all(|length| (1..40).contains(&length)),
            "{}: {report}",
            path.display()
        );
    }
}

/// An exported refusal is a failure, about which Knossos asks nothing: it can only make a history easier to satisfy.
#[test]
fn exports_keep_verdicts() {
    for (path, verdict) in recorded() {
        let history = read::read(&path).unwrap();
        let mut exported = Vec::new();
        edn::write(&history, &mut exported).unwrap();
        let exported = String::from_utf8(exported).unwrap();
        let again = read::parse(&exported).unwrap();
        assert_eq!(again.operations.len(), history.operations.len());
        let report = check::check(&again, &Options::default());
        if verdict == Verdict::Linearizable {
            assert_eq!(report.verdict(), verdict, "{}: {report}", path.display());
        }
        let mut twice = Vec::new();
        edn::write(&again, &mut twice).unwrap();
        assert_eq!(String::from_utf8(twice).unwrap(), exported, "{}", path.display());
    }
}
