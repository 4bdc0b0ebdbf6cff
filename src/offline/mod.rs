//! Looking at a stopped node's files: `kvd check` verifies them, `kvd dump` shows them. Neither changes a byte.

mod check;
mod dump;
mod records;
mod report;

#[cfg(test)]
mod offline_test;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nezha_gc::ValueSegments;

use crate::identity::{DataDir, Identity, IdentityError};
use crate::index::{Index, IndexError, RocksIndex, RocksOptions};
use crate::store::{StoreError, index_dir, read_current, values_dir};

pub use check::check;
pub use dump::{DumpFormat, dump};
pub use report::{CheckReport, IndexReport, LogReport, Problem, ValuesReport};

/// Why a directory cannot be looked at. Damage inside it is no error but part of the report.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The directory is in use, its identity is damaged, or the like.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no node in it.
    #[error("{} is not a node's data directory: {reason}", dir.display())]
    NoNode {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// CURRENT cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be walked.
    #[error(transparent)]
    Log(#[from] nezha_vlog::Error),
    /// The value segments cannot be listed.
    #[error(transparent)]
    Values(#[from] nezha_gc::Error),
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// A stopped node, held by its lock, opened for reading.
struct Stopped {
    data: DataDir,
    identity: Identity,
    store: u64,
    index: Box<dyn Index>,
    values: ValueSegments,
    /// Value segments that could not be opened.
    unreadable: Vec<nezha_gc::Error>,
}

impl Stopped {
    fn open(dir: &Path) -> Result<Stopped, OfflineError> {
        let data = DataDir::open_existing(dir)?;
        let no_node = |reason: &str| OfflineError::NoNode {
            dir: dir.to_path_buf(),
            reason: reason.to_owned(),
        };
        let identity = data.identity()?.ok_or_else(|| no_node("it has no IDENTITY"))?;
        let fs = Arc::clone(data.fs());
        let store =
            read_current(fs.as_ref(), &data)?.ok_or_else(|| no_node("it has no CURRENT: never started"))?;
        let (values, unreadable) = ValueSegments::open_each(&fs, &values_dir(&data, store))?;
        let index = RocksIndex::open_read_only(&index_dir(&data, store), &RocksOptions::default())?;
        Ok(Stopped {
            data,
            identity,
            store,
            index: Box::new(index),
            values,
            unreadable,
        })
    }
}
