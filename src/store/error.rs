//! What can go wrong in a store.

use std::path::{Path, PathBuf};

use super::check::Breach;
use crate::identity::{IdentityError, REPLACE_NODE};
use crate::index::IndexError;

/// Errors of a store. Damage is always `Damage`, whichever file it is in.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes of a file are not what was written. A read that meets it fails; nothing else is affected.
    #[error("damage in {} at offset {offset}: {reason}", file.display())]
    Damage {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes; 0 when not known.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// Index and log do not belong together.
    #[error("{} is refused: {breach}", dir.display())]
    Refused {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        breach: Breach,
    },
    /// CURRENT and the store directories do not fit together.
    #[error("{} is refused: {reason}. To go on, {REPLACE_NODE}", dir.display())]
    NoStore {
        /// The data directory.
        dir: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A snapshot that was received cannot be used.
    #[error("received snapshot is refused: {reason}")]
    BadSnapshot {
        /// Why.
        reason: String,
    },
    /// The log failed.
    #[error(transparent)]
    Log(nezha_vlog::Error),
    /// A value segment failed.
    #[error(transparent)]
    Values(nezha_gc::Error),
    /// The index failed.
    #[error(transparent)]
    Index(IndexError),
    /// A file of the data directory failed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl StoreError {
    /// Takes an error of the log in `log_dir`.
    pub(crate) fn log(log_dir: &Path, error: nezha_vlog::Error) -> StoreError {
        match error {
            nezha_vlog::Error::Damage {
                segment,
                offset,
                fault,
            } => StoreError::Damage {
                file: nezha_vlog::format::segment_path(log_dir, segment),
                offset,
                reason: fault.to_string(),
            },
            nezha_vlog::Error::NoSuchSegment(segment) => StoreError::Damage {
                file: nezha_vlog::format::segment_path(log_dir, segment),
                offset: 0,
                reason: "the file is missing".to_owned(),
            },
            other => StoreError::Log(other),
        }
    }

    /// Takes an error of the value segments in `values_dir`.
    pub(crate) fn values(values_dir: &Path, error: nezha_gc::Error) -> StoreError {
        match error {
            nezha_gc::Error::Damage { path, offset, fault } => StoreError::Damage {
                file: path,
                offset,
                reason: fault.to_string(),
            },
            nezha_gc::Error::NoSuchSegment(segment) => StoreError::Damage {
                file: values_dir.to_path_buf(),
                offset: 0,
                reason: format!("the file of {segment} is missing"),
            },
            other => StoreError::Values(other),
        }
    }
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> StoreError {
        match error {
            IndexError::Corrupt { file, offset, reason } => StoreError::Damage { file, offset, reason },
            other => StoreError::Index(other),
        }
    }
}
