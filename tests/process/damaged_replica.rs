//! Goal: a replica with damaged files serves the rest, says which files they are, collects around them and copies
//! nothing damaged on, neither to its own files nor to another member; a new member replaces it without losing a byte.
//! Method: bits flipped in a sealed log segment and in a sorted segment of one stopped node; it collects, then leads, and
//! a new member asks it for a snapshot in vain; another one leads, and the new member takes its place.

use std::path::{Path, PathBuf};

use nezha_api::v1::StatusResponse;
use tonic::Code;

use crate::damage::{Spot, find, log_files};
use crate::harness::client::assert_refused;
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::collection;
use crate::harness::seed::{seed, value_of};
use crate::harness::{block_on, eventually};
use crate::replicas::check_replicas;

const KEYS: usize = 200;
const VALUE_BYTES: usize = 20_000;

fn key(n: usize) -> String {
    format!("replica/{n:04}")
}

fn value(seed: u64, n: usize) -> Vec<u8> {
    value_of(seed, key(n).as_bytes(), VALUE_BYTES)
}

async fn put(cluster: &Cluster, seed: u64, keys: impl Iterator<Item = usize>) {
    let conn = cluster.nodes[cluster.leader().await].conn();
    for n in keys {
        conn.put_surely(key(n), value(seed, n)).await;
    }
    cluster.wait_caught_up().await;
}

/// Sorted value segments of a node.
fn value_files(dir: &Path) -> Vec<PathBuf> {
    let stores = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let values = stores
        .map(|store| store.join("values"))
        .filter(|values| values.is_dir());
    let files = values.flat_map(|values| std::fs::read_dir(values).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// The damaged files that a node names, without their directories, sorted.
fn named(status: &StatusResponse) -> Vec<String> {
    let mut named: Vec<String> = status
        .damage
        .iter()
        .map(|damaged| name_of(Path::new(&damaged.file)))
        .collect();
    named.sort();
    named
}

/// Every key of `node` but the damaged ones has its value; those are refused by file and offset.
async fn assert_serves_all_but(cluster: &Cluster, node: usize, seed: u64, damaged: &[(usize, &Spot)]) {
    let conn = cluster.nodes[node].conn();
    for n in 0..KEYS {
        let got = conn.get_stale(key(n)).await;
        match damaged.iter().find(|(bad, _)| *bad == n) {
            None => assert!(got.unwrap().value == value(seed, n), "{} differs", key(n)),
            Some((_, spot)) => {
                let error = assert_refused(got, Code::DataLoss, "DATA_DAMAGED");
                assert!(error.message.contains(&name_of(&spot.file)), "{}", error.message);
                assert!(error.message.contains("offset"), "{}", error.message);
            }
        }
    }
}

/// A cluster whose node `at` has damage in a sorted segment, under key 3, and in a sealed log segment, under key 120.
async fn damaged(cluster: &mut Cluster, seed: u64) -> (usize, [Spot; 2]) {
    cluster.wait_serving().await;
    put(cluster, seed, 0..100).await;
    let at = (cluster.leader().await + 1) % 3;
    let status = collection::run(cluster, at).await;
    assert!(status.jobs_finished > 0, "{status:?}");
    put(cluster, seed, 100..KEYS).await;
    // In good order, so that the log need not be replayed from.
    cluster.nodes[at].stop();
    let dir = cluster.nodes[at].dir.clone();
    let sorted = find(&value_files(&dir), &value(seed, 3)).expect("it was collected");
    let logs = log_files(&dir);
    let (_, sealed) = logs.split_last().unwrap();
    let logged = find(sealed, &value(seed, 120)).expect("it was not collected");
    let mut spots = [sorted, logged];
    for spot in &mut spots {
        spot.offset += VALUE_BYTES as u64 / 2;
        spot.flip();
    }
    cluster.nodes[at].start();
    cluster.wait_serving().await;
    cluster.wait_caught_up().await;
    (at, spots)
}

#[test]
fn a_damaged_replica_copies_no_damage_and_can_be_replaced() {
    let seed = seed("a_damaged_replica_copies_no_damage_and_can_be_replaced", 32);
    let mut cluster = Cluster::new(3).steady();
    for node in &mut cluster.nodes {
        node.extra
            .extend(["--log-segment-bytes", "1MiB", "--gc", "manual"].map(String::from));
    }
    cluster.start_all();
    block_on(async {
        let (at, [sorted, logged]) = damaged(&mut cluster, seed).await;
        let files = {
            let mut files = [name_of(&sorted.file), name_of(&logged.file)];
            files.sort();
            files
        };
        // A job meets the log's damage, and the collector goes on with other files in the same run.
        let status = collection::run(&cluster, at).await;
        assert!(status.jobs_finished > 0, "{status:?}");
        let met = named(&cluster.status(at).await);
        assert!(met.contains(&name_of(&logged.file)), "gc has met it: {met:?}");

        let bad = [(3, &sorted), (120, &logged)];
        assert_serves_all_but(&cluster, at, seed, &bad).await;
        let status = cluster.status(at).await;
        assert_eq!(named(&status), files);
        for damaged in &status.damage {
            assert!(damaged.count > 0 && damaged.first_seen_ms > 0, "{damaged:?}");
        }
        let (code, output) = check_replicas(&cluster, &[]);
        assert_eq!(code, 8, "{output}");
        assert!(output.contains("damaged at offset"), "{output}");

        // Overwrites around it make garbage; the run ends without an error, both files stay and are named as pinned.
        put(&cluster, seed, (0..KEYS).filter(|n| ![3, 120].contains(n))).await;
        let status = collection::run(&cluster, at).await;
        assert_eq!(status.last_error, "", "{status:?}");
        let pinned = status.pins.iter().filter(|pin| pin.reason == "damage").count();
        assert_eq!(pinned, 2, "{:?}", status.pins);
        assert_serves_all_but(&cluster, at, seed, &bad).await;

        // After a restart it may not know yet. It leads, and is asked for a snapshot: it meets the damage, then at the
        // latest, and the lead goes to one that can send it. Once, it tried for as long as it led.
        cluster.nodes[at].stop();
        cluster.nodes[at].start();
        cluster.wait_caught_up().await;
        let healthy = cluster.leader().await;
        let asked = cluster.nodes[healthy].conn();
        for i in 0..3 {
            assert!(cluster.nodes[i].conn().purge(0).await.unwrap().purged_index > 0);
        }
        let new = cluster.describe_joiner();
        let (name, peer, client) = {
            let node = &cluster.nodes[new];
            (node.name.clone(), node.peer.clone(), node.client.clone())
        };
        // Added by the one that leads: just after a transfer a member may not know yet who leads, and refuses.
        asked.add_member(&name, &peer, &client).await.unwrap();
        cluster.transfer_leader(healthy, at).await;
        cluster.nodes[new].start();
        let log = cluster.nodes[at].log.clone();
        eventually("the lead to be handed on", SERVING_PATIENCE, || async {
            let log = std::fs::read_to_string(&log).unwrap();
            let handed_on = |line: &str| line.contains("files of this member are damaged: the lead went to");
            match log.lines().any(handed_on) {
                true => Ok(()),
                false => Err("it was not".to_owned()),
            }
        })
        .await;
        assert_ne!(cluster.leader().await, at);
        asked.put_surely("replica/after", "served").await;

        // The new member gets its snapshot from another one, and takes the damaged one's place.
        cluster.wait_node_serving(new).await;
        cluster.wait_caught_up().await;
        let received = std::fs::read_to_string(&cluster.nodes[new].log).unwrap();
        assert!(received.contains("installed a snapshot"), "{received}");
        eventually("a promotion", SERVING_PATIENCE, || async {
            asked.promote(&name).await.map(|_| ()).map_err(|s| s.to_string())
        })
        .await;
        asked
            .remove_member(&cluster.nodes[at].name.clone())
            .await
            .unwrap();
        cluster.nodes[at].kill();
        let (code, output) = check_replicas(&cluster, &[]);
        assert_eq!(code, 0, "{output}");
        for i in cluster.started() {
            assert_serves_all_but(&cluster, i, seed, &[]).await;
        }

        // Of all files of the damaged one, those two are damaged, and no other.
        cluster.kill_all();
        let (code, output) = cluster.nodes[at].check();
        assert_eq!(code, 12, "{output}");
        for line in output.lines().filter(|line| line.starts_with("PROBLEM")) {
            let known = files.iter().any(|file| line.contains(file));
            assert!(known, "another file is damaged: {line}\n{output}");
        }
        for i in (0..cluster.nodes.len()).filter(|i| *i != at) {
            let (code, output) = cluster.nodes[i].check();
            assert_eq!(code, 0, "{output}");
        }
    });
}
