//! Goal: collection takes nothing from Raft: leaders change, what was never committed is cut off, followers read old
//! entries and receive snapshots, all while every node moves values and purges its log; then the space comes back.
//! Method: small segments and a small log cache; few keys overwritten at full speed, collections ordered all the time
//! on every node. Each event is counted, and the test fails when one did not happen. At the end all nodes hold the
//! same, and that is what the clients were told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nezha_api::v1::GcPin;
use rand::RngExt;
use rustix::process::Signal;

use crate::harness::churn::{Background, Churn, Shape};
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::collection::{
    assert_filled, collect, collect_all, fill, jobs, logged, with_small_segments,
};
use crate::harness::verify::assert_same_on_every_node;
use crate::harness::{block_on, eventually, seed};

const HOT: Shape = Shape {
    clients: 8,
    keys: 100,
    value_bytes: 9_000,
};

/// Pause between two ordered collections.
const PAUSE: Duration = Duration::from_millis(100);

/// Key of the writes that a leader takes when it is alone.
const STRANDED: &str = "stranded";

const CUT_OFF: &str = "entries that were never committed are cut off";
const RECEIVING: &str = "receiving a snapshot";
const INSTALLED: &str = "installed a snapshot";

/// Ends the churn, and compares all nodes before and after everything is collected.
async fn assert_unharmed(cluster: &Cluster, churn: Churn, collecting: Background) {
    let churned = churn.stop().await;
    collecting.stop().await;
    let before = assert_same_on_every_node(cluster).await;
    churned.assert_holds("all nodes", &before);
    assert!(
        before.iter().all(|row| row.key != STRANDED),
        "it was never committed"
    );
    for i in cluster.started() {
        let status = collect_all(cluster, i).await;
        println!(
            "n{}: {:?}; {} bytes in files, {} live",
            i + 1,
            jobs(cluster, i),
            status.file_bytes,
            status.live_bytes
        );
    }
    let after = assert_same_on_every_node(cluster).await;
    assert!(before == after, "collecting has changed what is read");
}

#[test]
fn leaders_change_while_garbage_is_collected() {
    let seed = seed::seed("leaders_change_while_garbage_is_collected", 31);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = with_small_segments(Cluster::new(3), &["--log-cache-bytes", "1MiB"]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let churn = Churn::start(&cluster.conns(), seed, HOT);
        let collecting = Background::collecting(cluster.conns(), PAUSE);
        for _ in 0..4 {
            churn.wait_acknowledged(500, SERVING_PATIENCE).await;
            let leader = cluster.leader().await;
            cluster
                .transfer_leader(leader, (leader + rng.random_range(1..3)) % 3)
                .await;
        }
        for _ in 0..2 {
            churn.wait_acknowledged(500, SERVING_PATIENCE).await;
            let leader = cluster.leader().await;
            cluster.nodes[leader].kill();
            churn.wait_acknowledged(200, SERVING_PATIENCE).await;
            cluster.start_all();
            cluster.wait_serving().await;
        }
        for _ in 0..2 {
            churn.wait_acknowledged(500, SERVING_PATIENCE).await;
            overrule_the_leader(&mut cluster, &churn).await;
        }
        for i in 0..3 {
            let sum = jobs(&cluster, i);
            assert!(sum.records > 0 && sum.overtaken > 0, "n{}: {sum:?}", i + 1);
        }
        assert_unharmed(&cluster, churn, collecting).await;
    });
    cluster.kill_and_check();
}

/// Leaves the leader with entries that nobody else has; the others go on without it, and it cuts them off.
async fn overrule_the_leader(cluster: &mut Cluster, churn: &Churn) {
    let old = cluster.leader().await;
    let cut_off = logged(cluster, old, CUT_OFF);
    for other in (0..3).filter(|i| *i != old) {
        cluster.nodes[other].kill();
    }
    let last = cluster.status(old).await.last_log_index;
    let hopeless = cluster.nodes[old].conn().patience(Duration::from_secs(1));
    let answer = hopeless.put(STRANDED, "nobody else has it").await;
    assert!(answer.is_err(), "without a quorum: {answer:?}");
    let stranded = cluster.status(old).await.last_log_index;
    assert!(stranded > last, "the leader has not taken the write");
    cluster.nodes[old].process().signal(Signal::STOP);
    for other in (0..3).filter(|i| *i != old) {
        cluster.nodes[other].start();
    }
    churn.wait_acknowledged(500, SERVING_PATIENCE).await;
    cluster.nodes[old].process().signal(Signal::CONT);
    eventually("the old leader to give in", SERVING_PATIENCE, || async {
        match logged(cluster, old, CUT_OFF) > cut_off {
            true => Ok(()),
            false => Err("it has cut off nothing".to_string()),
        }
    })
    .await;
    cluster.wait_serving().await;
}

/// Keys that are not overwritten all the time: what a transfer has to carry.
const FILL_KEYS: u64 = 6_000;

#[test]
fn followers_catch_up_while_garbage_is_collected() {
    let seed = seed::seed("followers_catch_up_while_garbage_is_collected", 32);
    let options = ["--log-cache-bytes", "1MiB", "--lagging-log-bytes-max", "24MiB"];
    let mut cluster = with_small_segments(Cluster::new(3), &options).steady();
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        fill(&cluster, seed, FILL_KEYS, 1..=1).await;
        cluster.wait_caught_up().await;
        let leader = cluster.leader().await;
        let away = (leader + 1) % 3;
        let churn = Churn::start(&cluster.conns(), seed, HOT);
        let collecting = Background::collecting(cluster.conns(), PAUSE);

        let collected = jobs(&cluster, leader).count;
        eventually("the leader to collect", SERVING_PATIENCE, || async {
            match jobs(&cluster, leader).count > collected {
                true => Ok(()),
                false => Err(format!("{collected} jobs")),
            }
        })
        .await;

        // It lacks less than the bound, and more than the cache has: the leader reads old entries from its segments.
        let installed = logged(&cluster, away, INSTALLED);
        cluster.nodes[away].kill();
        churn.wait_acknowledged(900, SERVING_PATIENCE).await;
        cluster.nodes[away].start();
        wait_for_all_of(&cluster, away, leader).await;
        assert_eq!(logged(&cluster, away, INSTALLED), installed, "its log was there");

        // It lacks more than the bound.
        cluster.nodes[away].kill();
        let last = cluster.status(leader).await.last_log_index;
        eventually("the log to be purged", SERVING_PATIENCE, || async {
            match cluster.status(leader).await.purged_index {
                purged if purged > last => Ok(()),
                purged => Err(format!("purged up to {purged}, {last} is needed")),
            }
        })
        .await;
        let held = stall_a_transfer(&mut cluster, away, leader).await;
        wait_for_all_of(&cluster, away, leader).await;
        assert_eq!(cluster.leader().await, leader, "of a steady cluster");
        eventually("the transfer to let go", SERVING_PATIENCE, || async {
            match (&held & &held_files(&cluster, leader).await).len() {
                0 => Ok(()),
                left => Err(format!("{left} files are held")),
            }
        })
        .await;

        // A transfer pins the log behind it for a minute, as long as the process lives.
        cluster.nodes[leader].kill();
        cluster.start_all();
        cluster.wait_serving().await;
        assert_unharmed(&cluster, churn, collecting).await;
        assert_filled(&cluster, seed, FILL_KEYS, 1).await;
    });
    cluster.kill_and_check();
}

/// Starts a member that needs a snapshot, and stops it in the middle of it: the leader keeps what the transfer has still
/// to read, and collects the rest. Returns files that it kept for that alone.
async fn stall_a_transfer(cluster: &mut Cluster, away: usize, leader: usize) -> BTreeSet<String> {
    let (receiving, installed) = (logged(cluster, away, RECEIVING), logged(cluster, away, INSTALLED));
    cluster.nodes[away].start();
    let started = Instant::now();
    while logged(cluster, away, RECEIVING) == receiving {
        assert!(started.elapsed() < SERVING_PATIENCE, "no transfer has begun");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.nodes[away].process().signal(Signal::STOP);
    let done = logged(cluster, away, INSTALLED) - installed;
    assert_eq!(done, 0, "the transfer was over before it could be stopped");
    // What nobody reads any more is gone after the next run; what the transfer may lead to stays.
    let node = &*cluster;
    let held = eventually("files to be held for the transfer", SERVING_PATIENCE, || async {
        let before = held_files(node, leader).await;
        collect(node, leader).await;
        match &before & &held_files(node, leader).await {
            held if held.is_empty() => Err(format!("none of {before:?}")),
            held => Ok(held),
        }
    })
    .await;
    cluster.nodes[away].process().signal(Signal::CONT);
    eventually("the snapshot to be installed", SERVING_PATIENCE, || async {
        match logged(cluster, away, INSTALLED) > installed {
            true => Ok(()),
            false => Err("it is not".to_string()),
        }
    })
    .await;
    held
}

/// Sorted segments of a node that a transfer holds, or that were not looked at since.
async fn held_files(cluster: &Cluster, i: usize) -> BTreeSet<String> {
    let conn = cluster.nodes[i].conn();
    let status = eventually("the state of the collector", SERVING_PATIENCE, || async {
        conn.gc_status().await.map_err(|s| s.to_string())
    })
    .await;
    // The log is kept for the receiver for a while longer.
    let of_transfer = |pin: &GcPin| pin.reason == "transfer" && pin.file.starts_with("value");
    let pins = status.pins.into_iter().filter(of_transfer);
    pins.map(|pin| pin.file).collect()
}

/// Waits until `behind` has applied all that `leader` has now.
async fn wait_for_all_of(cluster: &Cluster, behind: usize, leader: usize) {
    let goal = cluster.status(leader).await.applied_index;
    eventually("a member to catch up", SERVING_PATIENCE, || async {
        match cluster.status(behind).await.applied_index {
            applied if applied >= goal => Ok(()),
            applied => Err(format!("{applied} of {goal}")),
        }
    })
    .await;
}
