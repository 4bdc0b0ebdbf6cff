//! What the clients do: puts, gets or scans over a set of keys.

use std::path::PathBuf;

use anyhow::ensure;

use crate::{
    args::{Consistency, Distribution, GetArgs, LoadArgs, PutArgs, ScanArgs},
    errors::BenchError,
};

/// Keys that are overwritten when none are given.
const OVERWRITE_KEYS: u64 = 100_000;

/// One operation of a closed loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Overwrite a random key.
    Overwrite { keys: u64, distribution: Distribution },
    /// Write the next key that was not written; the run ends after `keys`.
    PutNext { keys: Option<u64> },
    /// Read a random key.
    Get { keys: u64 },
    /// Read `length` rows from a random key on.
    Scan { keys: u64, length: u64 },
}

impl Operation {
    /// Name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Overwrite { .. } | Operation::PutNext { .. } => "put",
            Operation::Get { .. } => "get",
            Operation::Scan { .. } => "scan",
        }
    }

    /// Whether it writes.
    pub(crate) fn is_put(self) -> bool {
        matches!(self, Operation::Overwrite { .. } | Operation::PutNext { .. })
    }

    /// Number of keys; `None` when they never end.
    pub(crate) fn keys(self) -> Option<u64> {
        match self {
            Operation::PutNext { keys } => keys,
            Operation::Overwrite { keys, .. } | Operation::Get { keys } | Operation::Scan { keys, .. } => {
                Some(keys)
            }
        }
    }
}

/// A load: what to do, and on which keys.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) operation: Operation,
    /// Keys to write before the run.
    pub(crate) load_keys: u64,
    pub(crate) consistency: Consistency,
    pub(crate) key_prefix: String,
    pub(crate) ack_log: Option<PathBuf>,
}

impl Workload {
    /// The load of `put`.
    pub(crate) fn put(args: &PutArgs) -> anyhow::Result<Workload> {
        let operation = if args.unique {
            Operation::PutNext { keys: args.keys }
        } else {
            Operation::Overwrite {
                keys: args.keys.unwrap_or(OVERWRITE_KEYS),
                distribution: args.distribution,
            }
        };
        Ok(Workload {
            operation,
            load_keys: 0,
            consistency: Consistency::Linearizable,
            key_prefix: key_prefix(&args.load)?,
            ack_log: args.ack_log.clone(),
        })
    }

    /// The load of `get`.
    pub(crate) fn get(args: &GetArgs) -> anyhow::Result<Workload> {
        Ok(Workload {
            operation: Operation::Get { keys: args.keys },
            load_keys: if args.no_load { 0 } else { args.keys },
            consistency: args.consistency,
            key_prefix: key_prefix(&args.load)?,
            ack_log: None,
        })
    }

    /// The load of `scan`.
    pub(crate) fn scan(args: &ScanArgs) -> anyhow::Result<Workload> {
        ensure!(
            args.scan_length <= args.keys,
            BenchError::Usage(format!(
                "a scan of {} rows needs at least that many keys; raise --keys ({})",
                args.scan_length, args.keys
            ))
        );
        Ok(Workload {
            operation: Operation::Scan {
                keys: args.keys,
                length: args.scan_length,
            },
            load_keys: if args.no_load { 0 } else { args.keys },
            consistency: args.consistency,
            key_prefix: key_prefix(&args.load)?,
            ack_log: None,
        })
    }
}

fn key_prefix(load: &LoadArgs) -> anyhow::Result<String> {
    let prefix = match &load.key_prefix {
        Some(prefix) => prefix.clone(),
        None => format!("bench/{}/", load.size),
    };
    ensure!(
        prefix.len() <= 4096,
        BenchError::Usage(format!(
            "--key-prefix has {} bytes; keep it below 4096",
            prefix.len()
        ))
    );
    Ok(prefix)
}
