//! RocksDB with whole values: what the storage core is measured against.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use nezha::index::block_cache;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, CompactOptions, DB, DBCompressionType, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::data::DataSet;
use crate::scans::Sink;

/// Bytes of keys and values of one write.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes that a scan of everything reads ahead: what RocksDB's documentation advises for long scans.
const READAHEAD_BYTES: usize = 2 << 20;

/// A RocksDB that holds whole values.
pub struct Plain {
    db: DB,
}

impl Plain {
    /// Opens or creates it in `dir`.
    ///
    /// Values are incompressible, so compression is off. The cache is as large as that of the node's index.
    pub fn open(dir: &Path, cache_bytes: usize, block_bytes: usize) -> anyhow::Result<Plain> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&block_cache(cache_bytes));
        table.set_block_size(block_bytes);
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(6);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(64 << 20);
        options.set_max_background_jobs(2);
        options.set_max_open_files(-1);
        let db =
            DB::open(&options, dir).with_context(|| format!("cannot open RocksDB in {}", dir.display()))?;
        Ok(Plain { db })
    }

    /// Writes `data` in random order, and compacts all of it to the last level.
    pub fn fill(&self, data: &DataSet) -> anyhow::Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let mut batch = WriteBatch::default();
        for number in data.write_order() {
            batch.put(data.key(number), data.value(number));
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.db.write_opt(std::mem::take(&mut batch), &options)?;
            }
        }
        self.db.write_opt(batch, &options)?;
        self.db.flush()?;
        let mut compaction = CompactOptions::default();
        compaction.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db
            .compact_range_opt(None::<&[u8]>, None::<&[u8]>, &compaction);
        Ok(())
    }

    /// Hands the rows from `start` on to `sink`, `limit` of them at most; without a start and a limit, all of them.
    pub fn scan(&self, start: Option<&Bytes>, limit: u64, sink: &mut Sink) -> anyhow::Result<()> {
        self.visit(start, limit, |key, value| {
            sink.row(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        })
    }

    /// Visits the rows where they lie, as no server could send them: the most that RocksDB can do.
    pub fn scan_in_place(&self, start: Option<&Bytes>, limit: u64, sink: &mut Sink) -> anyhow::Result<()> {
        self.visit(start, limit, |key, value| sink.visited(key, value))
    }

    fn visit(
        &self,
        start: Option<&Bytes>,
        limit: u64,
        mut row: impl FnMut(&[u8], &[u8]),
    ) -> anyhow::Result<()> {
        let mut options = ReadOptions::default();
        if limit == u64::MAX {
            options.set_readahead_size(READAHEAD_BYTES);
            options.fill_cache(false);
        }
        let mut rows = self.db.raw_iterator_opt(options);
        match start {
            Some(key) => rows.seek(key),
            None => rows.seek_to_first(),
        }
        let mut left = limit;
        while let Some((key, value)) = rows.item() {
            row(key, value);
            left -= 1;
            if left == 0 {
                break;
            }
            rows.next();
        }
        Ok(rows.status()?)
    }
}
