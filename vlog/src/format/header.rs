//! The segment header.

use bytes::BufMut;

use super::slots::{Fields, put_state};
use super::{Fault, SEGMENT_HEADER_LEN, SEGMENT_MAGIC, VERSION, check_crc, expect_equal, forbid};
use crate::ids::SegmentId;
use crate::state::State;

/// First bytes of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment's own id.
    pub segment: SegmentId,
    /// The segment before it.
    pub previous: Option<SegmentId>,
    /// What all segments before it add up to.
    pub state: State,
}

impl SegmentHeader {
    /// Encodes the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN as usize);
        out.put_slice(&SEGMENT_MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(crc32fast::hash(&out));
        out.put_u64_le(self.segment.get());
        out.put_u64_le(self.previous.map_or(0, SegmentId::get));
        put_state(&mut out, &self.state);
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        assert_eq!(out.len() as u64, SEGMENT_HEADER_LEN, "segment header length");
        out
    }

    /// Reads the format version, whatever it is, from the part of the header that never changes.
    pub fn decode_version(bytes: &[u8]) -> Result<u32, Fault> {
        let mut fields = Fields::new(bytes);
        fields.magic(SEGMENT_MAGIC, "segment")?;
        let version = fields.u32()?;
        check_crc(
            "format version",
            fields.u32()?,
            crc32fast::hash(bytes.get(..12).unwrap_or_default()),
        )?;
        Ok(version)
    }

    /// Decodes and verifies the header of `segment`; the version must have been checked before.
    pub fn decode(bytes: &[u8], segment: SegmentId) -> Result<SegmentHeader, Fault> {
        let needed = SEGMENT_HEADER_LEN;
        let short = Fault::Short {
            needed,
            got: bytes.len() as u64,
        };
        let covered = bytes.get(..needed as usize - 4).ok_or(short)?;
        expect_equal(
            "format version",
            VERSION.into(),
            SegmentHeader::decode_version(bytes)?.into(),
        )?;
        let mut fields = Fields::new(bytes.get(16..).unwrap_or_default());
        let own = fields.u64()?;
        let previous = fields.u64()?;
        let state = fields.state();
        let reserved = fields.u32()?;
        check_crc("segment header", fields.u32()?, crc32fast::hash(covered))?;
        forbid("reserved", reserved, reserved != 0)?;
        expect_equal("segment id", segment.get(), own)?;
        forbid("previous segment", previous, previous >= own)?;
        let previous = Some(SegmentId::new(previous)).filter(|_| previous != 0);
        Ok(SegmentHeader {
            segment,
            previous,
            state: state?,
        })
    }
}
