//! Goal: the index never becomes durable ahead of the log (I3), whatever a node is asked to flush.
//! Method: one follower's log is slowed by delaying each of its syncs (strace), while the other two commit at speed;
//! that follower is asked to purge, which flushes its index; then its power is cut: its disk is a loop-mounted image.
//! It must open again, catch up and hold everything.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nezha_jepsen::cluster::disk::LoopDisk;
use nezha_jepsen::cluster::trace::Tracer;
use rustix::process::Signal;

use crate::damage::log_files;
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::process::kvd;
use crate::harness::verify::faults_of;
use crate::harness::{block_on, seed};

/// How long the flush may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(6);

/// Runs the story on the given binary. Answers why the node is not what it was, if so.
pub fn fault_after_cut(program: PathBuf, env: &[(String, String)], seed: u64) -> Option<String> {
    let mut cluster = Cluster::new(3);
    let mut disk = LoopDisk::new(cluster.root(), "disk", 256).unwrap();
    let at = 2;
    cluster.nodes[at].dir = disk.data();
    for node in &mut cluster.nodes {
        node.program = program.clone();
        node.env = env.to_vec();
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    let fault = block_on(async {
        cluster.wait_serving().await;
        if cluster.leader().await == at {
            cluster.transfer_leader(at, 0).await;
        }
        cluster.wait_caught_up().await;
        let before = cluster.status(at).await;
        let log = log_files(&cluster.nodes[at].dir).pop().expect("a log file");
        let pid = cluster.nodes[at].process().pid();
        let path = log.to_str().expect("UTF-8").to_string();
        // From here on each sync of the log, and of nothing else, takes eight seconds.
        let tracer = Tracer::attach_to(
            pid,
            cluster.root().join("trace"),
            &["fdatasync:delay_enter=8000000"],
            &path,
        )
        .unwrap();
        let others = vec![cluster.nodes[0].conn(), cluster.nodes[1].conn()];
        let load = Load::start(others, &ledger, 0, 8, |_| 500);
        load.wait_acknowledged(500, SERVING_PATIENCE).await;
        // Flushes the index at whatever it has applied. Its own record waits for the slow log, so no answer is due.
        let applied = cluster.status(at).await.applied_index;
        let conn = cluster.nodes[at].conn().patience(Duration::from_millis(800));
        let _ = conn.purge(0).await;
        // On a busy disk the flush takes a while. It is given less than one sync of the log takes.
        let asked = Instant::now();
        let mut after = cluster.status(at).await;
        while after.flushed_index < applied && asked.elapsed() < FLUSH_PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
            after = cluster.status(at).await;
        }
        println!(
            "flushed {} -> {}, applied {}",
            before.flushed_index, after.flushed_index, after.applied_index
        );
        cluster.nodes[at].process().signal(Signal::STOP);
        let copy = disk.copy_image().unwrap();
        cluster.nodes[at].kill();
        drop(tracer);
        load.stop().await;
        disk.replace_by(&copy).unwrap();
        cluster.nodes[at].start();
        let conn = cluster.nodes[at].conn().patience(Duration::from_secs(2));
        let started = Instant::now();
        while conn.get("harness/serving").await.is_err() {
            if cluster.nodes[at].process().exited().is_some() {
                let (code, log) = cluster.nodes[at].ends();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Some(format!("it ended with code {code}: {}", last.join(" / ")));
            }
            if started.elapsed() > SERVING_PATIENCE {
                return Some("it does not serve again".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.wait_caught_up().await;
        faults_of(&cluster.nodes[at].conn(), &ledger, &ledger.entries())
            .await
            .into_iter()
            .next()
    });
    drop(cluster);
    fault
}

#[test]
fn a_flush_never_passes_the_log() {
    let seed = seed::seed("a_flush_never_passes_the_log", 15);
    assert_eq!(fault_after_cut(kvd(), &[], seed), None);
}
