//! Records as keys and values.
//!
//! The key of a record is `TABLE:userNUMBER`; with hashed order, NUMBER is the hash of the record's number.
//!
//! The value is its fields one after the other, without names or separators: all have `fieldlength` bytes. So a value
//! has exactly `fieldcount * fieldlength` bytes. A field begins with a stamp (8 bytes, or half of a shorter field) that
//! every write draws anew; its other bytes follow from key, number of the field and stamp. So whoever reads a record can
//! tell whether its bytes were written to that key, whoever wrote which field last.

use bytes::{Bytes, BytesMut};

use super::generators::fnv_hash;
use crate::values::{Values, hash_bytes, mix};

/// Bytes of a stamp, in fields that have twice as many.
const STAMP_BYTES: usize = 8;

/// How records are named and laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) table: String,
    /// Keys in the order of the records' numbers, instead of hashed.
    pub(crate) ordered: bool,
    /// Digits of a key's number; shorter ones are filled with zeros.
    pub(crate) zero_padding: usize,
    pub(crate) field_count: usize,
    /// Bytes of each field.
    pub(crate) field_length: usize,
}

/// Makes keys and values, and checks them.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    layout: Layout,
    values: Values,
}

impl Records {
    /// Records of `layout`. Takes a few tens of milliseconds, and 32 MiB and a field of memory.
    pub(crate) fn new(layout: Layout) -> Records {
        let values = Values::new(layout.field_length);
        Records { layout, values }
    }

    /// The layout.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The number in the key of record `number`.
    pub(crate) fn name(&self, number: u64) -> u64 {
        if self.layout.ordered {
            number
        } else {
            fnv_hash(number)
        }
    }

    /// The key of record `number`.
    pub(crate) fn key(&self, number: u64) -> Bytes {
        self.key_of_name(self.name(number))
    }

    /// The key with the number `name` in it.
    pub(crate) fn key_of_name(&self, name: u64) -> Bytes {
        let width = self.layout.zero_padding;
        Bytes::from(format!("{}:user{name:0>width$}", self.layout.table))
    }

    /// The first key after all keys of the table.
    pub(crate) fn end(&self) -> Bytes {
        Bytes::from(format!("{};", self.layout.table))
    }

    /// A record with all fields new.
    pub(crate) fn new_record(&self, key: &[u8], stamp: u64) -> Bytes {
        let mut record = BytesMut::zeroed(self.layout.field_count * self.layout.field_length);
        let key = hash_bytes(key);
        for (field, bytes) in self.fields_mut(&mut record).enumerate() {
            self.fill(bytes, key, field, stamp);
        }
        record.freeze()
    }

    /// The record `old`, which must have been checked, with field number `field` new.
    pub(crate) fn with_new_field(&self, key: &[u8], old: &[u8], field: usize, stamp: u64) -> Bytes {
        let mut record = BytesMut::from(old);
        if let Some(bytes) = self.fields_mut(&mut record).nth(field) {
            self.fill(bytes, hash_bytes(key), field, stamp);
        }
        record.freeze()
    }

    /// Checks that `value` is a record that was written to `key`; the error completes "the value of KEY ...".
    pub(crate) fn check(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let Layout {
            field_count,
            field_length,
            ..
        } = self.layout;
        if value.len() != field_count * field_length {
            return Err(format!(
                "has {} bytes instead of {field_count} fields of {field_length}; fieldcount and fieldlength must be \
                 those of the load",
                value.len()
            ));
        }
        let key = hash_bytes(key);
        for (field, bytes) in value.chunks(field_length.max(1)).enumerate() {
            let (stamp, body) = bytes.split_at(stamp_length(field_length));
            if body != self.body(key, field, stamp) {
                return Err(format!("has a field {field} that was not written to it"));
            }
        }
        Ok(())
    }

    fn fields_mut<'r>(&self, record: &'r mut [u8]) -> impl Iterator<Item = &'r mut [u8]> {
        // A field of no bytes has no place.
        record.chunks_mut(self.layout.field_length.max(1))
    }

    fn fill(&self, bytes: &mut [u8], key: u64, field: usize, stamp: u64) {
        let (head, body) = bytes.split_at_mut(stamp_length(bytes.len()));
        head.copy_from_slice(&stamp.to_le_bytes()[..head.len()]);
        body.copy_from_slice(self.body(key, field, head));
    }

    /// What follows the stamp in a field.
    fn body(&self, key: u64, field: usize, stamp: &[u8]) -> &[u8] {
        let seed = mix(mix(key) ^ hash_bytes(stamp)).wrapping_add(field as u64);
        self.values.window(seed, self.layout.field_length - stamp.len())
    }
}

fn stamp_length(field_length: usize) -> usize {
    STAMP_BYTES.min(field_length / 2)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layout(field_count: usize, field_length: usize) -> Layout {
        Layout {
            table: "usertable".to_owned(),
            ordered: false,
            zero_padding: 1,
            field_count,
            field_length,
        }
    }

    #[test]
    fn keys_are_named_as_in_ycsb() {
        let hashed = Records::new(layout(1, 1));
        assert_eq!(hashed.key(0), "usertable:user6284781860667377211");
        assert!(hashed.key(0) < hashed.end() && hashed.key(0).starts_with(b"usertable:user"));
        let ordered = Records::new(Layout {
            ordered: true,
            zero_padding: 8,
            ..layout(1, 1)
        });
        assert_eq!(ordered.key(5), "usertable:user00000005");
        assert_eq!(ordered.key(123_456_789), "usertable:user123456789");
        let padded = Records::new(Layout {
            zero_padding: 22,
            ..layout(1, 1)
        });
        assert_eq!(padded.key(0), "usertable:user0006284781860667377211");
    }

    #[test]
    fn what_was_written_is_accepted_whoever_wrote_which_field() {
        for (count, length) in [(10, 100), (1, 16_384), (3, 9), (4, 1), (2, 2), (1, 0), (5, 16)] {
            let records = Records::new(layout(count, length));
            let key = records.key(7);
            let record = records.new_record(&key, 1);
            assert_eq!(record.len(), count * length);
            records.check(&key, &record).unwrap();
            let again = Records::new(layout(count, length));
            let mut changed = record.clone();
            for field in 0..count {
                changed = again.with_new_field(&key, &changed, field, 77 + field as u64);
                records.check(&key, &changed).unwrap();
            }
            assert_eq!(changed != record, length > 1, "{count} x {length}");
        }
    }

    #[test]
    fn one_field_is_changed_and_no_other() {
        let records = Records::new(layout(10, 100));
        let key = records.key(1);
        let old = records.new_record(&key, 5);
        let new = records.with_new_field(&key, &old, 3, 6);
        let changed: BTreeSet<usize> = (0..1_000)
            .filter(|at| old[*at] != new[*at])
            .map(|at| at / 100)
            .collect();
        assert_eq!(changed, BTreeSet::from([3]));
    }

    #[test]
    fn what_was_not_written_to_the_key_is_refused() {
        let records = Records::new(layout(4, 64));
        let (key, other) = (records.key(1), records.key(2));
        let record = records.new_record(&key, 9);
        assert!(records.check(&other, &record).unwrap_err().contains("field 0"));
        let short = records.check(&key, &record[..255]).unwrap_err();
        assert!(short.contains("255 bytes instead of 4 fields of 64"), "{short}");
        assert!(records.check(&key, b"").is_err());
        for at in 0..256 {
            let mut flipped = record.to_vec();
            flipped[at] ^= 1;
            let error = records.check(&key, &flipped).unwrap_err();
            assert!(error.contains(&format!("field {}", at / 64)), "{at}: {error}");
        }
        // Two fields of one write, exchanged.
        let exchanged = [&record[64..128], &record[..64], &record[128..]].concat();
        assert!(records.check(&key, &exchanged).is_err());
        // A field of another record's write with the same stamp.
        let mixed = [&record[..64], &records.new_record(&other, 9)[64..]].concat();
        assert!(records.check(&key, &mixed).unwrap_err().contains("field 1"));
    }
}
