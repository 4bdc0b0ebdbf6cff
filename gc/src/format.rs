//! Bytes of a sorted value segment, `L<level>-<number as 16 hex digits>.val`. Little-endian, fixed width; reserved
//! bytes are zero and are refused otherwise. Golden hex: `gc/testdata/`.
//!
//! ```text
//! header, 32 bytes at offset 0; the first 16 keep their meaning in every version
//!  0  magic "NEZHAVAL"
//!  8  format version u32, 1
//! 12  CRC-32 of bytes 0..12
//! 16  segment id u64, high bit set
//! 24  level u8, then 3 reserved bytes
//! 28  CRC-32 of bytes 0..28
//!
//! records, back to back, keys strictly ascending, layout as in the log (nezha_vlog::format)
//!
//! table, at trailer.table_offset
//!  0  first key: length u32, bytes
//!     last key: length u32, bytes
//!     per block of at least 256 KiB of records: offset of its first record u64, that record's key: length u32, bytes
//!
//! trailer, the last 64 bytes
//!  0  magic "NEZHAVND"
//!  8  segment id u64
//! 16  records u64
//! 24  table_offset u64: one byte after the last record
//! 32  table_bytes u64
//! 40  blocks u32
//! 44  CRC-32 over the CRC-32s of all records in order, four bytes each
//! 48  CRC-32 of the table
//! 52  level u8, then 3 reserved bytes
//! 56  reserved u32
//! 60  CRC-32 of bytes 0..60
//! ```

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use nezha_vlog::{Fault, SegmentId};

/// Format version this build reads and writes.
pub const VERSION: u32 = 1;
/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 32;
/// Length of the trailer in bytes.
pub const TRAILER_BYTES: usize = 64;
/// A block of the table ends with the record that reaches this many bytes.
pub const BLOCK_BYTES: u64 = 256 << 10;
/// Suffix of a segment that is not complete; removed when the directory is opened.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

const MAGIC: &[u8; 8] = b"NEZHAVAL";
const END_MAGIC: &[u8; 8] = b"NEZHAVND";
const SUFFIX: &str = ".val";
/// The kind bit of a sorted value segment's id.
const SORTED: u64 = 1 << 63;

/// Returns the file name of a segment.
pub fn file_name(level: u8, id: SegmentId) -> PathBuf {
    PathBuf::from(format!("L{level}-{:016x}{SUFFIX}", id.get() & !SORTED))
}

/// Reads level and id from a file name; `None` if it is not one of [`file_name`].
pub fn parse_file_name(name: &Path) -> Option<(u8, SegmentId)> {
    let (level, number) = name
        .to_str()?
        .strip_prefix('L')?
        .strip_suffix(SUFFIX)?
        .split_once('-')?;
    let (level, id) = (
        level.parse().ok()?,
        SegmentId::sorted(u64::from_str_radix(number, 16).ok()?),
    );
    // Level 0 is the log's; there is none below the bottom.
    ((1..=2).contains(&level) && file_name(level, id) == name).then_some((level, id))
}

/// What the header states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Level of the run this segment belongs to.
    pub level: u8,
    /// Id of the segment.
    pub id: SegmentId,
}

/// Encodes a header.
pub fn encode_header(header: Header) -> [u8; HEADER_BYTES] {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(crc32fast::hash(&out));
    out.put_u64_le(header.id.get());
    out.put_u32_le(u32::from(header.level));
    out.put_u32_le(crc32fast::hash(&out));
    out.try_into().expect("the fields add up to the header's length")
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// Damaged.
    Fault(Fault),
    /// Intact, of another format version.
    Version(u32),
}

/// Decodes a header. A version is believed only if its own checksum holds.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderFault> {
    let mut rest = &bytes[..];
    let magic = rest.copy_to_bytes(8);
    let version = rest.get_u32_le();
    let version_crc = rest.get_u32_le();
    let id = SegmentId::new(rest.get_u64_le());
    let level = rest.get_u32_le();
    let header_crc = rest.get_u32_le();
    if magic != MAGIC[..] {
        return Err(HeaderFault::Fault(Fault::Magic("sorted value segment")));
    }
    let (version_part, _) = bytes.split_at(16);
    checksum("format version", version_part, version_crc).map_err(HeaderFault::Fault)?;
    if version != VERSION {
        return Err(HeaderFault::Version(version));
    }
    checksum("header", bytes, header_crc).map_err(HeaderFault::Fault)?;
    let level = decode_level(level).map_err(HeaderFault::Fault)?;
    if id.is_log() {
        return Err(HeaderFault::Fault(Fault::Field {
            field: "segment id",
            value: id.get(),
        }));
    }
    Ok(Header { level, id })
}

/// Reads the length of a whole value record from its header; `None` if `bytes` is shorter than that.
///
/// Layout: key length at 16, value length at 20 (nezha_vlog::format).
pub(crate) fn record_len_at(bytes: &[u8]) -> Option<u64> {
    let mut lengths = bytes.get(16..24)?;
    let (key_len, value_len) = (lengths.get_u32_le(), lengths.get_u32_le());
    Some(nezha_vlog::record_len(key_len as usize, value_len as usize))
}

/// What the trailer states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Level and id, as in the header.
    pub header: Header,
    /// Number of records.
    pub records: u64,
    /// Offset one byte after the last record.
    pub table_offset: u64,
    /// Length of the table in bytes.
    pub table_bytes: u64,
    /// Blocks in the table.
    pub blocks: u32,
    /// CRC-32 over the CRC-32s of all records in order.
    pub records_crc: u32,
    /// CRC-32 of the table.
    pub table_crc: u32,
}

/// Encodes a trailer.
pub fn encode_trailer(trailer: &Trailer) -> [u8; TRAILER_BYTES] {
    let mut out = Vec::with_capacity(TRAILER_BYTES);
    out.extend_from_slice(END_MAGIC);
    out.put_u64_le(trailer.header.id.get());
    out.put_u64_le(trailer.records);
    out.put_u64_le(trailer.table_offset);
    out.put_u64_le(trailer.table_bytes);
    out.put_u32_le(trailer.blocks);
    out.put_u32_le(trailer.records_crc);
    out.put_u32_le(trailer.table_crc);
    out.put_u32_le(u32::from(trailer.header.level));
    out.put_u32_le(0);
    out.put_u32_le(crc32fast::hash(&out));
    out.try_into().expect("the fields add up to the trailer's length")
}

/// Decodes a trailer.
pub fn decode_trailer(bytes: &[u8; TRAILER_BYTES]) -> Result<Trailer, Fault> {
    let mut rest = &bytes[..];
    if rest.copy_to_bytes(8) != END_MAGIC[..] {
        return Err(Fault::Magic("sorted value segment's trailer"));
    }
    let id = SegmentId::new(rest.get_u64_le());
    let records = rest.get_u64_le();
    let table_offset = rest.get_u64_le();
    let table_bytes = rest.get_u64_le();
    let blocks = rest.get_u32_le();
    let records_crc = rest.get_u32_le();
    let table_crc = rest.get_u32_le();
    let level = rest.get_u32_le();
    let reserved = rest.get_u32_le();
    checksum("trailer", bytes, rest.get_u32_le())?;
    zero("reserved", reserved)?;
    let header = Header {
        level: decode_level(level)?,
        id,
    };
    Ok(Trailer {
        header,
        records,
        table_offset,
        table_bytes,
        blocks,
        records_crc,
        table_crc,
    })
}

/// First record of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Offset of the record in bytes from the segment start.
    pub offset: u64,
    /// Its key.
    pub first_key: Bytes,
}

/// Key range and blocks of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Smallest key.
    pub first_key: Bytes,
    /// Largest key.
    pub last_key: Bytes,
    /// Blocks in order.
    pub blocks: Vec<Block>,
}

/// Encodes a table.
pub fn encode_table(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    put_key(&mut out, &table.first_key);
    put_key(&mut out, &table.last_key);
    for block in &table.blocks {
        out.put_u64_le(block.offset);
        put_key(&mut out, &block.first_key);
    }
    out
}

/// Decodes a table whose checksum the caller has compared.
pub fn decode_table(mut bytes: Bytes, blocks: u32) -> Result<Table, Fault> {
    let first_key = take_key(&mut bytes)?;
    let last_key = take_key(&mut bytes)?;
    let mut table = Table {
        first_key,
        last_key,
        blocks: Vec::new(),
    };
    for _ in 0..blocks {
        need(&bytes, 8)?;
        let offset = bytes.get_u64_le();
        table.blocks.push(Block {
            offset,
            first_key: take_key(&mut bytes)?,
        });
    }
    match bytes.len() as u64 {
        0 => Ok(table),
        rest => Err(Fault::Trailing(rest)),
    }
}

fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    out.put_u32_le(u32::try_from(key.len()).expect("keys of records are shorter than 4 GiB"));
    out.extend_from_slice(key);
}

fn take_key(bytes: &mut Bytes) -> Result<Bytes, Fault> {
    need(bytes, 4)?;
    let len = bytes.get_u32_le() as usize;
    need(bytes, len)?;
    Ok(bytes.split_to(len))
}

fn need(bytes: &Bytes, needed: usize) -> Result<(), Fault> {
    if bytes.len() < needed {
        return Err(Fault::Short {
            needed: needed as u64,
            got: bytes.len() as u64,
        });
    }
    Ok(())
}

/// Compares the checksum in the last four bytes of `bytes`.
fn checksum(what: &'static str, bytes: &[u8], stored: u32) -> Result<(), Fault> {
    let covered = bytes.get(..bytes.len().saturating_sub(4)).unwrap_or_default();
    match crc32fast::hash(covered) {
        computed if computed == stored => Ok(()),
        computed => Err(Fault::Checksum {
            what,
            stored,
            computed,
        }),
    }
}

fn decode_level(level: u32) -> Result<u8, Fault> {
    u8::try_from(level).map_err(|_| Fault::Field {
        field: "level",
        value: u64::from(level),
    })
}

fn zero(field: &'static str, value: u32) -> Result<(), Fault> {
    if value == 0 {
        Ok(())
    } else {
        Err(Fault::Field {
            field,
            value: u64::from(value),
        })
    }
}
