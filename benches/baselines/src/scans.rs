//! What is scanned, and by whom.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;

use crate::cold::{DiskReads, evict};
use crate::data::{DataSet, SCAN_ROWS};
use crate::plain::Plain;
use crate::report::Measurement;
use crate::store::{NodeStore, copy_dir};

/// Bytes of rows that are collected before they are let go: a server's chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Counted for a row beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 64;

/// Takes rows as a server does that sends them.
#[derive(Debug, Default)]
pub struct Sink {
    chunk: Vec<(Bytes, Bytes)>,
    chunk_bytes: usize,
    /// Rows taken.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Depends on both ends of every key and value, so that they must be there.
    pub sum: u64,
}

impl Sink {
    /// Takes a row.
    pub fn row(&mut self, key: Bytes, value: Bytes) {
        self.visited(&key, &value);
        self.chunk_bytes += key.len() + value.len() + ROW_OVERHEAD_BYTES;
        self.chunk.push((key, value));
        if self.chunk_bytes >= CHUNK_BYTES {
            self.chunk.clear();
            self.chunk_bytes = 0;
        }
    }

    /// Looks at a row.
    pub fn visited(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        for end in [key.first(), key.last(), value.first(), value.last()] {
            self.sum = self
                .sum
                .wrapping_mul(31)
                .wrapping_add(end.copied().unwrap_or(0).into());
        }
    }
}

/// One of the stores that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The node's store with every value in the log.
    BeforeGc,
    /// The node's store with every value in sorted segments.
    AfterGc,
    /// RocksDB with whole values, rows copied out.
    Rocks,
    /// RocksDB with whole values, rows visited where they lie.
    RocksInPlace,
}

impl System {
    /// All of them, in the order of the report.
    pub const ALL: [System; 4] = [
        System::BeforeGc,
        System::AfterGc,
        System::Rocks,
        System::RocksInPlace,
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            System::BeforeGc => "before gc",
            System::AfterGc => "after gc",
            System::Rocks => "RocksDB",
            System::RocksInPlace => "RocksDB in place",
        }
    }

    fn dir(self) -> &'static str {
        match self {
            System::BeforeGc => "before",
            System::AfterGc => "after",
            System::Rocks | System::RocksInPlace => "rocksdb",
        }
    }
}

/// The stores of one run, all with the same data.
pub struct Systems {
    dir: PathBuf,
    data: DataSet,
    /// Block cache of the index, and of plain RocksDB.
    cache_bytes: usize,
    /// Block of plain RocksDB.
    block_bytes: usize,
    /// Sum of a scan of everything, once there was one.
    sum: Option<u64>,
}

/// A store that is open.
enum Open {
    Node(Box<NodeStore>),
    Plain(Plain, System),
}

impl Open {
    fn scan(&self, start: Option<&Bytes>, limit: u64, sink: &mut Sink) -> anyhow::Result<()> {
        match self {
            Open::Node(node) => node.scan(start, limit, sink),
            Open::Plain(plain, System::RocksInPlace) => plain.scan_in_place(start, limit, sink),
            Open::Plain(plain, _) => plain.scan(start, limit, sink),
        }
    }
}

impl Systems {
    /// Builds them below `dir`, or takes those that an earlier run with the same data has left there.
    pub fn build(
        dir: &Path,
        data: DataSet,
        cache_bytes: usize,
        block_bytes: usize,
    ) -> anyhow::Result<Systems> {
        let systems = Systems {
            dir: dir.to_path_buf(),
            data,
            cache_bytes,
            block_bytes,
            sum: None,
        };
        let done = dir.join("complete");
        if done.exists() {
            return Ok(systems);
        }
        let path = |system: System| dir.join(system.dir());
        NodeStore::open(&path(System::BeforeGc), cache_bytes)?.fill(&data)?;
        copy_dir(&path(System::BeforeGc), &path(System::AfterGc))?;
        NodeStore::open(&path(System::AfterGc), cache_bytes)?.collect()?;
        Plain::open(&path(System::Rocks), cache_bytes, block_bytes)?.fill(&data)?;
        std::fs::write(done, "")?;
        Ok(systems)
    }

    /// Measures one system once: short scans and a scan of everything, each with a cold and a warm page cache.
    pub fn measure(
        &mut self,
        system: System,
        round: u64,
        cold_scans: u64,
        warm_scans: u64,
    ) -> anyhow::Result<Vec<Measurement>> {
        let mut found = Vec::new();
        let starts = self.data.scan_starts(round, cold_scans);
        found.push(self.short(system, &self.open_cold(system)?, "cold", &starts)?);
        let open = self.open_cold(system)?;
        found.push(self.whole(system, &open, "cold")?);
        // The page cache holds everything now; what fits into the block cache goes there.
        self.whole(system, &open, "warm")?;
        found.push(self.whole(system, &open, "warm")?);
        let starts = self.data.scan_starts(round, warm_scans);
        self.short(system, &open, "warm", &starts)?;
        found.push(self.short(system, &open, "warm", &starts)?);
        Ok(found)
    }

    /// Opens a system with nothing of its files in memory but what opening it reads.
    fn open_cold(&self, system: System) -> anyhow::Result<Open> {
        let dir = self.dir.join(system.dir());
        let open = match system {
            System::BeforeGc | System::AfterGc => {
                Open::Node(Box::new(NodeStore::open(&dir, self.cache_bytes)?))
            }
            System::Rocks | System::RocksInPlace => {
                Open::Plain(Plain::open(&dir, self.cache_bytes, self.block_bytes)?, system)
            }
        };
        evict(&dir)?;
        Ok(open)
    }

    fn short(
        &self,
        system: System,
        open: &Open,
        cache: &'static str,
        starts: &[Bytes],
    ) -> anyhow::Result<Measurement> {
        let mut sink = Sink::default();
        let (took, reads) = timed(|| {
            starts
                .iter()
                .try_for_each(|start| open.scan(Some(start), SCAN_ROWS, &mut sink))
        })?;
        let rows = starts.len() as u64 * SCAN_ROWS.min(self.data.keys);
        self.checked(system, "100 keys", cache, rows, &sink, took, reads)
    }

    fn whole(&mut self, system: System, open: &Open, cache: &'static str) -> anyhow::Result<Measurement> {
        let mut sink = Sink::default();
        let (took, reads) = timed(|| open.scan(None, u64::MAX, &mut sink))?;
        let sum = *self.sum.get_or_insert(sink.sum);
        ensure!(
            sink.sum == sum,
            "{} has other rows than those before",
            system.name()
        );
        self.checked(system, "all", cache, self.data.keys, &sink, took, reads)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one measurement, each named"
    )]
    fn checked(
        &self,
        system: System,
        scan: &'static str,
        cache: &'static str,
        rows: u64,
        sink: &Sink,
        took: Duration,
        reads: DiskReads,
    ) -> anyhow::Result<Measurement> {
        ensure!(
            sink.rows == rows && sink.bytes == self.data.bytes(rows),
            "{} returned {} rows of {} bytes, not {rows}",
            system.name(),
            sink.rows,
            sink.bytes
        );
        Ok(Measurement {
            system: system.name(),
            scan,
            cache,
            keys: self.data.keys,
            value_bytes: self.data.value_bytes as u64,
            rows_per_second: rows as f64 / took.as_secs_f64(),
            mb_per_second: sink.bytes as f64 / 1e6 / took.as_secs_f64(),
            disk_bytes_per_byte: reads.disk_bytes as f64 / sink.bytes as f64,
            read_calls_per_row: reads.calls as f64 / rows as f64,
        })
    }
}

fn timed(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<(Duration, DiskReads)> {
    let before = DiskReads::now()?;
    let started = Instant::now();
    run()?;
    let took = started.elapsed();
    Ok((took, DiskReads::now()?.since(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_systems_return_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataSet {
            keys: 300,
            value_bytes: 400,
            seed: 1,
        };
        let mut cases = Vec::new();
        // The second time, those of the first are used.
        for _ in 0..2 {
            let mut systems = Systems::build(dir.path(), data, 1 << 20, 4 << 10).unwrap();
            for system in System::ALL {
                cases.extend(systems.measure(system, 0, 2, 3).unwrap());
            }
        }
        assert_eq!(cases.len(), 2 * 4 * 4);
        assert!(cases.iter().all(|case| case.rows_per_second > 0.0));
    }
}
