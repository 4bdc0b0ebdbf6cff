//! The tail cache: the newest entries in memory, whole.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::ids::{SegmentId, Seq};

/// What an entry costs in memory besides its frame.
const SLOT_OVERHEAD: u64 = 96;

/// Where a durable entry's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
}

/// A cached entry.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) entry: Entry,
    /// Submission that brought it.
    pub(crate) seq: Seq,
    /// Known once durable.
    pub(crate) place: Option<Place>,
}

/// The newest entries, consecutive up to the last one submitted.
///
/// Invariant: every entry that is not durable is here; the durable ones come first and leave first.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    slots: VecDeque<Slot>,
    bytes: u64,
}

impl Tail {
    fn cost(slot: &Slot) -> u64 {
        slot.entry.encoded_len() + SLOT_OVERHEAD
    }

    /// Memory of what is cached.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Index of the first cached entry.
    pub(crate) fn first(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.entry.log_id.index)
    }

    pub(crate) fn push(&mut self, entry: Entry, seq: Seq) {
        let slot = Slot {
            entry,
            seq,
            place: None,
        };
        self.bytes += Tail::cost(&slot);
        self.slots.push_back(slot);
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(index.checked_sub(self.first()?)?).ok()?)
    }

    /// Notes where an entry became durable; false if it was truncated, purged or replaced meanwhile.
    pub(crate) fn set_place(&mut self, index: u64, seq: Seq, place: Place) -> bool {
        let Some(at) = self.first().and_then(|first| index.checked_sub(first)) else {
            return false;
        };
        match self.slots.get_mut(at as usize).filter(|slot| slot.seq == seq) {
            Some(slot) => {
                slot.place = Some(place);
                true
            }
            None => false,
        }
    }

    /// Removes entries from `cut` on.
    pub(crate) fn truncate(&mut self, cut: u64) {
        while self
            .slots
            .back()
            .is_some_and(|slot| slot.entry.log_id.index >= cut)
        {
            self.bytes -= self.slots.pop_back().map_or(0, |slot| Tail::cost(&slot));
        }
    }

    /// Removes entries below `index`.
    pub(crate) fn trim(&mut self, index: u64) {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.entry.log_id.index < index)
        {
            self.pop_front();
        }
    }

    /// Removes durable entries, oldest first, until at most `limit` bytes are held.
    pub(crate) fn evict(&mut self, limit: u64) {
        while self.bytes > limit && self.slots.front().is_some_and(|slot| slot.place.is_some()) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        self.bytes -= self.slots.pop_front().map_or(0, |slot| Tail::cost(&slot));
    }

    /// Slots from `index` on.
    pub(crate) fn from(&self, index: u64) -> impl Iterator<Item = &Slot> {
        let skip = self.first().map_or(0, |first| index.saturating_sub(first));
        self.slots.iter().skip(skip as usize)
    }
}
