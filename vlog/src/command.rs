//! Commands: what a client's write is, as one contiguous run of bytes. Layout: `format`.

use bytes::{BufMut, Bytes};
use crc32fast::Hasher;

use crate::error::{Error, Fault};
use crate::format::{BODY_LEN_MAX, COMMAND_HEADER_LEN, OP_HEADER_LEN, RECORD_HEADER_LEN};
use crate::record::{self, RecordHead};

const RECORD_AT: usize = (COMMAND_HEADER_LEN + OP_HEADER_LEN) as usize;

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Writes a value.
    Put,
    /// Removes a key.
    Delete,
}

/// What must hold for an op to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key was last written at this revision.
    ModRevision(u64),
}

/// A command whose revision is not known yet.
///
/// Building copies the value once and computes its checksum, on the request's thread; sealing touches neither.
#[derive(Clone, Debug)]
pub struct Draft {
    body: Vec<u8>,
    kv: Hasher,
}

impl Draft {
    /// Drafts a put of one key. Panics if the key or the value is 4 GiB or longer.
    pub fn put(key: &[u8], value: &[u8], precondition: Precondition) -> Draft {
        Draft::build(key, Some(value), precondition)
    }

    /// Drafts a delete of one key. Panics if the key is 4 GiB or longer.
    pub fn delete(key: &[u8], precondition: Precondition) -> Draft {
        Draft::build(key, None, precondition)
    }

    /// Length of the command's body in the log in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.body.len() as u64
    }

    fn build(key: &[u8], value: Option<&[u8]>, precondition: Precondition) -> Draft {
        let len = RECORD_AT as u64 + record::record_len(key.len(), value.map_or(0, <[u8]>::len));
        let mut body = Vec::with_capacity(len as usize);
        body.put_u16_le(1);
        body.put_u8(if value.is_some() { 1 } else { 2 });
        let (code, revision) = match precondition {
            Precondition::None => (0, 0),
            Precondition::Absent => (1, 0),
            Precondition::ModRevision(revision) => (2, revision),
        };
        body.put_u8(code);
        body.put_u64_le(revision);
        record::put_unsealed(&mut body, key, value);
        assert_eq!(body.len() as u64, len, "drafted length");
        Draft {
            kv: record::kv_hasher(key, value.unwrap_or_default()),
            body,
        }
    }

    /// Bytes of the command.
    #[expect(clippy::len_without_is_empty, reason = "a draft is never empty")]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Fills in the revision (the Raft log index) and the record's checksum; copies nothing.
    pub fn seal(mut self, revision: u64) -> Command {
        let record = self.body.get_mut(RECORD_AT..).unwrap_or_default();
        record::seal(record, revision, self.kv);
        Command(self.body.into())
    }
}

/// A sealed command. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(Bytes);

impl Command {
    /// Takes bytes from the wire.
    ///
    /// Errors: `Malformed` if the layout or any record's checksum is wrong, or the records' revisions differ.
    pub fn from_bytes(body: Bytes) -> Result<Command, Error> {
        let ops = walk_body(&body, &mut |_| ())?;
        for op in &ops {
            op.check_record(&body)?;
        }
        Ok(Command(body))
    }

    /// Takes a body whose every checksum the caller has verified.
    pub(crate) fn from_verified(body: Bytes) -> Command {
        Command(body)
    }

    /// The bytes, as they are on the wire and in the log.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Revision of its records: the Raft log index of its entry.
    pub fn revision(&self) -> u64 {
        let record = self.0.get(RECORD_AT..).unwrap_or_default();
        RecordHead::decode(record)
            .expect("a sealed command starts with a record")
            .revision
    }

    /// The ops, in order; keys, values and records share the command's memory.
    pub fn ops(&self) -> impl Iterator<Item = Op> {
        self.spans().into_iter().map(|span| {
            let record = self.0.slice(span.record_at as usize..span.record_end() as usize);
            let value = record.slice(record.len() - span.value_len as usize..);
            Op {
                kind: span.kind,
                precondition: span.precondition,
                key: span.key,
                value,
                record,
            }
        })
    }

    pub(crate) fn spans(&self) -> Vec<OpSpan> {
        walk_body(&self.0, &mut |_| ()).expect("a command is verified when it is made")
    }

    /// Feeds everything but the values to `covered`.
    pub(crate) fn hash_heads(&self, hasher: &mut Hasher) {
        walk_body(&self.0, &mut |bytes| hasher.update(bytes)).expect("a command is verified when it is made");
    }
}

/// One op of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// What must hold for it.
    pub precondition: Precondition,
    /// The key.
    pub key: Bytes,
    /// The value; empty for a delete.
    pub value: Bytes,
    /// The whole value record.
    pub record: Bytes,
}

/// Where an op is in a command's body, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpSpan {
    pub(crate) kind: OpKind,
    pub(crate) precondition: Precondition,
    pub(crate) key: Bytes,
    /// Offset of the record in the body.
    pub(crate) record_at: u64,
    pub(crate) value_len: u32,
    pub(crate) head: RecordHead,
}

impl OpSpan {
    pub(crate) fn record_end(&self) -> u64 {
        self.record_at + self.head.record_len()
    }

    /// Verifies the record's checksum against a whole body.
    pub(crate) fn check_record(&self, body: &[u8]) -> Result<(), Fault> {
        let record = body.get(self.record_at as usize..self.record_end() as usize);
        self.head.check(record.unwrap_or_default())
    }
}

/// Hands out parts of a command's body: from memory, or from a file without the values.
pub(crate) trait BodySource {
    type Error: From<Fault>;

    /// Bytes `at..at + len` of the body, which the caller has checked to lie within it.
    fn bytes(&mut self, at: u64, len: u64) -> Result<Bytes, Self::Error>;
}

struct InMemory<'a>(&'a Bytes);

impl BodySource for InMemory<'_> {
    type Error = Fault;

    fn bytes(&mut self, at: u64, len: u64) -> Result<Bytes, Fault> {
        let (start, end) = (at as usize, (at + len) as usize);
        if end > self.0.len() {
            return Err(Fault::Short {
                needed: at + len,
                got: self.0.len() as u64,
            });
        }
        Ok(self.0.slice(start..end))
    }
}

/// Walks a body in memory; see `walk_ops`.
pub(crate) fn walk_body(body: &Bytes, covered: &mut dyn FnMut(&[u8])) -> Result<Vec<OpSpan>, Fault> {
    walk_ops(&mut InMemory(body), body.len() as u64, covered)
}

/// Walks the ops of a body, reading everything but the values, and hands what it read to `covered`, in order.
pub(crate) fn walk_ops<S: BodySource>(
    source: &mut S,
    body_len: u64,
    covered: &mut dyn FnMut(&[u8]),
) -> Result<Vec<OpSpan>, S::Error> {
    let within = |end: u64| {
        if end <= body_len {
            Ok(())
        } else {
            Err(Fault::Short {
                needed: end,
                got: body_len,
            })
        }
    };
    if body_len > BODY_LEN_MAX {
        return Err(Fault::Field {
            field: "command length",
            value: body_len,
        }
        .into());
    }
    within(COMMAND_HEADER_LEN)?;
    let count_bytes = source.bytes(0, COMMAND_HEADER_LEN)?;
    covered(&count_bytes);
    let count = match *count_bytes {
        [low, high] => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    if count == 0 {
        return Err(Fault::Field {
            field: "op count",
            value: 0,
        }
        .into());
    }
    let mut spans: Vec<OpSpan> = Vec::new();
    let mut at = COMMAND_HEADER_LEN;
    for _ in 0..count {
        let key_at = at + OP_HEADER_LEN + RECORD_HEADER_LEN;
        within(key_at)?;
        let head_bytes = source.bytes(at, OP_HEADER_LEN + RECORD_HEADER_LEN)?;
        let (kind, precondition, head) = decode_op(&head_bytes)?;
        within(at + OP_HEADER_LEN + head.record_len())?;
        let key = source.bytes(key_at, head.key_len.into())?;
        covered(&head_bytes);
        covered(&key);
        if let Some(first) = spans.first().filter(|first| first.head.revision != head.revision) {
            let expected = first.head.revision;
            return Err(Fault::Mismatch {
                field: "revision",
                expected,
                got: head.revision,
            }
            .into());
        }
        let record_at = at + OP_HEADER_LEN;
        at = record_at + head.record_len();
        spans.push(OpSpan {
            kind,
            precondition,
            key,
            record_at,
            value_len: head.value_len,
            head,
        });
    }
    if at != body_len {
        return Err(Fault::Trailing(body_len - at).into());
    }
    Ok(spans)
}

fn decode_op(bytes: &[u8]) -> Result<(OpKind, Precondition, RecordHead), Fault> {
    let short = Fault::Short {
        needed: OP_HEADER_LEN,
        got: bytes.len() as u64,
    };
    let ([kind, condition], rest) = bytes.split_first_chunk::<2>().ok_or(short)?;
    let (revision, record) = rest.split_first_chunk::<8>().ok_or(short)?;
    let head = RecordHead::decode(record)?;
    let kind = match (*kind, head.is_delete) {
        (1, false) => OpKind::Put,
        (2, true) => OpKind::Delete,
        (other, _) => {
            return Err(Fault::Field {
                field: "op kind",
                value: other.into(),
            });
        }
    };
    let precondition = match (*condition, u64::from_le_bytes(*revision)) {
        (0, 0) => Precondition::None,
        (1, 0) => Precondition::Absent,
        (2, revision) => Precondition::ModRevision(revision),
        (other, _) => {
            return Err(Fault::Field {
                field: "precondition",
                value: other.into(),
            });
        }
    };
    Ok((kind, precondition, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::decode_record;

    #[test]
    fn sealed_drafts_equal_what_the_wire_accepts() {
        for precondition in [
            Precondition::None,
            Precondition::Absent,
            Precondition::ModRevision(9),
        ] {
            for value in [&b""[..], b"x", &[3; 5000]] {
                let draft = Draft::put(b"some key", value, precondition);
                let len = draft.len();
                let command = draft.seal(77);
                assert_eq!(command.as_bytes().len(), len);
                assert_eq!(command.revision(), 77);
                let back = Command::from_bytes(command.as_bytes().clone()).unwrap();
                let op = back.ops().next().unwrap();
                assert_eq!((op.kind, op.precondition), (OpKind::Put, precondition));
                assert_eq!((&op.key[..], &op.value[..]), (&b"some key"[..], value));
                let record = decode_record(op.record).unwrap();
                assert_eq!(
                    (record.revision, &record.value[..], record.is_delete),
                    (77, value, false)
                );
            }
            let command = Draft::delete(b"k", precondition).seal(1);
            let back = Command::from_bytes(command.as_bytes().clone()).unwrap();
            let op = back.ops().next().unwrap();
            assert_eq!(
                (op.kind, op.precondition, op.value.len()),
                (OpKind::Delete, precondition, 0)
            );
            assert!(decode_record(op.record).unwrap().is_delete);
        }
    }

    #[test]
    fn several_ops_share_a_command() {
        let [a, b] = [
            Draft::put(b"a", b"1", Precondition::None),
            Draft::delete(b"b", Precondition::Absent),
        ]
        .map(|draft| draft.seal(5));
        let mut body = a.as_bytes().to_vec();
        body[0] = 2;
        body.extend_from_slice(&b.as_bytes()[2..]);
        let command = Command::from_bytes(body.clone().into()).unwrap();
        let keys: Vec<Bytes> = command.ops().map(|op| op.key).collect();
        assert_eq!(keys, [&b"a"[..], b"b"]);
        let other = Draft::put(b"b", b"2", Precondition::None).seal(6);
        let mut mixed = a.as_bytes().to_vec();
        mixed[0] = 2;
        mixed.extend_from_slice(&other.as_bytes()[2..]);
        assert!(Command::from_bytes(mixed.into()).is_err(), "revisions differ");
        body.push(0);
        assert!(Command::from_bytes(body.into()).is_err(), "trailing byte");
    }

    #[test]
    fn cut_bytes_and_flipped_records_are_refused() {
        let body = Draft::put(b"key", b"value", Precondition::None)
            .seal(3)
            .as_bytes()
            .clone();
        for len in 0..body.len() {
            assert!(Command::from_bytes(body.slice(..len)).is_err(), "cut to {len}");
        }
        for bit in RECORD_AT * 8..body.len() * 8 {
            let mut bad = body.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Command::from_bytes(bad.into()).is_err(), "bit {bit}");
        }
    }
}
