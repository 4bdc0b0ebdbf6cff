//! The log's memory: what was submitted, what of it is durable, and where.
//!
//! One short mutex guards it; nobody holds it across file operations.

use std::collections::BTreeMap;
use std::io;

use crate::content::{Content, check_follows};
use crate::entry::Entry;
use crate::error::Error;
use crate::extents::{Extent, Extents};
use crate::ids::{LogId, SegmentId, Seq, Vote};
use crate::log::SegmentInfo;
use crate::queue::{Done, Queue, What, Work};
use crate::runs::Runs;
use crate::state::State;
use crate::tail::{Place, Tail};

/// The failure that ended the log.
#[derive(Clone, Debug)]
pub(crate) struct Poison {
    pub(crate) kind: io::ErrorKind,
    pub(crate) reason: String,
}

impl Poison {
    pub(crate) fn error(&self) -> Error {
        Error::Poisoned {
            kind: self.kind,
            reason: self.reason.clone(),
        }
    }
}

/// What is remembered of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: u64,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    pub(crate) max_entry: Option<LogId>,
}

/// The log's memory.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) queue: Queue,
    next_seq: Seq,
    /// As submitted: `runs` and `tail` agree with it.
    pub(crate) state: State,
    pub(crate) runs: Runs,
    pub(crate) tail: Tail,
    /// Live entries that are durable. Live as submitted: a truncation counts at once.
    pub(crate) extents: Extents,
    /// Highest submission that a finished sync covers.
    pub(crate) durable_seq: Seq,
    /// The segment being written, as far as it is durable; its `state` is the durable one.
    pub(crate) active: Content,
    /// End of its last durable group.
    pub(crate) active_bytes: u64,
    pub(crate) sealed: BTreeMap<SegmentId, Sealed>,
    pub(crate) poison: Option<Poison>,
    pub(crate) closed: bool,
}

impl View {
    /// Memory of a log as recovered: everything submitted is durable.
    pub(crate) fn new(
        active: Content,
        active_bytes: u64,
        runs: Runs,
        extents: Extents,
        sealed: BTreeMap<SegmentId, Sealed>,
    ) -> View {
        View {
            queue: Queue::default(),
            next_seq: 1,
            state: active.state.clone(),
            runs,
            tail: Tail::default(),
            extents,
            durable_seq: 0,
            active,
            active_bytes,
            sealed,
            poison: None,
            closed: false,
        }
    }

    /// Corrects a committed hint that is beyond the last entry.
    ///
    /// The correction goes first in the queue: it is on disk before any entry takes the place of those that the old hint
    /// meant, else the old hint would call entries committed that are not. (I3)
    pub(crate) fn clamp_committed(&mut self, committed: Option<LogId>) {
        self.state.committed = committed;
        self.queue.push(Work {
            seq: 0,
            what: What::Committed(committed),
            done: None,
        });
    }

    /// Whether submissions are taken.
    fn check_open(&self) -> Result<(), Error> {
        match &self.poison {
            Some(poison) => Err(poison.error()),
            None if self.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Forgets a sealed segment; false if there is none. Errors: `NotPurged` unless the durable purge point covers every
    /// entry that the log held when the segment ended: only then may recovery meet a gap there.
    pub(crate) fn forget_sealed(&mut self, id: SegmentId) -> Result<bool, Error> {
        if !self.sealed.contains_key(&id) {
            return Ok(false);
        }
        let last = self
            .sealed
            .range(..=id)
            .filter_map(|(_, sealed)| sealed.last)
            .max();
        let purged = self.active.state.purged.map(|purged| purged.index);
        if last > purged {
            return Err(Error::NotPurged {
                segment: id,
                last,
                purged,
            });
        }
        assert!(
            !self.extents.holds(id),
            "{id} holds entries of the log although it is purged"
        );
        self.sealed.remove(&id);
        Ok(true)
    }

    fn submit(&mut self, what: What, done: Option<Done>) -> Seq {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.queue.push(Work { seq, what, done });
        seq
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>, done: Done) -> Result<Seq, Error> {
        self.check_open()?;
        let mut expected = self.state.next_index();
        for entry in &entries {
            let index = entry.log_id.index;
            match expected {
                Some(expected) if expected != index => return Err(Error::Hole { expected, got: index }),
                Some(_) => {}
                None => check_follows(&self.state, index)
                    .map_err(|expected| Error::Hole { expected, got: index })?,
            }
            expected = Some(index + 1);
        }
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(self.submit(What::Barrier, Some(done)));
        };
        let seq = self.next_seq;
        for entry in &entries {
            self.runs.push(entry.log_id);
            self.tail.push(entry.clone(), seq);
        }
        self.state.last = Some(last);
        Ok(self.submit(What::Entries(entries), Some(done)))
    }

    pub(crate) fn save_vote(&mut self, vote: Vote, done: Done) -> Result<Seq, Error> {
        self.check_open()?;
        self.state.vote = Some(vote);
        Ok(self.submit(What::Vote(vote), Some(done)))
    }

    pub(crate) fn save_committed(&mut self, committed: Option<LogId>) -> Result<Seq, Error> {
        self.check_open()?;
        self.state.committed = committed;
        Ok(self.submit(What::Committed(committed), None))
    }

    pub(crate) fn truncate_after(&mut self, index: Option<u64>, done: Done) -> Result<Seq, Error> {
        self.check_open()?;
        let cut = index
            .map_or(0, |index| index.saturating_add(1))
            .max(self.state.first_possible());
        if self.state.last.is_none_or(|last| last.index < cut) {
            return Ok(self.submit(What::Barrier, Some(done)));
        }
        // The entry before the cut; if there is none, the log ends at the purge point, if there is one.
        let kept = cut
            .checked_sub(1)
            .filter(|_| cut > self.first_index())
            .and_then(|kept| self.runs.log_id(kept));
        self.state.last = kept.or(self.state.purged);
        self.runs.truncate(cut);
        self.tail.truncate(cut);
        self.extents.truncate(cut);
        Ok(self.submit(What::TruncateAfter(self.state.last), Some(done)))
    }

    pub(crate) fn purge(&mut self, upto: LogId, done: Done) -> Result<Seq, Error> {
        self.check_open()?;
        if !self.state.purge(upto) {
            return Ok(self.submit(What::Barrier, Some(done)));
        }
        let first = self.state.first_possible();
        if self.state.last == self.state.purged {
            self.runs.clear();
        } else {
            self.runs.trim(first);
        }
        self.tail.trim(first);
        self.extents.trim(first);
        Ok(self.submit(What::Purged(upto), Some(done)))
    }

    /// Index of the first entry, or where it would be.
    pub(crate) fn first_index(&self) -> u64 {
        let durable = self.extents.first_index();
        durable
            .or(self.tail.first())
            .unwrap_or_else(|| self.state.first_possible())
            .max(self.state.first_possible())
    }

    /// Index after the last entry.
    pub(crate) fn end_index(&self) -> u64 {
        match self.state.next_index() {
            Some(next) => next,
            None => self.first_index(),
        }
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        let sealed = self.sealed.iter().map(|(&id, sealed)| SegmentInfo {
            id,
            bytes: sealed.bytes,
            first: sealed.first,
            last: sealed.last,
            sealed: true,
            max_entry: sealed.max_entry,
        });
        let active = &self.active;
        let active = SegmentInfo {
            id: active.segment,
            bytes: self.active_bytes,
            first: active.last().map(|_| active.first),
            last: active.last(),
            sealed: false,
            max_entry: active.max_entry,
        };
        sealed.chain([active]).collect()
    }

    /// Id of the entry at `index`, if it is part of the log.
    pub(crate) fn log_id(&self, index: u64) -> Option<LogId> {
        self.runs
            .log_id(index)
            .filter(|_| (self.first_index()..self.end_index()).contains(&index))
    }

    /// The last durable entry, or else the durable purge point.
    pub(crate) fn durable_log_id(&self) -> Option<LogId> {
        // Places of purged entries stay known as long as values are there: the last of them may lie before the purge.
        let last = self.extents.last_index().and_then(|last| self.runs.log_id(last));
        let purged = self.active.state.purged;
        [last, purged].into_iter().flatten().max_by_key(|id| id.index)
    }

    /// Whether the next group, of `bytes_max` at most, need not wait for more entries.
    pub(crate) fn is_ripe(&self, bytes_max: u64) -> bool {
        let State {
            last,
            committed,
            purged,
            ..
        } = &self.state;
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let settled = index(committed).max(index(purged));
        let in_flight = index(last).saturating_sub(settled);
        self.queue.is_ripe(in_flight, bytes_max)
    }

    /// Notes that an entry is durable at `place`.
    pub(crate) fn entry_durable(&mut self, log_id: LogId, seq: Seq, place: Place) {
        let index = log_id.index;
        if self.tail.set_place(index, seq, place) {
            self.extents.push(Extent {
                segment: place.segment,
                first: index,
                last: index,
            });
        }
    }
}
