//! What waits for the writer, in submission order.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

use crate::entry::Entry;
use crate::error::Error;
use crate::format::{FRAME_HEADER_LEN, FrameHead, FrameKind};
use crate::ids::{LogId, Seq, Vote};
use crate::planted::{Bug, planted};

/// The entries in flight are cut into this many groups, about: one is written while the one before it is replicated.
const GROUPS_IN_FLIGHT: u64 = 2;

/// Where fewer entries are in flight, what each waits counts, and not what a group costs.
const MANY_IN_FLIGHT: u64 = 16;

/// Called exactly once: after the sync that covers the submission, or with an error when the log is poisoned or closed.
///
/// Runs on the writer's thread; must not block.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// One submission.
pub(crate) struct Work {
    pub(crate) seq: Seq,
    pub(crate) what: What,
    pub(crate) done: Option<Done>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("seq", &self.seq)
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

/// What a submission writes.
#[derive(Debug)]
pub(crate) enum What {
    Entries(Vec<Entry>),
    Vote(Vote),
    Committed(Option<LogId>),
    TruncateAfter(Option<LogId>),
    Purged(LogId),
    /// Nothing: done once everything before it is durable.
    Barrier,
}

/// What submissions add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Submissions that somebody waits for.
    forcing: u64,
    /// Those of them that are no entries.
    urgent: u64,
    entries: u64,
    bytes: u64,
}

impl AddAssign for Load {
    fn add_assign(&mut self, more: Load) {
        self.forcing += more.forcing;
        self.urgent += more.urgent;
        self.entries += more.entries;
        self.bytes += more.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, less: Load) {
        self.forcing -= less.forcing;
        self.urgent -= less.urgent;
        self.entries -= less.entries;
        self.bytes -= less.bytes;
    }
}

impl What {
    fn load(&self) -> Load {
        match self {
            What::Entries(entries) => Load {
                forcing: 1,
                urgent: 0,
                entries: entries.len() as u64,
                bytes: entries.iter().map(Entry::encoded_len).sum(),
            },
            // Nobody waits for a hint.
            What::Committed(_) => Load {
                bytes: FRAME_HEADER_LEN,
                ..Load::default()
            },
            What::Barrier => Load {
                forcing: 1,
                urgent: 1,
                ..Load::default()
            },
            What::Vote(_) | What::TruncateAfter(_) | What::Purged(_) => Load {
                forcing: 1,
                urgent: 1,
                entries: 0,
                bytes: FRAME_HEADER_LEN,
            },
        }
    }

    /// The frame of a submission that is no entry.
    pub(crate) fn control_frame(&self) -> Option<FrameHead> {
        let (kind, flag, log_id) = match *self {
            What::Entries(_) | What::Barrier => return None,
            What::Vote(Vote {
                term,
                node,
                committed,
            }) => (FrameKind::Vote, committed, LogId { term, node, index: 0 }),
            What::Committed(hint) => (FrameKind::Committed, hint.is_none(), hint.unwrap_or_default()),
            What::TruncateAfter(kept) => (FrameKind::TruncateAfter, kept.is_none(), kept.unwrap_or_default()),
            What::Purged(upto) => (FrameKind::Purged, false, upto),
        };
        Some(FrameHead {
            kind,
            flag,
            log_id,
            body_len: 0,
        })
    }
}

/// Submissions that are not written yet; bounded by the caller's admission.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    works: VecDeque<Work>,
    load: Load,
}

impl Queue {
    pub(crate) fn push(&mut self, work: Work) {
        // A committed hint replaces the one right before it: an idle log would otherwise collect them without bound.
        if let (
            What::Committed(_),
            Some(Work {
                what: What::Committed(_),
                ..
            }),
        ) = (&work.what, self.works.back())
        {
            self.works.pop_back();
            self.load -= work.what.load();
        }
        self.load += work.what.load();
        self.works.push_back(work);
    }

    /// Takes the next group: in order, at least one submission, and no further one above `bytes_max`.
    /// Nothing if nobody waits, unless `even_hints`.
    pub(crate) fn take_group(&mut self, bytes_max: u64, even_hints: bool) -> Vec<Work> {
        let mut group = Vec::new();
        if !self.is_forced() && !even_hints {
            return group;
        }
        let mut bytes = 0;
        while let Some(next) = self.works.front() {
            let load = next.what.load();
            bytes += load.bytes;
            if bytes > bytes_max && !group.is_empty() {
                break;
            }
            self.load -= load;
            group.extend(self.works.pop_front());
        }
        if planted(Bug::VoteUnordered) {
            self.defer_votes(&mut group);
        }
        group
    }

    /// The planted bug: votes wait for the next group, behind entries submitted after them.
    fn defer_votes(&mut self, group: &mut Vec<Work>) {
        let (votes, others): (Vec<Work>, Vec<Work>) = std::mem::take(group)
            .into_iter()
            .partition(|work| matches!(work.what, What::Vote(_)));
        if others.is_empty() {
            *group = votes;
        } else {
            *group = others;
            for vote in votes.into_iter().rev() {
                self.load += vote.what.load();
                self.works.push_front(vote);
            }
        }
    }

    pub(crate) fn take_all(&mut self) -> Vec<Work> {
        self.load = Load::default();
        self.works.drain(..).collect()
    }

    /// Whether somebody waits.
    pub(crate) fn is_forced(&self) -> bool {
        self.load.forcing > 0
    }

    /// Whether the next group is worth its sync, with `in_flight` entries that are submitted and not known to be
    /// committed, these here among them; groups have `bytes_max` at most.
    ///
    /// Not unless it has its share of them: what a group costs besides its bytes, here and on the other nodes, is the same
    /// for one entry as for a hundred. What is no entry waits for nothing.
    pub(crate) fn is_ripe(&self, in_flight: u64, bytes_max: u64) -> bool {
        let Load {
            urgent,
            entries,
            bytes,
            ..
        } = self.load;
        let share = in_flight.div_ceil(GROUPS_IN_FLIGHT);
        urgent > 0 || in_flight < MANY_IN_FLIGHT || entries >= share || bytes >= bytes_max
    }
}
