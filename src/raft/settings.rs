//! Settings of the Raft room, and how they reach openraft.

use openraft::{Config, ConfigError, SnapshotPolicy};

use super::state_machine::FlushPolicy;

/// What an operator may set about consensus.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Milliseconds between heartbeats. Default 200; 20 and more.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a follower stands for election; up to a third more, by chance. Default
    /// 1,000; at least four heartbeats.
    pub election_ms: u64,
    /// When the index is flushed.
    pub flush: FlushPolicy,
    /// Largest message between members in bytes: above the value limit plus overhead.
    pub message_bytes_max: usize,
    /// Bytes that this node sends in snapshots per second at most, all transfers together. Default 0: unbounded.
    pub snapshot_bytes_per_second: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 200,
            election_ms: 1000,
            flush: FlushPolicy::default(),
            message_bytes_max: 80 << 20,
            snapshot_bytes_per_second: 0,
        }
    }
}

impl Settings {
    /// openraft's configuration. Errors: time-outs that contradict each other.
    pub(crate) fn to_openraft(&self, cluster_id: u64) -> Result<Config, ConfigError> {
        Config {
            cluster_name: format!("{cluster_id:016x}"),
            heartbeat_interval: self.heartbeat_ms,
            // openraft waits for the lease (its longest time-out), and after it for a time-out drawn between its shortest
            // and longest: a third and two thirds make a whole, and up to a third more.
            election_timeout_min: self.election_ms / 3,
            election_timeout_max: self.election_ms / 3 * 2,
            // Snapshots are taken when the log is to be purged, and the log is purged by order only: it is the value log.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            // A follower is never too far behind for the log as long as the log has what it lacks.
            replication_lag_threshold: u64::MAX,
            // Bytes bound a request (the log reader), not entries.
            max_payload_entries: 4096,
            enable_pre_vote: Some(true),
            // A leader restored after a restart can serve stale reads when the committed hint was not synced.
            enable_leader_restore: Some(false),
            // A wiped member must never be accepted silently.
            allow_log_reversion: Some(false),
            ..Config::default()
        }
        .validate()
    }
}
