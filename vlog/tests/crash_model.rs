//! Goal: the log loses nothing that was acknowledged and invents nothing, whatever the disk does; every case of the
//! recovery table happens. Method: see `harness`.
//!
//! From another seed on: `NEZHA_SEED=<seed>`, then one history unless `NEZHA_HISTORIES=<n>` says how many.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{Tally, run_history};
use nezha_vlog::RecoveryCase;

fn env(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

#[test]
fn histories_survive_crashes() {
    let first = env("NEZHA_SEED");
    let histories = env("NEZHA_HISTORIES").unwrap_or(if first.is_some() { 1 } else { 2000 });
    let end = first.unwrap_or(0) + histories;
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(Vec::new());
    let next = AtomicU64::new(first.unwrap_or(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || !failed.lock().unwrap().is_empty() {
                        break;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run_history(seed))) {
                        Ok(tally) => total.lock().unwrap().add(&tally),
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed; replay with NEZHA_SEED={}", failed[0]);
    let tally = total.into_inner().unwrap();
    println!("{:#?}", tally.counts);
    for case in RecoveryCase::ALL {
        println!("{case}: {}", tally.cases.get(&case).unwrap_or(&0));
    }
    if histories >= 2000 {
        for case in RecoveryCase::ALL {
            let hits = tally.cases.get(&case).copied().unwrap_or(0);
            assert!(hits >= 20, "recovery case {case} was hit {hits} times");
        }
    }
}

/// Goal: the harness notices what it is there for. Method: the same histories in a child process with one line of the
/// log missing (`planted`); each of three consecutive batches must fail with the bug and pass without it.
#[cfg(feature = "planted-bugs")]
mod planted {
    use std::process::Command;

    /// Histories of a batch: not each one has a group in which the bug can matter.
    const BATCH: u64 = 25;

    fn batch_passes(batch: u64, bug: Option<&str>) -> bool {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["histories_survive_crashes", "--exact"])
            .env("NEZHA_HISTORIES", BATCH.to_string());
        child.env("NEZHA_SEED", (batch * BATCH).to_string());
        child
            .env_remove("NEZHA_PLANTED_BUG")
            .envs(bug.map(|bug| ("NEZHA_PLANTED_BUG", bug)));
        child.output().unwrap().status.success()
    }

    fn is_caught(bug: &str) {
        for batch in 1..=3 {
            assert!(batch_passes(batch, None), "batch {batch} without a bug");
            assert!(
                !batch_passes(batch, Some(bug)),
                "batch {batch} does not notice {bug}"
            );
        }
    }

    #[test]
    fn ack_before_fsync_is_caught() {
        is_caught("ack-before-fsync");
    }

    #[test]
    fn vote_unordered_is_caught() {
        is_caught("vote-unordered");
    }

    #[test]
    fn skip_crc_is_caught() {
        is_caught("skip-crc");
    }
}
