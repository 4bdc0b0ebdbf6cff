//! The Nezha node.
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod collector;
pub mod config;
pub mod exit;
pub mod identity;
pub mod index;
pub mod local;
pub mod node;
pub mod offline;
mod pace;
pub mod raft;
pub mod server;
pub mod store;
