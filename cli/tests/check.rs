//! Goal: `kvctl check replicas` says equal only of members that answered alike about one index, names the first key that
//! differs, and exits as listed.
//! Method: the real binary against fake members with equal, different, moving, damaged and missing data.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use nezha_api::errors;
use support::{Fake, closed_endpoint, kvctl};

const HEADER: &str = "NODE ENDPOINT APPLIED KEYS BYTES HASH VERDICT ERROR";

/// Members that hold the same 40 keys.
fn alike(count: u64) -> Vec<Fake> {
    let nodes = Fake::cluster(count);
    for node in &nodes {
        for n in 0..40 {
            node.insert(&[(&format!("key/{n:02}"), "value")]);
        }
    }
    nodes
}

/// Gives a key another value of the same length, without another revision.
fn corrupt(node: &Fake, key: &str) {
    let mut state = node.state.lock().unwrap();
    state.rows.get_mut(key.as_bytes()).unwrap().0 = b"eulav".to_vec();
}

fn lose(node: &Fake, key: &str) {
    node.state.lock().unwrap().rows.remove(key.as_bytes()).unwrap();
}

/// The verdict of each row.
fn verdicts(words: &[String]) -> Vec<&str> {
    let rows = words.iter().filter(|line| line.starts_with('n'));
    rows.map(|line| line.split(' ').nth(6).unwrap()).collect()
}

#[test]
fn equal_replicas() {
    let nodes = alike(3);
    let output = nodes[1].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let words = output.words();
    assert_eq!(
        words[0],
        "All 3 replicas hold the same keys and values at log index 100: 40 keys, 440B."
    );
    assert_eq!(words[1], HEADER);
    assert_eq!(verdicts(&words), ["equal"; 3]);
    let first = format!("n1 {} 100 40 440B ", nodes[0].endpoint);
    assert!(words[2].starts_with(&first), "{words:?}");
    let json = nodes[0]
        .run(&["check", "replicas", "--prefix", "key/1", "-w", "json"])
        .json();
    assert_eq!(json["verdict"], "equal");
    assert_eq!(json["first_difference"], serde_json::Value::Null);
    assert_eq!(json["replicas"][2]["keys"], 10);
    assert_eq!(json["replicas"][2]["id"], 3);
    let lines = nodes[0].run(&["check", "replicas", "-w", "jsonl"]);
    assert_eq!(lines.text().lines().count(), 3, "{lines:?}");
}

#[test]
fn the_first_key_that_differs_is_named() {
    // Whatever place it has in the order.
    for key in ["key/00", "key/07", "key/20", "key/39"] {
        let nodes = alike(3);
        lose(&nodes[2], key);
        let output = nodes[0].run(&["check", "replicas"]);
        assert_eq!(output.code, Some(9), "{output:?}");
        let words = output.words();
        assert_eq!(
            words[0],
            "The replicas differ in their keys and values: n3 from the others."
        );
        assert_eq!(verdicts(&words), ["majority", "majority", "differs"]);
        let last = format!("First key that differs: {key} (on n1, n2, not on n3)");
        assert_eq!(words.last(), Some(&last));
    }
    // Two differences: the first one. Two members: nobody knows which is right.
    let nodes = alike(2);
    corrupt(&nodes[0], "key/31");
    corrupt(&nodes[1], "key/12");
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(9), "{output:?}");
    let words = output.words();
    assert_eq!(words[0], "The replicas differ in their keys and values.");
    assert_eq!(verdicts(&words), ["differs", "differs"]);
    assert_eq!(
        words.last().unwrap(),
        "First key that differs: key/12 (all have it, not alike)"
    );
    let json = nodes[0].run(&["check", "replicas", "-w", "json"]).json();
    assert_eq!(json["verdict"], "different");
    assert_eq!(json["first_difference"]["key"], "key/12");
    assert_eq!(json["first_difference"]["have"], serde_json::json!(["n1", "n2"]));
    // Of keys alone there is nothing to see, nor outside of the range.
    let keys = nodes[0].run(&["check", "replicas", "--keys-only"]);
    assert_eq!(keys.code, Some(0), "{keys:?}");
    let outside = nodes[0].run(&["check", "replicas", "--prefix", "key/0"]);
    assert_eq!(outside.code, Some(0), "{outside:?}");
}

#[test]
fn members_that_are_written_to_are_compared_at_an_index_to_come() {
    let nodes = alike(3);
    for (node, ahead) in nodes.iter().zip([500, 1000, 0]) {
        let mut state = node.state.lock().unwrap();
        state.pace = 100;
        state.status.applied_index += ahead;
    }
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let asked = nodes[0].state.lock().unwrap().hashes.clone();
    assert!(*asked.last().unwrap() > 1100, "ahead of the furthest: {asked:?}");
    for node in &nodes {
        assert_eq!(node.state.lock().unwrap().hashes, asked, "all for the same");
    }
}

#[test]
fn who_cannot_be_compared_is_not_called_equal() {
    // Always past the index.
    let nodes = alike(3);
    let gone = errors::member_state("n2", "is past it", None);
    nodes[1].state.lock().unwrap().hash_failure = Some(gone);
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(10), "{output:?}");
    assert_eq!(verdicts(&output.words()), ["equal", "unanswered", "equal"]);
    assert!(output.text().contains("is past it"), "{output:?}");
    let asked = nodes[1].state.lock().unwrap().hashes.len();
    assert!(asked > 1, "it was tried {asked} times");

    // Damaged: not tried again.
    let damaged = errors::data_damaged("n2", "log/7", 4096, "CRC differs");
    nodes[1].state.lock().unwrap().hash_failure = Some(damaged);
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(8), "{output:?}");
    assert_eq!(verdicts(&output.words()), ["equal", "damaged", "equal"]);
    assert!(
        output.text().contains("log/7 is damaged at offset 4096"),
        "{output:?}"
    );
    assert_eq!(nodes[1].state.lock().unwrap().hashes.len(), asked + 1);
    // A difference between the others weighs more, and is found without it.
    corrupt(&nodes[2], "key/33");
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(9), "{output:?}");
    assert!(
        output.text().contains("First key that differs: key/33"),
        "{output:?}"
    );
}

#[test]
fn a_member_that_is_down_stays_in_the_table() {
    let mut nodes = alike(3);
    drop(nodes.remove(2));
    let output = nodes[0].run(&["check", "replicas"]);
    assert_eq!(output.code, Some(10), "{output:?}");
    let words = output.words();
    assert_eq!(verdicts(&words), ["equal", "equal", "unanswered"]);
    assert!(
        words[0].contains("no answer from n3. Equal so far: n1, n2 (keys and values at"),
        "{words:?}"
    );
    kvctl(
        &["--endpoints", &closed_endpoint(), "check", "replicas"],
        &[],
        b"",
    )
    .is(3, "");
}
