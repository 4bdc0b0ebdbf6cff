//! Files of the model.

use bytes::Bytes;

use super::super::{Job, KeyRange};
use super::{OVERHEAD_BYTES, SEGMENT_BYTES};

#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) key: u64,
    pub(super) revision: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) level: u8,
    pub(super) bytes: u64,
    pub(super) live: u64,
    pub(super) records: Vec<Record>,
    pub(super) pinned: bool,
}

/// A job in progress.
pub(super) struct Running {
    pub(super) job: Job,
    /// What is left to copy, last key first.
    pub(super) rest: Vec<Record>,
    pub(super) outputs: Vec<Segment>,
    /// Bytes counted for the outputs, written or not.
    pub(super) reserved: u64,
    pub(super) cuts: Vec<Bytes>,
}

impl Running {
    pub(super) fn append(&mut self, record: Record) {
        let key = key_of(record.key);
        let mut ends = self
            .outputs
            .last()
            .is_none_or(|output| output.bytes >= SEGMENT_BYTES);
        while self.cuts.last().is_some_and(|cut| *cut <= key) {
            self.cuts.pop();
            ends = true;
        }
        if ends {
            let mut output = Segment::new(self.job.output_level);
            output.bytes = OVERHEAD_BYTES;
            self.outputs.push(output);
        }
        let output = self.outputs.last_mut().unwrap();
        output.bytes += record.bytes;
        output.records.push(record);
    }
}

impl Segment {
    pub(super) fn new(level: u8) -> Segment {
        Segment {
            level,
            bytes: 0,
            live: 0,
            records: Vec::new(),
            pinned: false,
        }
    }

    pub(super) fn ends(&self) -> (u64, u64) {
        (self.records[0].key, self.records[self.records.len() - 1].key)
    }

    pub(super) fn keys(&self) -> KeyRange {
        let (first, last) = self.ends();
        KeyRange {
            first: key_of(first),
            last: key_of(last),
        }
    }
}

pub(super) fn key_of(key: u64) -> Bytes {
    format!("{key:020}").into()
}
