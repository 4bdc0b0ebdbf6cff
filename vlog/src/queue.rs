//! What waits for the writer, in submission order.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::error::Error;
use crate::format::{FRAME_HEADER_LEN, FrameHead, FrameKind};
use crate::ids::{LogId, Seq, Vote};
use crate::planted::{Bug, planted};

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

impl What {
    /// Whether somebody waits for it to be durable.
    fn forces(&self) -> bool {
        !matches!(self, What::Committed(_))
    }

    fn bytes(&self) -> u64 {
        match self {
            What::Entries(entries) => entries.iter().map(Entry::encoded_len).sum(),
            What::Barrier => 0,
            _ => FRAME_HEADER_LEN,
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
    forcing: usize,
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
        }
        self.forcing += usize::from(work.what.forces());
        self.works.push_back(work);
    }

    /// Takes the next group: in order, at least one submission, and no further one above `bytes_max`.
    /// Nothing if nobody waits, unless `even_hints`.
    pub(crate) fn take_group(&mut self, bytes_max: u64, even_hints: bool) -> Vec<Work> {
        let mut group = Vec::new();
        if self.forcing == 0 && !even_hints {
            return group;
        }
        let mut bytes = 0;
        while let Some(next) = self.works.front() {
            bytes += next.what.bytes();
            if bytes > bytes_max && !group.is_empty() {
                break;
            }
            self.forcing -= usize::from(next.what.forces());
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
            self.forcing += votes.len();
            votes
                .into_iter()
                .rev()
                .for_each(|vote| self.works.push_front(vote));
        }
    }

    pub(crate) fn take_all(&mut self) -> Vec<Work> {
        self.forcing = 0;
        self.works.drain(..).collect()
    }

    /// Whether somebody waits.
    pub(crate) fn is_forced(&self) -> bool {
        self.forcing > 0
    }
}
