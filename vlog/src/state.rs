//! What the log says besides its entries.

use crate::ids::{LogId, Vote};

/// Vote, purge point, committed hint and end of the log, at one point of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The latest vote.
    pub vote: Option<Vote>,
    /// Entries up to here are no longer part of the Raft log.
    pub purged: Option<LogId>,
    /// The latest committed hint; may be ahead of the entries that survived a crash.
    pub committed: Option<LogId>,
    /// The last entry, or else the purge point.
    pub last: Option<LogId>,
}

impl State {
    /// Index that the next entry must have; `None` if any index above the purge point may follow.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.last
            .filter(|last| Some(*last) != self.purged)
            .map(|last| last.index + 1)
    }

    /// Index of the purge point and 1, or 0: no entry below it is part of the log.
    pub(crate) fn first_possible(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Moves the purge point; it never goes back. Returns whether it moved.
    pub(crate) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
        true
    }
}
