//! Addresses that no other test, and nothing else on the machine, uses.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts clusters of this process.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A number for a new cluster, unique in this process.
pub fn next_cluster() -> u32 {
    CLUSTERS.fetch_add(1, Ordering::Relaxed)
}

/// A loopback address of its own for each node of each cluster: ports never collide.
pub fn loopback_host(cluster: u32, node: usize) -> String {
    let pid = std::process::id();
    format!(
        "127.{}.{}.{}",
        16 + pid % 200,
        1 + (pid / 200 + cluster) % 250,
        node + 1
    )
}
