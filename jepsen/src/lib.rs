//! Breaks real clusters of `kvd` on purpose, records what clients were told, and checks it. Never links the node.
#![forbid(unsafe_code)]

pub mod check;
pub mod cluster;
pub mod history;
pub mod nemesis;
pub mod report;
pub mod run;
pub mod workload;
