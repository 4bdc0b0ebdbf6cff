//! Micro-benchmarks: the log, the copying half of a collection, the wire path.
//!
//! A plain program and not a `[[bench]]`: the profile of `cargo bench` would compile RocksDB a second time.
//! `micro --bench` measures, `micro --bench FILTER` a part, `micro` alone runs everything once. Options are criterion's
//! (`--help`). Files are made below the directory named by `NEZHA_MICRO_DIR`, which must be on the disk to be measured;
//! default: the current directory.
#![forbid(unsafe_code)]

mod group;
mod log;
mod merge;
mod scratch;
mod sink;
mod wire;

use std::time::Duration;

use criterion::Criterion;

use crate::scratch::Scratch;

// As in kvd.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    // A disk needs few samples of many operations each rather than many short ones.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args();
    wire::benchmarks(&mut criterion);
    log::benchmarks(&mut criterion, &scratch);
    merge::benchmarks(&mut criterion, &scratch);
    criterion.final_summary();
    Ok(())
}
