//! Goal: a failed fdatasync ends the process with its own exit code, nothing it covered is acknowledged by it, and the
//! others serve on; started again, the node has everything.
//! Method: strace makes the call fail with EIO in a follower, then in the leader, under load. (I7)

use nezha_jepsen::cluster::trace::Tracer;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, seed};

const SYNC_FAILED: i32 = 11;

#[test]
fn a_failed_fdatasync_stops_the_node_and_no_other() {
    let seed = seed::seed("a_failed_fdatasync_stops_the_node_and_no_other", 9);
    let mut cluster = Cluster::serving(3);
    let ledger = Ledger::new(seed);
    block_on(async {
        for (round, distance) in [(0, 1), (1, 0)] {
            let load = Load::start(cluster.conns(), &ledger, round, 8, seed::mixed_size);
            load.wait_acknowledged(200, SERVING_PATIENCE).await;
            let victim = (cluster.leader().await + distance) % 3;
            let output = cluster.root().join(format!("{round}.trace"));
            let pid = cluster.nodes[victim].process().pid();
            let tracer = Tracer::attach(pid, output, &["fdatasync:error=EIO:when=3+"]).unwrap();
            let (code, log) = cluster.nodes[victim].ends();
            drop(tracer);
            assert_eq!(code, SYNC_FAILED, "{log}");
            assert!(
                log.contains("Input/output error") || log.contains("os error 5"),
                "the cause is named:\n{log}"
            );
            load.wait_acknowledged(300, SERVING_PATIENCE).await;
            cluster.start_all();
            cluster.wait_serving().await;
            load.stop().await;
            assert_holds_on_every_node(&cluster, &ledger).await;
        }
    });
    cluster.kill_and_check();
}
