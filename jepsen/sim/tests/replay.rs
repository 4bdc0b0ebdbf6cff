//! Goal: a seed says it all: the same one does exactly the same, another one something else; what is told of a run is true.
//! Method: the program itself, in processes of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use nezha_sim::many::Line;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nezha-sim"))
        .args(args)
        .output()
        .unwrap()
}

fn line(args: &[&str]) -> Line {
    let output = sim(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_same_seed_does_the_same() {
    let mut traces = Vec::new();
    for seed in ["3", "4", "5", "6"] {
        let args = ["--seed", seed, "--seconds", "8"];
        let (first, second) = (line(&args), line(&args));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.operations, second.operations);
        assert!(first.violations.is_empty(), "{:?}", first.violations);
        assert!(first.ok > 100, "{first:?}");
        traces.push(first.trace);
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 4, "seeds differ");
}

#[test]
fn faults_can_be_left_out_and_logs_change_nothing() {
    let args = ["--seed", "7", "--seconds", "8"];
    let whole = line(&args);
    assert!(whole.planned > 1 && !whole.faults.is_empty(), "{whole:?}");
    let all: Vec<String> = (0..whole.planned).map(|number| number.to_string()).collect();
    let none = line(&[&args[..], &["--without", &all.join(",")]].concat());
    assert!(none.faults.is_empty() && none.violations.is_empty(), "{none:?}");
    assert_ne!(none.trace, whole.trace);
    let logged = sim(&[&args[..], &["--log", "info", "--timeline"]].concat());
    let told = String::from_utf8(logged.stdout).unwrap();
    assert!(told.contains(&whole.trace), "{told}");
    assert!(
        told.contains("s  [0] "),
        "the timeline numbers the faults: {told}"
    );
    assert!(String::from_utf8_lossy(&logged.stderr).contains("listening"));
}

#[test]
fn many_seeds_are_told_together_and_what_does_not_fail_is_not_shrunk() {
    let many = sim(&["--seeds", "20..23", "--jobs", "2", "--seconds", "3"]);
    let told = String::from_utf8(many.stdout).unwrap();
    assert!(many.status.success(), "{told}");
    assert!(
        told.contains("3 seeds, 0 failed") && told.contains("CPU s per seed"),
        "{told}"
    );
    let shrunk = sim(&["--seed", "20", "--seconds", "3", "--shrink"]);
    assert_eq!(shrunk.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&shrunk.stderr).contains("does not fail"));
    assert_eq!(sim(&["--seeds", "x..y"]).status.code(), Some(2));
}
