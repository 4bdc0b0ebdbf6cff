//! Goal: what is not committed is never visible, and nodes agree after another leader has overruled it.
//! Method: both followers are killed under load. What the leader took after that cannot be committed; its own state
//! must not show it. Then the others elect a leader without the old one, which comes back and follows: every key is
//! compared on every node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::client::Outcome;
use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::{Ledger, Written};
use crate::harness::load::Load;
use crate::harness::process::kvd;
use crate::harness::verify::faults_of;
use crate::harness::{block_on, seed};

/// Runs the story on the given binary and lists what was visible though it was not committed, or is wrong.
pub fn visible_uncommitted(program: PathBuf, env: &[(String, String)], seed: u64) -> Vec<String> {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.program = program.clone();
        node.env = env.to_vec();
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        let load = Load::start(vec![cluster.nodes[leader].conn()], &ledger, 0, 8, |_| 200);
        load.wait_acknowledged(50, SERVING_PATIENCE).await;
        for other in (0..3).filter(|i| *i != leader) {
            cluster.nodes[other].kill();
        }
        // Answers that were on their way arrive; from then on nothing more can be committed.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let stranded: Vec<Vec<u8>> = unknown(&ledger.entries());
        println!(
            "seed {seed}: {} writes are stranded on the leader",
            stranded.len()
        );
        assert!(
            !stranded.is_empty(),
            "no write was under way when the followers died"
        );
        let mut seen = visible(&cluster, leader, &stranded).await;
        cluster.nodes[leader].kill();
        load.stop().await;
        // What was acknowledged late was committed before the followers died.
        let answered = ledger.entries();
        seen.retain(|key| !matches!(answered[key].outcome, Outcome::Acknowledged(_)));
        if !seen.is_empty() {
            let name = &cluster.nodes[leader].name;
            let fault = |key: &Vec<u8>| {
                let key = String::from_utf8_lossy(key);
                format!("{name} shows {key}, which is not committed")
            };
            return seen.iter().map(fault).collect::<Vec<String>>();
        }
        for other in (0..3).filter(|i| *i != leader) {
            cluster.nodes[other].start();
        }
        cluster.wait_serving().await;
        let conns = cluster
            .started()
            .into_iter()
            .map(|i| cluster.nodes[i].conn())
            .collect();
        let load = Load::start(conns, &ledger, 1, 8, |_| 200);
        load.wait_acknowledged(200, SERVING_PATIENCE).await;
        load.stop().await;
        cluster.start_all();
        cluster.wait_serving().await;
        cluster.wait_caught_up().await;
        let expected = ledger.entries();
        let mut faults = Vec::new();
        for i in 0..3 {
            faults.extend(faults_of(&cluster.nodes[i].conn(), &ledger, &expected).await);
        }
        faults
    })
}

fn unknown(entries: &BTreeMap<Vec<u8>, Written>) -> Vec<Vec<u8>> {
    let unknown = entries
        .iter()
        .filter(|(_, written)| written.outcome == Outcome::Unknown);
    unknown.map(|(key, _)| key.clone()).collect()
}

/// Which of the keys a node shows in its own state.
async fn visible(cluster: &Cluster, at: usize, keys: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let conn = cluster.nodes[at].conn();
    let mut seen = Vec::new();
    for key in keys {
        if conn.get_stale(key).await.is_ok_and(|got| got.found) {
            seen.push(key.clone());
        }
    }
    seen
}

#[test]
fn uncommitted_writes_are_never_visible() {
    let seed = seed::seed("uncommitted_writes_are_never_visible", 14);
    let faults = visible_uncommitted(kvd(), &[], seed);
    assert!(faults.is_empty(), "{faults:#?}");
}
