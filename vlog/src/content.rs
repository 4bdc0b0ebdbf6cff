//! What one segment holds, followed frame by frame in disk order: by the writer as it writes, by recovery as it reads.

use crate::error::Fault;
use crate::format::{Footer, FrameHead, FrameKind};
use crate::ids::{LogId, SegmentId};
use crate::runs::Runs;
use crate::state::State;

/// Content of a segment so far, and the state of the whole log at that point of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) segment: SegmentId,
    /// State of the log after the last frame applied.
    pub(crate) state: State,
    /// Index of the first entry in `offsets`; meaningless while it is empty.
    pub(crate) first: u64,
    /// Offset of each live entry's frame.
    pub(crate) offsets: Vec<u32>,
    pub(crate) runs: Runs,
    /// Entries of earlier segments from here on are gone.
    pub(crate) keep_below: Option<u64>,
    /// Entry with the highest index ever written here.
    pub(crate) max_entry: Option<LogId>,
}

impl Content {
    /// An empty segment after a log in `state`.
    pub(crate) fn new(segment: SegmentId, state: State) -> Content {
        let runs = Runs::default();
        Content {
            segment,
            state,
            first: 0,
            offsets: Vec::new(),
            runs,
            keep_below: None,
            max_entry: None,
        }
    }

    /// Follows the frame at `offset`. Errors: the frame contradicts those before it.
    pub(crate) fn apply(&mut self, frame: &FrameHead, offset: u64) -> Result<(), Fault> {
        let FrameHead {
            kind, flag, log_id, ..
        } = *frame;
        match kind {
            FrameKind::Blank | FrameKind::Membership | FrameKind::Command => self.append(log_id, offset)?,
            FrameKind::Vote => {
                self.state.vote = Some(crate::ids::Vote {
                    term: log_id.term,
                    node: log_id.node,
                    committed: flag,
                });
            }
            FrameKind::Committed => self.state.committed = Some(log_id).filter(|_| !flag),
            FrameKind::TruncateAfter => {
                let kept = Some(log_id).filter(|_| !flag);
                self.state.last = kept;
                let cut = kept.map_or(0, |kept| kept.index + 1);
                self.offsets.truncate(cut.saturating_sub(self.first) as usize);
                self.runs.truncate(cut);
                self.keep_below = Some(self.keep_below.map_or(cut, |below| below.min(cut)));
            }
            FrameKind::Purged => {
                self.state.purge(log_id);
                if self.state.last == self.state.purged {
                    self.offsets.clear();
                    self.runs.clear();
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, log_id: LogId, offset: u64) -> Result<(), Fault> {
        check_follows(&self.state, log_id.index).map_err(|expected| Fault::Mismatch {
            field: "log index",
            expected,
            got: log_id.index,
        })?;
        if self.offsets.is_empty() || self.first + self.offsets.len() as u64 != log_id.index {
            self.offsets.clear();
            self.runs.clear();
            self.first = log_id.index;
        }
        let offset = u32::try_from(offset).map_err(|_| Fault::Field {
            field: "frame offset",
            value: offset,
        })?;
        self.offsets.push(offset);
        self.runs.push(log_id);
        self.state.last = Some(log_id);
        if self.max_entry.is_none_or(|max| max.index <= log_id.index) {
            self.max_entry = Some(log_id);
        }
        Ok(())
    }

    /// Index of the last live entry here.
    pub(crate) fn last(&self) -> Option<u64> {
        (self.offsets.len() as u64)
            .checked_sub(1)
            .map(|more| self.first + more)
    }

    /// Offset of the frame of the live entry at `index`.
    pub(crate) fn offset(&self, index: u64) -> Option<u32> {
        self.offsets
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)
            .copied()
    }

    /// The footer that seals the segment at `offset`.
    pub(crate) fn footer(&self, offset: u64) -> Footer {
        let first = if self.offsets.is_empty() { 0 } else { self.first };
        Footer::new(
            self.segment,
            offset,
            first,
            self.offsets.clone(),
            self.runs.iter().collect(),
            self.keep_below,
            self.max_entry,
            self.state.clone(),
        )
    }
}

/// Checks that an entry may have this index; the error is the index expected.
pub(crate) fn check_follows(state: &State, index: u64) -> Result<(), u64> {
    match state.next_index() {
        Some(next) if next == index => Ok(()),
        Some(next) => Err(next),
        None if index >= state.first_possible() => Ok(()),
        None => Err(state.first_possible()),
    }
}
