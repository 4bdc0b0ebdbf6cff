//! Names of things in the log: entries, votes, segments, value records.

use std::fmt;

/// Submission sequence of one open log, counted from 1; never reused while it is open.
pub type Seq = u64;

/// Identifies a log entry: the leader that proposed it, and its place in the log.
///
/// Ordered by term, then node, then index, as Raft compares logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Id of the leader that proposed the entry.
    pub node: u64,
    /// Index in the Raft log.
    pub index: u64,
}

impl LogId {
    /// Names the entry at `index` proposed by `node` in `term`.
    pub fn new(term: u64, node: u64, index: u64) -> LogId {
        LogId { term, node, index }
    }

    /// The leader, without the index.
    pub(crate) fn leader(&self) -> (u64, u64) {
        (self.term, self.node)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}.{}", self.term, self.node, self.index)
    }
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// Whether a quorum granted it: the voted node is the leader of the term.
    pub committed: bool,
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "T{}-N{}{}",
            self.term,
            self.node,
            if self.committed { ":leader" } else { "" }
        )
    }
}

/// Numbers a file that holds value records; never reused.
///
/// The high bit tells the two kinds apart: clear for a log segment, set for a sorted value segment of gc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u64);

impl SegmentId {
    const SORTED: u64 = 1 << 63;

    /// Takes the number as it is stored.
    pub const fn new(raw: u64) -> SegmentId {
        SegmentId(raw)
    }

    /// Names sorted value segment `number` (high bit set).
    pub const fn sorted(number: u64) -> SegmentId {
        SegmentId(number | SegmentId::SORTED)
    }

    /// The number as it is stored, kind bit included.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this names a log segment (and not a sorted value segment).
    pub const fn is_log(self) -> bool {
        self.0 & SegmentId::SORTED == 0
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_log() {
            write!(f, "log segment {}", self.0)
        } else {
            write!(f, "value segment {}", self.0 & !SegmentId::SORTED)
        }
    }
}

/// Addresses a value record in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueRef {
    /// The file.
    pub segment: SegmentId,
    /// Offset of the record's first byte, in bytes from the segment start.
    pub offset: u64,
    /// Length of the value alone, in bytes.
    pub value_len: u32,
}
