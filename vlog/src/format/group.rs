//! The group header.

use bytes::BufMut;

use super::slots::Fields;
use super::{FRAME_HEADER_LEN, Fault, GROUP_HEADER_LEN, GROUP_MAGIC, check_crc, expect_equal, forbid};
use crate::ids::SegmentId;

/// First bytes of a group: what one sync covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The segment it is in.
    pub segment: SegmentId,
    /// Its own offset, in bytes from the segment start.
    pub offset: u64,
    /// Offset below which all bytes were durable before this group was written.
    pub durable_before: u64,
    /// Bytes of the group, header included.
    pub len: u64,
    /// Number of frames.
    pub frames: u32,
}

impl GroupHeader {
    /// Encodes the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(GROUP_HEADER_LEN as usize);
        out.put_slice(&GROUP_MAGIC);
        out.put_u32_le(self.frames);
        for field in [self.segment.get(), self.offset, self.durable_before, self.len] {
            out.put_u64_le(field);
        }
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        assert_eq!(out.len() as u64, GROUP_HEADER_LEN, "group header length");
        out
    }

    /// Decodes and verifies the header of the group at `offset` of `segment`.
    pub fn decode(bytes: &[u8], segment: SegmentId, offset: u64) -> Result<GroupHeader, Fault> {
        let short = Fault::Short {
            needed: GROUP_HEADER_LEN,
            got: bytes.len() as u64,
        };
        let covered = bytes.get(..GROUP_HEADER_LEN as usize - 4).ok_or(short)?;
        let mut fields = Fields::new(bytes);
        fields.magic(GROUP_MAGIC, "group")?;
        let frames = fields.u32()?;
        let [own_segment, own_offset, durable_before, len] =
            [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let reserved = fields.u32()?;
        check_crc("group header", fields.u32()?, crc32fast::hash(covered))?;
        expect_equal("segment id of the group", segment.get(), own_segment)?;
        expect_equal("offset of the group", offset, own_offset)?;
        forbid("reserved", reserved, reserved != 0)?;
        forbid("durable before", durable_before, durable_before > offset)?;
        forbid("number of frames", frames, frames == 0)?;
        let len_min = GROUP_HEADER_LEN.saturating_add(FRAME_HEADER_LEN.saturating_mul(frames.into()));
        forbid(
            "length of the group",
            len,
            len < len_min || offset.checked_add(len).is_none(),
        )?;
        Ok(GroupHeader {
            segment,
            offset,
            durable_before,
            len,
            frames,
        })
    }

    /// Offset of the first byte after the group.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}
