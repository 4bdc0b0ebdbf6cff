//! Goal: a graceful stop loses nothing, hands leadership over, and ends with code 0.
//! Method: SIGTERM to the leader three times under load (a rolling restart), then to all; then every key is compared
//! on every node. A stop that leaves the next leader to an election says so in its log.

use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, seed};

#[test]
fn rolling_restart_by_sigterm() {
    let seed = seed::seed("rolling_restart_by_sigterm", 2);
    let mut cluster = Cluster::serving_steadily(3);
    let ledger = Ledger::new(seed);
    block_on(async {
        let load = Load::start(cluster.conns(), &ledger, 0, 8, seed::mixed_size);
        for _ in 0..3 {
            load.wait_acknowledged(300, SERVING_PATIENCE).await;
            let leader = cluster.leader().await;
            let term = cluster.status(leader).await.header.unwrap().term;
            cluster.nodes[leader].stop();
            let log = std::fs::read_to_string(&cluster.nodes[leader].log).unwrap();
            assert!(!log.contains("leadership was not handed over"), "{log}");
            let next = cluster.leader().await;
            assert_ne!(next, leader);
            assert!(cluster.status(next).await.header.unwrap().term > term);
            load.wait_acknowledged(100, SERVING_PATIENCE).await;
            cluster.start_all();
            cluster.wait_serving().await;
        }
        load.stop().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
    cluster.stop_all();
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
    cluster.kill_and_check();
}
