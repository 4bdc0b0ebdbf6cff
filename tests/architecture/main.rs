//! The shape of the workspace, checked over `cargo metadata`.
//!
//! Goal: a dependency between rooms that ARCHITECTURE.md does not draw fails the build, and so does a registry
//! crate with a licence or a source that `deny.toml` does not allow.
//! Method: the checkers are pure functions over a small graph; each is first shown to refuse a planted violation,
//! then run over the real workspace.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edges;
mod graph;
mod supply;
