//! What clients did and were told, with what was done to the cluster meanwhile.
//!
//! Everything else speaks this: workloads record it, readers of other formats make it, checkers judge it, reports show
//! it. Times are nanoseconds since the start of the run on one monotonic clock.

mod call;
pub mod edn;
mod edn_text;
mod events;
pub mod jsonl;
pub mod logs;
pub mod read;

use serde::{Deserialize, Serialize};

/// One run: operations in the order of their invocation, faults in the order of their begin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What clients did.
    pub operations: Vec<Operation>,
    /// What was done to the cluster.
    pub faults: Vec<Fault>,
}

/// One operation of one client, from its invocation to its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Client: one operation at a time. Whoever got no definite answer goes on under a new number.
    pub process: u64,
    /// Before the request was sent.
    pub invoked: u64,
    /// After the answer was there, or the client had given up; `None` when the history ends before.
    pub ended: Option<u64>,
    /// The member that was asked; empty when not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// What was asked.
    pub call: Call,
    /// What the client knows afterwards.
    pub outcome: Outcome,
}

/// What was asked. Keys are UTF-8. Values are names of values: in histories of this harness each write has a name of its
/// own, and its bytes follow from the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants say what is asked for, in these words")]
pub enum Call {
    /// Reads one key.
    Read { key: String },
    /// Writes one key, whatever it holds.
    Write { key: String, value: String },
    /// Writes one key if it is as expected.
    Cas {
        key: String,
        expected: Expected,
        value: String,
    },
    /// Deletes one key, if it is as expected.
    Delete { key: String, expected: Option<Expected> },
    /// Appends to the value of one key; absent is empty. (Only in recorded histories of other stores.)
    Append { key: String, value: String },
    /// Reads `[start, end)` in key order from one view; an empty end is the end of the key space.
    Scan {
        start: String,
        end: String,
        reverse: bool,
        limit: u64,
    },
}

/// What a conditional write expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// It was last written at this revision.
    Revision(u64),
    /// It holds this value.
    Value(String),
}

/// What the client knows afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "`why` is for people")]
pub enum Outcome {
    /// It took effect, or was answered.
    Ok { answer: Answer },
    /// It certainly had no effect, and never will.
    Fail { why: String },
    /// It may have taken effect, or may yet.
    Unknown { why: String },
}

/// An answer. Revisions are `None` where the store has none, or the history does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants say what their fields are")]
pub enum Answer {
    /// To a read. `at`: the answer reflects every write up to this revision, and perhaps newer ones.
    Read { found: Option<Found>, at: Option<u64> },
    /// A write, append or conditional write took effect. The revision is its own.
    Written { revision: Option<u64> },
    /// A delete took effect. The revision is its own, also if the key did not exist.
    Deleted { existed: bool, revision: Option<u64> },
    /// The key was not as expected: nothing was changed. `revision`: when that was so. `current`: of the key, 0 if absent.
    Refused {
        current: Option<u64>,
        revision: Option<u64>,
    },
    /// To a scan: the state at exactly this revision. `more`: the limit ended it.
    Rows {
        rows: Vec<Row>,
        at: Option<u64>,
        more: bool,
    },
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Name of the value.
    pub value: String,
    /// Where the key stands.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// A row of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its key.
    pub key: String,
    /// Name of the value.
    pub value: String,
    /// Where the key stands.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// Where a key stands, as its metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Revision of its first write since it last did not exist.
    pub created: u64,
    /// Revision of its last write.
    pub revision: u64,
    /// Writes since it was created, from 1.
    pub version: u64,
}

/// Something that was done to the cluster, from its begin to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kind, such as `kill` or `partition`; the same word for the same kind everywhere.
    pub kind: String,
    /// Names of the members it was done to.
    pub members: Vec<String>,
    /// What exactly.
    pub detail: String,
    /// When it was in force, before the effect set in.
    pub began: u64,
    /// When it was undone; `None` for what needs no undoing, or was in force to the end.
    pub ended: Option<u64>,
}
