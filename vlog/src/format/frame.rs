//! The frame header.

use bytes::BufMut;
use crc32fast::Hasher;

use super::slots::Fields;
use super::{BODY_LEN_MAX, FRAME_HEADER_LEN, Fault, INDEX_MAX, check_crc, forbid};
use crate::ids::{LogId, SegmentId};

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// An entry without content.
    Blank = 1,
    /// An entry that holds a membership.
    Membership = 2,
    /// An entry that holds a command.
    Command = 3,
    /// A vote.
    Vote = 4,
    /// The committed hint.
    Committed = 5,
    /// Entries after an index are gone.
    TruncateAfter = 6,
    /// Entries up to a log id are no longer part of the Raft log.
    Purged = 7,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Result<FrameKind, Fault> {
        Ok(match byte {
            1 => FrameKind::Blank,
            2 => FrameKind::Membership,
            3 => FrameKind::Command,
            4 => FrameKind::Vote,
            5 => FrameKind::Committed,
            6 => FrameKind::TruncateAfter,
            7 => FrameKind::Purged,
            other => {
                return Err(Fault::Field {
                    field: "frame kind",
                    value: other.into(),
                });
            }
        })
    }

    /// Whether the frame is a log entry.
    pub fn is_entry(self) -> bool {
        matches!(
            self,
            FrameKind::Blank | FrameKind::Membership | FrameKind::Command
        )
    }
}

/// First bytes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the frame says.
    pub kind: FrameKind,
    /// The kind's flag: vote committed; no committed hint; nothing kept.
    pub flag: bool,
    /// Term, node and index, as far as the kind has them.
    pub log_id: LogId,
    /// Bytes of the body.
    pub body_len: u32,
}

impl FrameHead {
    /// Encodes the header, with a checksum that also covers where the frame is and `covered` of its body.
    pub fn encode(&self, segment: SegmentId, offset: u64, covered: impl FnOnce(&mut Hasher)) -> [u8; 40] {
        let mut out = [0; FRAME_HEADER_LEN as usize];
        let mut rest = &mut out[..];
        rest.put_u32_le(0);
        rest.put_u32_le(self.body_len);
        rest.put_u8(self.kind as u8);
        rest.put_u8(self.flag.into());
        rest.put_u16_le(0);
        rest.put_u32_le(0);
        rest.put_u64_le(self.log_id.term);
        rest.put_u64_le(self.log_id.node);
        rest.put_u64_le(self.log_id.index);
        let mut hasher = FrameHead::hasher(&out, segment, offset);
        covered(&mut hasher);
        out[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        out
    }

    /// Starts the checksum of the frame at `offset` of `segment`; the covered part of the body follows.
    fn hasher(header: &[u8], segment: SegmentId, offset: u64) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.update(header.get(4..FRAME_HEADER_LEN as usize).unwrap_or_default());
        hasher.update(&segment.get().to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher
    }

    /// Decodes a header. Not verified yet: the caller adds the covered part of the body and calls `verify`.
    pub fn decode(bytes: &[u8], segment: SegmentId, offset: u64) -> Result<(FrameHead, FrameCheck), Fault> {
        let short = Fault::Short {
            needed: FRAME_HEADER_LEN,
            got: bytes.len() as u64,
        };
        let bytes = bytes.get(..FRAME_HEADER_LEN as usize).ok_or(short)?;
        let mut fields = Fields::new(bytes);
        let stored = fields.u32()?;
        let body_len = fields.u32()?;
        let kind = FrameKind::from_byte(fields.u8()?)?;
        let flag = fields.u8()?;
        let reserved = fields.u16()?;
        let raft_group = fields.u32()?;
        let log_id = LogId {
            term: fields.u64()?,
            node: fields.u64()?,
            index: fields.u64()?,
        };
        forbid("log index", log_id.index, log_id.index > INDEX_MAX)?;
        forbid("flag", flag, flag > 1)?;
        forbid("reserved", reserved, reserved != 0)?;
        forbid("raft group", raft_group, raft_group != 0)?;
        forbid("body length", body_len, u64::from(body_len) > BODY_LEN_MAX)?;
        let has_body = matches!(kind, FrameKind::Membership | FrameKind::Command);
        forbid("body length", body_len, !has_body && body_len != 0)?;
        let head = FrameHead {
            kind,
            flag: flag == 1,
            log_id,
            body_len,
        };
        Ok((
            head,
            FrameCheck {
                stored,
                hasher: FrameHead::hasher(bytes, segment, offset),
            },
        ))
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER_LEN + u64::from(self.body_len)
    }
}

/// Checksum of a frame under way.
#[derive(Debug)]
pub struct FrameCheck {
    stored: u32,
    hasher: Hasher,
}

impl FrameCheck {
    /// Adds covered bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Compares with the stored checksum.
    pub fn verify(self) -> Result<(), Fault> {
        check_crc("frame", self.stored, self.hasher.finalize())
    }
}
