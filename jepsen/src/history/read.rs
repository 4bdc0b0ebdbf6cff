//! Reads a history in whichever of the known formats it is, told by its content.

use std::io;
use std::path::{Path, PathBuf};

use super::{History, edn, jsonl, logs};

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file begins like none of the formats.
    #[error(
        "no history in a known format: neither the first line of a {} nor an EDN map or vector nor a Jepsen log",
        jsonl::FORMAT
    )]
    UnknownFormat,
    /// Written by another version of the harness, or something else.
    #[error(
        "format {format:?} version {version} is not known here; only {} version {}",
        jsonl::FORMAT,
        jsonl::VERSION
    )]
    Version {
        /// Name in the first line.
        format: String,
        /// Version in the first line.
        version: u64,
    },
    /// The last line has no end.
    #[error("line {line} is unfinished: the history was cut off while it was written")]
    Unfinished {
        /// Counted from 1.
        line: usize,
    },
    /// A line is not what it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl ReadError {
    pub(super) fn line(line: usize, what: &impl ToString) -> ReadError {
        ReadError::Line {
            line,
            what: what.to_string(),
        }
    }
}

/// Reads the history at `path`.
pub fn read(path: &Path) -> Result<History, ReadError> {
    let failed = |source| ReadError::File {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text)
}

/// Reads the history in `text`.
pub fn parse(text: &str) -> Result<History, ReadError> {
    if jsonl::detect(text) {
        jsonl::parse(text).map(|(_, history)| history)
    } else if logs::detect(text) {
        logs::parse(text)
    } else if edn::detect(text) {
        edn::parse(text)
    } else {
        Err(ReadError::UnknownFormat)
    }
}
