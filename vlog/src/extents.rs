//! Which segment holds the live version of each durable entry.

use std::ops::Range;

use crate::ids::SegmentId;

/// Consecutive live entries in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segment: SegmentId,
    pub(crate) first: u64,
    /// Inclusive.
    pub(crate) last: u64,
}

/// Live, durable entries by segment; consecutive, in log order. One item per segment at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    extents: Vec<Extent>,
}

impl Extents {
    /// Adds entries after the last one.
    pub(crate) fn push(&mut self, added: Extent) {
        match self.extents.last_mut() {
            Some(last) if last.segment == added.segment => {
                assert_eq!(
                    last.last + 1,
                    added.first,
                    "entries of {} are consecutive",
                    added.segment
                );
                last.last = added.last;
            }
            _ => self.extents.push(added),
        }
    }

    /// Removes entries from `cut` on.
    pub(crate) fn truncate(&mut self, cut: u64) {
        self.extents.retain(|extent| extent.first < cut);
        if let Some(last) = self.extents.last_mut() {
            last.last = last.last.min(cut - 1);
        }
    }

    /// Removes entries below `index`.
    pub(crate) fn trim(&mut self, index: u64) {
        self.extents.retain(|extent| extent.last >= index);
        if let Some(first) = self.extents.first_mut() {
            first.first = first.first.max(index);
        }
    }

    /// Whether live entries are in `segment`.
    pub(crate) fn holds(&self, segment: SegmentId) -> bool {
        self.extents.iter().any(|extent| extent.segment == segment)
    }

    /// Index of the last live, durable entry.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.extents.last().map(|extent| extent.last)
    }

    /// Index of the first live, durable entry.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.extents.first().map(|extent| extent.first)
    }

    /// The parts of `range` by segment, in order; none of them is empty.
    pub(crate) fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Extent> {
        // No part of an empty range: an extent around it would make one that ends before it begins.
        let end = if range.is_empty() { 0 } else { range.end };
        let skip = self.extents.partition_point(|extent| extent.last < range.start);
        self.extents
            .iter()
            .skip(skip)
            .take_while(move |extent| extent.first < end)
            .map(move |extent| Extent {
                segment: extent.segment,
                first: extent.first.max(range.start),
                last: extent.last.min(end - 1),
            })
    }

    /// Where two neighbours do not follow each other: the index expected and the one found.
    pub(crate) fn hole(&self) -> Option<(u64, u64)> {
        let mut pairs = self.extents.iter().zip(self.extents.iter().skip(1));
        pairs
            .find(|(a, b)| a.last + 1 != b.first)
            .map(|(a, b)| (a.last + 1, b.first))
    }
}
