//! Directories, logs, keys and values for the benchmarks.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use nezha_vlog::fs::{Fs, OsFs};
use nezha_vlog::{Command, Draft, Entry, Log, LogId, Options, Payload, Precondition, Writer};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// Bytes of each key.
pub const KEY_BYTES: usize = 24;

/// A directory that is removed at the end.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes it below `NEZHA_MICRO_DIR`, or else below the current directory.
    ///
    /// Errors: the directory does not exist or cannot be written.
    pub fn new() -> anyhow::Result<Scratch> {
        let parent = std::env::var_os("NEZHA_MICRO_DIR").unwrap_or_else(|| ".".into());
        let dir = tempfile::Builder::new()
            .prefix("micro-")
            .tempdir_in(&parent)
            .with_context(|| {
                format!(
                    "cannot make a directory in {}: name another one in NEZHA_MICRO_DIR",
                    Path::new(&parent).display()
                )
            })?;
        Ok(Scratch { dir })
    }

    /// An empty directory of its own, removed when it is dropped.
    pub fn dir(&self) -> TempDir {
        tempfile::tempdir_in(self.dir.path()).expect("the scratch directory can be written")
    }
}

/// The real file system: syncs are real.
pub fn os() -> Arc<dyn Fs> {
    Arc::new(OsFs)
}

/// Opens the log in `dir`.
pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: Options) -> (Log, Writer) {
    let (log, writer, _) = Log::open(fs, dir, options).expect("the log of a scratch directory opens");
    (log, writer)
}

/// Keys and values that do not compress, the same in every run.
#[derive(Debug)]
pub struct Rows {
    random: Xoshiro256PlusPlus,
    next: u64,
}

impl Rows {
    /// Rows from the first one on.
    pub fn new() -> Rows {
        Rows {
            random: Xoshiro256PlusPlus::seed_from_u64(1),
            next: 0,
        }
    }

    /// The next key; no two are equal, and they come in no order.
    pub fn key(&mut self) -> Bytes {
        self.next += 1;
        let mut key = vec![0; KEY_BYTES];
        let (random, number) = key.split_at_mut(KEY_BYTES - 8);
        self.random.fill_bytes(random);
        number.copy_from_slice(&self.next.to_le_bytes());
        key.into()
    }

    /// A value of `len` bytes.
    pub fn value(&mut self, len: usize) -> Bytes {
        let mut value = vec![0; len];
        self.random.fill_bytes(&mut value);
        value.into()
    }
}

/// A sealed put.
pub fn command(key: &[u8], value: &[u8], revision: u64) -> Command {
    Draft::put(key, value, Precondition::None).seal(revision)
}

/// Entries `first..first + count` with values of `len` bytes.
pub fn entries(rows: &mut Rows, first: u64, count: u64, len: usize) -> Vec<Entry> {
    let value = rows.value(len);
    (first..first + count)
        .map(|index| Entry {
            log_id: LogId::new(1, 1, index),
            payload: Payload::Command(command(&rows.key(), &value, index)),
        })
        .collect()
}

/// Entries `first..first + count` that share one command: making them costs next to nothing.
pub fn repeated(command: &Command, first: u64, count: u64) -> Vec<Entry> {
    (first..first + count)
        .map(|index| Entry {
            log_id: LogId::new(1, 1, index),
            payload: Payload::Command(command.clone()),
        })
        .collect()
}

/// Submits `entries` one by one, as concurrent writers do.
pub fn submit(log: &Log, entries: Vec<Entry>) {
    for entry in entries {
        let done = Box::new(|result: Result<(), nezha_vlog::Error>| result.expect("the group is written"));
        log.append(vec![entry], done).expect("entries follow each other");
    }
}

/// Writes everything that was submitted.
pub fn drain(writer: &mut Writer) {
    while writer.step().expect("the disk takes the group").is_some() {}
}

/// Names a size as the benchmarks print it.
pub fn size_name(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{} KiB", bytes >> 10),
    }
}
