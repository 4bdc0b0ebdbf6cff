//! Goal: a node that the network cuts off does no harm, and rejoins by itself when the cut heals.
//! Method: each node in a network namespace of its own; links are cut under load; then all keys are compared.

use nezha_jepsen::cluster::Network;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE, STEADY_CAMPAIGN};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, seed};

#[test]
fn a_node_that_was_cut_off_rejoins() {
    let seed = seed::seed("a_node_that_was_cut_off_rejoins", 3);
    let network = Network::new(3, &[]).unwrap();
    let tested = network.inside(|| {
        let mut cluster = Cluster::on_network(&network).steady();
        cluster.start_all();
        let ledger = Ledger::new(seed);
        block_on(async {
            cluster.wait_serving().await;
            cut_the_leader(&network, &cluster, &ledger).await;
            cut_a_follower(&network, &cluster, &ledger).await;
            deafen_a_follower(&network, &cluster, &ledger).await;
            assert_holds_on_every_node(&cluster, &ledger).await;
        });
        cluster.kill_and_check();
    });
    tested.unwrap();
}

/// The other two elect a leader and serve; the old one steps down and follows after the cut.
async fn cut_the_leader(network: &Network, cluster: &Cluster, ledger: &Ledger) {
    let load = Load::start(cluster.conns(), ledger, 1, 8, seed::mixed_size);
    load.wait_acknowledged(300, SERVING_PATIENCE).await;
    let old = cluster.leader().await;
    network.cut_all(&network.links_of(old)).unwrap();
    load.stop().await;
    let others: Vec<_> = (0..3)
        .filter(|i| *i != old)
        .map(|i| cluster.nodes[i].conn())
        .collect();
    let load = Load::start(others, ledger, 2, 8, seed::mixed_size);
    load.wait_acknowledged(300, SERVING_PATIENCE).await;
    load.stop().await;
    let new = cluster.leader().await;
    assert_ne!(new, old, "the others have elected another leader");
    network.heal_all().unwrap();
    cluster.wait_caught_up().await;
    assert_eq!(cluster.leader().await, new, "the one that comes back follows");
}

/// The leader does not notice; the follower catches up after the cut, without a change of leader (pre-vote).
async fn cut_a_follower(network: &Network, cluster: &Cluster, ledger: &Ledger) {
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.header.unwrap().term;
    let away = (leader + 1) % 3;
    network.cut_all(&network.links_of(away)).unwrap();
    let others: Vec<_> = (0..3)
        .filter(|i| *i != away)
        .map(|i| cluster.nodes[i].conn())
        .collect();
    let load = Load::start(others, ledger, 3, 8, seed::mixed_size);
    load.wait_acknowledged(1_000, SERVING_PATIENCE).await;
    load.stop().await;
    // It stands for election before it is back.
    tokio::time::sleep(STEADY_CAMPAIGN).await;
    network.heal_all().unwrap();
    cluster.wait_caught_up().await;
    let after = cluster.status(cluster.leader().await).await.header.unwrap();
    assert_eq!(after.term, term, "its return does not disturb the leader");
}

/// A node that hears nothing stands for election again and again; nobody who hears the leader may grant it.
async fn deafen_a_follower(network: &Network, cluster: &Cluster, ledger: &Ledger) {
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.header.unwrap().term;
    let deaf = (leader + 2) % 3;
    network.cut_all(&network.links_to(deaf)).unwrap();
    let others: Vec<_> = (0..3)
        .filter(|i| *i != deaf)
        .map(|i| cluster.nodes[i].conn())
        .collect();
    let load = Load::start(others, ledger, 4, 8, seed::mixed_size);
    load.wait_acknowledged(1_000, SERVING_PATIENCE).await;
    load.stop().await;
    tokio::time::sleep(STEADY_CAMPAIGN).await;
    network.heal_all().unwrap();
    cluster.wait_caught_up().await;
    let after = cluster.status(cluster.leader().await).await.header.unwrap();
    assert_eq!(after.term, term, "no vote was granted while the leader was alive");
}
