//! What the product is compared with, and never part of it.
//!
//! [`Baseline`] is a whole node of the product with other storage; the binary `baseline` runs it as `kvd` runs the product.
//!
//! [`Systems`] scans the storage core of one node beside a plain RocksDB, in one process and on the same data: no network,
//! no Raft. Both sides hand out what a server would send: rows with keys and values of their own, in chunks of about 1 MiB.
#![forbid(unsafe_code)]

mod cold;
mod data;
mod plain;
mod report;
mod scans;
mod server;
mod store;

pub use cold::{DiskReads, evict};
pub use data::{DataSet, SCAN_ROWS};
pub use plain::Plain;
pub use report::{Measurement, json_lines, table};
pub use scans::{Sink, System, Systems};
pub use server::{Baseline, Contradiction, NoSyncFs, Settings, Storage};
pub use store::{NodeStore, copy_dir};
