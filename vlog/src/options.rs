//! Settings of a log.

use std::time::Duration;

use crate::error::Error;

/// Settings of a log; every limit of its memory is here (I12).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Size from which a segment is sealed. Bytes, default 128 MiB, 4 KiB to 2 GiB.
    pub segment_bytes: u64,
    /// Bound of the tail cache; entries that are not durable yet stay above it. Bytes, default 32 MiB, 0 to 64 GiB.
    pub cache_bytes: u64,
    /// Bound of one group; an append larger than that makes a group of its own. Bytes, default 8 MiB, 1 to 256 MiB.
    pub group_bytes: u64,
    /// How long a group waits for more entries at most, while it has less than half of those in flight (submitted, and not
    /// known to be committed) and these are many. Time, default 1 ms; 0 does not wait.
    pub group_wait: Duration,
    /// Groups of at least this many bytes are written past the system's page cache: the copy into it costs more than all
    /// else about a large value. Shorter ones would wait for the disk once more. Bytes, default 256 KiB, 1 and up.
    pub uncached_group_bytes: u64,
    /// Bound of the offset tables of sealed segments kept in memory. Bytes, default 32 MiB, 0 to 4 GiB.
    pub table_bytes: u64,
    /// Bound of open segment files. Files, default 512, 4 to 65536.
    pub open_files: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 128 << 20,
            cache_bytes: 32 << 20,
            group_bytes: 8 << 20,
            group_wait: Duration::from_millis(1),
            uncached_group_bytes: 256 << 10,
            table_bytes: 32 << 20,
            open_files: 512,
        }
    }
}

impl Options {
    /// Sets `segment_bytes`.
    pub fn with_segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// Sets `cache_bytes`.
    pub fn with_cache_bytes(mut self, bytes: u64) -> Options {
        self.cache_bytes = bytes;
        self
    }

    /// Sets `group_bytes`.
    pub fn with_group_bytes(mut self, bytes: u64) -> Options {
        self.group_bytes = bytes;
        self
    }

    /// Sets `group_wait`.
    pub fn with_group_wait(mut self, wait: Duration) -> Options {
        self.group_wait = wait;
        self
    }

    /// Sets `table_bytes`.
    pub fn with_table_bytes(mut self, bytes: u64) -> Options {
        self.table_bytes = bytes;
        self
    }

    /// Sets `open_files`.
    pub fn with_open_files(mut self, files: u64) -> Options {
        self.open_files = files;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let ranges = [
            ("segment_bytes", self.segment_bytes, 4 << 10, 2 << 30),
            ("cache_bytes", self.cache_bytes, 0, 64 << 30),
            ("group_bytes", self.group_bytes, 1, 256 << 20),
            ("uncached_group_bytes", self.uncached_group_bytes, 1, u64::MAX),
            ("table_bytes", self.table_bytes, 0, 4 << 30),
            ("open_files", self.open_files, 4, 65536),
        ];
        for (name, value, min, max) in ranges {
            if value < min || value > max {
                return Err(Error::OptionRange {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}
