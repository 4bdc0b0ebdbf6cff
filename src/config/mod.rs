//! Options of `kvd serve`: one definition, three layers (flags over environment over TOML file), one resolved result.
//!
//! Each layer is brought to the form of command-line arguments and goes through the same parser, so that a value means
//! the same wherever it stands, and an unknown or malformed one is refused the same way.

mod check;
mod options;

#[cfg(test)]
mod config_test;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use thiserror::Error;

pub use check::{addr_problem, name_problem};
pub use options::{Options, parse_bytes, parse_duration};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: u64 = 8 << 10;
/// Longest value that may be configured, in bytes.
pub const VALUE_BYTES_CEILING: u64 = 64 * MIB;

/// What is logged by default. openraft warns at every attempt to reach a member that is down; `raft` says it once in a
/// while.
const LOG_LEVEL: &str = "info,openraft=warn,openraft::replication=error,openraft::core::heartbeat=error,\
                         openraft::engine::handler::replication_handler=error";

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// When garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GcMode {
    /// When a limit is exceeded.
    Auto,
    /// Only by order: `kvctl gc run`.
    Manual,
}

/// One line of `--initial-cluster`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitialMember {
    /// Name of the member.
    pub name: String,
    /// Its peer address.
    pub peer_addr: String,
    /// Its client address, when given; otherwise it is learned from the member.
    pub client_addr: Option<String>,
}

/// How a node without an identity gets one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It has one already, or starting is refused.
    Unstated,
    /// It is one of the first members of a new cluster; sorted by name.
    InitialCluster(Vec<InitialMember>),
    /// It was added to a running cluster, reached by these client endpoints.
    Join(Vec<String>),
}

/// The resolved configuration of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the node; 1 to 64 bytes of letters, digits, '-', '_' and '.'.
    pub name: String,
    /// Directory of the node's data.
    pub data_dir: PathBuf,
    /// `host:port` bound for clients; default 127.0.0.1:7379.
    pub listen_client: String,
    /// `host:port` bound for members; default 127.0.0.1:7380.
    pub listen_peer: String,
    /// `host:port` that clients are told; default: as bound.
    pub advertise_client: String,
    /// `host:port` that members are told; default: as bound.
    pub advertise_peer: String,
    /// How the node gets its identity.
    pub origin: Origin,
    /// Mixed into the id of a new cluster; default empty.
    pub cluster_token: String,
    /// Longest value, bytes; default 16 MiB, range 1 KiB to 64 MiB.
    pub value_bytes_max: u64,
    /// Request bytes in flight, bytes; default 64 MiB, at least four values.
    pub proposal_bytes_max: u64,
    /// Answer bytes in flight, bytes; default 64 MiB, at least four values.
    pub read_bytes_max: u64,
    /// Longest wait for admission; default 5 s.
    pub admission_wait: Duration,
    /// Open scans; default 64, at least 1.
    pub scans_max: usize,
    /// Life of one scan; default 10 min.
    pub scan_lifetime: Duration,
    /// Keys and values in a message of a scan, bytes, about; 1 MiB. No option sets it: only simulations have others.
    pub scan_chunk_bytes: u64,
    /// Size of a log segment, bytes; default 128 MiB, at least 1 MiB.
    pub log_segment_bytes: u64,
    /// Tail cache of the log, bytes; default 32 MiB.
    pub log_cache_bytes: u64,
    /// When garbage is collected; default auto.
    pub gc: GcMode,
    /// Bytes of log and values per 1000 live bytes that are allowed; default 2000, range 1100 to 100,000.
    pub space_amplification_max_per_mille: u32,
    /// Garbage that is always allowed, bytes; default 1 GiB, at least eight log segments.
    pub space_floor_bytes: u64,
    /// Free disk below which writes are refused, bytes; by default a twentieth of the disk, at most 512 MiB.
    pub disk_reserve_bytes: Option<u64>,
    /// Bytes that a collection copies per second at most; default 0: unbounded.
    pub gc_bytes_per_second: u64,
    /// Log that is kept for a member that lags, bytes; default 4 GiB. One that lacks more gets a snapshot.
    pub lagging_log_bytes_max: u64,
    /// Bytes that this node sends in snapshots per second at most, all transfers together; default 0: unbounded, because
    /// a member that waits for one is a copy that is missing. Set it where snapshots share a link or a disk with clients.
    pub snapshot_bytes_per_second: u64,
    /// Heartbeat interval; default 200 ms, at least 20 ms.
    pub heartbeat: Duration,
    /// Silence after which a follower stands for election, up to a third more; default 1 s, at least four heartbeats.
    pub election_timeout: Duration,
    /// Deadline of the drain and of the leader transfer at a stop; default 10 s.
    pub stop_wait: Duration,
    /// Form of log lines; default text.
    pub log_format: LogFormat,
    /// Filter of log lines; default info, of openraft warn or less.
    pub log_level: String,
}

/// Why the options do not make a configuration. Exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A layer holds what the parser refuses.
    #[error("{origin}: {reason}")]
    Malformed {
        /// "environment", or the file.
        origin: String,
        /// The parser's words.
        reason: String,
    },
    /// The TOML file names an option that does not exist.
    #[error("{file}: unknown key '{key}'; known keys: {known}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The key as written.
        key: String,
        /// All keys, comma separated.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A required option is missing.
    #[error("--{option} is missing; example: {example}")]
    Missing {
        /// Name of the option.
        option: &'static str,
        /// A command that would do.
        example: &'static str,
    },
    /// An option has a value that makes no sense, alone or with others.
    #[error("--{option} {value}: {reason}")]
    Invalid {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}
