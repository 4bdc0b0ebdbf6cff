//! The footer of a sealed segment.

use bytes::BufMut;

use super::slots::{Fields, put_log_id, put_state};
use super::{
    END_MAGIC, FOOTER_HEADER_LEN, FOOTER_MAGIC, Fault, RUN_LEN, SUMMARY_LEN, check_crc, expect_equal, forbid,
};
use crate::ids::{LogId, SegmentId};
use crate::state::State;

/// Entries of one leader that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first of them.
    pub first: u64,
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub node: u64,
}

/// What a sealed segment holds, in full; written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Offset of each entry's frame, from `summary.first` on.
    pub offsets: Vec<u32>,
    /// Runs of entries of one leader.
    pub runs: Vec<Run>,
    /// The rest.
    pub summary: Summary,
}

/// The part of a footer that opening reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The segment's id.
    pub segment: SegmentId,
    /// Offset of the footer, in bytes from the segment start: the end of the groups.
    pub offset: u64,
    /// Index of the first entry in the offset table.
    pub first: u64,
    /// Number of entries in the offset table.
    pub count: u32,
    /// Number of runs.
    pub run_count: u32,
    /// Entries of earlier segments from this index on are gone.
    pub keep_below: Option<u64>,
    /// Entry with the highest index ever written here, truncated ones included.
    pub max_entry: Option<LogId>,
    /// State after this segment.
    pub state: State,
    table_crc: u32,
    runs_crc: u32,
}

impl Footer {
    /// Collects a footer; `summary.count`, `run_count` and the checksums are set from the tables.
    #[expect(clippy::too_many_arguments, reason = "one argument per field of the layout")]
    pub fn new(
        segment: SegmentId,
        offset: u64,
        first: u64,
        offsets: Vec<u32>,
        runs: Vec<Run>,
        keep_below: Option<u64>,
        max_entry: Option<LogId>,
        state: State,
    ) -> Footer {
        let table_crc = crc32fast::hash(&encode_table(segment, offset, &offsets));
        let runs_crc = crc32fast::hash(&encode_runs(&runs));
        let (count, run_count) = (offsets.len() as u32, runs.len() as u32);
        let summary = Summary {
            segment,
            offset,
            first,
            count,
            run_count,
            keep_below,
            max_entry,
            state,
            table_crc,
            runs_crc,
        };
        Footer {
            offsets,
            runs,
            summary,
        }
    }

    /// Encodes the footer.
    pub fn encode(&self) -> Vec<u8> {
        let s = &self.summary;
        let mut out = encode_table(s.segment, s.offset, &self.offsets);
        out.extend(encode_runs(&self.runs));
        out.extend(s.encode());
        assert_eq!(out.len() as u64, s.footer_len(), "footer length");
        out
    }
}

impl Summary {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUMMARY_LEN as usize);
        out.put_u64_le(self.segment.get());
        out.put_u64_le(self.offset);
        out.put_u64_le(self.first);
        out.put_u32_le(self.count);
        out.put_u32_le(self.run_count);
        out.put_u64_le(self.keep_below.unwrap_or(u64::MAX));
        put_log_id(&mut out, self.max_entry);
        put_state(&mut out, &self.state);
        out.put_u32_le(self.table_crc);
        out.put_u32_le(self.runs_crc);
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        out.put_slice(&END_MAGIC);
        assert_eq!(out.len() as u64, SUMMARY_LEN, "summary length");
        out
    }

    /// Decodes and verifies the last `SUMMARY_LEN` bytes of a sealed segment of `file_len` bytes.
    pub fn decode(bytes: &[u8], segment: SegmentId, file_len: u64) -> Result<Summary, Fault> {
        let short = Fault::Short {
            needed: SUMMARY_LEN,
            got: bytes.len() as u64,
        };
        let covered = bytes.get(..204).ok_or(short)?;
        let tail = bytes.get(204..SUMMARY_LEN as usize).ok_or(short)?;
        let mut tail = Fields::new(tail);
        let stored = tail.u32()?;
        tail.magic(END_MAGIC, "sealed segment's end")?;
        check_crc("footer summary", stored, crc32fast::hash(covered))?;
        let mut fields = Fields::new(covered);
        expect_equal("segment id of the footer", segment.get(), fields.u64()?)?;
        let summary = Summary {
            segment,
            offset: fields.u64()?,
            first: fields.u64()?,
            count: fields.u32()?,
            run_count: fields.u32()?,
            keep_below: Some(fields.u64()?).filter(|&index| index != u64::MAX),
            max_entry: fields.log_id()?,
            state: fields.state()?,
            table_crc: fields.u32()?,
            runs_crc: fields.u32()?,
        };
        let reserved = fields.u32()?;
        forbid("reserved", reserved, reserved != 0)?;
        let (first, count, run_count) = (summary.first, summary.count, summary.run_count);
        forbid(
            "number of runs",
            run_count,
            run_count > count || (run_count == 0) != (count == 0),
        )?;
        forbid("first index", first, first.checked_add(count.into()).is_none())?;
        let end = summary.offset.saturating_add(summary.footer_len());
        expect_equal("length of the sealed segment", end, file_len)?;
        Ok(summary)
    }

    /// Bytes of the whole footer.
    pub fn footer_len(&self) -> u64 {
        self.table_len() + self.runs_len() + SUMMARY_LEN
    }

    /// Bytes of the footer before the runs.
    pub fn table_len(&self) -> u64 {
        FOOTER_HEADER_LEN + 4 * u64::from(self.count)
    }

    /// Bytes of the runs.
    pub fn runs_len(&self) -> u64 {
        RUN_LEN * u64::from(self.run_count)
    }

    /// Decodes and verifies the offset table (`table_len` bytes at `offset`).
    pub fn decode_table(&self, bytes: &[u8]) -> Result<Vec<u32>, Fault> {
        let short = Fault::Short {
            needed: self.table_len(),
            got: bytes.len() as u64,
        };
        let covered = bytes.get(..self.table_len() as usize).ok_or(short)?;
        check_crc("offset table", self.table_crc, crc32fast::hash(covered))?;
        let mut fields = Fields::new(covered);
        fields.magic(FOOTER_MAGIC, "footer")?;
        expect_equal("segment id of the footer", self.segment.get(), fields.u64()?)?;
        expect_equal("offset of the footer", self.offset, fields.u64()?)?;
        (0..self.count).map(|_| fields.u32()).collect()
    }

    /// Decodes and verifies the runs (`runs_len` bytes after the table).
    pub fn decode_runs(&self, bytes: &[u8]) -> Result<Vec<Run>, Fault> {
        let short = Fault::Short {
            needed: self.runs_len(),
            got: bytes.len() as u64,
        };
        let covered = bytes.get(..self.runs_len() as usize).ok_or(short)?;
        check_crc("leader runs", self.runs_crc, crc32fast::hash(covered))?;
        let mut fields = Fields::new(covered);
        let mut runs = Vec::new();
        for _ in 0..self.run_count {
            runs.push(Run {
                first: fields.u64()?,
                term: fields.u64()?,
                node: fields.u64()?,
            });
        }
        Ok(runs)
    }
}

fn encode_table(segment: SegmentId, offset: u64, offsets: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FOOTER_HEADER_LEN as usize + 4 * offsets.len());
    out.put_slice(&FOOTER_MAGIC);
    out.put_u64_le(segment.get());
    out.put_u64_le(offset);
    offsets.iter().for_each(|&at| out.put_u32_le(at));
    out
}

fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in runs {
        [run.first, run.term, run.node]
            .into_iter()
            .for_each(|field| out.put_u64_le(field));
    }
    out
}
