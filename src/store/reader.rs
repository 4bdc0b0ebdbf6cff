//! Values of entries that come in key order: few large reads where records lie together, and many reads at a time where
//! they are scattered.
//!
//! Rows wait until a batch of them is there. A batch is read in the order of its places: records that lie close together
//! come with one read, as in the sorted segments that a collection leaves, also where several of them overlap or the
//! scan goes backwards. A batch that is not in memory is asked for, and so are the ones after it, before the first is
//! waited for: the disk has [`BATCHES_AHEAD`] of them to work on at any time. Nothing is read beyond the rows that were
//! pushed, so a short scan reads no more than it returns.
//!
//! Memory: entries of [`BATCHES_AHEAD`] batches and two, records of one. A batch has up to [`BATCH_ROWS`] rows and
//! [`BATCH_BYTES`] of records and keys, and the gaps that are read along are at most half as much again; a longer record
//! is read when its turn comes, and not kept. A row shares the memory of the read that it came with.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::{SegmentBytes, SegmentId, verify_record};

use super::error::StoreError;
use super::view::View;
use crate::index::{IndexEntry, Place};

/// Bytes of records and keys after which a batch is read.
const BATCH_BYTES: u64 = 256 << 10;
/// Rows after which a batch is read.
const BATCH_ROWS: usize = 1024;
/// Batches that the disk is asked for before the first of them is waited for.
const BATCHES_AHEAD: usize = 16;
/// Bytes between two records that are rather read than jumped over.
const GAP_BYTES: u64 = 4 << 10;

/// Reads the values of entries, which are pushed in and popped out in the same order.
///
/// ```text
/// for each entry:  push it, then pop until None
/// at the end:      hurry, then pop until None
/// ```
pub struct Reader {
    view: Arc<View>,
    /// Rows that no read was planned for yet, and the bytes of their records.
    filling: Vec<Slot>,
    filling_bytes: u64,
    /// Batches that were asked for, oldest first.
    asked: VecDeque<Batch>,
    /// Every row is due, however few there are.
    hurried: bool,
}

/// A row whose value was read and verified.
#[derive(Debug, Clone)]
pub struct ReadRow {
    /// The key.
    pub key: Bytes,
    /// Its entry.
    pub entry: IndexEntry,
    /// The value's record as it stands in its segment; `None` if the value is inline.
    pub record: Option<Bytes>,
}

impl ReadRow {
    /// The value. Shares memory with the record.
    pub fn value(&self) -> Bytes {
        match (&self.entry.place, &self.record) {
            (Place::Inline(value), _) => value.clone(),
            (Place::At(at), Some(record)) => record.slice(record.len() - at.value_len as usize..),
            (Place::At(at), None) => unreachable!("the record at {at:?} was read"),
        }
    }
}

impl Reader {
    /// Reads values of entries from the index of `view`.
    pub fn new(view: Arc<View>) -> Reader {
        Reader {
            view,
            filling: Vec::new(),
            filling_bytes: 0,
            asked: VecDeque::new(),
            hurried: false,
        }
    }

    /// Adds a row, which must be one of the view's index.
    ///
    /// Blocking: reads what is in memory.
    pub fn push(&mut self, key: Bytes, entry: IndexEntry) {
        self.hurried = false;
        let bytes = entry.record_len(&key);
        if self.filling.len() == BATCH_ROWS || self.filling_bytes + bytes > BATCH_BYTES {
            self.ask();
        }
        self.filling_bytes += bytes;
        self.filling.push(Slot {
            key,
            entry,
            source: Source::Alone,
        });
    }

    /// Makes all rows due that were pushed so far: after the last one, or when no other may be read before they are
    /// popped.
    pub fn hurry(&mut self) {
        self.ask();
        self.hurried = true;
    }

    /// Returns the next row that is due, read and verified. `None`: push, or hurry.
    ///
    /// Errors: as [`View::read`]; the row is gone then, and the next call goes on after it.
    /// Blocking: at most one read.
    pub fn pop(&mut self) -> Result<Option<ReadRow>, StoreError> {
        self.drop_empty();
        let enough = self.hurried || self.asked.len() > BATCHES_AHEAD;
        match self.asked.front_mut() {
            Some(batch) if enough || batch.waiting == 0 => batch.pop(&self.view),
            _ => Ok(None),
        }
    }

    fn drop_empty(&mut self) {
        if self.asked.front().is_some_and(|batch| batch.slots.is_empty()) {
            self.asked.pop_front();
        }
    }

    /// Asks for the rows that came together.
    fn ask(&mut self) {
        if !self.filling.is_empty() {
            self.drop_empty();
            // Behind others, records would only lie in memory twice.
            let may_read = self.asked.is_empty();
            let batch = Batch::ask(&self.view, std::mem::take(&mut self.filling), may_read);
            self.filling_bytes = 0;
            self.asked.push_back(batch);
        }
    }
}

/// A row that waits.
struct Slot {
    key: Bytes,
    entry: IndexEntry,
    source: Source,
}

/// Where the record of a row is.
enum Source {
    /// To be read by itself, if it is not in the entry.
    Alone,
    /// In the run of this number, not read yet.
    Run(usize),
    /// In memory, not verified.
    Read(Bytes),
}

/// Rows that were asked for together.
struct Batch {
    slots: VecDeque<Slot>,
    popped: usize,
    /// Numbers of the slots with records to be read in runs, in the order of their places.
    order: Vec<usize>,
    runs: Vec<Run>,
    /// Runs that have not been read.
    waiting: usize,
}

/// Records that are read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    segment: SegmentId,
    span: Range<u64>,
    /// Sum of the record lengths.
    useful: u64,
    /// Which part of the order.
    slots: Range<usize>,
}

impl Batch {
    /// Says what will be read; reads what is in memory already if it `may_read`.
    fn ask(view: &View, slots: Vec<Slot>, may_read: bool) -> Batch {
        let mut order: Vec<usize> = (0..slots.len())
            .filter(|&i| {
                slots[i]
                    .span()
                    .is_some_and(|(_, span)| span.end - span.start <= BATCH_BYTES)
            })
            .collect();
        let place = |i: usize| slots[i].span().expect("filtered above");
        order.sort_by_key(|&i| {
            let (segment, span) = place(i);
            (segment, span.start)
        });
        let runs = runs(order.iter().map(|&i| place(i)));
        let mut batch = Batch {
            slots: slots.into(),
            popped: 0,
            order,
            waiting: runs.len(),
            runs,
        };
        let mut file = OpenSegment::default();
        for number in 0..batch.runs.len() {
            let Run { segment, span, .. } = batch.runs[number].clone();
            let bytes = file.of(view, segment);
            match bytes
                .filter(|_| may_read)
                .and_then(|bytes| bytes.try_read(span.clone()))
            {
                Some(read) => batch.fill(number, &read),
                None => {
                    if let Some(bytes) = bytes {
                        bytes.prefetch(span);
                    }
                    for at in batch.runs[number].slots.clone() {
                        batch.slots[batch.order[at]].source = Source::Run(number);
                    }
                }
            }
        }
        batch
    }

    /// Takes the records of a run out of what was read.
    fn fill(&mut self, number: usize, read: &Bytes) {
        let run = &self.runs[number];
        self.waiting -= 1;
        for at in run.slots.clone() {
            // No row of a run is popped before the run is read.
            let slot = &mut self.slots[self.order[at] - self.popped];
            let (_, span) = slot.span().expect("it is part of a run");
            let start = (span.start - run.span.start) as usize;
            slot.source = Source::Read(read.slice(start..start + (span.end - span.start) as usize));
        }
    }

    fn pop(&mut self, view: &View) -> Result<Option<ReadRow>, StoreError> {
        if let Some(Slot {
            source: Source::Run(number),
            ..
        }) = self.slots.front()
        {
            let number = *number;
            let Run { segment, span, .. } = self.runs[number].clone();
            match OpenSegment::default()
                .of(view, segment)
                .and_then(|bytes| bytes.read(span))
            {
                Some(read) => self.fill(number, &read),
                None => self.give_up(number),
            }
        }
        let Some(Slot { key, entry, source }) = self.slots.pop_front() else {
            return Ok(None);
        };
        self.popped += 1;
        let record = match source {
            Source::Read(record) if verify_record(&record, &key, entry.mod_revision).is_ok() => Some(record),
            // Also after a failure: it says where and why.
            _ => view.read_record(&entry, &key)?,
        };
        Ok(Some(ReadRow { key, entry, record }))
    }

    /// The run cannot be read: each of its records is read by itself, so that only those that must fail.
    fn give_up(&mut self, number: usize) {
        self.waiting -= 1;
        for at in self.runs[number].slots.clone() {
            self.slots[self.order[at] - self.popped].source = Source::Alone;
        }
    }
}

impl Slot {
    /// Where its record is; `None` if the value is inline.
    fn span(&self) -> Option<(SegmentId, Range<u64>)> {
        match &self.entry.place {
            Place::Inline(_) => None,
            Place::At(at) => {
                let end = at.offset.saturating_add(self.entry.record_len(&self.key));
                Some((at.segment, at.offset..end))
            }
        }
    }
}

/// Joins spans that come in the order of their places into runs that are worth one read each.
fn runs(spans: impl Iterator<Item = (SegmentId, Range<u64>)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, (segment, span)) in spans.enumerate() {
        let len = span.end - span.start;
        if let Some(run) = runs.last_mut() {
            let gap = span.start.checked_sub(run.span.end);
            let useful = run.useful + len;
            if run.segment == segment
                && gap.is_some_and(|gap| gap <= GAP_BYTES)
                && span.end - run.span.start <= useful + useful / 2
            {
                run.span.end = span.end;
                run.useful = useful;
                run.slots.end = i + 1;
                continue;
            }
        }
        runs.push(Run {
            segment,
            span,
            useful: len,
            slots: i..i + 1,
        });
    }
    runs
}

/// The segment that was read last.
#[derive(Default)]
struct OpenSegment(Option<(SegmentId, Option<SegmentBytes>)>);

impl OpenSegment {
    /// The bytes of a segment; `None` if it cannot be opened: reading a record of it says why.
    fn of(&mut self, view: &View, segment: SegmentId) -> Option<&SegmentBytes> {
        if self.0.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.0 = Some((segment, view.segment_reader(segment)));
        }
        self.0.as_ref().and_then(|(_, bytes)| bytes.as_ref())
    }
}
