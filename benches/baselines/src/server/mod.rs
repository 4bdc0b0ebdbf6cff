//! The systems that are compared: the node of the product with other storage behind the same ports.
//!
//! Everything above the index is the product's: services, network, Raft, log writer, group commit, caches. What differs is
//! the [`Engine`] and how long values may be that apply puts into it.

mod classic;
mod format;
mod nosync;
#[cfg(test)]
mod server_test;
mod settings;

use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use nezha::config::{GcMode, Options};
use nezha::index::{Engine, RocksEngine};
use nezha::node::Parts;

pub use nosync::NoSyncFs;

use classic::{ClassicEngine, Wal};

/// Garbage that a classic store may hold by default, bytes. To the planner its whole log is garbage that goes at once, so
/// the product's ratio bounds nothing; a bound must leave room for the log that is kept for a member that lags (4 GiB).
const CLASSIC_SPACE_FLOOR_BYTES: u64 = 8 << 30;

/// A way to store what Raft has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// Whole values in RocksDB, whose own log is written and not synced: the synced Raft log makes them durable.
    Original,
    /// The same, RocksDB's log synced with each batch.
    OriginalSynced,
    /// The same without RocksDB's log.
    Pasv,
    /// Values in RocksDB's blob files, below Raft; RocksDB's log is written and not synced.
    Dwisckey,
    /// The product, collecting nothing.
    NezhaNogc,
    /// The product.
    Nezha,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 6] = [
        Storage::Original,
        Storage::OriginalSynced,
        Storage::Pasv,
        Storage::Dwisckey,
        Storage::NezhaNogc,
        Storage::Nezha,
    ];

    /// How the values get into RocksDB; `None` where they stay in the Raft log.
    fn wal(self) -> Option<Wal> {
        match self {
            Storage::Original | Storage::Dwisckey => Some(Wal::Unsynced),
            Storage::OriginalSynced => Some(Wal::Synced),
            Storage::Pasv => Some(Wal::Off),
            Storage::NezhaNogc | Storage::Nezha => None,
        }
    }
}

/// How RocksDB is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Settings {
    /// As the paper's prototype: RocksDB's defaults, no block cache, no filters.
    Paper,
    /// With the cache of the product's index, filters, large memtables, more threads.
    Tuned,
}

macro_rules! display_as_on_the_command_line {
    ($($name:ty),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.to_possible_value() {
                    Some(value) => f.write_str(value.get_name()),
                    None => write!(f, "{self:?}"),
                }
            }
        }
    )* };
}

display_as_on_the_command_line!(Storage, Settings);

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    storage: Storage,
    settings: Settings,
    fsync: bool,
}

/// Why there is no such system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--system {storage} is about what its syncs cost, --no-fsync leaves them out; choose --system original"
)]
pub struct Contradiction {
    storage: Storage,
}

impl Baseline {
    /// Describes a system.
    ///
    /// Errors: without `fsync`, `original-synced` would be `original`.
    pub fn new(storage: Storage, settings: Settings, fsync: bool) -> Result<Baseline, Contradiction> {
        match (storage.wal(), fsync) {
            (Some(Wal::Synced), false) => Err(Contradiction { storage }),
            _ => Ok(Baseline {
                storage,
                settings,
                fsync,
            }),
        }
    }

    /// What the node stores its data with.
    pub fn parts(self) -> Parts {
        let mut parts = Parts {
            version: self.to_string(),
            ..Parts::default()
        };
        if !self.fsync {
            parts.fs = Arc::new(NoSyncFs::default());
        }
        match self.storage.wal() {
            Some(wal) => {
                parts.engine = self.classic(wal);
                parts.inline_value_max = u32::MAX;
            }
            None => parts.engine = Arc::new(RocksEngine::new(&settings::product(self.settings))),
        }
        parts
    }

    fn classic(self, wal: Wal) -> Arc<dyn Engine> {
        let blobs = self.storage == Storage::Dwisckey;
        let options = settings::classic(self.settings, blobs);
        Arc::new(ClassicEngine::new(options, wal, self.fsync))
    }

    /// Changes what the system means for the node's options: whether it collects, and what space it may take.
    pub fn adjust(self, options: &mut Options) {
        if self.storage == Storage::NezhaNogc {
            options.gc = Some(GcMode::Manual);
        }
        if self.storage.wal().is_some() {
            options.space_floor_bytes.get_or_insert(CLASSIC_SPACE_FLOOR_BYTES);
        }
    }

    /// Whether what is acknowledged survives a power cut.
    pub fn fsync(self) -> bool {
        self.fsync
    }
}

/// As nodes answer when they are asked for their version.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} baseline {} {}",
            env!("CARGO_PKG_VERSION"),
            self.storage,
            self.settings
        )?;
        match self.fsync {
            true => Ok(()),
            false => f.write_str(" NO FSYNC"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_the_system_and_what_it_does_not_do() {
        let tuned = Baseline::new(Storage::OriginalSynced, Settings::Tuned, true).unwrap();
        assert!(tuned.to_string().ends_with(" baseline original-synced tuned"));
        let unsafe_one = Baseline::new(Storage::Nezha, Settings::Paper, false).unwrap();
        assert!(unsafe_one.to_string().ends_with(" baseline nezha paper NO FSYNC"));
        assert_eq!(unsafe_one.parts().version, unsafe_one.to_string());
        assert!(Baseline::new(Storage::OriginalSynced, Settings::Tuned, false).is_err());
    }

    #[test]
    fn only_what_a_system_means_is_adjusted() {
        let adjusted = |storage, options: Options| {
            let mut options = options;
            Baseline::new(storage, Settings::Tuned, true)
                .unwrap()
                .adjust(&mut options);
            options
        };
        assert_eq!(adjusted(Storage::Nezha, Options::default()), Options::default());
        assert_eq!(
            adjusted(Storage::NezhaNogc, Options::default()).gc,
            Some(GcMode::Manual)
        );
        let stated = Options {
            space_floor_bytes: Some(1 << 30),
            ..Options::default()
        };
        assert_eq!(adjusted(Storage::Pasv, stated.clone()), stated);
    }
}
