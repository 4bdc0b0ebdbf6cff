//! The Nezha node.
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod collector;
pub mod config;
pub mod exit;
pub mod identity;
pub mod index;
pub mod local;
pub mod machine;
pub mod node;
pub mod offline;
mod pace;
#[cfg(all(test, feature = "planted-bugs"))]
mod planted_test;
pub mod raft;
#[cfg(test)]
mod seed;
pub mod serve;
pub mod server;
pub mod store;
