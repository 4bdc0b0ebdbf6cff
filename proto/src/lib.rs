//! gRPC API of Nezha: generated types, the error vocabulary and the Rust client.
#![forbid(unsafe_code)]

pub mod client;
pub mod errors;
pub mod version;

pub use client::{Client, ClientError, ClientOptions};

/// Client API, package `nezha.v1`.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("nezha.v1");
}

/// Between members, package `nezha.peer.v1`. Not a public API.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod peer {
    tonic::include_proto!("nezha.peer.v1");
}

/// Highest value size that a server can be configured to accept, in bytes.
pub const VALUE_BYTES_CEILING: usize = 64 << 20;

/// Transport limit for encoding and decoding on both sides, in bytes: above [`VALUE_BYTES_CEILING`] plus a scan chunk
/// and overhead, so that users only ever meet the logical limit and its precise error.
pub const MESSAGE_BYTES_MAX: usize = VALUE_BYTES_CEILING + (4 << 20);
