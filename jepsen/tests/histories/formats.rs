//! What is written is read again.

use nezha_jepsen::check::{Options, Verdict, check};
use nezha_jepsen::history::jsonl::{self, Header, Writer};
use nezha_jepsen::history::{Fault, edn, read};
use serde_json::json;

use crate::good::shapes;
use crate::simulate::{Shape, simulate};

fn fault(kind: &str, began: u64, ended: Option<u64>) -> Fault {
    Fault {
        kind: kind.to_owned(),
        members: vec!["n1".to_owned(), "n2".to_owned()],
        detail: format!("{kind} \"quoted\""),
        began,
        ended,
    }
}

#[test]
fn our_own_format_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let mut history = simulate(&Shape::default(), 1).history;
    history.faults = vec![fault("kill", 5, None), fault("pause", 7, Some(9))];
    let run = json!({"nodes": 3}).as_object().unwrap().clone();
    let header = Header::new(7, run);
    let writer = Writer::create(&path, &header).unwrap();
    assert!(
        Writer::create(&path, &header).is_err(),
        "a history was overwritten"
    );
    // In whichever order they end, from several threads.
    std::thread::scope(|scope| {
        let (first, second) = history.operations.split_at(100);
        scope.spawn(|| {
            second
                .iter()
                .for_each(|operation| writer.operation(operation).unwrap())
        });
        scope.spawn(|| {
            first
                .iter()
                .for_each(|operation| writer.operation(operation).unwrap())
        });
        scope.spawn(|| {
            history
                .faults
                .iter()
                .rev()
                .for_each(|fault| writer.fault(fault).unwrap())
        });
    });
    writer.flush().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let (read_header, _) = jsonl::parse(&text).unwrap();
    assert_eq!(read_header, header);
    let mut again = read::read(&path).unwrap();
    history.sort();
    let by = |operation: &nezha_jepsen::history::Operation| (operation.invoked, operation.process);
    again.operations.sort_by_key(by);
    history.operations.sort_by_key(by);
    assert_eq!(again, history);
}

#[test]
fn bad_files_are_refused_by_name_and_line() {
    let header = "{\"format\":\"nezha-jepsen-history\",\"version\":1,\"seed\":7,\"run\":{}}\n";
    let error = |text: &str| read::parse(text).unwrap_err().to_string();
    assert!(error(&header.replace(":1,", ":2,")).contains("\"nezha-jepsen-history\" version 2 is not known"));
    assert!(error(&header.replace("nezha", "other")).contains("\"other-jepsen-history\" version 1"));
    assert!(error(&format!("{header}{{\"fault\":1}}\n")).starts_with("line 2: "));
    assert!(error(&format!("{header}\n\n")).starts_with("line 2: "));
    let cut = format!("{header}{{\"operation\":{{\"process\":1");
    assert!(error(&cut).starts_with("line 2 is unfinished"), "{}", error(&cut));
    assert!(error(header.trim_end()).starts_with("line 1 is unfinished"));
    for unknown in ["", "hello", "[1 2]", "{}"] {
        assert!(error(unknown).starts_with("no history"), "{unknown:?}");
    }
}

/// Scans and revisions do not survive it, the rest does; and nothing that is right becomes wrong.
#[test]
fn exports_are_right_when_histories_are() {
    let seed: u64 = rand::random_range(0..1 << 40);
    for mut shape in shapes() {
        shape.unknown = shape.unknown.min(0.1);
        shape.operations = 300;
        let mut history = simulate(&shape, seed).history;
        history.faults = vec![
            fault("kill", 5, None),
            fault("kill", 6, Some(11)),
            fault("pause", 7, Some(9)),
        ];
        let mut exported = Vec::new();
        edn::write(&history, &mut exported).unwrap();
        let exported = String::from_utf8(exported).unwrap();
        let again = read::parse(&exported).unwrap();
        history
            .operations
            .retain(|operation| operation.call.key().is_some());
        assert_eq!(again.operations.len(), history.operations.len());
        assert_eq!(again.faults.len(), 3);
        for (ours, theirs) in history.faults.iter().zip(&again.faults) {
            assert_eq!((&ours.kind, &ours.members), (&theirs.kind, &theirs.members));
            assert_eq!(
                (&ours.detail, ours.ended.is_some()),
                (&theirs.detail, theirs.ended.is_some())
            );
        }
        let report = check(&again, &Options::default());
        assert_eq!(
            report.verdict(),
            Verdict::Linearizable,
            "seed {seed}, {shape:?}: {report}"
        );
    }
}

#[test]
fn jepsen_histories_are_read_as_jepsen_means_them() {
    let vector = "[{:index 0, :time 10, :process 0, :type :invoke, :f :write, :value [5 1]}
        #jepsen.history.Op{:index 1, :time 10, :process 1, :type :invoke, :f :cas, :value [5 [1 2]]}
        {:process :nemesis, :type :info, :f :start, :value [\"n1\"]}
        {:process 0, :type :info, :f :write, :value [5 1], :error :timeout}
        {:process 1, :type :ok, :f :cas, :value [5 [1 2]]}
        {:process 2, :type :invoke, :f :read, :value [5 nil]}
        {:process 2, :type :ok, :f :read, :value [5 2]}
        {:process :nemesis, :type :info, :f :start, :value nil}
        {:process 3, :type :invoke, :f :write, :value [5 3]}]";
    let history = read::parse(vector).unwrap();
    assert_eq!(history.operations.len(), 4);
    assert!(
        history
            .operations
            .iter()
            .all(|operation| operation.call.key() == Some("5"))
    );
    assert!(history.operations.is_sorted_by(|a, b| a.invoked < b.invoked));
    assert_eq!(history.faults.len(), 1);
    assert!(history.faults[0].ended.is_some());
    // The unknown write took effect: it must have, for the cas.
    assert_eq!(
        check(&history, &Options::default()).verdict(),
        Verdict::Linearizable
    );
    let stale = vector.replace("[5 2]}\n", "[5 1]}\n");
    assert_ne!(stale, vector);
    assert_eq!(
        check(&read::parse(&stale).unwrap(), &Options::default()).verdict(),
        Verdict::Violated
    );
    let cut = &vector[..vector.len() - 1];
    assert!(read::parse(cut).unwrap_err().to_string().contains("unfinished"));
}
