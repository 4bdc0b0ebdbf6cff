//! Whole clusters of the production node on one thread, from one seed: its log, gc, Raft glue, state machine and server
//! over a simulated disk, network and clock, with everything that goes wrong drawn from the seed.
//!
//! What is not the product's own: the index is the ordered map ([`nezha::index::MapEngine`]), since RocksDB has threads
//! and files of its own.
#![forbid(unsafe_code)]

mod clients;
mod host;
mod hurt;
mod invariants;
pub mod many;
mod model;
mod net;
mod operator;
pub mod plan;
pub mod run;
mod runner;
mod threads;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// From now on whatever is random in this process comes from `seed`, and clocks are those of the simulation. Once per
/// process, before anything else.
pub fn seal(seed: u64) {
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    // For good.
    std::mem::forget(mad_turmoil::time::SimClocksGuard::init());
}
