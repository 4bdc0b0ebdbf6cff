//! Goal: values of the largest size reach a follower that was away, without a transport error and in bounded memory.
//! Method: one follower is stopped while 16 MiB values are written; after its start its own copy of each is compared,
//! and no node has logged a transport error. The same with one value of 64 MiB, by the log and by a snapshot.

use crate::harness::block_on;
use crate::harness::cluster::Cluster;
use crate::harness::seed::{seed, value_of};

const VALUE_BYTES: usize = 16 << 20;
const VALUES: usize = 8;
/// What a node may take under this load, copies of a value on its way to two followers among it.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

#[test]
fn a_lagging_follower_gets_values_of_16_mib() {
    let seed = seed("a_lagging_follower_gets_values_of_16_mib", 10);
    let mut cluster = Cluster::serving_steadily(3);
    block_on(async {
        let leader = cluster.leader().await;
        let away = (leader + 1) % 3;
        cluster.nodes[away].kill();
        for n in 0..VALUES {
            let key = format!("large/{n}");
            let asked = cluster.nodes[if n % 2 == 0 { leader } else { (leader + 2) % 3 }].conn();
            asked
                .put_surely(&key, value_of(seed, key.as_bytes(), VALUE_BYTES))
                .await;
        }
        cluster.start_all();
        cluster.wait_serving().await;
        cluster.wait_caught_up().await;
        for i in 0..3 {
            let conn = cluster.nodes[i].conn();
            for n in 0..VALUES {
                let key = format!("large/{n}");
                let got = conn.get_stale(&key).await.unwrap();
                assert!(
                    got.value == value_of(seed, key.as_bytes(), VALUE_BYTES),
                    "{key} differs on node {i}"
                );
            }
            let resident = cluster.nodes[i].process().resident_bytes();
            println!("n{}: {} MiB resident", i + 1, resident >> 20);
            assert!(
                resident <= RESIDENT_BYTES_MAX,
                "n{}: {} MiB resident",
                i + 1,
                resident >> 20
            );
            let log = cluster.nodes[i].process().log();
            for words in [
                "message length too large",
                "OUT_OF_RANGE",
                "OutOfRange",
                "panicked",
            ] {
                assert!(!log.contains(words), "{words} in the log of n{}", i + 1);
            }
        }
        assert_eq!(cluster.leader().await, leader, "nobody lost the leader over it");
    });
    cluster.kill_and_check();
}

#[test]
fn a_value_of_64_mib_comes_by_the_log_and_by_a_snapshot() {
    const LARGEST: usize = 64 << 20;
    let seed = seed("a_value_of_64_mib_comes_by_the_log_and_by_a_snapshot", 11);
    let mut cluster = Cluster::new(3).steady();
    for node in &mut cluster.nodes {
        node.extra
            .extend(["--value-bytes-max", "64MiB"].map(String::from));
    }
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let leader = cluster.leader().await;
        let away = (leader + 1) % 3;
        for by_snapshot in [false, true] {
            let value = value_of(seed, &[u8::from(by_snapshot)], LARGEST);
            cluster.nodes[away].kill();
            cluster.nodes[leader]
                .conn()
                .put_surely("largest", value.clone())
                .await;
            if by_snapshot {
                cluster.nodes[leader].conn().purge(0).await.unwrap();
            }
            cluster.start_all();
            cluster.wait_serving().await;
            cluster.wait_caught_up().await;
            for i in 0..3 {
                let got = cluster.nodes[i].conn().get_stale("largest").await.unwrap();
                assert!(
                    got.value == value,
                    "differs on node {i}, by snapshot: {by_snapshot}"
                );
                let log = cluster.nodes[i].process().log();
                assert_eq!(log.contains("installed a snapshot"), by_snapshot && i == away);
                assert!(!log.contains("message length too large"), "n{}", i + 1);
                let resident = cluster.nodes[i].process().resident_bytes();
                println!("n{}: {} MiB resident", i + 1, resident >> 20);
            }
        }
    });
    cluster.kill_and_check();
}
