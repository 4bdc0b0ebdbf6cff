//! Scans before and after a collection, and from a RocksDB that holds whole values.
//!
//! All three hold the same rows, written in random order. Each repetition measures all of them, one after the other, so
//! that a machine that changes its mind does so to all. Cold means: opened anew, its files synced and dropped from the
//! page cache with `posix_fadvise(DONTNEED)`; a disk or host may still hold them in a cache of its own.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use nezha::config::parse_bytes;
use nezha_baselines::{DataSet, System, Systems, json_lines, table};

// As in kvd.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure scans of the storage core before and after a collection, beside plain RocksDB.
#[derive(Debug, Parser)]
struct Args {
    /// Directory for the stores: three times the data set. Left there with --keep.
    #[arg(long, value_name = "D")]
    dir: PathBuf,
    /// Number of keys.
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(100..))]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = parse_bytes)]
    size: u64,
    /// Repetitions; medians are reported.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
    /// Short scans of a repetition with a cold cache. Each must find it cold, so they touch a small part of the set.
    #[arg(long, value_name = "N", default_value_t = 20)]
    cold_scans: u64,
    /// Short scans of a repetition with a warm cache.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    warm_scans: u64,
    /// Block cache of the index, and of plain RocksDB.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_bytes)]
    block_cache: u64,
    /// Data block of plain RocksDB.
    #[arg(long, value_name = "BYTES", default_value = "16KiB", value_parser = parse_bytes)]
    block: u64,
    /// Of keys, values and orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the stores, and use those that a run with the same --keys, --size and --seed has left.
    #[arg(long)]
    keep: bool,
    /// Print JSON lines instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let data = DataSet {
        keys: args.keys,
        value_bytes: usize::try_from(args.size)?,
        seed: args.seed,
    };
    let name = format!("scan-{}-{}-{}", args.keys, args.size, args.seed);
    let dir = args.dir.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (cache, block) = (usize::try_from(args.block_cache)?, usize::try_from(args.block)?);
    let mut systems = Systems::build(&dir, data, cache, block)
        .context("cannot build the stores; remove what an interrupted run has left")?;
    let mut measured = Vec::new();
    for round in 0..args.repetitions {
        for system in System::ALL {
            measured.extend(systems.measure(system, round, args.cold_scans, args.warm_scans)?);
        }
        eprintln!("{} of {} repetitions", round + 1, args.repetitions);
    }
    if !args.keep {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    if args.json {
        println!("{}", json_lines(&measured)?);
    } else {
        println!(
            "{} keys, values of {} bytes, {} MB; block caches of {} bytes; medians of {}",
            args.keys,
            args.size,
            data.bytes(data.keys) / 1_000_000,
            args.block_cache,
            args.repetitions
        );
        let subject = System::AfterGc.name();
        let divisors = [System::BeforeGc, System::Rocks, System::RocksInPlace].map(System::name);
        print!("{}", table(&measured, subject, &divisors));
    }
    Ok(())
}
