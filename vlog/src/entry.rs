//! Log entries, whole and as heads.

use std::ops::Range;

use bytes::Bytes;

use crate::command::{Command, OpKind, OpSpan, Precondition};
use crate::format::{FRAME_HEADER_LEN, FrameKind};
use crate::ids::{LogId, SegmentId, ValueRef};

/// A log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub log_id: LogId,
    /// Its content.
    pub payload: Payload,
}

/// Content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    Blank,
    /// A membership, encoded by the caller.
    Membership(Bytes),
    /// A client's write.
    Command(Command),
}

impl Entry {
    pub(crate) fn kind(&self) -> FrameKind {
        match self.payload {
            Payload::Blank => FrameKind::Blank,
            Payload::Membership(_) => FrameKind::Membership,
            Payload::Command(_) => FrameKind::Command,
        }
    }

    /// The bytes after the frame header.
    pub(crate) fn body(&self) -> Bytes {
        match &self.payload {
            Payload::Blank => Bytes::new(),
            Payload::Membership(bytes) => bytes.clone(),
            Payload::Command(command) => command.as_bytes().clone(),
        }
    }

    /// Bytes of the entry's frame in the log.
    pub fn encoded_len(&self) -> u64 {
        FRAME_HEADER_LEN
            + match &self.payload {
                Payload::Blank => 0,
                Payload::Membership(bytes) => bytes.len() as u64,
                Payload::Command(command) => command.as_bytes().len() as u64,
            }
    }

    /// The head of this entry, whose frame is at `offset` of `segment`.
    pub(crate) fn head(&self, segment: SegmentId, offset: u64, inline_max: u32) -> Head {
        let payload = match &self.payload {
            Payload::Blank => HeadPayload::Blank,
            Payload::Membership(bytes) => HeadPayload::Membership(bytes.clone()),
            Payload::Command(command) => HeadPayload::Command(
                command
                    .spans()
                    .into_iter()
                    .map(|span| {
                        let end = span.record_end() as usize;
                        let value = end - span.value_len as usize..end;
                        let inline = (span.value_len <= inline_max && span.kind == OpKind::Put)
                            .then(|| part(command.as_bytes(), value));
                        OpHead::new(span, segment, offset, inline)
                    })
                    .collect(),
            ),
        };
        Head {
            log_id: self.log_id,
            payload,
        }
    }
}

/// From this length on a copy of a value costs more than the memory that a slice keeps for the moment.
const SLICED_BYTES_MIN: usize = 4 << 10;

/// Takes a part out of more. Copied if it is small: a small value must not keep a whole batch in memory.
pub(crate) fn part(of: &Bytes, range: Range<usize>) -> Bytes {
    if range.len() >= SLICED_BYTES_MIN && range.end <= of.len() {
        return of.slice(range);
    }
    Bytes::copy_from_slice(of.get(range).unwrap_or_default())
}

/// What applying an entry needs: no values above the asked size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The entry's id.
    pub log_id: LogId,
    /// The entry's content.
    pub payload: HeadPayload,
}

impl Head {
    /// Bytes of the values that came along.
    pub fn inline_bytes(&self) -> u64 {
        match &self.payload {
            HeadPayload::Blank | HeadPayload::Membership(_) => 0,
            HeadPayload::Command(ops) => ops.iter().map(OpHead::inline_bytes).sum(),
        }
    }
}

/// Content of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadPayload {
    /// Nothing.
    Blank,
    /// A membership, encoded by the caller.
    Membership(Bytes),
    /// A client's write, op by op.
    Command(Vec<OpHead>),
}

/// One op without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpHead {
    /// What it does.
    pub kind: OpKind,
    /// What must hold for it.
    pub precondition: Precondition,
    /// The key.
    pub key: Bytes,
    /// Where its value record is.
    pub place: ValueRef,
    /// The value of a put, when it is no longer than the caller asked for.
    pub inline: Option<Bytes>,
}

impl OpHead {
    pub(crate) fn new(span: OpSpan, segment: SegmentId, frame: u64, inline: Option<Bytes>) -> OpHead {
        let offset = frame + FRAME_HEADER_LEN + span.record_at;
        let place = ValueRef {
            segment,
            offset,
            value_len: span.value_len,
        };
        // A copy: a key must not keep a whole command or window in memory.
        let key = Bytes::copy_from_slice(&span.key);
        OpHead {
            kind: span.kind,
            precondition: span.precondition,
            key,
            place,
            inline,
        }
    }

    /// Bytes of the value, if it came along.
    pub fn inline_bytes(&self) -> u64 {
        self.inline.as_ref().map_or(0, |value| value.len() as u64)
    }
}
