//! Goal: each acknowledgement follows a successful fdatasync of its bytes on two nodes.
//! Method: strace of all three nodes. For each acknowledged key the trace must show, on at least two nodes and before
//! the moment the client had its answer, a finished write of the record and after it a finished fdatasync of that file.
//! The followers' fdatasync is delayed by the tracer, and the leader's is not: whoever applies waits for its own sync, so
//! an acknowledgement that waits for no follower comes long before theirs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nezha_jepsen::cluster::trace::{Call, Kind, Tracer, durable_by, now};

use crate::harness::cluster::Cluster;
use crate::harness::{block_on, seed};

const CLIENTS: usize = 4;
const PUTS_PER_CLIENT: usize = 15;
/// How long they may take, elections among them. Only bounds a failing test.
const PUTS_PATIENCE: Duration = Duration::from_secs(60);

/// Runs traced puts on the given binary and lists the acknowledgements that came too early. Seeds make other keys.
pub fn early_acknowledgements(program: PathBuf, env: &[(String, String)], seed: u64) -> Vec<String> {
    let mut cluster = Cluster::new(3).steady();
    for node in &mut cluster.nodes {
        node.program = program.clone();
        node.env = env.to_vec();
    }
    cluster.start_all();
    block_on(cluster.wait_serving());
    let leader = block_on(cluster.leader());
    let tracers: Vec<Tracer> = (0..3)
        .map(|i| {
            let delayed = ["fdatasync,fsync:delay_enter=100000"];
            let injections: &[&str] = if i == leader { &[] } else { &delayed };
            let output = cluster.root().join(format!("n{}.trace", i + 1));
            Tracer::attach(cluster.nodes[i].process().pid(), output, injections).unwrap()
        })
        .collect();
    let acknowledged: Vec<(String, f64)> = block_on(async {
        // Attaching may have cost a term; the puts begin when all serve again.
        cluster.wait_serving().await;
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let conn = cluster.nodes[client % 3].conn();
            clients.spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if acknowledged.len() == PUTS_PER_CLIENT || started.elapsed() > PUTS_PATIENCE {
                        break;
                    }
                    let key = format!("trace/{seed}/{client}/{n:04}");
                    let value = seed::value_of(seed, key.as_bytes(), 700);
                    match conn.put(&key, value).await {
                        Ok(_) => acknowledged.push((key, now())),
                        // An election, on a disk that stalls. Another key next: this one may be written yet.
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
                acknowledged
            });
        }
        clients.join_all().await.concat()
    });
    let traces: Vec<Vec<Call>> = tracers.into_iter().map(Tracer::finish).collect();
    for (i, trace) in traces.iter().enumerate() {
        let syncs = trace
            .iter()
            .filter(|c| c.kind == Kind::Sync && c.succeeded)
            .count();
        assert!(
            syncs > 0,
            "the trace of n{} shows no sync of its log at all",
            i + 1
        );
    }
    assert_eq!(
        acknowledged.len(),
        CLIENTS * PUTS_PER_CLIENT,
        "puts acknowledged within {PUTS_PATIENCE:?}"
    );
    let early = acknowledged.iter().filter_map(|(key, at)| {
        let on = traces.iter().filter(|trace| durable_by(trace, key, *at)).count();
        (on < 2).then(|| format!("{key} was acknowledged when {on} nodes had synced it"))
    });
    early.collect()
}

#[test]
fn acknowledgements_follow_the_fdatasync_of_two_nodes() {
    let early = early_acknowledgements(crate::harness::process::kvd(), &[], 8);
    assert!(early.is_empty(), "{early:#?}");
}
