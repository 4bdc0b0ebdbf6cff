//! Tests of the product as it ships: real `kvd` processes on real files, with faults made by the kernel.
//!
//! Goal: what the README promises holds through kills, cut networks, cut power, failing disks and bad input.
//! Method: one file per property; each starts clusters of its own on addresses of its own. Root is needed. Run one at
//! a time (`--test-threads=1`): several count memory or system calls. Seeds are printed; `NEZHA_SEED` replays one.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach helpers; a failed unwrap is a failed test"
)]

mod harness;

mod api;
mod bad_input;
mod cli;
mod damage;
mod damaged_replica;
mod flush_order;
mod gc;
mod gc_raft;
mod idle;
mod kills;
mod large_values;
mod local;
mod members;
mod partition;
mod pipeline;
mod planted;
mod power_cut;
mod refusals;
mod replicas;
mod scans;
mod snapshots;
mod space;
mod stops;
mod sync_failure;
mod sync_trace;
mod uncommitted;
