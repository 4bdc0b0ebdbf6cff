//! What can go wrong, with the data to name it.

use std::io;
use std::path::{Path, PathBuf};

use nezha_vlog::{Fault, SegmentId};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes on disk are damaged; they are refused, never repaired or skipped.
    #[error("damage in {} at offset {offset}: {fault}", path.display())]
    Damage {
        /// The file.
        path: PathBuf,
        /// Bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        fault: Fault,
    },
    /// A segment has a format version this build does not know.
    #[error("{} has format version {found}, this build reads version {supported}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version this build reads and writes.
        supported: u32,
    },
    /// A file in the directory is not a sorted value segment.
    #[error("{} is not a sorted value segment", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
    },
    /// No such segment.
    #[error("there is no {0}")]
    NoSuchSegment(SegmentId),
    /// A record does not follow the one before in key order.
    #[error("record {records} of {segment} does not follow its predecessor in key order")]
    OutOfOrder {
        /// The segment being written.
        segment: SegmentId,
        /// Records written before it.
        records: u64,
    },
    /// Bytes given by the caller are no record that a segment may hold.
    #[error("malformed record: {0}")]
    Malformed(#[from] Fault),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    pub(crate) fn damage(path: &Path, offset: u64) -> impl FnOnce(Fault) -> Error {
        let path = path.to_path_buf();
        move |fault| Error::Damage { path, offset, fault }
    }
}
