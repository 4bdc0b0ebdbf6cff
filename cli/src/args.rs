//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cmd;
use crate::encoding::Encoding;
use crate::units::parse_duration;

/// Of this build.
pub const VERSION: &str =
    nezha_api::version::of_build(env!("CARGO_PKG_VERSION"), option_env!("NEZHA_VERSION"));

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the key is absent, or the condition did not hold
  2  wrong usage, or a local file that cannot be used
  3  cannot connect, or no leader
  4  refused by the server
  5  time-out; the outcome of a write is unknown
  6  the cluster, or a member that was asked for its health, is not healthy
  7  a disk is full
  8  stored data is damaged
  9  replicas differ
  10  replicas could not all be compared
  130  interrupted

Examples:
  kvctl put greeting hello
  kvctl get greeting
  kvctl scan user/ --keys-only
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 status";

/// Command line client of Nezha
///
/// Results go to stdout, notes and errors to stderr.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version = VERSION, after_help = EXIT_CODES, disable_help_subcommand = true)]
#[command(infer_subcommands = true, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Members to talk to; one that is up is enough
    #[arg(long, global = true, value_name = "HOST:PORT,...", value_delimiter = ',')]
    #[arg(env = "KVCTL_ENDPOINTS", default_value = "127.0.0.1:7379")]
    pub endpoints: Vec<String>,
    /// Output format [default: simple; table for status and members on a terminal]
    #[arg(short = 'w', long = "write-out", global = true, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Time for the command to be answered, such as 500ms, 5s or 2m [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How keys are read and printed
    #[arg(long, global = true, value_enum, default_value_t = Encoding::Auto, value_name = "ENCODING")]
    pub encoding: Encoding,
    /// Print the resolved settings to stderr first
    #[arg(long, global = true)]
    pub debug: bool,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Plain text, for people and pipes
    Simple,
    /// A table
    Table,
    /// One JSON document
    Json,
    /// One JSON document per line
    Jsonl,
}

/// Read levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Sees every write that was acknowledged before
    #[default]
    Linearizable,
    /// What the asked member has applied, without asking the leader
    Stale,
}

impl From<Consistency> for nezha_api::v1::Consistency {
    fn from(level: Consistency) -> Self {
        match level {
            Consistency::Linearizable => nezha_api::v1::Consistency::Linearizable,
            Consistency::Stale => nezha_api::v1::Consistency::Stale,
        }
    }
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a key
    Put(cmd::put::PutArgs),
    /// Read a key
    Get(cmd::get::GetArgs),
    /// Delete a key and print how many were deleted
    Del(cmd::del::DelArgs),
    /// List keys and values in key order
    Scan(cmd::scan::ScanArgs),
    /// Check whether each given endpoint serves linearizable reads
    Health(cmd::health::HealthArgs),
    /// Show the health of the cluster and each member
    Status(cmd::status::StatusArgs),
    /// List, add, promote and remove members
    #[command(subcommand)]
    Member(cmd::member::MemberCommand),
    /// Show the leader or move leadership
    #[command(subcommand)]
    Leader(cmd::leader::LeaderCommand),
    /// Purge the Raft log of each given endpoint
    Purge(cmd::purge::PurgeArgs),
    /// Show and control the garbage collection of each given endpoint
    #[command(subcommand)]
    Gc(cmd::gc::GcCommand),
    /// Check whether what the members hold is what they should
    #[command(subcommand)]
    Check(cmd::check::CheckCommand),
    /// Measure the store, etcd or the disk
    #[command(after_help = cmd::bench::EXAMPLES)]
    Bench(nezha_ycsb::BenchArgs),
}

/// Conditions of a write.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct ConditionArgs {
    /// Only if the key does not exist; else exit with 1
    #[arg(long)]
    pub if_absent: bool,
    /// Only if the key's last write has this revision; else exit with 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub if_revision: Option<u64>,
}

impl ConditionArgs {
    /// Returns the condition for the client.
    pub fn condition(&self) -> nezha_api::client::Condition {
        use nezha_api::client::Condition;
        match self.if_revision {
            Some(revision) => Condition::ModRevision(revision),
            None if self.if_absent => Condition::Absent,
            None => Condition::None,
        }
    }
}
