//! `nezha-sim`: see `--help`.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use nezha_sim::many::{self, Line};
use nezha_sim::run::{Settings, run};
use nezha_sim::seal;

/// Simulated seconds, if nothing else is wanted.
const SECONDS: u64 = 30;

/// Runs a whole cluster of the production node on one thread from a seed, breaks it, and judges it.
///
/// The same seed does the same, always. Exit code 0: all is well, 1: something is wrong, 2: usage, or it could not be
/// run.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  nezha-sim --seed 7 --timeline            one run, and what happened when
  nezha-sim --seed 7 --log info            the same, with the log of every node
  nezha-sim --seeds 1..1000 --jobs 2       many, each in a process of its own
  nezha-sim --seed 7 --shrink              the fewest faults that it still fails with"
)]
struct Args {
    /// The seed [default: by chance]
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Many seeds: FROM..TO, without TO; or a number of them, from one by chance
    #[arg(long, value_name = "RANGE")]
    seeds: Option<String>,
    /// Runs at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Up to the first seed that fails, which is what is wanted here: for planted bugs
    #[arg(long, requires = "seeds")]
    until_found: bool,
    /// Simulated seconds of load and faults
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Numbers of planned faults that are left out
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// Finds the fewest faults that the seed still fails with
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Prints what happened when
    #[arg(long)]
    timeline: bool,
    /// Prints one line of JSON and nothing else
    #[arg(long)]
    json: bool,
    /// Prints the log of all nodes, on stderr: a level, or target=level,...
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.seeds, args.shrink) {
        (Some(seeds), _) => range(seeds).and_then(|seeds| {
            println!("seeds {}..{}", seeds.start, seeds.end);
            let sum = many::all(seeds.clone(), args.jobs, args.seconds, args.until_found)?;
            let first = sum.failed.iter().map(|line| line.seed).min();
            if args.until_found {
                let bug = std::env::var("NEZHA_PLANTED_BUG").unwrap_or_default();
                match first {
                    Some(seed) => println!("| {bug} | found | {} seeds |", seed + 1 - seeds.start),
                    None => println!("| {bug} | not found | {} seeds |", seeds.end - seeds.start),
                }
                return Ok(first.is_some());
            }
            for line in &sum.failed {
                println!("replay: {}", replay(line.seed, args.seconds, &BTreeSet::new()));
            }
            if let Some(seed) = first {
                println!("seed {seed} again:");
                many::show(seed, args.seconds)?;
            }
            Ok(first.is_none())
        }),
        (None, true) => args.seed.context("of which seed?").and_then(|seed| {
            let without = many::shrink(seed, args.seconds)?;
            println!("replay: {}", replay(seed, args.seconds, &without));
            Ok(false)
        }),
        (None, false) => Ok(play(&args)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nezha-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn range(text: &str) -> Result<std::ops::Range<u64>> {
    let number = |text: &str| {
        text.parse::<u64>()
            .with_context(|| format!("{text:?} is no seed"))
    };
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => {
            let from = u64::from(rand::random::<u32>());
            Ok(from..from + number(text)?)
        }
    }
}

fn replay(seed: u64, seconds: u64, without: &BTreeSet<usize>) -> String {
    let numbers: Vec<String> = without.iter().map(usize::to_string).collect();
    let without = match numbers.is_empty() {
        true => String::new(),
        false => format!(" --without {}", numbers.join(",")),
    };
    let seconds = match seconds {
        SECONDS => String::new(),
        other => format!(" --seconds {other}"),
    };
    format!("nezha-sim --seed {seed}{seconds}{without}")
}

/// One run, here. Answers whether all is well.
fn play(args: &Args) -> bool {
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    // Before the seal, and not on the thread of the simulation: whether there is a log must not change what is drawn there.
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .init();
    }
    let without = BTreeSet::from_iter(args.without.iter().copied());
    let settings = Settings {
        seed,
        time: Duration::from_secs(args.seconds),
        without: without.clone(),
    };
    let simulation = std::thread::spawn(move || {
        seal(seed);
        run(&settings)
    });
    let Ok(ran) = simulation.join() else {
        eprintln!("nezha-sim: the simulation itself has panicked");
        return false;
    };
    let line = Line::of(seed, &ran);
    let well = line.violations.is_empty();
    if args.json {
        println!("{}", serde_json::to_string(&line).expect("a line of JSON"));
        return well;
    }
    if args.timeline || !well {
        for line in &ran.timeline {
            println!("{line}");
        }
    }
    println!(
        "seed {seed}: {} operations ({} ok), {:.1} s simulated, faults {:?}, trace {}",
        line.operations, line.ok, line.simulated, line.faults, line.trace
    );
    for violation in &line.violations {
        println!("VIOLATION {violation}");
    }
    if !well {
        println!("replay: {}", replay(seed, args.seconds, &without));
    }
    well
}
