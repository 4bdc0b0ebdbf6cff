//! Clusters with much to collect, ordered collections, and what the nodes say about them.

use nezha_api::v1::GcStatusResponse;

use super::cluster::{Cluster, SERVING_PATIENCE};
use super::eventually;
use super::process::log_of;
use super::seed;

/// Length of a log segment in these clusters: the least that can be configured.
pub const SEGMENT_BYTES: u64 = 1 << 20;

/// Length of the values of [`fill`].
const VALUE_BYTES: usize = 9_000;

/// Gives every node small segments, so that there is much to collect.
pub fn with_small_segments(mut cluster: Cluster, extra: &[&str]) -> Cluster {
    for node in &mut cluster.nodes {
        let options = ["--log-segment-bytes", "1MiB"]
            .into_iter()
            .chain(extra.iter().copied());
        node.extra.extend(options.map(String::from));
    }
    cluster
}

/// Orders a run and waits until it has ended without trouble.
pub async fn collect(cluster: &Cluster, i: usize) -> GcStatusResponse {
    let status = run(cluster, i).await;
    assert_eq!(status.last_error, "", "on n{}", i + 1);
    status
}

/// Orders a run and waits until it has ended, however it did.
pub async fn run(cluster: &Cluster, i: usize) -> GcStatusResponse {
    let conn = cluster.nodes[i].conn();
    eventually("an ordered collection", SERVING_PATIENCE, || async {
        conn.gc_run().await.map_err(|s| s.to_string())
    })
    .await;
    eventually("the end of a collection", SERVING_PATIENCE, || async {
        let status = conn.gc_status().await.map_err(|s| s.to_string())?;
        match status.requested || status.job.is_some() {
            true => Err(format!("{:?}", status.job)),
            false => Ok(status),
        }
    })
    .await
}

/// Collects until little garbage is left: what readers or Raft held back goes a moment after they let go.
pub async fn collect_all(cluster: &Cluster, i: usize) -> GcStatusResponse {
    eventually("the space to come back", SERVING_PATIENCE * 2, || async {
        let status = collect(cluster, i).await;
        let garbage = status.file_bytes - status.live_bytes;
        match garbage < status.live_bytes / 5 + 4 * SEGMENT_BYTES {
            true => Ok(status),
            false => Err(format!("n{}: {garbage} bytes of garbage: {status:?}", i + 1)),
        }
    })
    .await
}

/// Sums over all jobs that a node has logged, in all its processes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Jobs {
    pub count: u64,
    /// Records copied.
    pub records: u64,
    /// Of them, those whose key was written meanwhile: copied in vain.
    pub overtaken: u64,
}

/// What node `i` has collected so far, from its log.
pub fn jobs(cluster: &Cluster, i: usize) -> Jobs {
    let log = log_of(&cluster.nodes[i].log);
    let mut jobs = Jobs::default();
    for line in log.lines().filter(|line| line.contains("overtaken=")) {
        let field = |name: &str| -> u64 {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            value
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        jobs.count += 1;
        jobs.records += field("records=");
        jobs.overtaken += field("overtaken=");
    }
    jobs
}

/// Times that node `i` has logged a line with `words`, in all its processes.
pub fn logged(cluster: &Cluster, i: usize, words: &str) -> usize {
    log_of(&cluster.nodes[i].log)
        .lines()
        .filter(|line| line.contains(words))
        .count()
}

fn fill_key(n: u64) -> String {
    format!("fill/{n:05}")
}

/// The value of key `key` in round `round` of [`fill`].
pub fn fill_value(seed: u64, key: &str, round: u64) -> Vec<u8> {
    seed::value_of(seed, format!("{key}/{round}").as_bytes(), VALUE_BYTES)
}

/// Writes the same keys several times, so that most of the log is garbage.
pub async fn fill(cluster: &Cluster, seed: u64, keys: u64, rounds: std::ops::RangeInclusive<u64>) {
    let conn = cluster.nodes[cluster.leader().await].conn();
    for round in rounds {
        let puts = (0..keys).map(|n| {
            let (key, conn) = (fill_key(n), &conn);
            async move { conn.put_surely(&key, fill_value(seed, &key, round)).await }
        });
        futures::future::join_all(puts).await;
    }
}

/// Asserts on every started node that each key of [`fill`] holds its value of `round`.
pub async fn assert_filled(cluster: &Cluster, seed: u64, keys: u64, round: u64) {
    for i in cluster.started() {
        let conn = cluster.nodes[i].conn();
        for key in (0..keys).map(fill_key) {
            let got = conn.get_stale(&key).await.unwrap();
            let same = got.value == fill_value(seed, &key, round);
            assert!(same, "{key} differs on n{}", i + 1);
        }
    }
}
