//! A node of the product with other storage, for comparisons: started and driven exactly as `kvd` is.
#![forbid(unsafe_code)]

use clap::Parser;
use nezha::config::Options;
use nezha::{exit, serve};
use nezha_baselines::{Baseline, Settings, Storage};

// As in kvd.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Example:
  baseline --system original --settings tuned --name n1 --data-dir data/n1 --initial-cluster n1=127.0.0.1:7380

Options beside --system, --settings and --no-fsync are those of kvd. --help of kvd says what they mean, and which may be
environment variables or keys of a file.";

/// Run one node of a system that Nezha is compared with.
#[derive(Parser)]
#[command(name = "baseline", version, after_help = EXAMPLES)]
struct Cli {
    /// How it stores values
    #[arg(long, value_enum)]
    system: Storage,
    /// How its RocksDB is set up
    #[arg(long, value_enum)]
    settings: Settings,
    /// Sync neither the Raft log, nor votes, nor RocksDB's log; table files are still synced as RocksDB does. A power cut
    /// may lose everything
    #[arg(long)]
    no_fsync: bool,
    #[command(flatten)]
    options: Options,
}

fn main() {
    let Cli {
        system,
        settings,
        no_fsync,
        mut options,
    } = Cli::parse();
    let code = match Baseline::new(system, settings, !no_fsync) {
        Ok(baseline) => {
            baseline.adjust(&mut options);
            serve::run("baseline", options, || {
                match baseline.fsync() {
                    true => tracing::info!(%baseline, "a system for comparisons"),
                    false => tracing::warn!(
                        %baseline,
                        "NO FSYNC: what this node acknowledges does not survive a power cut"
                    ),
                }
                baseline.parts()
            })
        }
        Err(contradiction) => {
            eprintln!("baseline: {contradiction}");
            exit::USAGE
        }
    };
    // Not by returning, as in kvd: no destructor may write any more.
    std::process::exit(code);
}
