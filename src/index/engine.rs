//! Which index engine a store uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Index, IndexError, MapIndex, RocksIndex, RocksOptions};

/// Opens the index of a store by its directory.
pub trait Engine: Send + Sync {
    /// Opens the index in `dir`, creating it if there is none.
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError>;

    /// Told after the index in `dir` was removed.
    fn removed(&self, dir: &Path);
}

/// [`RocksIndex`], all with one block cache: a store that is being received does not double the memory.
pub struct RocksEngine {
    options: rocksdb::Options,
}

impl RocksEngine {
    /// Returns an engine with these settings.
    pub fn new(options: &RocksOptions) -> RocksEngine {
        RocksEngine {
            options: options.build(),
        }
    }
}

impl Engine for RocksEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError> {
        // A clone shares the table factory and with it the block cache.
        Ok(Arc::new(RocksIndex::open_with(dir, self.options.clone())?))
    }

    fn removed(&self, _dir: &Path) {}
}

/// [`MapIndex`], kept here by directory as if on disk. For tests and simulations.
#[derive(Debug, Default)]
pub struct MapEngine {
    by_dir: Mutex<BTreeMap<PathBuf, MapIndex>>,
}

impl MapEngine {
    /// Loses what each index has not flushed, as a crash does.
    pub fn crash(&self) {
        for index in self
            .by_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            index.crash();
        }
    }

    /// An independent engine with what a crash may leave of each index: `kept` answers how many commits of those that
    /// were not flushed are there nevertheless.
    pub fn after_crash(&self, mut kept: impl FnMut(usize) -> usize) -> MapEngine {
        let by_dir = self.by_dir.lock().unwrap_or_else(PoisonError::into_inner);
        let left = by_dir
            .iter()
            .map(|(dir, index)| (dir.clone(), index.after_crash(kept(index.unflushed()))));
        MapEngine {
            by_dir: Mutex::new(left.collect()),
        }
    }
}

impl Engine for MapEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError> {
        let mut by_dir = self.by_dir.lock().unwrap_or_else(PoisonError::into_inner);
        let index = by_dir.entry(dir.to_path_buf()).or_default();
        // What is there at an opening is what the disk has: closing flushes.
        index.flush()?;
        Ok(Arc::new(index.clone()))
    }

    fn removed(&self, dir: &Path) {
        self.by_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(dir);
    }
}
