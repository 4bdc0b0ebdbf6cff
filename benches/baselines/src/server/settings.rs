//! How RocksDB is set up.
//!
//! Paper: the prototype opens RocksDB with its defaults (memtables of 64 MiB, two of them, two background jobs, blocks of
//! 4 KiB, level compaction), and without block cache and filter. So do these; "defaults" are those of the RocksDB that is
//! linked here. Values are random and no compression library is compiled in, so there is no compression.
//!
//! Tuned: what RocksDB's tuning guide advises for large values and many writes, on two cores. The cache has the bytes of
//! the product's index; memtables have more, because they hold whole values.

use nezha::index::{RocksOptions, block_cache};
use nezha::store::StoreOptions;
use rocksdb::{BlockBasedOptions, DBCompressionType, DBRecoveryMode, LogLevel, Options};

use super::Settings;
use super::format::ROW_HEAD_BYTES;

/// A memtable of the tuned classic store, how many are written out as one file, and how many there may be, the one that is
/// written included. Small and merged, as in the product's index: of 1 KiB it takes a quarter more than with four of
/// 128 MiB.
const MEMTABLE_BYTES: usize = 16 << 20;
const MEMTABLES_MERGED: i32 = 8;
const MEMTABLES: i32 = 32;
/// A table file: as long as the memtables that are written out together.
const TABLE_BYTES: u64 = 128 << 20;
/// A block: small rows share it, and a large one is alone in whatever it needs.
const BLOCK_BYTES: usize = 16 << 10;
/// Threads for flushes and compactions: twice the cores that this is measured on, since they wait for the disk as well.
const BACKGROUND_JOBS: i32 = 4;
/// Shortest value that the tuned store puts into blob files. Below about 1 KiB a reference saves little of what
/// compaction writes, and each row of a scan costs a read of its own.
const TUNED_BLOB_BYTES_MIN: u64 = 1 << 10;

/// Settings of the product's index.
pub(super) fn product(settings: Settings) -> RocksOptions {
    match settings {
        Settings::Tuned => RocksOptions::default(),
        Settings::Paper => RocksOptions {
            block_cache_bytes: 0,
            bloom_bits_per_key: 0.0,
            write_buffer_bytes: 64 << 20,
            write_buffers_merged: 1,
            write_buffers: 2,
            block_bytes: 4 << 10,
            ..RocksOptions::default()
        },
    }
}

/// Settings of a RocksDB with whole values; `blobs`: those that are not short go to blob files, of which RocksDB collects
/// garbage.
pub(super) fn classic(settings: Settings, blobs: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    // The end of its log may be torn; what follows a gap must not come back. (An exact prefix, I3.)
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Nothing to do with speed: no dump of statistics, no file of messages to rotate.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    if blobs {
        options.set_enable_blob_files(true);
        options.set_enable_blob_gc(true);
        options.set_min_blob_size(ROW_HEAD_BYTES as u64 + shortest_blob(settings));
        options.set_blob_compression_type(DBCompressionType::None);
    }
    let mut table = BlockBasedOptions::default();
    match settings {
        Settings::Paper => table.disable_cache(),
        Settings::Tuned => tune(&mut options, &mut table, blobs),
    }
    options.set_block_based_table_factory(&table);
    options
}

/// The paper's system separates all values; the product keeps very short ones with their keys.
fn shortest_blob(settings: Settings) -> u64 {
    match settings {
        Settings::Paper => u64::from(StoreOptions::default().inline_value_max) + 1,
        Settings::Tuned => TUNED_BLOB_BYTES_MIN,
    }
}

fn tune(options: &mut Options, table: &mut BlockBasedOptions, blobs: bool) {
    let index = RocksOptions::default();
    let cache = block_cache(index.block_cache_bytes);
    table.set_block_cache(&cache);
    if blobs {
        // A value takes its place there like a block with a value in it does in the other systems.
        options.set_blob_cache(&cache);
    }
    table.set_block_size(BLOCK_BYTES);
    table.set_bloom_filter(index.bloom_bits_per_key, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);

    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_min_write_buffer_number_to_merge(MEMTABLES_MERGED);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    // One writer, as in the product's index.
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_subcompactions(2);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(TABLE_BYTES);
    // Level 1 as long as the files of level 0 that a compaction takes.
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_max_bytes_for_level_base(4 * TABLE_BYTES);
    // As in the product: a burst is not slowed.
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(80);
    // Evenly to the disk, so that no burst of dirty pages is in front of the Raft log's fdatasync.
    options.set_bytes_per_sync(1 << 20);
    options.set_wal_bytes_per_sync(1 << 20);
    options.set_max_open_files(-1);
}
