//! Goal: log and values stay below the bound on space amplification whatever is overwritten; writes are held up with
//! reasons before it is broken; a disk that is nearly full loses nothing, and gc makes room again by itself.
//! Method: small segments and a small floor; overwrites beside a look at the space of every node; gc paused until the
//! leader refuses; real file systems of 160 MiB.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nezha_api::errors::{ApiError, Reason};
use nezha_api::v1::GcStatusResponse;
use nezha_jepsen::cluster::disk::LoopDisk;
use tonic::Status;

use crate::harness::client::Conn;
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::collection::with_small_segments;
use crate::harness::{block_on, eventually, seed};

const VALUE_BYTES: usize = 9_000;
const KEYS: u64 = 2_000;

fn cluster(extra: &[&str]) -> Cluster {
    let options = [&["--admission-wait", "300ms"], extra].concat();
    with_small_segments(Cluster::new(3).steady(), &options)
}

/// Gives each node a file system of its own, of this many MiB.
fn on_disks(cluster: &mut Cluster, mib: u64) -> Vec<LoopDisk> {
    let disks: Vec<LoopDisk> = (0..3)
        .map(|i| LoopDisk::new(cluster.root(), &format!("disk{i}"), mib).unwrap())
        .collect();
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks) {
        node.dir = disk.data();
    }
    disks
}

fn key(n: u64) -> String {
    format!("space/{n:05}")
}

fn value(seed: u64, n: u64, round: u64) -> Vec<u8> {
    seed::value_of(seed, format!("{n}/{round}").as_bytes(), VALUE_BYTES)
}

fn reason(status: &Status) -> Option<Reason> {
    ApiError::from_status(status).reason
}

/// Writes all keys once, sixteen at a time, and again what was refused.
async fn write_round(conn: &Conn, seed: u64, round: u64) {
    let writers = (0..16).map(|writer| async move {
        for n in (writer..KEYS).step_by(16) {
            eventually("a write to be admitted", SERVING_PATIENCE, || async {
                conn.put(&key(n), value(seed, n, round))
                    .await
                    .map_err(|s| s.to_string())
            })
            .await;
        }
    });
    futures::future::join_all(writers).await;
}

async fn assert_round(cluster: &Cluster, seed: u64, round: u64) {
    for i in cluster.started() {
        let conn = cluster.nodes[i].conn();
        for n in 0..KEYS {
            let got = conn.get_stale(&key(n)).await.unwrap();
            assert!(
                got.value == value(seed, n, round),
                "{} differs on n{}",
                key(n),
                i + 1
            );
        }
    }
}

#[test]
fn overwrites_stay_below_the_bound() {
    let seed = seed::seed("overwrites_stay_below_the_bound", 31);
    let mut cluster = cluster(&["--space-floor-bytes", "8MiB", "--space-amplification-max", "2.0"]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        let stop = Arc::new(AtomicBool::new(false));
        let watches: Vec<_> = cluster
            .conns()
            .into_iter()
            .map(|conn| {
                let stop = stop.clone();
                tokio::spawn(async move {
                    let (mut worst, mut looks) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let status = conn.gc_status().await.unwrap();
                        let bound = status.space.as_ref().unwrap().bound_bytes;
                        // There is none before the first look of the node itself.
                        if let Some(share) = (status.file_bytes * 1000).checked_div(bound) {
                            looks += 1;
                            worst = worst.max(share);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    (worst, looks)
                })
            })
            .collect();
        let conn = cluster.nodes[leader].conn();
        for round in 1..=6 {
            write_round(&conn, seed, round).await;
        }
        stop.store(true, Ordering::Relaxed);
        for (i, watch) in watches.into_iter().enumerate() {
            let (worst, looks) = watch.await.unwrap();
            let status = cluster.nodes[i].conn().gc_status().await.unwrap();
            println!(
                "n{}: at most {worst} of 1000 of the bound in {looks} looks; {} jobs; {:?}",
                i + 1,
                status.jobs_finished,
                status.space
            );
            assert!(looks > 10 && status.jobs_finished > 3, "{status:?}");
            // Statistics of two moments meet in one answer: a little over is not.
            if i == leader {
                assert!(worst <= 1020, "the bound was broken: {worst} of 1000");
            }
        }
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 6).await;
    });
    cluster.kill_and_check();
}

/// Writes until one write is refused; the refusal.
async fn write_until_refused(conn: &Conn, seed: u64, round: u64) -> Status {
    for n in (0..KEYS).cycle().take(50 * KEYS as usize) {
        if let Err(status) = conn.put(&key(n), value(seed, n, round)).await {
            return status;
        }
    }
    panic!("no write was refused");
}

async fn gc_status(cluster: &Cluster, i: usize) -> GcStatusResponse {
    cluster.nodes[i].conn().gc_status().await.unwrap()
}

#[test]
fn a_paused_collector_lets_writes_be_refused_and_says_so() {
    let seed = seed::seed("a_paused_collector_lets_writes_be_refused_and_says_so", 32);
    let mut cluster = cluster(&["--space-floor-bytes", "8MiB"]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        let conn = cluster.nodes[leader].conn();
        write_round(&conn, seed, 1).await;
        conn.gc_pause().await.unwrap();
        let refused = write_until_refused(&conn, seed, 2).await;
        assert_eq!(reason(&refused), Some(Reason::SpaceBound), "{refused}");
        assert_eq!(ApiError::from_status(&refused).proposed, Some(false));
        for part in [
            "live bytes",
            "the bound is",
            "gc is paused",
            "kvctl gc resume",
            "--space-amplification-max",
        ] {
            assert!(
                refused.message().contains(part),
                "{part} is not in: {}",
                refused.message()
            );
        }
        let space = gc_status(&cluster, leader).await.space.unwrap();
        assert!(space.state == "slow" || space.state == "refuse", "{space:?}");
        assert!(space.writes_refused > 0, "{space:?}");
        assert!(conn.get_stale(&key(1)).await.unwrap().found, "reads go on");
        conn.gc_resume().await.unwrap();
        write_round(&conn, seed, 3).await;
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 3).await;
    });
    cluster.kill_and_check();
}

#[test]
fn a_disk_that_is_nearly_full_gets_room_again() {
    const RESERVE: &str = "48MiB";
    let seed = seed::seed("a_disk_that_is_nearly_full_gets_room_again", 33);
    // The bound would hold writes up before the disk does.
    let mut cluster = cluster(&["--space-floor-bytes", "1GiB", "--disk-reserve-bytes", RESERVE]);
    let disks = on_disks(&mut cluster, 160);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        for conn in cluster.conns() {
            conn.gc_pause().await.unwrap();
        }
        let conn = cluster.nodes[leader].conn();
        write_round(&conn, seed, 1).await;
        let refused = write_until_refused(&conn, seed, 2).await;
        assert_eq!(reason(&refused), Some(Reason::NoSpace), "{refused}");
        let status = gc_status(&cluster, leader).await;
        assert!(status.space.as_ref().unwrap().disk_low, "{status:?}");
        assert!(conn.get_stale(&key(1)).await.unwrap().found, "reads go on");
        // A node that was here starts on what is left.
        let follower = (leader + 1) % 3;
        cluster.nodes[follower].kill();
        cluster.nodes[follower].start();
        cluster.wait_serving().await;
        for conn in cluster.conns() {
            conn.gc_resume().await.unwrap();
        }
        eventually("room on every disk", SERVING_PATIENCE, || async {
            for i in 0..3 {
                let status = gc_status(&cluster, i).await;
                if status.space.as_ref().unwrap().disk_low {
                    return Err(format!("n{}: {status:?}", i + 1));
                }
            }
            Ok(())
        })
        .await;
        // With gc at work the disk suffices for as many overwrites as one likes.
        for round in 3..=9 {
            write_round(&conn, seed, round).await;
        }
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 9).await;
    });
    cluster.kill_and_check();
    drop(disks);
}

/// Takes all space of a file system but `left` bytes; answers with which file.
fn fill(disk: &Path, left: u64) -> PathBuf {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let path = disk.join("ballast");
    let ballast = std::fs::File::create(&path).unwrap();
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, free - left).unwrap();
    path
}

async fn wait_low(cluster: &Cluster, i: usize) {
    eventually(
        "the member to see that its disk is full",
        SERVING_PATIENCE,
        || async {
            match gc_status(cluster, i).await.space.unwrap().disk_low {
                true => Ok(()),
                false => Err("it has room".to_string()),
            }
        },
    )
    .await;
}

/// Writes one round everywhere; answers with a member that does not lead.
async fn follower_after_a_round(cluster: &mut Cluster, seed: u64) -> usize {
    cluster.wait_serving().await;
    write_round(&cluster.nodes[cluster.leader().await].conn(), seed, 1).await;
    cluster.wait_caught_up().await;
    (cluster.leader().await + 1) % 3
}

/// A purge flushes the index. Without space for that it waits; once, it ended the process.
#[test]
fn a_purge_waits_for_space() {
    let seed = seed::seed("a_purge_waits_for_space", 35);
    let mut cluster = cluster(&["--disk-reserve-bytes", "48MiB"]);
    let disks = on_disks(&mut cluster, 256);
    cluster.start_all();
    block_on(async {
        let follower = follower_after_a_round(&mut cluster, seed).await;
        let conn = cluster.nodes[follower].conn().patience(Duration::from_secs(1));
        let before = conn.status().await.unwrap();
        assert!(
            before.flushed_index < before.applied_index,
            "there is something to flush"
        );
        let ballast = fill(disks[follower].path(), 16 << 10);
        wait_low(&cluster, follower).await;
        let purged = conn.purge(0).await;
        println!("on a full disk: {purged:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let full = conn.status().await.unwrap();
        assert!(
            full.flushed_index < before.applied_index,
            "the disk was not full: {full:?}"
        );
        std::fs::remove_file(ballast).unwrap();
        eventually("the flush to come about", SERVING_PATIENCE, || async {
            let now = conn.status().await.map_err(|s| s.to_string())?;
            match now.flushed_index >= before.applied_index {
                true => Ok(()),
                false => Err(format!("flushed {}", now.flushed_index)),
            }
        })
        .await;
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 1).await;
    });
    cluster.kill_and_check();
    drop(disks);
}

/// Once, all writes were refused for as long as the leader's disk was full, whatever room the others had.
#[test]
fn a_leader_without_room_hands_the_lead_to_a_member_that_has_some() {
    let seed = seed::seed(
        "a_leader_without_room_hands_the_lead_to_a_member_that_has_some",
        36,
    );
    let mut cluster = cluster(&["--disk-reserve-bytes", "48MiB"]);
    let disks = on_disks(&mut cluster, 256);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let first = cluster.leader().await;
        write_round(&cluster.nodes[first].conn(), seed, 1).await;
        cluster.wait_caught_up().await;
        // Not to the follower that is next in line: its disk is full too, and it would refuse as well. Both still take
        // what a leader appends, until half of the reserve is left.
        let others = [(first + 1) % 3, (first + 2) % 3];
        let full = fill(disks[others[0]].path(), 46 << 20);
        let ballast = fill(disks[first].path(), 46 << 20);
        eventually("the one with room to lead", SERVING_PATIENCE, || async {
            match cluster.leader().await {
                leader if leader == others[1] => Ok(()),
                leader => Err(format!("n{} leads", leader + 1)),
            }
        })
        .await;
        write_round(&cluster.nodes[others[1]].conn(), seed, 2).await;
        // Nobody has room: the lead stays, and so does the refusal.
        let last = fill(disks[others[1]].path(), 40 << 20);
        let refused = write_until_refused(&cluster.nodes[others[1]].conn(), seed, 3).await;
        assert_eq!(reason(&refused), Some(Reason::NoSpace), "{refused}");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(cluster.leader().await, others[1]);
        for file in [full, ballast, last] {
            std::fs::remove_file(file).unwrap();
        }
        write_round(&cluster.nodes[others[1]].conn(), seed, 4).await;
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 4).await;
    });
    cluster.kill_and_check();
    drop(disks);
}

/// A member whose disk is full for another reason stays behind, alive, and the others go on without it.
#[test]
fn a_follower_without_room_stays_behind_and_catches_up() {
    let seed = seed::seed("a_follower_without_room_stays_behind_and_catches_up", 34);
    let mut cluster = cluster(&["--disk-reserve-bytes", "48MiB"]);
    let disks = on_disks(&mut cluster, 256);
    cluster.start_all();
    block_on(async {
        let follower = follower_after_a_round(&mut cluster, seed).await;
        let ballast = fill(disks[follower].path(), 16 << 20);
        wait_low(&cluster, follower).await;
        // More than what the follower has left, were it to take it.
        let leader = cluster.nodes[cluster.leader().await].conn();
        for round in 2..=3 {
            write_round(&leader, seed, round).await;
        }
        let behind = cluster.nodes[follower].conn().status().await.unwrap();
        assert!(behind.applied_index < leader.status().await.unwrap().applied_index - KEYS);
        std::fs::remove_file(ballast).unwrap();
        cluster.wait_caught_up().await;
        assert_round(&cluster, seed, 3).await;
    });
    cluster.kill_and_check();
    drop(disks);
}
