//! Sorted value segments: files of value records in key order.
//!
//! A record has the same bytes here as in the log it came from: copied, never encoded again, checked at every read.
//! A segment appears under its name only when it is complete and durable, so the directory listing is the truth.
//!
//! Start at [`SegmentWriter`] and [`ValueSegments`]; what to collect next is decided in [`mod@plan`]; every byte layout is in
//! [`mod@format`].
//!
//! Architecture invariant: this crate is synchronous and knows no tokio, openraft, rocksdb or prost; every file operation
//! goes through [`nezha_vlog::fs::Fs`].
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod error;
pub mod format;
pub mod plan;
mod segment;
mod segments;
mod writer;

#[cfg(test)]
mod gc_test;

pub use error::Error;
pub use segment::{Summary, ValueSegment};
pub use segments::ValueSegments;
pub use writer::SegmentWriter;
