//! Bytes of the index inside RocksDB. One column family; the first byte of a key says what it is. Little-endian,
//! fixed width. Golden bytes are in the tests at the end.
//!
//! ```text
//! key                     value
//! 00 'F'                  format     "NZHAIDX\0", version u32
//! 00 'S'                  state      version u8 = 1, applied opt, installed_at opt, max_node_id u64, keys u64,
//!                                    live_bytes u64, next_value_segment u64
//! 00 'M'                  membership version u8 = 1, log id opt, encoded membership to the end
//! 00 'L' segment u64      live bytes of the segment u64; absent when 0
//! 01 key...               entry
//!
//! opt: present u8 (0 or 1), term u64, node u64, index u64 (zeros when absent)
//!
//! entry  offset  0  version u8 = 1
//!                1  place u8: 0 At, 1 Inline
//!                2  create_revision u64
//!               10  mod_revision u64
//!               18  version of the key u64
//!               26  lease u64, reserved: 0
//!               34  At: segment u64, offset u64, value_len u32      Inline: the value to the end
//! ```

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use nezha_vlog::{LogId, SegmentId, ValueRef};

use super::{AppliedState, IndexEntry, Place};

pub(super) const VERSION: u32 = 1;

pub(super) const KEY_FORMAT: &[u8] = b"\x00F";
pub(super) const KEY_STATE: &[u8] = b"\x00S";
pub(super) const KEY_MEMBERSHIP: &[u8] = b"\x00M";
pub(super) const PREFIX_LIVE: &[u8] = b"\x00L";
/// First byte of every user key.
pub(super) const PREFIX_KEYS: u8 = 0x01;
/// Just above every user key.
pub(super) const END_OF_KEYS: &[u8] = b"\x02";

const MAGIC: &[u8; 8] = b"NZHAIDX\0";
const ENTRY_VERSION: u8 = 1;
const STATE_VERSION: u8 = 1;
const PLACE_AT: u8 = 0;
const PLACE_INLINE: u8 = 1;
const ENTRY_HEAD_BYTES: usize = 34;
const REF_BYTES: usize = 20;

/// Why bytes of the index cannot be read. The caller adds the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{what}: {got} bytes instead of {expected}")]
    Length {
        what: &'static str,
        got: usize,
        expected: usize,
    },
    #[error("{what}: unknown tag or version {got}")]
    Tag { what: &'static str, got: u8 },
    #[error("format record: wrong magic")]
    Magic,
}

pub(super) fn user_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(PREFIX_KEYS);
    out.extend_from_slice(key);
    out
}

pub(super) fn live_key(segment: SegmentId) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_LIVE.len() + 8);
    out.extend_from_slice(PREFIX_LIVE);
    out.put_u64_le(segment.get());
    out
}

pub(super) fn decode_live(key: &[u8], value: &[u8]) -> Result<(SegmentId, u64), Malformed> {
    let mut segment = key.strip_prefix(PREFIX_LIVE).unwrap_or_default();
    expect_len("live bytes key", segment.len(), 8)?;
    expect_len("live bytes", value.len(), 8)?;
    let mut value = value;
    Ok((SegmentId::new(segment.get_u64_le()), value.get_u64_le()))
}

pub(super) fn encode_format() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u32_le(VERSION);
    out
}

/// Returns the version found.
pub(super) fn decode_format(bytes: &[u8]) -> Result<u32, Malformed> {
    let mut version = bytes.strip_prefix(MAGIC).ok_or(Malformed::Magic)?;
    expect_len("format record", version.len(), 4)?;
    Ok(version.get_u32_le())
}

pub(super) fn encode_entry(entry: &IndexEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY_HEAD_BYTES + REF_BYTES);
    out.put_u8(ENTRY_VERSION);
    out.put_u8(match entry.place {
        Place::At(_) => PLACE_AT,
        Place::Inline(_) => PLACE_INLINE,
    });
    out.put_u64_le(entry.create_revision);
    out.put_u64_le(entry.mod_revision);
    out.put_u64_le(entry.version);
    out.put_u64_le(0);
    match &entry.place {
        Place::At(at) => {
            out.put_u64_le(at.segment.get());
            out.put_u64_le(at.offset);
            out.put_u32_le(at.value_len);
        }
        Place::Inline(value) => out.extend_from_slice(value),
    }
    out
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<IndexEntry, Malformed> {
    if bytes.len() < ENTRY_HEAD_BYTES {
        return Err(Malformed::Length {
            what: "entry",
            got: bytes.len(),
            expected: ENTRY_HEAD_BYTES,
        });
    }
    let (mut head, mut body) = bytes.split_at(ENTRY_HEAD_BYTES);
    expect_tag("entry version", head.get_u8(), ENTRY_VERSION)?;
    let place = head.get_u8();
    let create_revision = head.get_u64_le();
    let mod_revision = head.get_u64_le();
    let version = head.get_u64_le();
    let place = match place {
        PLACE_AT => {
            expect_len("value reference", body.len(), REF_BYTES)?;
            let segment = SegmentId::new(body.get_u64_le());
            Place::At(ValueRef {
                segment,
                offset: body.get_u64_le(),
                value_len: body.get_u32_le(),
            })
        }
        PLACE_INLINE => Place::Inline(Bytes::copy_from_slice(body)),
        got => return Err(Malformed::Tag { what: "place", got }),
    };
    Ok(IndexEntry {
        place,
        create_revision,
        mod_revision,
        version,
    })
}

pub(super) fn encode_state(state: &AppliedState) -> Vec<u8> {
    let mut out = Vec::with_capacity(STATE_BYTES);
    out.put_u8(STATE_VERSION);
    put_log_id(&mut out, state.applied);
    put_log_id(&mut out, state.installed_at);
    out.put_u64_le(state.max_node_id);
    out.put_u64_le(state.keys);
    out.put_u64_le(state.live_bytes);
    out.put_u64_le(state.next_value_segment);
    out
}

pub(super) fn encode_membership(state: &AppliedState) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + LOG_ID_BYTES + state.membership.len());
    out.put_u8(STATE_VERSION);
    put_log_id(&mut out, state.membership_log_id);
    out.extend_from_slice(&state.membership);
    out
}

/// Decodes the state from its two records; an index that was never written to has neither.
pub(super) fn decode_state(
    state: Option<&[u8]>,
    membership: Option<&[u8]>,
) -> Result<AppliedState, Malformed> {
    let mut out = AppliedState::default();
    if let Some(mut bytes) = state {
        expect_len("state", bytes.len(), STATE_BYTES)?;
        expect_tag("state version", bytes.get_u8(), STATE_VERSION)?;
        out.applied = get_log_id(&mut bytes)?;
        out.installed_at = get_log_id(&mut bytes)?;
        out.max_node_id = bytes.get_u64_le();
        out.keys = bytes.get_u64_le();
        out.live_bytes = bytes.get_u64_le();
        out.next_value_segment = bytes.get_u64_le();
    }
    if let Some(mut bytes) = membership {
        if bytes.len() < 1 + LOG_ID_BYTES {
            return Err(Malformed::Length {
                what: "membership",
                got: bytes.len(),
                expected: 1 + LOG_ID_BYTES,
            });
        }
        expect_tag("membership version", bytes.get_u8(), STATE_VERSION)?;
        out.membership_log_id = get_log_id(&mut bytes)?;
        out.membership = Bytes::copy_from_slice(bytes);
    }
    Ok(out)
}

const LOG_ID_BYTES: usize = 25;
const STATE_BYTES: usize = 1 + 2 * LOG_ID_BYTES + 4 * 8;

fn put_log_id(out: &mut Vec<u8>, log_id: Option<LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    let LogId { term, node, index } = log_id.unwrap_or(LogId {
        term: 0,
        node: 0,
        index: 0,
    });
    out.put_u64_le(term);
    out.put_u64_le(node);
    out.put_u64_le(index);
}

/// The caller has checked that `LOG_ID_BYTES` are left.
fn get_log_id(bytes: &mut &[u8]) -> Result<Option<LogId>, Malformed> {
    let present = bytes.get_u8();
    let log_id = LogId {
        term: bytes.get_u64_le(),
        node: bytes.get_u64_le(),
        index: bytes.get_u64_le(),
    };
    match present {
        0 => Ok(None),
        1 => Ok(Some(log_id)),
        got => Err(Malformed::Tag { what: "log id", got }),
    }
}

fn expect_len(what: &'static str, got: usize, expected: usize) -> Result<(), Malformed> {
    if got == expected {
        Ok(())
    } else {
        Err(Malformed::Length { what, got, expected })
    }
}

fn expect_tag(what: &'static str, got: u8, expected: u8) -> Result<(), Malformed> {
    if got == expected {
        Ok(())
    } else {
        Err(Malformed::Tag { what, got })
    }
}

/// Absolute live bytes as key and value; `None` as value means: remove the key.
pub(super) fn encode_live(segment: SegmentId, bytes: u64) -> (Vec<u8>, Option<[u8; 8]>) {
    (live_key(segment), (bytes > 0).then(|| bytes.to_le_bytes()))
}

/// Collects live bytes from their decoded records.
pub(super) fn collect_live<'a>(
    records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<BTreeMap<SegmentId, u64>, Malformed> {
    records.map(|(key, value)| decode_live(key, value)).collect()
}

#[cfg(test)]
mod tests {
    //! Goal: the bytes never change by accident, and no bytes panic. Method: golden hex, round trips, every truncation.

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn at() -> IndexEntry {
        let segment = SegmentId::new(3);
        let place = Place::At(ValueRef {
            segment,
            offset: 0x0102,
            value_len: 0x0a0b,
        });
        IndexEntry {
            place,
            create_revision: 5,
            mod_revision: 7,
            version: 2,
        }
    }

    fn inline() -> IndexEntry {
        IndexEntry {
            place: Place::Inline(Bytes::from_static(b"abc")),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
        }
    }

    fn state() -> AppliedState {
        AppliedState {
            applied: Some(LogId {
                term: 2,
                node: 1,
                index: 9,
            }),
            membership_log_id: Some(LogId {
                term: 1,
                node: 1,
                index: 0,
            }),
            membership: Bytes::from_static(b"mm"),
            installed_at: None,
            max_node_id: 3,
            keys: 4,
            live_bytes: 500,
            next_value_segment: super::super::FIRST_VALUE_SEGMENT,
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            hex(&encode_entry(&at())),
            concat!(
                "0100",
                "0500000000000000",
                "0700000000000000",
                "0200000000000000",
                "0000000000000000",
                "0300000000000000",
                "0201000000000000",
                "0b0a0000"
            )
        );
        assert_eq!(
            hex(&encode_entry(&inline())),
            concat!(
                "0101",
                "0100000000000000",
                "0100000000000000",
                "0100000000000000",
                "0000000000000000",
                "616263"
            )
        );
        assert_eq!(
            hex(&encode_state(&state())),
            concat!(
                "01",
                "01020000000000000001000000000000000900000000000000",
                "00000000000000000000000000000000000000000000000000",
                "0300000000000000",
                "0400000000000000",
                "f401000000000000",
                "0100000000000080"
            )
        );
        assert_eq!(
            hex(&encode_membership(&state())),
            concat!("01", "01010000000000000001000000000000000000000000000000", "6d6d")
        );
        assert_eq!(hex(&live_key(SegmentId::new(3))), "004c0300000000000000");
        assert_eq!(hex(&encode_format()), "4e5a48414944580001000000");
    }

    #[test]
    fn round_trips() {
        for entry in [at(), inline()] {
            assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        }
        assert_eq!(
            decode_state(Some(&encode_state(&state())), Some(&encode_membership(&state()))),
            Ok(state())
        );
        assert_eq!(decode_state(None, None), Ok(AppliedState::default()));
        let segment = SegmentId::new(77);
        assert_eq!(
            decode_live(&live_key(segment), &5u64.to_le_bytes()),
            Ok((segment, 5))
        );
        assert_eq!(decode_format(&encode_format()), Ok(VERSION));
    }

    #[test]
    fn every_truncation_is_refused() {
        let entry = encode_entry(&at());
        for len in 0..entry.len() {
            assert!(decode_entry(&entry[..len]).is_err(), "entry of {len} bytes");
        }
        let encoded = encode_state(&state());
        for len in 0..encoded.len() {
            assert!(
                decode_state(Some(&encoded[..len]), None).is_err(),
                "state of {len} bytes"
            );
        }
        for len in 0..1 + LOG_ID_BYTES {
            assert!(
                decode_state(None, Some(&encode_membership(&state())[..len])).is_err(),
                "membership of {len} bytes"
            );
        }
        assert!(decode_live(b"\x00L123", &[0; 8]).is_err());
        assert!(decode_live(&live_key(SegmentId::new(1)), &[0; 7]).is_err());
        for len in 0..12 {
            assert!(decode_format(&encode_format()[..len]).is_err());
        }
    }
}
