//! Bytes of a classic store inside RocksDB. One column family; the first byte of a key says what it is. Little-endian,
//! fixed width.
//!
//! ```text
//! key           value
//! 00 'F'        format      "NZHACLS\0", version u64
//! 00 's'        state       applied id, installed_at id, max_node_id, keys, live_bytes, next_value_segment
//! 00 'm'        membership  log id, encoded membership to the end
//! 01 key...     outline     create_revision, mod_revision, version, value length
//! 02 key...     row         create_revision, mod_revision, version, value to the end
//!
//! id: present (0 or 1), term, node, index; all numbers are u64
//! ```
//!
//! The format record is where the product's index has its own, and nothing else is: each refuses the other by it.
//!
//! The outline repeats what the row says, so that a write, which must know the revisions of the value before it, need
//! not read that value, and a read needs nothing but the row.

use bytes::{Buf, BufMut, Bytes};
use nezha::index::{AppliedState, IndexEntry, Outline, Place};
use nezha_vlog::LogId;

/// Another one is refused.
pub(super) const VERSION: u32 = 1;
pub(super) const KEY_FORMAT: &[u8] = b"\x00F";
pub(super) const KEY_STATE: &[u8] = b"\x00s";
pub(super) const KEY_MEMBERSHIP: &[u8] = b"\x00m";
/// First byte of the key of a row.
pub(super) const ROWS: u8 = 2;
/// Just above every row.
pub(super) const END_OF_ROWS: &[u8] = b"\x03";
/// Bytes of a row before its value.
pub(super) const ROW_HEAD_BYTES: usize = 3 * 8;

const OUTLINES: u8 = 1;
const MAGIC: &[u8; 8] = b"NZHACLS\0";

/// The record ends early, or is not one of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {got} bytes cannot be read")]
pub(super) struct Malformed {
    what: &'static str,
    got: usize,
}

pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
    prefixed(ROWS, key)
}

pub(super) fn outline_key(key: &[u8]) -> Vec<u8> {
    prefixed(OUTLINES, key)
}

fn prefixed(first: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(first);
    out.extend_from_slice(key);
    out
}

/// Takes fixed fields off the front of a record.
struct Fields<'a> {
    what: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields {
            what,
            whole: bytes.len(),
            rest: bytes,
        }
    }

    fn malformed(&self) -> Malformed {
        Malformed {
            what: self.what,
            got: self.whole,
        }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.rest.try_get_u64_le().map_err(|_| self.malformed())
    }

    fn log_id(&mut self) -> Result<Option<LogId>, Malformed> {
        let present = self.number()?;
        let id = LogId {
            term: self.number()?,
            node: self.number()?,
            index: self.number()?,
        };
        match present {
            0 => Ok(None),
            1 => Ok(Some(id)),
            _ => Err(self.malformed()),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.malformed()),
        }
    }
}

fn put_log_id(out: &mut Vec<u8>, id: Option<LogId>) {
    let fields = id.map_or([0; 4], |id| [1, id.term, id.node, id.index]);
    fields.into_iter().for_each(|field| out.put_u64_le(field));
}

pub(super) fn encode_format() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u64_le(VERSION.into());
    out
}

/// Returns the version found.
pub(super) fn decode_format(bytes: &[u8]) -> Result<u32, Malformed> {
    let mut fields = Fields::of("format record", bytes);
    fields.rest = bytes.strip_prefix(MAGIC).ok_or(fields.malformed())?;
    let version = fields.number()?;
    let malformed = fields.malformed();
    fields.end()?;
    u32::try_from(version).map_err(|_| malformed)
}

pub(super) fn encode_state(state: &AppliedState) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 * 8);
    put_log_id(&mut out, state.applied);
    put_log_id(&mut out, state.installed_at);
    out.put_u64_le(state.max_node_id);
    out.put_u64_le(state.keys);
    out.put_u64_le(state.live_bytes);
    out.put_u64_le(state.next_value_segment);
    out
}

pub(super) fn encode_membership(state: &AppliedState) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * 8 + state.membership.len());
    put_log_id(&mut out, state.membership_log_id);
    out.extend_from_slice(&state.membership);
    out
}

/// Decodes the state from its two records; a store that was never written to has neither.
pub(super) fn decode_state(
    state: Option<&[u8]>,
    membership: Option<&[u8]>,
) -> Result<AppliedState, Malformed> {
    let mut out = AppliedState::default();
    if let Some(bytes) = state {
        let mut fields = Fields::of("state", bytes);
        out.applied = fields.log_id()?;
        out.installed_at = fields.log_id()?;
        out.max_node_id = fields.number()?;
        out.keys = fields.number()?;
        out.live_bytes = fields.number()?;
        out.next_value_segment = fields.number()?;
        fields.end()?;
    }
    if let Some(bytes) = membership {
        let mut fields = Fields::of("membership", bytes);
        out.membership_log_id = fields.log_id()?;
        out.membership = Bytes::copy_from_slice(fields.rest);
    }
    Ok(out)
}

pub(super) fn encode_outline(outline: &Outline) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * 8);
    out.put_u64_le(outline.create_revision);
    out.put_u64_le(outline.mod_revision);
    out.put_u64_le(outline.version);
    out.put_u64_le(outline.value_len as u64);
    out
}

pub(super) fn decode_outline(bytes: &[u8]) -> Result<Outline, Malformed> {
    let mut fields = Fields::of("outline", bytes);
    let outline = Outline {
        create_revision: fields.number()?,
        mod_revision: fields.number()?,
        version: fields.number()?,
        value_len: usize::try_from(fields.number()?).map_err(|_| fields.malformed())?,
        segment: None,
    };
    fields.end()?;
    Ok(outline)
}

pub(super) fn encode_row(outline: &Outline, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROW_HEAD_BYTES + value.len());
    out.put_u64_le(outline.create_revision);
    out.put_u64_le(outline.mod_revision);
    out.put_u64_le(outline.version);
    out.extend_from_slice(value);
    out
}

pub(super) fn decode_row(bytes: &[u8]) -> Result<IndexEntry, Malformed> {
    let mut fields = Fields::of("row", bytes);
    Ok(IndexEntry {
        create_revision: fields.number()?,
        mod_revision: fields.number()?,
        version: fields.number()?,
        place: Place::Inline(Bytes::copy_from_slice(fields.rest)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> AppliedState {
        let id = |index| {
            Some(LogId {
                term: 2,
                node: 3,
                index,
            })
        };
        AppliedState {
            applied: id(9),
            membership_log_id: id(0),
            membership: Bytes::from_static(b"members"),
            installed_at: None,
            max_node_id: 4,
            keys: 5,
            live_bytes: 6,
            next_value_segment: 7,
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_nothing_shorter_or_longer() {
        let state = state();
        let (main, members) = (encode_state(&state), encode_membership(&state));
        assert_eq!(decode_state(Some(&main), Some(&members)), Ok(state));
        assert_eq!(decode_state(None, None), Ok(AppliedState::default()));
        let entry = IndexEntry {
            place: Place::Inline(Bytes::from_static(b"value")),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
        };
        let outline = encode_outline(&entry.outline());
        assert_eq!(decode_outline(&outline), Ok(entry.outline()));
        assert_eq!(decode_row(&encode_row(&entry.outline(), b"value")), Ok(entry));
        assert_eq!(decode_format(&encode_format()), Ok(VERSION));
        for end in 0..outline.len() {
            assert!(decode_outline(&outline[..end]).is_err(), "{end}");
        }
        for end in 0..main.len() {
            assert!(decode_state(Some(&main[..end]), None).is_err(), "{end}");
        }
        for end in 0..ROW_HEAD_BYTES {
            assert!(decode_row(&vec![0; end]).is_err(), "{end}");
        }
        let longer = [&outline[..], b"x"].concat();
        assert!(decode_outline(&longer).is_err());
    }

    #[test]
    fn another_program_s_record_is_no_format_record() {
        assert!(decode_format(b"NZHAIDX\0\x01\0\0\0").is_err());
        assert!(decode_format(b"").is_err());
    }
}
