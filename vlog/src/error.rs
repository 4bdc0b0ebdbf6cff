//! What can go wrong, with the data to name it.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::SegmentId;
use crate::recover::RecoveryCase;

/// What is wrong with some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Fewer bytes than the layout needs.
    #[error("cut short: needs {needed} bytes, has {got}")]
    Short {
        /// Bytes the layout asks for.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// The magic number differs.
    #[error("magic number of a {0} is missing")]
    Magic(&'static str),
    /// A checksum differs.
    #[error("checksum of the {what} differs: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// Part the checksum covers.
        what: &'static str,
        /// Checksum in the bytes.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// A field holds a value that its layout forbids.
    #[error("field {field} holds {value}, which the format forbids")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The bytes are in order but are not those asked for: they belong to another place, key or entry.
    #[error("{field} is {got} and must be {expected}")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// What the caller or the neighbours say.
        expected: u64,
        /// What the bytes say.
        got: u64,
    },
    /// The record holds another key than asked for.
    #[error("the record holds another key")]
    OtherKey,
    /// Bytes that nothing accounts for.
    #[error("{0} bytes follow that no group accounts for")]
    Trailing(u64),
}

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
    /// Bytes on disk are damaged; they are refused, never repaired or skipped (I9).
    #[error("damage in {segment} at offset {offset}: {fault}")]
    Damage {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
        offset: u64,
        /// What is wrong there.
        fault: Fault,
    },
    /// The log was not opened, because its bytes cannot come from a crash: something damaged them (I9).
    #[error("refused, {case}: {segment} at offset {offset}: {fault}")]
    Refused {
        /// Which case of the recovery table.
        case: RecoveryCase,
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
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
    /// A segment file is gone although it holds entries that are not purged.
    #[error("{segment} is missing: {successor} names it as predecessor and its entries are not purged")]
    MissingSegment {
        /// The missing segment.
        segment: SegmentId,
        /// The segment that names it.
        successor: SegmentId,
    },
    /// A file in the log directory is not a segment.
    #[error("{} is not a log segment", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
    },
    /// No such segment.
    #[error("there is no {0}")]
    NoSuchSegment(SegmentId),
    /// Raft may still need entries of the segment.
    #[error("{segment} is not purged: the log held entries up to {} when it ended, and the purge point is {}", shown(*last), shown(*purged))]
    NotPurged {
        /// The segment.
        segment: SegmentId,
        /// Last entry that the log held when the segment ended.
        last: Option<u64>,
        /// Durable purge point.
        purged: Option<u64>,
    },
    /// Entries are not consecutive.
    #[error("entry {got} does not follow: the next index is {expected}")]
    Hole {
        /// Index that would follow.
        expected: u64,
        /// Index given.
        got: u64,
    },
    /// The entry is not durable yet; wait for `durable_seq() >= seq_of(..)`.
    #[error("entry {index} is not durable yet")]
    NotDurable {
        /// Its index.
        index: u64,
    },
    /// An earlier write or sync failed; nothing is written any more and nothing is retried (I7).
    #[error("the log is poisoned: {reason}")]
    Poisoned {
        /// Kind of the first failure.
        kind: io::ErrorKind,
        /// The first failure.
        reason: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// Bytes given by the caller are no command or record.
    #[error("malformed bytes: {0}")]
    Malformed(#[from] Fault),
    /// An entry or an append is larger than the format allows.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// What was given.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size allowed.
        limit: u64,
    },
    /// An option is outside its documented range.
    #[error("option {name} is {value}, its range is {min} to {max}")]
    OptionRange {
        /// The option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
}

fn shown(index: Option<u64>) -> String {
    index.map_or_else(|| "nothing".to_owned(), |index| index.to_string())
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// The case of the recovery table that refused to open the log, if that is what happened.
    pub fn recovery_case(&self) -> Option<RecoveryCase> {
        match self {
            Error::Refused { case, .. } => Some(*case),
            Error::UnknownVersion { .. } => Some(RecoveryCase::UnknownVersion),
            Error::MissingSegment { .. } => Some(RecoveryCase::MissingSegment),
            Error::ForeignFile { .. } => Some(RecoveryCase::ForeignFile),
            _ => None,
        }
    }

    /// Whether bytes on disk are damaged or missing, as opposed to a file operation that failed.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damage { .. }) || self.recovery_case().is_some()
    }

    pub(crate) fn damage(segment: SegmentId, offset: u64) -> impl FnOnce(Fault) -> Error + use<> {
        move |fault| Error::Damage {
            segment,
            offset,
            fault,
        }
    }
}
