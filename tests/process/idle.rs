//! Goal: a node that has nothing to do leaves the machine alone.
//! Method: how often the threads of an idle node went to sleep, as the kernel counts it. A busy machine only makes it less.

use std::time::Duration;

use crate::harness::block_on;
use crate::harness::cluster::Cluster;

/// Heartbeats, looks at files and disks, and timers of the runtime take about a hundred.
const SLEEPS_PER_SECOND_MAX: u64 = 300;
const SECONDS: u64 = 3;

/// How often all threads of a process together have waited so far.
fn sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    statuses
        .map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn an_idle_cluster_sleeps() {
    let mut cluster = Cluster::serving(3);
    block_on(async {
        cluster.wait_caught_up().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let pids: Vec<u32> = (0..3).map(|i| cluster.nodes[i].process().pid()).collect();
        let before: Vec<u64> = pids.iter().map(|pid| sleeps(*pid)).collect();
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        for (pid, before) in pids.iter().zip(before) {
            let slept = sleeps(*pid).saturating_sub(before);
            println!("{slept} waits in {SECONDS} s");
            assert!(
                slept <= SECONDS * SLEEPS_PER_SECOND_MAX,
                "{slept} waits in {SECONDS} s"
            );
        }
    });
}
