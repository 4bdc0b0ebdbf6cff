//! The Raft room: the only one that knows openraft. One file per trait that openraft asks for, and a front,
//! [`Consensus`], for the server.
//!
//! A write travels [`Consensus::propose`] -> openraft -> `log_store` (append: revision and checksum are filled in, the
//! entry becomes readable, the log-writer thread gets it) -> `network` (in parallel) -> `log_reader` (keys and places,
//! once durable here) -> `state_machine` -> back to the caller.

mod consensus;
mod convert;
mod credits;
mod drop_on_blocking;
mod errors;
mod log_reader;
mod log_store;
mod log_writer;
mod metrics;
mod network;
mod peer_identity;
mod peer_service;
#[cfg(feature = "planted-bugs")]
mod planted;
mod read_index;
mod responder;
mod settings;
mod snapshot;
mod state_machine;
mod transfer;
mod types;

#[cfg(test)]
mod purge_test;
#[cfg(test)]
mod raft_test;

pub use consensus::{Consensus, Purgeable, Written};
pub use errors::{AdminError, ReadError, StartError, WriteError};
pub use log_writer::{EXIT_LOG_FAILED, GroupTimes};
pub use metrics::{MemberInfo, Metrics};
pub use openraft::ServerState;
pub use peer_identity::{EXIT_REFUSED, PeerIdentity};
pub use peer_service::PeerServer;
pub use read_index::ReadPoint;
pub use settings::Settings;
pub use state_machine::FlushPolicy;
pub use types::{Node, NodeId};
