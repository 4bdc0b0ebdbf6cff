//! nezha-jepsen: see `--help`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nezha_jepsen::check::{self, Verdict};
use nezha_jepsen::history::read;
use nezha_jepsen::nemesis::Kind;
use nezha_jepsen::run::{self, AttendOptions, Options, bugs};
use nezha_jepsen::{report, workload};

/// What kept a command from its work.
const FAILED: u8 = 3;

/// Breaks real clusters of kvd on purpose, records what clients were told, and checks it
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nezha-jepsen run --seconds 300                    five minutes of everything
  nezha-jepsen run --only kill,partition --nodes 5 --seed 7
  nezha-jepsen run --endpoints 10.0.0.1:7379,10.0.0.2:7379 --only api
  nezha-jepsen check target/jepsen/run-*/history.jsonl
  nezha-jepsen bugs --kvd target/planted/kvd
  nezha-jepsen list";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, hurt it under load, heal it, check everything
    #[command(after_help = RUN)]
    Run(Options),
    /// Be the clients of a cluster that somebody else breaks, and its judge; orders come on stdin
    #[command(after_help = ATTEND)]
    Attend(AttendOptions),
    /// Judge recorded histories
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Show faults, workloads and planted bugs
    List,
    /// Hunt planted bugs, to prove that the harness finds bugs
    #[command(after_help = BUGS)]
    Bugs(BugsArgs),
    /// Write a page over the folders of many runs
    Index {
        /// Where the folders are
        #[arg(default_value = "target/jepsen")]
        dir: PathBuf,
    },
}

const RUN: &str = "\
Needs root, and ip, nft, strace, mkfs.ext4 and mount: members get a network namespace and a disk of their own each.
Leaves a folder with history, verdict, logs and a page.
Exits with 0 if everything is as promised, 1 if not, 2 if that could not be decided or too little happened, 3 if the
harness failed.";

const ATTEND: &str = "\
Orders are lines on stdin; each is answered by a line of JSON on stdout:
  mark                   from now on outages count
  outage                 {longest_ms, failed}: the longest time without an acknowledged write of some client
  check n1=H:P,n2=H:P    every member is asked for everything and the history is judged: {operations, findings,
                         undecided, counts}; the clients go on with these members
The end of stdin ends it. Exits with 3 if it could not do what it was told.";

const CHECK: &str = "\
Reads histories of this harness, Jepsen's EDN, and the recorded logs of etcd and of a kv store.
Exits with 0 if all are linearizable, 1 if one is not, 2 if one could not be decided, 3 if one could not be read.";

const BUGS: &str = "\
Needs a kvd that was built with the feature planted-bugs, such as target/planted/kvd.
Exits with 0 if every bug was caught and the control run without one was green, else with 1; 3 if the harness failed.";

#[derive(Debug, Args)]
struct CheckArgs {
    /// Histories
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One line of JSON for each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BugsArgs {
    /// A kvd with planted bugs
    #[arg(long, default_value = "target/planted/kvd", value_name = "PATH")]
    kvd: PathBuf,
    /// Names of bugs [default: all]
    #[arg(long, value_name = "BUGS")]
    only: Option<String>,
    /// Of these only so many, drawn from the seed
    #[arg(long, value_name = "N")]
    pick: Option<usize>,
    /// At most so long for each
    #[arg(long, default_value_t = 5, value_name = "N")]
    minutes: u64,
    /// Draws the runs [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
    /// Where the folders of the runs are made
    #[arg(long, default_value = "target/jepsen", value_name = "DIR")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run_once(&options),
        Command::Attend(options) => run::attend(&options).map(|()| 0),
        Command::Check(args) => Ok(check_all(&args)),
        Command::List => {
            list();
            Ok(0)
        }
        Command::Bugs(args) => hunt(&args),
        Command::Index { dir } => index(&dir),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("nezha-jepsen: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run_once(options: &Options) -> anyhow::Result<u8> {
    if let Err(usage) = options.kinds() {
        eprintln!("nezha-jepsen: {usage}");
        return Ok(FAILED);
    }
    let ran = run::run(options)?;
    println!("{}", ran.summary);
    Ok(ran.outcome.exit_code())
}

fn hunt(args: &BugsArgs) -> anyhow::Result<u8> {
    let all = run::hunt(&run::Hunt {
        kvd: &args.kvd,
        dir: &args.dir,
        only: args.only.as_deref(),
        pick: args.pick,
        minutes: args.minutes,
        seed: args.seed,
    })?;
    Ok(u8::from(!all))
}

fn index(dir: &Path) -> anyhow::Result<u8> {
    let totals = report::index(dir).with_context(|| format!("write a page over {}", dir.display()))?;
    println!("{totals:?}");
    Ok(0)
}

/// The worst of all files decides.
fn check_all(args: &CheckArgs) -> u8 {
    let codes = args.files.iter().map(|file| check_one(file, args.json));
    // A file that is not linearizable is worse than one that could not be read, which is worse than an undecided one.
    let worse = |code: &u8| match code {
        1 => 3,
        3 => 2,
        2 => 1,
        _ => 0,
    };
    codes.max_by_key(worse).unwrap_or(FAILED)
}

fn check_one(file: &Path, json: bool) -> u8 {
    let history = match read::read(file) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return FAILED;
        }
    };
    let report = check::check(&history, &check::Options::default());
    let (word, code) = match report.verdict() {
        Verdict::Linearizable => ("linearizable", 0),
        Verdict::Violated => ("not linearizable", 1),
        Verdict::Undecided => ("undecided", 2),
    };
    if json {
        let findings: Vec<serde_json::Value> = report
            .findings
            .iter()
            .map(|finding| {
                serde_json::json!({
                    "check": finding.check, "text": finding.text, "operations": finding.operations
                })
            })
            .collect();
        let line = serde_json::json!({
            "file": file, "verdict": word, "findings": findings, "undecided": report.undecided, "counts": report.counts
        });
        println!("{line}");
    } else {
        println!("{}: {word}", file.display());
        print!("{report}");
    }
    code
}

fn list() {
    println!("Faults (--only)");
    for kind in Kind::all() {
        println!(
            "  {:<14} {:<11} {}",
            kind.name(),
            kind.group().name(),
            kind.about()
        );
    }
    println!("\nWorkloads (--workload)");
    for workload in workload::all() {
        println!("  {:<26} {}", workload.name(), workload.about());
    }
    println!("  {:<26} all of them in one cluster", workload::MIXED);
    println!("\nPlanted bugs (bugs --only)");
    for recipe in bugs::RECIPES {
        println!(
            "  {:<26} {}; {} under {}",
            recipe.bug, recipe.about, recipe.workload, recipe.only
        );
    }
}
