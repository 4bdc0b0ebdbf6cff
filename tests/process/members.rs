//! Goal: members come, are promoted, leave and stay out; leadership moves on request; an identity never comes back
//! without its data.
//! Method: one cluster's life, step by step, with every acknowledged key compared on every member at each end.

use std::time::Duration;

use nezha_api::errors::{ApiError, Reason};
use nezha_api::v1::{Member, Role};
use rustix::process::Signal;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE, STEADY_CAMPAIGN};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::{assert_holds_on_every_node, faults_of};
use crate::harness::{block_on, eventually, seed};

async fn write(cluster: &Cluster, ledger: &Ledger, round: u64, writes: usize) {
    let conns = cluster
        .started()
        .into_iter()
        .map(|i| cluster.nodes[i].conn())
        .collect();
    let load = Load::start(conns, ledger, round, 8, seed::mixed_size);
    load.wait_acknowledged(writes, SERVING_PATIENCE).await;
    load.stop().await;
}

async fn members(cluster: &Cluster, asked: usize) -> Vec<Member> {
    let conn = cluster.nodes[asked].conn();
    eventually("a member list", SERVING_PATIENCE, || async {
        conn.members()
            .await
            .map(|list| list.members)
            .map_err(|s| s.to_string())
    })
    .await
}

/// Asks for a promotion until the learner is close enough.
async fn promote(cluster: &Cluster, asked: usize, name: &str) {
    let conn = cluster.nodes[asked].conn();
    eventually("a promotion", SERVING_PATIENCE, || async {
        conn.promote(name).await.map(|_| ()).map_err(|s| s.to_string())
    })
    .await;
}

#[test]
fn a_new_node_catches_up_behind_a_purge_and_is_promoted() {
    let seed = seed::seed("a_new_node_catches_up_behind_a_purge_and_is_promoted", 4);
    let mut cluster = Cluster::serving_steadily(3);
    let ledger = Ledger::new(seed);
    block_on(async {
        write(&cluster, &ledger, 0, 3_000).await;
        cluster.wait_caught_up().await;
        for i in 0..3 {
            let purged = cluster.nodes[i].conn().purge(0).await.unwrap().purged_index;
            assert!(purged > 0);
            let status = cluster.status(i).await;
            assert!(status.purged_index >= purged && status.purged_index <= status.snapshot_index);
            assert!(status.snapshot_index <= status.applied_index, "I8");
            assert!(status.purged_index <= status.flushed_index, "I4");
        }
        // Values in purged segments are still served: the log is the value log.
        assert_holds_on_every_node(&cluster, &ledger).await;
        write(&cluster, &ledger, 1, 500).await;

        let at = cluster.describe_joiner();
        let (name, peer, client) = {
            let node = &cluster.nodes[at];
            (node.name.clone(), node.peer.clone(), node.client.clone())
        };
        let added = cluster.nodes[0]
            .conn()
            .add_member(&name, &peer, &client)
            .await
            .unwrap();
        assert_eq!((added.id, added.name.as_str(), added.voter), (4, "n4", false));
        let load = Load::start(cluster.conns()[..3].to_vec(), &ledger, 2, 8, seed::mixed_size);
        cluster.nodes[at].start();
        cluster.wait_node_serving(at).await;
        load.wait_acknowledged(500, SERVING_PATIENCE).await;
        load.stop().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
        let status = cluster.status(at).await;
        assert_eq!(status.role(), Role::Learner);
        assert!(status.purged_index > 0, "it began from a snapshot: {status:?}");

        promote(&cluster, 0, &name).await;
        let list = members(&cluster, at).await;
        assert!(list.iter().any(|m| m.id == 4 && m.voter), "{list:?}");
        // Four voters: with one of the old ones gone, the new one's vote is needed for a quorum of three.
        let leader = cluster.leader().await;
        let victim = (0..3).find(|i| *i != leader).unwrap();
        cluster.nodes[victim].kill();
        write(&cluster, &ledger, 3, 300).await;
        cluster.start_all();
        cluster.wait_serving().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
        // The snapshot's files survive a crash of their receiver.
        cluster.nodes[at].kill();
        cluster.start_all();
        cluster.wait_serving().await;
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
    cluster.kill_and_check();
}

#[test]
fn a_removed_node_stays_out_and_leadership_moves_on_request() {
    let seed = seed::seed("a_removed_node_stays_out_and_leadership_moves_on_request", 5);
    let mut cluster = Cluster::serving_steadily(3);
    let ledger = Ledger::new(seed);
    block_on(async {
        write(&cluster, &ledger, 0, 300).await;
        for _ in 0..3 {
            let from = cluster.leader().await;
            let to = (from + 1) % 3;
            // Asked at a node that is neither.
            cluster.transfer_leader((from + 2) % 3, to).await;
            assert_eq!(cluster.leader().await, to);
            write(&cluster, &ledger, 10 + from as u64, 100).await;
        }
        // Without a name the leader chooses.
        let from = cluster.leader().await;
        eventually("another leader", SERVING_PATIENCE, || async {
            let answer = cluster.nodes[0].conn().transfer_leader("").await;
            if cluster.leader().await == from {
                Err(format!("{answer:?}"))
            } else {
                Ok(())
            }
        })
        .await;

        let leader = cluster.leader().await;
        let out = (leader + 1) % 3;
        let name = cluster.nodes[out].name.clone();
        cluster.nodes[leader].conn().remove_member(&name).await.unwrap();
        let list = members(&cluster, leader).await;
        assert_eq!(list.len(), 2, "{list:?}");
        assert!(list.iter().all(|m| m.name != name));

        // It does not come back, neither running on nor started again, and does not disturb the others.
        let term = cluster.status(leader).await.header.unwrap().term;
        cluster.nodes[out].kill();
        cluster.nodes[out].start();
        let before = ledger.entries();
        let rest: Vec<_> = (0..3)
            .filter(|i| *i != out)
            .map(|i| cluster.nodes[i].conn())
            .collect();
        let load = Load::start(rest.clone(), &ledger, 20, 8, seed::mixed_size);
        load.wait_acknowledged(2_000, SERVING_PATIENCE).await;
        load.stop().await;
        // It stands for election by then, if it does at all.
        tokio::time::sleep(STEADY_CAMPAIGN).await;
        assert_eq!(
            cluster.status(leader).await.header.unwrap().term,
            term,
            "no election was forced"
        );
        assert_eq!(members(&cluster, leader).await.len(), 2);
        // It may hand a client on to the leader; it answers for nobody itself.
        if let Ok(got) = cluster.nodes[out]
            .conn()
            .patience(Duration::from_secs(3))
            .get("harness/removed")
            .await
        {
            assert_ne!(
                got.header.unwrap().node_id,
                out as u64 + 1,
                "a removed node answers no linearizable read"
            );
        }
        cluster.nodes[out].kill();
        assert!(ledger.entries().len() > before.len());
        for conn in rest {
            let faults = faults_of(&conn, &ledger, &before).await;
            assert!(
                faults.iter().all(|f| f.ends_with("was never written")),
                "{faults:?}"
            );
        }
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
    cluster.kill_and_check();
}

#[test]
fn a_wiped_directory_is_refused_under_its_old_name() {
    let seed = seed::seed("a_wiped_directory_is_refused_under_its_old_name", 6);
    let mut cluster = Cluster::serving_steadily(3);
    let ledger = Ledger::new(seed);
    block_on(async {
        write(&cluster, &ledger, 0, 300).await;
        let leader = cluster.leader().await;
        let wiped = (leader + 1) % 3;
        let name = cluster.nodes[wiped].name.clone();
        cluster.nodes[wiped].kill();
        std::fs::remove_dir_all(&cluster.nodes[wiped].dir).unwrap();
        cluster.nodes[wiped].start();
        let (code, log) = cluster.nodes[wiped].ends();
        assert_eq!(code, 13, "{log}");
        assert!(
            log.contains(&format!("kvctl member remove {name}")),
            "the next command is named:\n{log}"
        );
        assert!(log.contains("kvctl member add"), "and the one after it:\n{log}");
        // Asking again does not help.
        cluster.nodes[wiped].start();
        assert_eq!(cluster.nodes[wiped].ends().0, 13);
        write(&cluster, &ledger, 1, 300).await;

        // The way that the refusal names works.
        let asked = cluster.nodes[leader].conn();
        asked.remove_member(&name).await.unwrap();
        let at = cluster.describe_joiner();
        let (name, peer, client) = {
            let node = &cluster.nodes[at];
            (node.name.clone(), node.peer.clone(), node.client.clone())
        };
        let added = asked.add_member(&name, &peer, &client).await.unwrap();
        assert_eq!(added.id, 4, "an id never comes back");
        cluster.nodes[at].start();
        cluster.wait_node_serving(at).await;
        promote(&cluster, leader, &name).await;
        write(&cluster, &ledger, 2, 300).await;
        assert_holds_on_every_node(&cluster, &ledger).await;
    });
}

#[test]
fn a_change_that_may_yet_be_undone_is_told_to_nobody() {
    let mut cluster = Cluster::serving_steadily(3);
    block_on(async {
        let leader = cluster.leader().await;
        // A learner, which leaves in one step.
        let at = cluster.describe_joiner();
        let (name, peer, client) = {
            let node = &cluster.nodes[at];
            (node.name.clone(), node.peer.clone(), node.client.clone())
        };
        let conn = cluster.nodes[leader].conn();
        conn.add_member(&name, &peer, &client).await.unwrap();
        let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
        for other in &others {
            cluster.nodes[*other].process().signal(Signal::STOP);
        }
        // While the leader still believes that it leads, it takes the change into its log.
        let conn = cluster.nodes[leader].conn().patience(Duration::from_secs(2));
        let answers = tokio::join!(conn.remove_member(&name), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            (conn.remove_member(&name).await, conn.members().await)
        });
        let (first, (second, list)) = answers;
        for status in [first.map(|_| ()), second.map(|_| ()), list.map(|_| ())] {
            let status = status.unwrap_err();
            let error = ApiError::from_status(&status);
            assert_ne!(error.reason, Some(Reason::UnknownMember), "{status}");
        }
        for other in &others {
            cluster.nodes[*other].process().signal(Signal::CONT);
        }
        // Whatever became of the first call, the member can be removed, and then it is unknown for certain.
        let conn = cluster.nodes[leader].conn();
        eventually("that the member is gone", SERVING_PATIENCE, || async {
            match conn.remove_member(&name).await {
                Ok(answer) => Err(format!("{answer:?}")),
                Err(status) if ApiError::from_status(&status).reason == Some(Reason::UnknownMember) => Ok(()),
                Err(status) => Err(status.to_string()),
            }
        })
        .await;
        assert_eq!(members(&cluster, leader).await.len(), 3);
    });
}
