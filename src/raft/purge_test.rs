//! Goal: whatever a snapshot allows Raft to purge, the index has flushed, so that no crash leaves an index behind the log
//! (I4, I8). Method: seeded writes, applies, snapshots and purges through openraft's traits; a power cut after each
//! round; what is left must open and be the state of the last acknowledged entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use nezha_vlog::fs::CrashFs;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::raft_test::{Node, put, run};
use crate::seed::{Named, seeds};

#[test]
fn a_purge_up_to_a_snapshot_survives_power_cuts() {
    for seed in seeds(20) {
        let _named = Named(seed);
        run(async {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut node = Node::open(CrashFs::new(), Arc::default());
            let mut model = BTreeMap::new();
            let (mut next, mut purges) = (0, 0);
            for round in 0..6 {
                for _ in 0..rng.random_range(5..40) {
                    let key = format!("key{}", rng.random_range(0..20)).into_bytes();
                    let value = vec![rng.random::<u8>(); rng.random_range(0..1500)];
                    let done = node.append(vec![put(1, next, &key, &value)]).await;
                    done.await.unwrap().unwrap();
                    model.insert(key, value);
                    next += 1;
                }
                node.apply_to(next - 1).await;
                let mut builder = node.machine.get_snapshot_builder().await;
                let built = builder.build_snapshot().await.unwrap();
                let upto = built.meta.last_log_id.unwrap();
                assert_eq!(upto.index, next - 1);
                if rng.random() {
                    node.log.purge(upto).await.unwrap();
                    let mut durable = node.log.durable_purge();
                    durable.wait_for(|at| *at == Some(upto.index)).await.unwrap();
                    purges += 1;
                }
                node = node.crash(seed * 100 + round);
                node.apply_to(next - 1).await;
                assert_eq!(node.values(), model, "after round {round}");
            }
            assert!(purges > 0, "nothing was purged");
        });
    }
}
