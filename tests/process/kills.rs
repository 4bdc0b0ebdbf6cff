//! Goal: no acknowledged write is lost or changed by kill -9, whoever is hit, and no node ends up different.
//! Method: 24 clients write unique keys of mixed sizes; seeded kills of the leader, a follower or all three at once;
//! afterwards every key is compared on every node with what its client was told, and `kvd check` walks all directories.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::harness::cluster::Cluster;
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, seed};

const CLIENTS: usize = 24;
/// How long the writes between two kills may take, on a machine that does other things too.
const LOAD_PATIENCE: Duration = Duration::from_secs(300);
const ACKNOWLEDGED_AT_LEAST: usize = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Leader,
    Follower,
    All,
}

/// 8 leaders, 8 followers and 5 times everyone, in seeded order.
fn plan(rng: &mut StdRng) -> Vec<Target> {
    let mut plan = [
        [Target::Leader; 8].as_slice(),
        &[Target::Follower; 8],
        &[Target::All; 5],
    ]
    .concat();
    plan.shuffle(rng);
    plan
}

#[test]
fn kills_lose_nothing_acknowledged() {
    let seed = seed::seed("kills_lose_nothing_acknowledged", 1);
    let mut rng = seed::rng(seed, 0);
    let plan = plan(&mut rng);
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        // Small segments, so that kills meet rotations too.
        node.extra = vec!["--log-segment-bytes".into(), "8MiB".into()];
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let load = Load::start(cluster.conns(), &ledger, 0, CLIENTS, seed::mixed_size);
        let between = ACKNOWLEDGED_AT_LEAST / plan.len();
        for target in &plan {
            load.wait_acknowledged(
                rng.random_range(between / 2..between + between / 2),
                LOAD_PATIENCE,
            )
            .await;
            let leader = cluster.leader().await;
            match target {
                Target::Leader => cluster.nodes[leader].kill(),
                Target::Follower => cluster.nodes[(leader + rng.random_range(1..3)) % 3].kill(),
                Target::All => cluster.kill_all(),
            }
            if *target != Target::All && rng.random_bool(0.5) {
                // The other two go on without it.
                load.wait_acknowledged(200, LOAD_PATIENCE).await;
            } else {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
            }
            cluster.start_all();
            cluster.wait_serving().await;
        }
        let missing = ACKNOWLEDGED_AT_LEAST.saturating_sub(load.acknowledged());
        load.wait_acknowledged(missing, 4 * LOAD_PATIENCE).await;
        load.stop().await;
        let (acknowledged, failed, unknown) = ledger.counts();
        println!(
            "{} kills; {acknowledged} acknowledged, {failed} refused, {unknown} unknown",
            plan.len()
        );
        assert!(plan.len() >= 20 && acknowledged >= ACKNOWLEDGED_AT_LEAST);
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
    cluster.kill_and_check();
}
