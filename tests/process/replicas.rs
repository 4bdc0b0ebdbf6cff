//! Goal: replicas that took different ways to one state are told equal, also while they are written to and collect; and
//! nobody is told equal who was not asked.
//! Method: `kvctl check replicas` beside a load, with one member collecting, one restarted, and one down.

use std::time::Duration;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::process::{beside_kvd, run};
use crate::harness::{block_on, eventually, seed};

/// Only bounds a failing test.
const CHECK_PATIENCE: Duration = Duration::from_secs(120);

/// Runs `kvctl check replicas` with all members as endpoints: exit code and output.
pub fn check_replicas(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|n| n.client.as_str()).collect();
    let endpoints = endpoints.join(",");
    let args = [&["--endpoints", &endpoints, "check", "replicas"], args].concat();
    let (code, out, err) = run(&beside_kvd("kvctl"), &args, CHECK_PATIENCE);
    (code, format!("{out}{err}"))
}

#[test]
fn replicas_are_equal_while_they_are_written_to() {
    let seed = seed::seed("replicas_are_equal_while_they_are_written_to", 31);
    let mut cluster = Cluster::new(3).steady();
    for node in &mut cluster.nodes {
        node.extra
            .extend(["--log-segment-bytes", "1MiB"].map(String::from));
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    block_on(async {
        cluster.wait_serving().await;
        let load = Load::start(cluster.conns(), &ledger, 0, 8, seed::mixed_size);
        load.wait_acknowledged(1_000, SERVING_PATIENCE).await;
        // Its values move to sorted segments meanwhile.
        let collecting = cluster.nodes[0].conn();
        eventually("an ordered collection", SERVING_PATIENCE, || async {
            collecting.gc_run().await.map_err(|s| s.to_string())
        })
        .await;
        for args in [&[][..], &["--keys-only"], &["--prefix", "load/000/00"]] {
            let before = load.acknowledged();
            // A stalled disk may make one round of attempts miss; not all of them.
            eventually("equal replicas", CHECK_PATIENCE, || async {
                match check_replicas(&cluster, args) {
                    (0, _) => Ok(()),
                    (10, output) => Err(output),
                    (code, output) => panic!("{args:?}: code {code}\n{output}"),
                }
            })
            .await;
            load.wait_acknowledged(1, SERVING_PATIENCE).await;
            println!("{args:?}: equal beside {} writes", load.acknowledged() - before);
        }
        load.stop().await;
        let victim = (cluster.leader().await + 1) % 3;
        cluster.nodes[victim].kill();
        let (code, output) = check_replicas(&cluster, &[]);
        assert_eq!(code, 10, "one is down:\n{output}");
        cluster.start_all();
        cluster.wait_serving().await;
        cluster.wait_caught_up().await;
        let (code, output) = check_replicas(&cluster, &[]);
        assert_eq!(code, 0, "{output}");
    });
    cluster.kill_and_check();
}
