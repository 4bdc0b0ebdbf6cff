//! `kvd`: a Nezha node, a cluster on one machine, and checks of a stopped node's files.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use nezha::config::Options;
use nezha::exit;
use nezha::local::{self, LocalOptions};
use nezha::node::Parts;
use nezha::offline::{self, DumpFormat, OfflineError};
use nezha::serve;

/// Gives large blocks back to the system at once: with glibc's, a leader that sends values of 16 MiB to a follower that
/// lags takes twice the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Also what the node answers when it is asked for its version.
const VERSION: &str = nezha_api::version::of_build(env!("CARGO_PKG_VERSION"), option_env!("NEZHA_VERSION"));

const EXAMPLES: &str = "\
Examples:
  A cluster of three on this machine, to try things out:
    kvd local --nodes 3 --data-dir ./demo

  One of three machines of a new cluster (the same list on each):
    kvd --name n1 --data-dir /var/lib/nezha --listen-client 10.0.0.1:7379 --listen-peer 10.0.0.1:7380 \\
        --initial-cluster n1=10.0.0.1:7380,n2=10.0.0.2:7380,n3=10.0.0.3:7380

  A fourth one, later:
    kvctl --endpoints 10.0.0.1:7379 member add n4 --peer-addr 10.0.0.4:7380 --client-addr 10.0.0.4:7379
    kvd --name n4 --data-dir /var/lib/nezha --listen-client 10.0.0.4:7379 --listen-peer 10.0.0.4:7380 \\
        --join 10.0.0.1:7379

  The files of a stopped node:
    kvd check /var/lib/nezha

Every option of a node may also be an environment variable (--data-dir: KVD_DATA_DIR) or a key of the TOML file that
--config names (data-dir = \"...\"). Flags win over the environment, the environment over the file.

Exit codes: 0 stopped as told; 1 other; 2 usage; 10 no space to start; 11 a write or sync of the log failed; 12 damaged
data or unknown format; 13 the directory of another node or cluster, or a wiped one; 14 the directory is in use; 15 a
port is in use.";

#[derive(Parser)]
#[command(
    name = "kvd",
    version = VERSION,
    about = "Nezha: a replicated key-value store that writes every value once"
)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one node; the same as kvd without a command
    #[command(after_help = EXAMPLES)]
    Serve(Box<Options>),
    /// Runs a cluster on this machine, one process per node
    Local(LocalOptions),
    /// Verifies every frame, record, reference and checksum of a stopped node
    #[command(after_help = "Example:\n  kvd check demo/n1\n\nExit codes: 0 sound; 12 damaged.")]
    Check(Offline),
    /// Prints what the files of a stopped node hold
    #[command(after_help = "Example:\n  kvd dump demo/n1 --json | less")]
    Dump(Offline),
}

/// Which files, and how to print them.
#[derive(Args)]
struct Offline {
    /// Data directory of the stopped node
    dir: PathBuf,
    /// Print JSON instead of text; dump prints one object per line
    #[arg(long)]
    json: bool,
}

fn main() {
    let cli = Cli::parse();
    let code = match cli.command {
        None => serve::run("kvd", cli.serve, parts),
        Some(Command::Serve(options)) => serve::run("kvd", *options, parts),
        Some(Command::Local(options)) => local::run(&options),
        Some(Command::Check(offline)) => check(&offline),
        Some(Command::Dump(offline)) => dump(&offline),
    };
    // Not by returning: threads that still run must not delay the end, and no destructor may write any more.
    std::process::exit(code);
}

fn parts() -> Parts {
    Parts {
        version: VERSION.to_owned(),
        ..Parts::default()
    }
}

fn check(offline: &Offline) -> i32 {
    let report = match offline::check(&offline.dir) {
        Ok(report) => report,
        Err(error) => return refuse(&error),
    };
    let text = match offline.json {
        true => serde_json::to_string_pretty(&report).unwrap_or_else(|error| error.to_string()),
        false => report.to_string(),
    };
    // The exit code says it too, to a reader that has gone: `kvd check DIR | grep -q sound`.
    drop(writeln!(std::io::stdout(), "{text}"));
    if report.is_sound() { 0 } else { exit::DATA_REFUSED }
}

fn dump(offline: &Offline) -> i32 {
    let format = if offline.json {
        DumpFormat::JsonLines
    } else {
        DumpFormat::Text
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match offline::dump(&offline.dir, format, &mut out) {
        Ok(()) => 0,
        // The reader has seen enough: `kvd dump DIR | head`.
        Err(OfflineError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &OfflineError) -> i32 {
    eprintln!("kvd: {error}");
    exit::offline_exit_code(error)
}
