//! Lays out one group: headers and small bodies in one buffer, large bodies where they already are.

use std::io::IoSlice;
use std::ops::Range;

use bytes::{BufMut, Bytes};

use crate::entry::{Entry, Payload};
use crate::format::{FrameHead, FrameKind, GROUP_HEADER_LEN, GroupHeader};
use crate::ids::SegmentId;

/// Bodies up to this size are copied: cheaper than one more buffer in the system call.
const COPY_MAX: usize = 4 << 10;

/// A group under construction.
#[derive(Debug)]
pub(crate) struct Group {
    segment: SegmentId,
    offset: u64,
    /// Where the next frame goes, in bytes from the segment start.
    pub(crate) end: u64,
    frames: u32,
    scratch: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Scratch(Range<usize>),
    Shared(Bytes),
}

impl Group {
    /// Starts the group at `offset`, up to which the segment is durable.
    pub(crate) fn new(segment: SegmentId, offset: u64) -> Group {
        let header_len = GROUP_HEADER_LEN as usize;
        let parts = vec![Part::Scratch(0..header_len)];
        Group {
            segment,
            offset,
            end: offset + GROUP_HEADER_LEN,
            frames: 0,
            scratch: vec![0; header_len],
            parts,
        }
    }

    /// Adds an entry; returns its head and the frame's offset.
    pub(crate) fn push_entry(&mut self, entry: &Entry) -> (FrameHead, u64) {
        let body = entry.body();
        let body_len = u32::try_from(body.len()).expect("append bounds an entry's body");
        let head = FrameHead {
            kind: entry.kind(),
            flag: false,
            log_id: entry.log_id,
            body_len,
        };
        let at = self.push_header(&head, |hasher| match &entry.payload {
            Payload::Blank => {}
            Payload::Membership(bytes) => hasher.update(bytes),
            Payload::Command(command) => command.hash_heads(hasher),
        });
        self.push_body(body);
        (head, at)
    }

    /// Adds a frame without body; returns its offset.
    pub(crate) fn push_control(&mut self, head: &FrameHead) -> u64 {
        assert!(
            !head.kind.is_entry() || head.kind == FrameKind::Blank,
            "{:?} has a body",
            head.kind
        );
        self.push_header(head, |_| ())
    }

    fn push_header(&mut self, head: &FrameHead, covered: impl FnOnce(&mut crc32fast::Hasher)) -> u64 {
        let at = self.end;
        self.push_scratch(&head.encode(self.segment, at, covered));
        self.frames += 1;
        at
    }

    fn push_body(&mut self, body: Bytes) {
        if body.len() <= COPY_MAX {
            self.push_scratch(&body);
        } else {
            self.end += body.len() as u64;
            self.parts.push(Part::Shared(body));
        }
    }

    fn push_scratch(&mut self, bytes: &[u8]) {
        let start = self.scratch.len();
        self.scratch.put_slice(bytes);
        self.end += bytes.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Scratch(range)) => range.end = self.scratch.len(),
            _ => self.parts.push(Part::Scratch(start..self.scratch.len())),
        }
    }

    /// Whether no frame was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Fills in the group header; the bytes to write at the group's offset.
    pub(crate) fn finish(&mut self) -> Vec<IoSlice<'_>> {
        let header = GroupHeader {
            segment: self.segment,
            offset: self.offset,
            durable_before: self.offset,
            len: self.end - self.offset,
            frames: self.frames,
        };
        let place = self
            .scratch
            .get_mut(..GROUP_HEADER_LEN as usize)
            .unwrap_or_default();
        place.copy_from_slice(&header.encode());
        let slices: Vec<IoSlice<'_>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Scratch(range) => IoSlice::new(self.scratch.get(range.clone()).unwrap_or_default()),
                Part::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect();
        let total: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        assert_eq!(total, header.len, "group length");
        slices
    }
}
