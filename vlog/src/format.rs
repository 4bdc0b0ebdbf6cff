//! Every byte layout of the log. Little-endian, fixed width; reserved bytes are zero and are refused otherwise.
//! Golden hex of each layout: `vlog/testdata/`.
//!
//! A segment file `<id as 16 hex digits>.log` is a header, then groups, then (once sealed) a footer that ends the file.
//!
//! **Segment header**, 160 bytes. The first 16 bytes keep their meaning in every version.
//! ```text
//!   0   8  magic "NEZHALOG"
//!   8   4  format version, 1
//!  12   4  crc32 of bytes 0..12
//!  16   8  segment id
//!  24   8  id of the segment before it, 0 if it is the first
//!  32 120  state: what all segments before it add up to
//! 152   4  reserved
//! 156   4  crc32 of bytes 0..156
//! ```
//! **State**, 120 bytes: the vote, then three log id slots.
//! ```text
//!   0   8  vote: 0 none, 1 not committed, 3 committed     8  8  term    16  8  node
//!  24   8  purged: 0 none, 1 some     32  8  term    40  8  node    48  8  index
//!  56  32  committed hint, likewise
//!  88  32  last entry or else purge point, likewise
//! ```
//! No log index is above 2^64 - 2.
//!
//! **Group header**, 48 bytes. A group is what one sync covers.
//! ```text
//!   0   4  magic "NZGR"
//!   4   4  number of frames, at least 1
//!   8   8  segment id
//!  16   8  offset of this group in the segment
//!  24   8  durable before: bytes below this offset were synced before this group was written
//!  32   8  length of the group, this header included
//!  40   4  reserved
//!  44   4  crc32 of bytes 0..44
//! ```
//! **Frame**, 40 bytes and a body. The checksum does not cover values: each value record has its own, which it covers.
//! ```text
//!   0   4  crc32 of: bytes 4..40, segment id (8), frame offset (8), and of the body: everything (blank, membership),
//!          or everything but the values (command)
//!   4   4  body length
//!   8   1  kind: 1 blank, 2 membership, 3 command, 4 vote, 5 committed hint, 6 truncate after, 7 purged
//!   9   1  flag: vote: 1 committed; committed hint and truncate after: 1 none (log id zero); otherwise 0
//!  10   2  reserved
//!  12   4  raft group, 0
//!  16   8  term
//!  24   8  node
//!  32   8  index; a vote has 0; truncate after names the last entry kept
//!  40      body: membership bytes, command, or nothing
//! ```
//! **Command**: the op count (2 bytes, at least 1), then for each op an op head and a value record.
//! ```text
//!   0   1  kind: 1 put, 2 delete
//!   1   1  precondition: 0 none, 1 absent, 2 mod revision equals
//!   2   8  revision of the precondition, else 0
//!  10      value record
//! ```
//! **Value record**, 24 bytes, key, value. The same bytes in the log, on the wire, in sorted segments and snapshots.
//! ```text
//!   0   4  crc32 of all the rest
//!   4   1  flags: bit 0 delete (value empty); the others are reserved (compression, kind)
//!   5   3  reserved
//!   8   8  revision
//!  16   4  key length
//!  20   4  value length
//!  24      key, then value
//! ```
//! **Footer** of a sealed segment: the table, the leader runs, and a summary that is found from the file's end.
//! ```text
//!   0   8  magic "NEZHAFTR"
//!   8   8  segment id
//!  16   8  offset of this footer
//!  24 4*n  offset of each entry's frame, from the first index on
//!     24*r each run of entries of one leader: first index, term, node
//!     216  summary:
//!          0   8  segment id              8   8  offset of the footer
//!         16   8  first index in table   24   4  n         28   4  r
//!         32   8  keep below: entries of earlier segments from this index on are gone; all ones: none are
//!         40  32  highest index ever written here, as log id slot
//!         72 120  state after this segment
//!        192   4  crc32 of the footer before the runs     196   4  crc32 of the runs
//!        200   4  reserved               204   4  crc32 of summary bytes 0..204
//!        208   8  magic "NEZHAEND"
//! ```

mod footer;
mod frame;
mod group;
mod header;
mod slots;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub use footer::{Footer, Run, Summary};
pub use frame::{FrameCheck, FrameHead, FrameKind};
pub use group::GroupHeader;
pub use header::SegmentHeader;

use crate::error::Fault;
use crate::ids::SegmentId;

/// The format version this build reads and writes.
pub const VERSION: u32 = 1;
/// Magic number of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"NEZHALOG";
/// Magic number of a group.
pub const GROUP_MAGIC: [u8; 4] = *b"NZGR";
/// Magic number of a footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"NEZHAFTR";
/// Last bytes of a sealed segment.
pub const END_MAGIC: [u8; 8] = *b"NEZHAEND";
/// Bytes of a segment header.
pub const SEGMENT_HEADER_LEN: u64 = 160;
/// Bytes of a state.
pub const STATE_LEN: usize = 120;
/// Bytes of a group header.
pub const GROUP_HEADER_LEN: u64 = 48;
/// Bytes of a frame before its body.
pub const FRAME_HEADER_LEN: u64 = 40;
/// Bytes of a command before its first op.
pub const COMMAND_HEADER_LEN: u64 = 2;
/// Bytes of an op before its value record.
pub const OP_HEADER_LEN: u64 = 10;
/// Bytes of a value record before its key.
pub const RECORD_HEADER_LEN: u64 = 24;
/// Bytes of a footer before its offset table.
pub const FOOTER_HEADER_LEN: u64 = 24;
/// Bytes of one run in a footer.
pub const RUN_LEN: u64 = 24;
/// Bytes of a footer's summary.
pub const SUMMARY_LEN: u64 = 216;
/// Largest body of a frame: a value of 64 MiB and what belongs to it.
pub const BODY_LEN_MAX: u64 = (64 << 20) + (64 << 10);
/// Largest append in one call; keeps every offset of a segment within the four bytes of a footer's table.
pub const APPEND_LEN_MAX: u64 = 1 << 30;

/// Largest log index: the one after it must be a number too.
pub const INDEX_MAX: u64 = u64::MAX - 1;

/// Path of a log segment.
pub fn segment_path(dir: &Path, segment: SegmentId) -> PathBuf {
    dir.join(format!("{:016x}.log", segment.get()))
}

/// Reads a segment id from a file name; `None` if it is no segment's.
pub fn parse_segment_name(name: &OsStr) -> Option<SegmentId> {
    let digits = name.to_str()?.strip_suffix(".log")?;
    let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let raw = u64::from_str_radix(digits, 16).ok().filter(|_| canonical)?;
    Some(SegmentId::new(raw)).filter(|id| id.is_log() && raw != 0)
}

/// Compares a stored checksum with the one computed.
fn check_crc(what: &'static str, stored: u32, computed: u32) -> Result<(), Fault> {
    if stored == computed {
        Ok(())
    } else {
        Err(Fault::Checksum {
            what,
            stored,
            computed,
        })
    }
}

/// Refuses a field whose value the format forbids.
fn forbid(field: &'static str, value: impl Into<u64>, forbidden: bool) -> Result<(), Fault> {
    if forbidden {
        Err(Fault::Field {
            field,
            value: value.into(),
        })
    } else {
        Ok(())
    }
}

/// Refuses a field that must equal what is known from elsewhere.
fn expect_equal(field: &'static str, expected: u64, got: u64) -> Result<(), Fault> {
    if expected == got {
        Ok(())
    } else {
        Err(Fault::Mismatch { field, expected, got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_no_segments() {
        let path = segment_path(Path::new("d"), SegmentId::new(0xab));
        assert_eq!(path, Path::new("d/00000000000000ab.log"));
        assert_eq!(
            parse_segment_name(path.file_name().unwrap()),
            Some(SegmentId::new(0xab))
        );
        for name in [
            "",
            ".log",
            "1.log",
            "00000000000000AB.log",
            "00000000000000ab.val",
            "0000000000000000.log",
            "+0000000000000ab.log",
            "80000000000000ab.log",
        ] {
            assert_eq!(parse_segment_name(OsStr::new(name)), None, "{name}");
        }
    }
}
