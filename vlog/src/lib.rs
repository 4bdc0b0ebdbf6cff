//! The segmented Raft log that is also the value log.
//!
//! A command's bytes are built once (`Draft`), sealed in place when the log index is known, and from there they are the
//! same on the wire, in the log, in sorted segments and in snapshot streams. The log is one stream of votes, entries,
//! truncations and purges; one `fdatasync` covers everything queued.
//!
//! Start at [`Log`] (the front: submit and read), [`Writer`] (the one writer), `format` (every byte layout) and
//! `recover` (the table of recovery cases).
//!
//! Architecture invariant: this crate is synchronous and knows no tokio, openraft, rocksdb or prost; every file operation
//! goes through [`fs::Fs`].
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod command;
mod content;
mod entry;
mod error;
mod extents;
mod files;
pub mod format;
pub mod fs;
mod ids;
pub mod inspect;
mod layout;
mod log;
mod options;
mod planted;
mod queue;
mod read;
mod record;
pub mod recover;
mod runs;
mod scan;
mod segment_bytes;
mod state;
mod tail;
mod view;
mod writer;

pub use command::{Command, Draft, Op, OpKind, Precondition};
pub use entry::{Entry, Head, HeadPayload, OpHead, Payload};
pub use error::{Error, Fault};
pub use ids::{LogId, SegmentId, Seq, ValueRef, Vote};
pub use log::{Log, SegmentInfo};
pub use options::Options;
pub use queue::Done;
pub use record::{Record, decode_record, encode_record, record_len, verify_record};
pub use recover::{Recovered, RecoveryCase};
pub use segment_bytes::SegmentBytes;
pub use writer::Writer;
