//! Value records: the bytes that a value has everywhere. Layout: `format`.

use bytes::{BufMut, Bytes};
use crc32fast::Hasher;

use crate::error::{Error, Fault};
use crate::format::RECORD_HEADER_LEN;
use crate::planted::{Bug, planted};

const FLAG_DELETE: u8 = 1;

/// A decoded value record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Revision of the write: the Raft log index of its entry.
    pub revision: u64,
    /// The key.
    pub key: Bytes,
    /// The value; empty for a delete.
    pub value: Bytes,
    /// Whether the write deletes the key.
    pub is_delete: bool,
}

/// Length in bytes of the record of a key and a value of these lengths.
pub fn record_len(key_len: usize, value_len: usize) -> u64 {
    RECORD_HEADER_LEN + key_len as u64 + value_len as u64
}

/// Decodes a record that fills `bytes`; key and value share its memory.
///
/// Errors: `Malformed` for a layout the format forbids and for a wrong checksum.
pub fn decode_record(bytes: Bytes) -> Result<Record, Error> {
    let head = RecordHead::decode(&bytes)?;
    if head.record_len() != bytes.len() as u64 {
        return Err(Fault::Short {
            needed: head.record_len(),
            got: bytes.len() as u64,
        }
        .into());
    }
    head.check(&bytes)?;
    let key_end = RECORD_HEADER_LEN as usize + head.key_len as usize;
    Ok(Record {
        revision: head.revision,
        key: bytes.slice(RECORD_HEADER_LEN as usize..key_end),
        value: bytes.slice(key_end..),
        is_delete: head.is_delete,
    })
}

/// Verifies that `bytes` are the whole and intact record of `key` at `revision`: a put, or a delete, whose value is empty.
pub fn verify_record(bytes: &[u8], key: &[u8], revision: u64) -> Result<(), Fault> {
    let head = RecordHead::decode(bytes)?;
    if head.record_len() != bytes.len() as u64 {
        return Err(Fault::Mismatch {
            field: "record length",
            expected: bytes.len() as u64,
            got: head.record_len(),
        });
    }
    head.check(bytes)?;
    if head.revision != revision {
        return Err(Fault::Mismatch {
            field: "revision",
            expected: revision,
            got: head.revision,
        });
    }
    let key_end = RECORD_HEADER_LEN as usize + head.key_len as usize;
    match bytes.get(RECORD_HEADER_LEN as usize..key_end) == Some(key) {
        true => Ok(()),
        false => Err(Fault::OtherKey),
    }
}

/// Encodes the record of a put.
///
/// Panics if the key or the value is 4 GiB or longer.
pub fn encode_record(revision: u64, key: &[u8], value: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(record_len(key.len(), value.len()) as usize);
    put_unsealed(&mut out, key, Some(value));
    seal(&mut out, revision, kv_hasher(key, value));
    out.into()
}

/// Appends a record whose revision and checksum are still zero; `None` makes a delete.
pub(crate) fn put_unsealed(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("keys and values are below 4 GiB");
    out.put_u32_le(0);
    out.put_u8(if value.is_none() { FLAG_DELETE } else { 0 });
    out.put_bytes(0, 3);
    out.put_u64_le(0);
    out.put_u32_le(len(key));
    out.put_u32_le(len(value.unwrap_or_default()));
    out.put_slice(key);
    out.put_slice(value.unwrap_or_default());
}

/// Checksum of key and value, to be combined by `seal` with that of the fields before them.
pub(crate) fn kv_hasher(key: &[u8], value: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher
}

/// Fills revision and checksum into an unsealed record, without reading key and value again.
pub(crate) fn seal(record: &mut [u8], revision: u64, kv: Hasher) {
    let sealed = record.split_first_chunk_mut::<4>().and_then(|(crc, rest)| {
        rest.get_mut(4..12)?.copy_from_slice(&revision.to_le_bytes());
        let mut hasher = Hasher::new();
        hasher.update(rest.get(..RECORD_HEADER_LEN as usize - 4)?);
        hasher.combine(&kv);
        *crc = hasher.finalize().to_le_bytes();
        Some(())
    });
    assert!(
        sealed.is_some(),
        "an unsealed record has a header, {} bytes given",
        record.len()
    );
}

/// The fields of a record before its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) crc: u32,
    pub(crate) is_delete: bool,
    pub(crate) revision: u64,
    pub(crate) key_len: u32,
    pub(crate) value_len: u32,
}

impl RecordHead {
    /// Decodes the fields; the checksum needs key and value too, see `check`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<RecordHead, Fault> {
        let short = Fault::Short {
            needed: RECORD_HEADER_LEN,
            got: bytes.len() as u64,
        };
        let ([c0, c1, c2, c3], rest) = bytes.split_first_chunk::<4>().ok_or(short)?;
        let ([flags, r0, r1, r2], rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let (revision, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
        let (key_len, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let (value_len, _) = rest.split_first_chunk::<4>().ok_or(short)?;
        let head = RecordHead {
            crc: u32::from_le_bytes([*c0, *c1, *c2, *c3]),
            is_delete: *flags == FLAG_DELETE,
            revision: u64::from_le_bytes(*revision),
            key_len: u32::from_le_bytes(*key_len),
            value_len: u32::from_le_bytes(*value_len),
        };
        if *flags & !FLAG_DELETE != 0 {
            return Err(Fault::Field {
                field: "record flags",
                value: (*flags).into(),
            });
        }
        if [*r0, *r1, *r2] != [0; 3] {
            return Err(Fault::Field {
                field: "reserved",
                value: u64::from(r0 | r1 | r2),
            });
        }
        if head.is_delete && head.value_len != 0 {
            return Err(Fault::Field {
                field: "value length of a delete",
                value: head.value_len.into(),
            });
        }
        Ok(head)
    }

    /// Bytes of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        record_len(self.key_len as usize, self.value_len as usize)
    }

    /// Verifies the checksum over a whole record.
    pub(crate) fn check(&self, record: &[u8]) -> Result<(), Fault> {
        let computed = crc32fast::hash(record.get(4..).unwrap_or_default());
        if computed != self.crc && !planted(Bug::SkipCrc) {
            return Err(Fault::Checksum {
                what: "value record",
                stored: self.crc,
                computed,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_every_cut_and_flip_is_refused() {
        for value in [&b""[..], b"v", &[7; 300]] {
            let bytes = encode_record(42, b"key", value);
            assert_eq!(bytes.len() as u64, record_len(3, value.len()));
            let record = decode_record(bytes.clone()).unwrap();
            assert_eq!(
                record,
                Record {
                    revision: 42,
                    key: Bytes::from_static(b"key"),
                    value: Bytes::copy_from_slice(value),
                    is_delete: false
                }
            );
            for len in 0..bytes.len() {
                assert!(decode_record(bytes.slice(..len)).is_err(), "cut to {len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_record(bad.into()).is_err(), "bit {bit}");
            }
        }
    }
}
