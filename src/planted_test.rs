//! Goal: the tests of store, purge and snapshot notice what they are there for. Method: each in a child process with one line
//! missing (`NEZHA_PLANTED_BUG`), for three seeds; it must fail with the bug and pass without it.

use std::process::{Command, Output};

const SEEDS: [u64; 3] = [1, 2, 3];

fn run(test: &str, seed: u64, bug: Option<&str>) -> Output {
    let mut child = Command::new(std::env::current_exe().expect("a test knows its program"));
    child
        .args([test, "--exact"])
        .env("NEZHA_SEED", seed.to_string())
        .env_remove("NEZHA_PLANTED_BUG")
        .envs(bug.map(|bug| ("NEZHA_PLANTED_BUG", bug)));
    child.output().expect("the program of this test starts again")
}

/// What a failed test said: the line after the first panic's place.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).unwrap_or_default().to_owned()
}

fn is_caught(bug: &str, test: &str) {
    for seed in SEEDS {
        let without = run(test, seed, None);
        let text = String::from_utf8_lossy(&without.stdout);
        assert!(
            without.status.success() && text.contains("1 passed"),
            "seed {seed} without a bug: {text}"
        );
        let with = run(test, seed, Some(bug));
        assert!(
            !with.status.success(),
            "seed {seed}: {test} does not notice {bug}"
        );
        println!("{bug}, seed {seed}: {}", reason(&with));
    }
}

#[test]
fn relocate_without_compare_is_caught() {
    is_caught(
        "relocate-without-compare",
        "store::collect_test::overwrites_that_race_with_a_job_win",
    );
    is_caught(
        "relocate-without-compare",
        "store::steps_test::a_crash_at_any_step_of_a_job_loses_nothing_and_leaves_nothing",
    );
}

#[test]
fn unlink_before_flush_is_caught() {
    is_caught(
        "unlink-before-flush",
        "store::steps_test::a_crash_at_any_step_of_a_job_loses_nothing_and_leaves_nothing",
    );
}

#[test]
fn unlink_pinned_is_caught() {
    is_caught(
        "unlink-pinned",
        "store::steps_test::a_crash_at_any_step_of_a_transfer_leaves_the_old_store_or_the_new_one",
    );
}

#[test]
fn install_not_atomic_is_caught() {
    is_caught(
        "install-not-atomic",
        "store::steps_test::a_crash_at_any_step_of_a_transfer_leaves_the_old_store_or_the_new_one",
    );
}

#[test]
fn purge_past_flushed_is_caught() {
    is_caught(
        "purge-past-flushed",
        "raft::purge_test::a_purge_up_to_a_snapshot_survives_power_cuts",
    );
}

#[test]
fn snapshot_misses_last_is_caught() {
    is_caught(
        "snapshot-misses-last",
        "raft::raft_test::an_installed_snapshot_is_the_senders_state",
    );
}
