//! Goal: a snapshot reaches a member that lacks the log whatever happens on the way, goes on where a broken connection
//! left it, begins anew only after a restart of the receiver, and takes little memory on both sides.
//! Method: a follower is away while the leader writes and purges its log; a throttle makes the transfer last; the kernel
//! cuts the network or kills the receiver meanwhile; afterwards every value is compared on every node.

use std::time::Duration;

use futures::StreamExt;
use nezha_jepsen::cluster::Network;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::{block_on, eventually, seed};

const VALUE_BYTES: usize = 100_000;
/// About 80 MB, five seconds at the throttle.
const VALUES: usize = 800;
const THROTTLE: &str = "16MiB";

/// Memory that a transfer may take.
const TRANSFER_BYTES_MAX: u64 = 256 << 20;

fn options(cluster: &mut Cluster, more: &[&str]) {
    for node in &mut cluster.nodes {
        // A member that lags more than a little does not keep the log: what is pinned is pinned by the transfer.
        let own = ["--log-segment-bytes", "4MiB", "--lagging-log-bytes-max", "2MiB"];
        node.extra.extend(own.iter().chain(more).map(ToString::to_string));
    }
}

fn key(n: usize) -> String {
    format!("snapshot/{n:05}")
}

async fn fill(cluster: &Cluster, leader: usize, seed: u64, numbers: std::ops::Range<usize>) {
    let conn = cluster.nodes[leader].conn();
    let puts = numbers.map(|n| {
        let conn = &conn;
        async move {
            let value = seed::value_of(seed, key(n).as_bytes(), VALUE_BYTES);
            conn.put_surely(key(n), value).await;
        }
    });
    futures::stream::iter(puts)
        .buffer_unordered(32)
        .collect::<Vec<()>>()
        .await;
}

async fn assert_equal_everywhere(cluster: &Cluster, seed: u64, values: usize) {
    cluster.wait_caught_up().await;
    for (i, node) in cluster.nodes.iter().enumerate() {
        let conn = node.conn();
        for n in 0..values {
            let got = conn.get_stale(key(n)).await.unwrap();
            assert!(
                got.value == seed::value_of(seed, key(n).as_bytes(), VALUE_BYTES),
                "{} differs on n{}",
                key(n),
                i + 1
            );
        }
    }
}

fn log(cluster: &Cluster, i: usize) -> String {
    std::fs::read_to_string(&cluster.nodes[i].log).unwrap()
}

fn count(cluster: &Cluster, i: usize, words: &str) -> usize {
    log(cluster, i).matches(words).count()
}

async fn logged(cluster: &Cluster, i: usize, words: &str, times: usize) {
    eventually(words, SERVING_PATIENCE * 2, || async {
        match count(cluster, i, words) {
            n if n >= times => Ok(()),
            n => Err(format!("n{} has logged it {n} of {times} times", i + 1)),
        }
    })
    .await;
}

/// Prints what the logs say about transfers.
fn show(cluster: &Cluster, leader: usize, away: usize) {
    for (i, words) in [
        (leader, "sent a snapshot"),
        (leader, "resumed the transfer"),
        (away, "received a snapshot"),
        (away, "installed a snapshot"),
    ] {
        for line in log(cluster, i).lines().filter(|line| line.contains(words)) {
            println!("n{}: {line}", i + 1);
        }
    }
}

/// Kills a follower, fills, and purges the leader's log: the follower will need a snapshot. Answers leader and follower.
async fn one_needs_a_snapshot(cluster: &mut Cluster, seed: u64, values: usize) -> (usize, usize) {
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    // It has a little log, and then the rest is missing.
    fill(cluster, leader, seed, 0..10).await;
    cluster.wait_caught_up().await;
    cluster.nodes[away].kill();
    fill(cluster, leader, seed, 10..values).await;
    cluster.nodes[leader].conn().purge(0).await.unwrap();
    (leader, away)
}

#[test]
fn a_transfer_goes_on_after_the_network_was_cut() {
    let seed = seed::seed("a_transfer_goes_on_after_the_network_was_cut", 31);
    let network = Network::new(3, &[]).unwrap();
    let tested = network.inside(|| {
        let mut cluster = Cluster::on_network(&network).steady();
        options(&mut cluster, &["--snapshot-bytes-per-second", THROTTLE]);
        cluster.start_all();
        block_on(async {
            cluster.wait_serving().await;
            let (leader, away) = one_needs_a_snapshot(&mut cluster, seed, VALUES).await;
            cluster.start_all();
            some_is_staged(&cluster, away).await;
            network.cut_all(&network.links_of(away)).unwrap();
            // What is written now is not in the view; the receiver will ask for it, so it stays.
            fill(&cluster, leader, seed, VALUES..VALUES + 100).await;
            let conn = cluster.nodes[leader].conn();
            eventually("log pinned by the transfer", SERVING_PATIENCE, || async {
                let status = conn.gc_status().await.map_err(|s| s.to_string())?;
                match status.pins.iter().any(|pin| pin.reason == "transfer") {
                    true => Ok(()),
                    false => Err(format!("{:?}", status.pins)),
                }
            })
            .await;
            logged(&cluster, leader, "the transfer of a snapshot was interrupted", 1).await;
            network.heal_all().unwrap();
            assert_equal_everywhere(&cluster, seed, VALUES + 100).await;
            show(&cluster, leader, away);
            assert!(count(&cluster, leader, "resumed the transfer of a snapshot") >= 1);
            assert_eq!(
                count(&cluster, away, "receiving a snapshot"),
                1,
                "it did not begin anew"
            );
            assert_eq!(count(&cluster, away, "installed a snapshot"), 1);
            // The leader has more than nothing to go on from.
            let resumed = log(&cluster, leader);
            let line = resumed
                .lines()
                .find(|line| line.contains("resumed the transfer"))
                .unwrap();
            assert!(!line.contains("staged_chunks=0"), "{line}");
        });
        cluster.kill_and_check();
    });
    tested.unwrap();
}

#[test]
fn a_receiver_that_was_killed_gets_another_snapshot() {
    let seed = seed::seed("a_receiver_that_was_killed_gets_another_snapshot", 32);
    let mut cluster = Cluster::new(3).steady();
    options(&mut cluster, &["--snapshot-bytes-per-second", THROTTLE]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let (leader, away) = one_needs_a_snapshot(&mut cluster, seed, VALUES).await;
        for round in 1..=2 {
            cluster.start_all();
            logged(&cluster, away, "receiving a snapshot", round).await;
            some_is_staged(&cluster, away).await;
            cluster.nodes[away].kill();
        }
        assert_eq!(count(&cluster, away, "installed a snapshot"), 0);
        cluster.start_all();
        assert_equal_everywhere(&cluster, seed, VALUES).await;
        show(&cluster, leader, away);
        assert!(
            count(&cluster, leader, "is not known here") >= 1,
            "the receiver said that it lost it"
        );
        assert_eq!(count(&cluster, away, "installed a snapshot"), 1);
        let dir = cluster.nodes[away].dir.clone();
        eventually("the old store to go", SERVING_PATIENCE, || async {
            match stores(&dir) {
                (1, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    });
    cluster.kill_and_check();
}

/// Number of stores in a data directory, and bytes of their value segments.
fn stores(dir: &std::path::Path) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with("store-") {
            continue;
        }
        count += 1;
        let Ok(values) = std::fs::read_dir(entry.path().join("values")) else {
            continue;
        };
        for value in values.flatten() {
            bytes += value.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    (count, bytes)
}

/// Waits until a node has staged more than a window: its leader knows that some of it is there.
async fn some_is_staged(cluster: &Cluster, i: usize) {
    let dir = cluster.nodes[i].dir.clone();
    eventually("staged values", SERVING_PATIENCE, || async {
        match stores(&dir) {
            (2, bytes) if bytes > 12 << 20 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[test]
fn a_transfer_takes_little_memory() {
    const VALUES: usize = 4_000;
    let seed = seed::seed("a_transfer_takes_little_memory", 33);
    let mut cluster = Cluster::new(3).steady();
    options(&mut cluster, &[]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        let idle_away = cluster.nodes[(leader + 1) % 3].process().resident_bytes();
        let (leader, away) = one_needs_a_snapshot(&mut cluster, seed, VALUES).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle_leader = cluster.nodes[leader].process().resident_bytes();
        cluster.nodes[leader].process().forget_peak();
        cluster.start_all();
        logged(&cluster, away, "installed a snapshot", 1).await;
        let peaks = [leader, away].map(|i| cluster.nodes[i].process().peak_resident_bytes());
        show(&cluster, leader, away);
        for (name, idle, peak) in [
            ("leader", idle_leader, peaks[0]),
            ("receiver", idle_away, peaks[1]),
        ] {
            println!("{name}: {} MiB idle, {} MiB at most", idle >> 20, peak >> 20);
            assert!(
                peak <= idle + TRANSFER_BYTES_MAX,
                "{name}: {idle} bytes idle, {peak} at most"
            );
        }
        assert_equal_everywhere(&cluster, seed, VALUES).await;
    });
    cluster.kill_and_check();
}
