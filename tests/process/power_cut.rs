//! Goal: no acknowledged write is lost when all three nodes lose power at once.
//! Method: data directories on loop-mounted ext4 images. Under load all processes are stopped, the images copied (they
//! hold what was synced and none of the page cache), the processes killed, the copies mounted in place of the
//! originals and the cluster started from them. Three times in a row; before the second, values so long that the log
//! is written past the page cache.

use std::time::Duration;

use nezha_jepsen::cluster::disk::LoopDisk;
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use crate::harness::cluster::{Cluster, SERVING_PATIENCE};
use crate::harness::ledger::Ledger;
use crate::harness::load::Load;
use crate::harness::verify::assert_holds_on_every_node;
use crate::harness::{block_on, seed};

const CUTS: u64 = 3;

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let seed = seed::seed("power_cuts_lose_nothing_acknowledged", 7);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = Cluster::new(3);
    let mut disks: Vec<LoopDisk> = (0..3)
        .map(|i| LoopDisk::new(cluster.root(), &format!("disk{i}"), 512).unwrap())
        .collect();
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks) {
        node.dir = disk.data();
        node.extra = vec!["--log-segment-bytes".into(), "4MiB".into()];
    }
    cluster.start_all();
    let ledger = Ledger::new(seed);
    for cut in 0..CUTS {
        block_on(async {
            cluster.wait_serving().await;
            let (size_of, count): (fn(&mut StdRng) -> usize, usize) = match cut {
                1 => (seed::large_size, rng.random_range(200..500)),
                _ => (seed::mixed_size, rng.random_range(1_000..2_500)),
            };
            let load = Load::start(cluster.conns(), &ledger, cut, 16, size_of);
            load.wait_acknowledged(count, SERVING_PATIENCE).await;
            if cut > 0 {
                // Index flushes and snapshots are cut too.
                let _ = cluster.nodes[rng.random_range(0..3)].conn().purge(0).await;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            for node in &mut cluster.nodes {
                node.process().signal(Signal::STOP);
            }
            let copies: Vec<_> = disks.iter().map(|disk| disk.copy_image().unwrap()).collect();
            cluster.kill_all();
            let acknowledged = load.stop().await;
            for (disk, copy) in disks.iter_mut().zip(&copies) {
                disk.replace_by(copy).unwrap();
            }
            println!("cut {cut}: {acknowledged} acknowledged in this round");
            cluster.start_all();
            cluster.wait_serving().await;
            assert_holds_on_every_node(&cluster, &ledger).await;
        });
    }
    cluster.kill_and_check();
    drop(cluster);
}
