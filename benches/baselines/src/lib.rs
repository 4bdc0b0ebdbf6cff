//! The storage core of one node beside a plain RocksDB, in one process and on the same data: no network, no Raft.
//!
//! Both sides hand out what a server would send: rows with keys and values of their own, in chunks of about 1 MiB.
#![forbid(unsafe_code)]

mod cold;
mod data;
mod plain;
mod report;
mod scans;
mod store;

pub use cold::{DiskReads, evict};
pub use data::{DataSet, SCAN_ROWS};
pub use plain::Plain;
pub use report::{Measurement, json_lines, table};
pub use scans::{Sink, System, Systems};
pub use store::{NodeStore, copy_dir};
