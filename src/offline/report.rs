//! What a check found, for people (Display) and programs (Serialize).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// At most this many problems are listed; all are counted.
const PROBLEMS_MAX: usize = 1000;

/// Result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The data directory.
    pub dir: PathBuf,
    /// Cluster id, 16 hex digits.
    pub cluster_id: String,
    /// Node id.
    pub node_id: u64,
    /// Node name.
    pub name: String,
    /// Number of the live store.
    pub store: u64,
    /// The log.
    pub log: LogReport,
    /// The sorted value segments.
    pub values: ValuesReport,
    /// The index.
    pub index: IndexReport,
    /// Everything that is not as it should be, up to 1000.
    pub problems: Vec<Problem>,
    /// Number of all problems.
    pub problems_total: u64,
}

/// What was found in the log.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LogReport {
    /// Segments.
    pub segments: u64,
    /// Groups: what one sync covered.
    pub groups: u64,
    /// Frames, entries included.
    pub frames: u64,
    /// Value records, those of overwritten and truncated entries included.
    pub records: u64,
    /// Length of all files in bytes.
    pub bytes: u64,
    /// Last entry, or else the purge point.
    pub last: Option<String>,
    /// Purge point.
    pub purged: Option<String>,
    /// Latest vote.
    pub vote: Option<String>,
    /// Bytes at the end that opening would cut: a write that did not finish. No damage.
    pub torn_bytes: u64,
}

/// What was found in the sorted value segments.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ValuesReport {
    /// Segments.
    pub segments: u64,
    /// Records.
    pub records: u64,
    /// Length of all files in bytes.
    pub bytes: u64,
}

/// What was found in the index, counted row by row.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IndexReport {
    /// Applied log id.
    pub applied: Option<String>,
    /// Live keys.
    pub keys: u64,
    /// Those with their value in the index.
    pub inline: u64,
    /// Record lengths of all live keys in bytes.
    pub live_bytes: u64,
    /// Those in log segments.
    pub live_bytes_log: u64,
    /// Those in sorted value segments.
    pub live_bytes_values: u64,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File, or directory when it is not about one file.
    pub file: PathBuf,
    /// Where in it, in bytes; 0 when it is not about one place.
    pub offset: u64,
    /// What was found.
    pub reason: String,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    pub(super) fn problem(&mut self, file: &Path, offset: u64, reason: impl fmt::Display) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                file: file.to_path_buf(),
                offset,
                reason: reason.to_string(),
            });
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".to_owned());
        let CheckReport {
            log, values, index, ..
        } = self;
        writeln!(
            f,
            "{}: node {} (id {}) of cluster {}",
            self.dir.display(),
            self.name,
            self.node_id,
            self.cluster_id
        )?;
        writeln!(
            f,
            "log      {} segments, {} groups, {} frames, {} value records, {} bytes; last {}, purged {}, vote {}",
            log.segments,
            log.groups,
            log.frames,
            log.records,
            log.bytes,
            shown(&log.last),
            shown(&log.purged),
            shown(&log.vote)
        )?;
        if log.torn_bytes > 0 {
            writeln!(
                f,
                "         {} bytes of an unfinished write at its end (no damage)",
                log.torn_bytes
            )?;
        }
        writeln!(
            f,
            "values   {} segments, {} records, {} bytes (store-{})",
            values.segments, values.records, values.bytes, self.store
        )?;
        writeln!(
            f,
            "index    applied {}, {} keys ({} inline), {} live bytes: {} in the log, {} in value segments",
            shown(&index.applied),
            index.keys,
            index.inline,
            index.live_bytes,
            index.live_bytes_log,
            index.live_bytes_values
        )?;
        for Problem { file, offset, reason } in &self.problems {
            writeln!(f, "PROBLEM  {} offset {offset}: {reason}", file.display())?;
        }
        match self.problems_total {
            0 => write!(f, "sound"),
            total => write!(f, "{total} problems"),
        }
    }
}
