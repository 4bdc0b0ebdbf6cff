//! Goal: collecting garbage loses and changes nothing, whoever is killed meanwhile; it takes nothing from a member that
//! lags or from an open scan; and the space comes back.
//! Method: small segments, so that there is much to collect; ordered runs on every node, again and again, beside
//! overwrites and kills; afterwards every value is compared on every node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nezha_api::v1::{GcStatusResponse, ScanRequest};
use rand::RngExt;

use crate::harness::client::{Conn, Outcome, outcome};
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, eventually, seed};

const SEGMENT_BYTES: u64 = 1 << 20;
const KILLS: usize = 6;
const OVERWRITERS: u64 = 8;

fn cluster(extra: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.extra = vec!["--log-segment-bytes".into(), "1MiB".into()];
        node.extra.extend(extra.iter().map(ToString::to_string));
    }
    cluster
}

/// Keys that one client each writes over and over: number of the last acknowledged write, and of the last one sent.
type Rounds = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

fn value(seed: u64, key: &str, round: u64) -> Vec<u8> {
    let mut value = round.to_le_bytes().to_vec();
    value.extend(seed::value_of(seed, format!("{key}/{round}").as_bytes(), 9_000));
    value
}

/// Overwrites until told to stop.
async fn overwrite(conns: Vec<Conn>, seed: u64, client: u64, rounds: Rounds, stop: Arc<AtomicBool>) {
    let mut rng = seed::rng(seed, 1000 + client);
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let key = format!("churn/{client}/{}", rng.random_range(0..20));
        rounds.lock().unwrap().entry(key.clone()).or_default().1 = round;
        let conn = &conns[rng.random_range(0..conns.len())];
        match outcome(&conn.put(&key, value(seed, &key, round)).await) {
            Outcome::Acknowledged(_) => rounds.lock().unwrap().entry(key).or_default().0 = round,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The last acknowledged value is there, or one that was sent after it.
async fn assert_rounds_hold(cluster: &Cluster, seed: u64, rounds: &Rounds) {
    let rounds = rounds.lock().unwrap().clone();
    for i in cluster.started() {
        let conn = cluster.nodes[i].conn();
        for (key, (acknowledged, sent)) in &rounds {
            let got = conn.get_stale(key).await.unwrap();
            if !got.found {
                assert_eq!(*acknowledged, 0, "{key} is lost on n{}", i + 1);
                continue;
            }
            let round = u64::from_le_bytes(got.value[..8].try_into().unwrap());
            assert!(
                (*acknowledged..=*sent).contains(&round),
                "n{}: {key} holds round {round}, acknowledged {acknowledged}, sent {sent}",
                i + 1
            );
            assert!(
                got.value == value(seed, key, round),
                "n{}: {key} is damaged",
                i + 1
            );
        }
    }
}

/// Orders a run and waits until it has ended.
pub async fn collect(cluster: &Cluster, i: usize) -> GcStatusResponse {
    let conn = cluster.nodes[i].conn();
    eventually("an ordered collection", SERVING_PATIENCE, || async {
        conn.gc_run().await.map_err(|s| s.to_string())
    })
    .await;
    eventually("the end of a collection", SERVING_PATIENCE, || async {
        let status = conn.gc_status().await.map_err(|s| s.to_string())?;
        assert_eq!(status.last_error, "", "on n{}", i + 1);
        match status.requested || status.job.is_some() {
            true => Err(format!("{:?}", status.job)),
            false => Ok(status),
        }
    })
    .await
}

/// Collects until little garbage is left: what readers or Raft held back goes a moment after they let go.
async fn collect_all(cluster: &Cluster, i: usize) -> GcStatusResponse {
    eventually("the space to come back", SERVING_PATIENCE, || async {
        let status = collect(cluster, i).await;
        let garbage = status.file_bytes - status.live_bytes;
        match garbage < status.live_bytes / 5 + 4 * SEGMENT_BYTES {
            true => Ok(status),
            false => Err(format!("n{}: {garbage} bytes of garbage: {status:?}", i + 1)),
        }
    })
    .await
}

#[test]
fn collection_under_kills_loses_nothing() {
    let seed = seed::seed("collection_under_kills_loses_nothing", 21);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = cluster(&[]);
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let load = Load::start(cluster.conns(), &ledger, 0, 8, seed::mixed_size);
        let (rounds, stop) = (Rounds::default(), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for client in 0..OVERWRITERS {
            let conns = cluster.conns();
            tasks.push(tokio::spawn(overwrite(
                conns,
                seed,
                client,
                rounds.clone(),
                stop.clone(),
            )));
        }
        for conn in cluster.conns() {
            let stop = stop.clone();
            // Whoever is up collects all the time.
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    drop(conn.gc_run().await);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }));
        }
        for kill in 0..KILLS {
            load.wait_acknowledged(1_500, SERVING_PATIENCE).await;
            match kill % 3 {
                0 => {
                    let leader = cluster.leader().await;
                    cluster.nodes[leader].kill();
                }
                1 => cluster.nodes[rng.random_range(0..3)].kill(),
                _ => cluster.kill_all(),
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
            cluster.start_all();
            cluster.wait_serving().await;
        }
        load.wait_acknowledged(1_500, SERVING_PATIENCE).await;
        load.stop().await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        cluster.wait_caught_up().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
        assert_rounds_hold(&cluster, seed, &rounds).await;
        for i in 0..3 {
            let status = collect_all(&cluster, i).await;
            println!(
                "n{}: {} bytes in files, {} live; since its last start {} jobs, {} files removed",
                i + 1,
                status.file_bytes,
                status.live_bytes,
                status.jobs_finished,
                status.files_removed
            );
            assert!(status.jobs_finished > 0 && status.files_removed > 0, "{status:?}");
        }
        assert_holds_on_every_node(&cluster, &ledger).await;
        assert_rounds_hold(&cluster, seed, &rounds).await;
    });
    cluster.kill_and_check();
}

/// Writes the same keys several times, so that most of the log is garbage.
async fn fill(cluster: &Cluster, seed: u64, keys: u64, rounds: u64) {
    let conn = cluster.nodes[cluster.leader().await].conn();
    for round in 1..=rounds {
        let puts = (0..keys).map(|n| {
            let key = format!("fill/{n:03}");
            let conn = &conn;
            async move { conn.put_surely(&key, value(seed, &key, round)).await }
        });
        futures::future::join_all(puts).await;
    }
}

async fn assert_filled(cluster: &Cluster, seed: u64, keys: u64, round: u64) {
    for i in cluster.started() {
        let conn = cluster.nodes[i].conn();
        for n in 0..keys {
            let key = format!("fill/{n:03}");
            let got = conn.get_stale(&key).await.unwrap();
            assert!(
                got.value == value(seed, &key, round),
                "{key} differs on n{}",
                i + 1
            );
        }
    }
}

/// A member that lags finds its log within the bound; one that lacks more gets a snapshot.
fn one_lags(name: &str, default_seed: u64, bound: &str, by_snapshot: bool) {
    let seed = seed::seed(name, default_seed);
    let mut cluster = cluster(&["--lagging-log-bytes-max", bound]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        fill(&cluster, seed, 20, 1).await;
        cluster.wait_caught_up().await;
        let away = (cluster.leader().await + 1) % 3;
        cluster.nodes[away].kill();
        fill(&cluster, seed, 60, 20).await;
        let leader = cluster.leader().await;
        let status = collect(&cluster, leader).await;
        let pinned: u64 = status
            .pins
            .iter()
            .filter(|pin| pin.reason == "log")
            .map(|pin| pin.bytes)
            .sum();
        println!("bound {bound}: {pinned} bytes pinned by the log");
        assert_eq!(pinned > 4 * SEGMENT_BYTES, !by_snapshot, "{status:?}");
        cluster.start_all();
        cluster.wait_serving().await;
        cluster.wait_caught_up().await;
        assert_filled(&cluster, seed, 60, 20).await;
        let log = cluster.nodes[away].process().log();
        assert_eq!(log.contains("installed a snapshot"), by_snapshot, "bound {bound}");
        // A transfer pins the log for a minute; who lagged by log alone pins nothing any more.
        if !by_snapshot {
            collect_all(&cluster, leader).await;
        }
        assert_filled(&cluster, seed, 60, 20).await;
    });
    cluster.kill_and_check();
}

#[test]
fn a_member_that_lags_finds_its_log() {
    one_lags("a_member_that_lags_finds_its_log", 22, "1GiB", false);
}

#[test]
fn a_member_that_lags_beyond_the_bound_gets_a_snapshot() {
    one_lags(
        "a_member_that_lags_beyond_the_bound_gets_a_snapshot",
        23,
        "2MiB",
        true,
    );
}

#[test]
fn an_open_scan_keeps_its_files_and_gives_them_back() {
    let seed = seed::seed("an_open_scan_keeps_its_files_and_gives_them_back", 24);
    let mut cluster = cluster(&[]).steady();
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        fill(&cluster, seed, 900, 1).await;
        let request = ScanRequest {
            prefix: "fill/".into(),
            ..ScanRequest::default()
        };
        let mut kv = cluster.nodes[leader].conn().kv();
        let mut stream = kv.scan(request).await.unwrap().into_inner();
        let mut rows = stream.message().await.unwrap().unwrap().rows;
        fill(&cluster, seed, 900, 2).await;
        let status = collect(&cluster, leader).await;
        assert!(status.pins.iter().any(|pin| pin.reason == "read"), "{status:?}");
        while let Some(mut chunk) = stream.message().await.unwrap() {
            rows.append(&mut chunk.rows);
        }
        assert_eq!(rows.len(), 900);
        for row in rows {
            let key = String::from_utf8(row.key.to_vec()).unwrap();
            assert!(
                row.value == value(seed, &key, 1),
                "{key} is not as it was when the scan began"
            );
        }
        drop(stream);
        let status = collect_all(&cluster, leader).await;
        assert!(status.pins.iter().all(|pin| pin.reason != "read"), "{status:?}");
        assert_filled(&cluster, seed, 900, 2).await;
    });
    cluster.kill_and_check();
}
