//! How RocksDB is tuned for the index: many small entries, no log of its own, bounded memory.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, InfoLogger, LogLevel, LruCacheOptions, Options};

/// Settings of the RocksDB index.
///
/// Memory: at most `write_buffer_bytes * write_buffers + block_cache_bytes`, index and filter blocks included; without a
/// cache those are in memory as long as their files are open, beyond any bound.
#[derive(Debug, Clone)]
pub struct RocksOptions {
    /// Size of one memtable: small, so that most of it is in the processor's cache, where a new key has to find its place
    /// among those that are there. Bytes; default 8 MiB; 64 KiB to 1 GiB.
    pub write_buffer_bytes: usize,
    /// Full memtables that are written out together, as one table file: as few files as with large ones. Count; default
    /// 8; 1 to 16, and below `write_buffers`.
    pub write_buffers_merged: i32,
    /// Memtables in memory, the active one included; when all are full, writes wait for a flush. Count; default 24;
    /// 2 to 64.
    pub write_buffers: i32,
    /// Cache of data, index and filter blocks. Bytes; default 64 MiB; 1 MiB and up, or 0 for none. One that is smaller than
    /// the filter of a full table, 4 MiB at most with the defaults, reads it for each key.
    pub block_cache_bytes: usize,
    /// Size of a data block: about 100 entries, so that a point read checks one small block. Bytes; default 8 KiB;
    /// 1 KiB to 1 MiB.
    pub block_bytes: usize,
    /// Bloom filter bits per key, in table files and memtables: a write of a new key must not read a block. Bits; default
    /// 10; 1 to 20, or 0 for no filters.
    pub bloom_bits_per_key: f64,
    /// Threads for flushes and compactions. Count; default 2; 1 to 16.
    pub background_jobs: i32,
    /// Size of one table file. Bytes; default 64 MiB; 1 MiB and up.
    pub table_bytes: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions {
            write_buffer_bytes: 8 << 20,
            write_buffers_merged: 8,
            write_buffers: 24,
            block_cache_bytes: 64 << 20,
            block_bytes: 8 << 10,
            bloom_bits_per_key: 10.0,
            background_jobs: 2,
            table_bytes: 64 << 20,
        }
    }
}

impl RocksOptions {
    pub(super) fn build(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(self.block_bytes);
        if self.block_cache_bytes == 0 {
            table.disable_cache();
        } else {
            table.set_block_cache(&block_cache(self.block_cache_bytes));
            // Index and filter blocks count against the cache, so that memory stays bounded; those of level 0 stay in.
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        }
        if self.bloom_bits_per_key > 0.0 {
            table.set_bloom_filter(self.bloom_bits_per_key, false);
        }
        table.set_format_version(6);

        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        // No compression library is compiled in; entries hold hashes of nothing but numbers anyway.
        options.set_compression_type(DBCompressionType::None);
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_min_write_buffer_number_to_merge(self.write_buffers_merged);
        options.set_max_write_buffer_number(self.write_buffers);
        // One writer: the plain insert path is cheaper than the concurrent one.
        options.set_allow_concurrent_memtable_write(false);
        if self.bloom_bits_per_key > 0.0 {
            options.set_memtable_prefix_bloom_ratio(0.02);
            options.set_memtable_whole_key_filtering(true);
        }
        options.set_max_background_jobs(self.background_jobs);
        options.set_target_file_size_base(self.table_bytes);
        options.set_max_bytes_for_level_base(4 * self.table_bytes);
        options.set_level_compaction_dynamic_level_bytes(true);
        // Level 0 holds explicit flushes as well as full memtables. Entries are small against the values whose fsync
        // paces the writes, so compaction keeps up; the triggers only have to be beyond a burst.
        options.set_level_zero_file_num_compaction_trigger(4);
        options.set_level_zero_slowdown_writes_trigger(40);
        options.set_level_zero_stop_writes_trigger(80);
        // Smooth writeback: no burst of dirty pages in front of the log's fdatasync.
        options.set_bytes_per_sync(1 << 20);
        // Every table file stays open: a retired store is unlinked while scans still read it.
        options.set_max_open_files(-1);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // RocksDB's own messages go to the node's log; it writes no LOG files.
        options.set_info_logger(InfoLogger::new_callback_logger(
            LogLevel::Warn,
            |level, message| {
                // All options, a thousand lines of them, come as information whatever level is asked for.
                if matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal) {
                    tracing::warn!(target: "rocksdb", "{}", message.trim_end());
                }
            },
        ));
        options
    }
}

/// A shard of a block cache has at least so many bytes, unless the cache has fewer.
const SHARD_BYTES: usize = 16 << 20;

/// A cache of `bytes` for blocks of RocksDB, in few shards.
///
/// A block that is longer than its shard is let go as soon as nobody reads it. RocksDB by itself makes 64 shards of 64 MiB:
/// the filter of a table of a million keys did not fit, and every look at it read it anew.
pub fn block_cache(bytes: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(shard_bits(bytes));
    Cache::new_lru_cache_opts(&options)
}

/// Shards as a power of two, 64 of them at most.
fn shard_bits(bytes: usize) -> i32 {
    let shards = (bytes / SHARD_BYTES).clamp(1, 64);
    shards.ilog2() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, a filter did not fit into its shard of the cache, and was read for every look at it.
    #[test]
    fn a_shard_holds_the_longest_filter() {
        let options = RocksOptions::default();
        // A key of one byte, and what comes with it, take this at least.
        let keys = options.table_bytes / 24;
        let filter = keys as f64 * options.bloom_bits_per_key / 8.0;
        let shard = options.block_cache_bytes >> shard_bits(options.block_cache_bytes);
        assert!(
            shard as f64 > 4.0 * filter,
            "{shard} bytes for a filter of {filter}"
        );
        assert_eq!((shard_bits(1 << 20), shard_bits(16 << 30)), (0, 6));
    }
}
