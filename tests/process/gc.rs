//! Goal: collecting garbage loses and changes nothing, whoever is killed meanwhile and however each node collects; it
//! takes nothing from a member that lags or from an open scan; and the space comes back.
//! Method: small segments, so that there is much to collect; ordered runs on every node, again and again, beside
//! overwrites and kills; afterwards every value is compared on every node.

use std::time::Duration;

use nezha_api::v1::ScanRequest;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::harness::churn::{Background, Churn, Shape};
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::collection::{
    SEGMENT_BYTES, assert_filled, collect, collect_all, fill, fill_value, jobs, logged, with_small_segments,
};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::{assert_holds_on_every_node, assert_same_on_every_node};
use crate::harness::{block_on, eventually, seed};

const KILLS: usize = 6;

/// As many keys as a job meets while they are written, and as are soon all written again.
const HOT: Shape = Shape {
    clients: 8,
    keys: 100,
    value_bytes: 9_000,
};

#[test]
fn collection_under_kills_loses_nothing() {
    let seed = seed::seed("collection_under_kills_loses_nothing", 21);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = with_small_segments(Cluster::new(3), &[]);
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let load = Load::start(cluster.conns(), &ledger, 0, 8, seed::mixed_size);
        let churn = Churn::start(&cluster.conns(), seed, HOT);
        let collecting = Background::collecting(cluster.conns(), Duration::from_millis(100));
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
        let churned = churn.stop().await;
        collecting.stop().await;
        for collected in [false, true] {
            if collected {
                for i in 0..3 {
                    let status = collect_all(&cluster, i).await;
                    let (name, sum) = (&cluster.nodes[i].name, jobs(&cluster, i));
                    println!(
                        "{name}: {} bytes in files, {} live; {sum:?}; since its last start {} jobs, {} files removed",
                        status.file_bytes, status.live_bytes, status.jobs_finished, status.files_removed
                    );
                    assert!(status.jobs_finished > 0 && status.files_removed > 0, "{status:?}");
                    assert!(
                        sum.records > 0 && sum.overtaken > 0,
                        "no write has overtaken a job on {name}"
                    );
                }
            }
            assert_holds_on_every_node(&cluster, &ledger).await;
            let rows = assert_same_on_every_node(&cluster).await;
            churned.assert_holds("all nodes", &rows);
        }
    });
    cluster.kill_and_check();
}

/// One never collects, one when its limits say so, one all the time.
#[test]
fn nodes_that_collect_differently_hold_the_same() {
    let seed = seed::seed("nodes_that_collect_differently_hold_the_same", 25);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = Cluster::new(3);
    let options = [
        "--gc manual --log-segment-bytes 64MiB",
        "--gc auto --log-segment-bytes 1MiB --log-cache-bytes 1MiB",
        "--gc manual --log-segment-bytes 1MiB --log-cache-bytes 64MiB",
    ];
    for (node, options) in cluster.nodes.iter_mut().zip(options) {
        node.extra = options.split(' ').map(String::from).collect();
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let load = Load::start(cluster.conns(), &ledger, 0, 4, seed::mixed_size);
        let churn = Churn::start(&cluster.conns(), seed, HOT);
        let collecting = Background::collecting(vec![cluster.nodes[2].conn()], Duration::from_millis(20));
        let mut order = [0, 1, 2];
        order.shuffle(&mut rng);
        for i in order {
            churn.wait_acknowledged(1_000, SERVING_PATIENCE).await;
            cluster.nodes[i].kill();
            churn.wait_acknowledged(200, SERVING_PATIENCE).await;
            cluster.start_all();
            cluster.wait_serving().await;
        }
        // From here on segments hold nothing but what is soon overwritten: even default limits are exceeded.
        load.stop().await;
        eventually("n2 to collect by itself", SERVING_PATIENCE, || async {
            match jobs(&cluster, 1).count {
                0 => Err("no job yet".to_string()),
                _ => Ok(()),
            }
        })
        .await;
        let churned = churn.stop().await;
        collecting.stop().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
        let rows = assert_same_on_every_node(&cluster).await;
        churned.assert_holds("all nodes", &rows);
        let sums = [0, 1, 2].map(|i| jobs(&cluster, i));
        println!("jobs of the nodes: {sums:?}");
        assert_eq!(sums[0].count, 0, "nobody has told n1 to collect");
        assert!(sums[2].records > 0, "n3 has moved records");
    });
    cluster.kill_and_check();
}

/// A member that lags finds its log within the bound; one that lacks more gets a snapshot.
fn one_lags(name: &str, default_seed: u64, bound: &str, by_snapshot: bool) {
    let seed = seed::seed(name, default_seed);
    let mut cluster = with_small_segments(Cluster::new(3), &["--lagging-log-bytes-max", bound]);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        fill(&cluster, seed, 20, 1..=1).await;
        cluster.wait_caught_up().await;
        let away = (cluster.leader().await + 1) % 3;
        cluster.nodes[away].kill();
        fill(&cluster, seed, 60, 1..=20).await;
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
        let installed = logged(&cluster, away, "installed a snapshot");
        assert_eq!(installed > 0, by_snapshot, "bound {bound}");
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
    let mut cluster = with_small_segments(Cluster::new(3), &[]).steady();
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        fill(&cluster, seed, 900, 1..=1).await;
        let request = ScanRequest {
            prefix: "fill/".into(),
            ..ScanRequest::default()
        };
        let mut kv = cluster.nodes[leader].conn().kv();
        let mut stream = kv.scan(request).await.unwrap().into_inner();
        let mut rows = stream.message().await.unwrap().unwrap().rows;
        fill(&cluster, seed, 900, 2..=2).await;
        let status = collect(&cluster, leader).await;
        assert!(status.pins.iter().any(|pin| pin.reason == "read"), "{status:?}");
        while let Some(mut chunk) = stream.message().await.unwrap() {
            rows.append(&mut chunk.rows);
        }
        assert_eq!(rows.len(), 900);
        for row in rows {
            let key = String::from_utf8(row.key.to_vec()).unwrap();
            assert!(
                row.value == fill_value(seed, &key, 1),
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
