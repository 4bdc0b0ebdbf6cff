//! Reading frames from a segment file through a window.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{BodySource, Command, OpSpan, walk_ops};
use crate::entry::{Entry, Head, HeadPayload, OpHead, Payload, part};
use crate::error::{Error, Fault};
use crate::format::{FRAME_HEADER_LEN, FrameCheck, FrameHead, FrameKind, segment_path};
use crate::fs::File;
use crate::ids::SegmentId;

/// A read that jumps ahead further than this starts with the small window again.
const JUMP_MAX: u64 = 64 << 10;
/// Windows: after a jump, and while reading on.
const WINDOW_MIN: u64 = 4 << 10;
const WINDOW_MAX: u64 = 1 << 20;

/// Why bytes could not be had: the file failed, or they are bad.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    Bad(Fault),
}

impl From<Fault> for ScanError {
    fn from(fault: Fault) -> ScanError {
        ScanError::Bad(fault)
    }
}

impl ScanError {
    /// Names the place.
    pub(crate) fn at(self, dir: &std::path::Path, segment: SegmentId, offset: u64) -> Error {
        match self {
            ScanError::Io(e) => Error::io("read", &segment_path(dir, segment))(e),
            ScanError::Bad(fault) => Error::damage(segment, offset)(fault),
        }
    }
}

/// Reads frames of one segment. Small frames share large reads; values that nobody asks for are jumped over.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: Arc<dyn File>,
    segment: SegmentId,
    /// No byte from here on is read.
    end: u64,
    window: Bytes,
    window_at: u64,
    window_len: u64,
}

/// A frame without its values, verified.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) head: FrameHead,
    /// The ops of a command.
    pub(crate) ops: Vec<OpSpan>,
    /// The body of a membership.
    pub(crate) membership: Bytes,
}

impl Frame {
    pub(crate) fn body_at(&self) -> u64 {
        self.offset + FRAME_HEADER_LEN
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.head.frame_len()
    }
}

impl FrameReader {
    pub(crate) fn new(file: Arc<dyn File>, segment: SegmentId, end: u64) -> FrameReader {
        FrameReader {
            file,
            segment,
            end,
            window: Bytes::new(),
            window_at: 0,
            window_len: WINDOW_MIN,
        }
    }

    /// Bytes `at..at + len` of the file.
    pub(crate) fn bytes(&mut self, at: u64, len: u64) -> Result<Bytes, ScanError> {
        let end = at.checked_add(len).filter(|&end| end <= self.end);
        let end = end.ok_or(Fault::Short {
            needed: len,
            got: self.end.saturating_sub(at),
        })?;
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || end > window_end {
            let reads_on = at >= self.window_at && at <= window_end.saturating_add(JUMP_MAX);
            self.window_len = if reads_on {
                (self.window_len * 2).min(WINDOW_MAX)
            } else {
                WINDOW_MIN
            };
            let want = len.max(self.window_len).min(self.end - at);
            let mut buf = vec![0; want as usize];
            self.file
                .read_exact_at(&mut buf, at)
                .map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => ScanError::Bad(Fault::Short { needed: want, got: 0 }),
                    _ => ScanError::Io(e),
                })?;
            self.window = buf.into();
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(self.window.slice(start..start + len as usize))
    }

    /// The frame at `offset` without its values, its checksum verified.
    pub(crate) fn frame(&mut self, offset: u64) -> Result<Frame, ScanError> {
        let header = self.bytes(offset, FRAME_HEADER_LEN)?;
        let (head, mut check) = FrameHead::decode(&header, self.segment, offset)?;
        let mut frame = Frame {
            offset,
            head,
            ops: Vec::new(),
            membership: Bytes::new(),
        };
        let body_len = u64::from(frame.head.body_len);
        if frame.end() > self.end {
            return Err(Fault::Short {
                needed: frame.head.frame_len(),
                got: self.end - offset,
            }
            .into());
        }
        if frame.head.kind == FrameKind::Membership {
            frame.membership = self.bytes(frame.body_at(), body_len)?;
            check.update(&frame.membership);
        }
        if frame.head.kind == FrameKind::Command {
            frame.ops = self.ops(frame.body_at(), body_len, &mut check)?;
        }
        check.verify()?;
        Ok(frame)
    }

    fn ops(&mut self, body_at: u64, body_len: u64, check: &mut FrameCheck) -> Result<Vec<OpSpan>, ScanError> {
        struct Body<'a>(&'a mut FrameReader, u64);
        impl BodySource for Body<'_> {
            type Error = ScanError;
            fn bytes(&mut self, at: u64, len: u64) -> Result<Bytes, ScanError> {
                self.0.bytes(self.1 + at, len)
            }
        }
        walk_ops(&mut Body(self, body_at), body_len, &mut |bytes| {
            check.update(bytes)
        })
    }

    /// Verifies the checksum of every value record of `frame`; reads the values.
    ///
    /// The error names the offset of the record.
    pub(crate) fn verify_records(&mut self, frame: &Frame) -> Result<(), (u64, ScanError)> {
        for op in &frame.ops {
            let at = frame.body_at() + op.record_at;
            let record = self.bytes(at, op.head.record_len()).map_err(|e| (at, e))?;
            op.head.check(&record).map_err(|fault| (at, fault.into()))?;
        }
        Ok(())
    }

    /// The whole entry of the frame at `offset`, every checksum verified.
    pub(crate) fn entry(&mut self, offset: u64) -> Result<Entry, (u64, ScanError)> {
        let here = |e| (offset, e);
        let frame = self.frame(offset).map_err(here)?;
        let payload = match frame.head.kind {
            FrameKind::Blank => Payload::Blank,
            FrameKind::Membership => Payload::Membership(frame.membership),
            FrameKind::Command => {
                let body = self
                    .bytes(frame.body_at(), frame.head.body_len.into())
                    .map_err(here)?;
                for op in &frame.ops {
                    let bad = |fault: Fault| (frame.body_at() + op.record_at, fault.into());
                    op.check_record(&body).map_err(bad)?;
                }
                Payload::Command(Command::from_verified(body))
            }
            other => return Err(here(not_an_entry(other))),
        };
        Ok(Entry {
            log_id: frame.head.log_id,
            payload,
        })
    }

    /// The head of the entry of the frame at `offset`; reads no value longer than `inline_max`.
    pub(crate) fn head(&mut self, offset: u64, inline_max: u32) -> Result<Head, (u64, ScanError)> {
        let here = |e| (offset, e);
        let frame = self.frame(offset).map_err(here)?;
        let payload = match frame.head.kind {
            FrameKind::Blank => HeadPayload::Blank,
            FrameKind::Membership => HeadPayload::Membership(Bytes::copy_from_slice(&frame.membership)),
            FrameKind::Command => {
                let body_at = frame.body_at();
                let mut ops = Vec::with_capacity(frame.ops.len());
                for span in frame.ops {
                    let at = body_at + span.record_at;
                    let mut inline = None;
                    if span.value_len <= inline_max && !span.head.is_delete {
                        let record = self.bytes(at, span.head.record_len()).map_err(|e| (at, e))?;
                        span.head.check(&record).map_err(|fault| (at, fault.into()))?;
                        let value = record.len() - span.value_len as usize..record.len();
                        inline = Some(part(&record, value));
                    }
                    ops.push(OpHead::new(span, self.segment, offset, inline));
                }
                HeadPayload::Command(ops)
            }
            other => return Err(here(not_an_entry(other))),
        };
        Ok(Head {
            log_id: frame.head.log_id,
            payload,
        })
    }
}

fn not_an_entry(kind: FrameKind) -> ScanError {
    ScanError::Bad(Fault::Field {
        field: "kind of an entry's frame",
        value: kind as u64,
    })
}
