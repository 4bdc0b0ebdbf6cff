//! Why a call of [`super::Consensus`] failed.

use std::io;

use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal, ForwardToLeader, RaftError};

use super::types::{Node, NodeId, TypeConfig};

/// Why a write was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// Definite: nothing was proposed.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader as far as this member knows.
        leader: Option<(NodeId, Node)>,
    },
    /// Proposed; it may have taken effect or may still do so.
    #[error("the outcome of the write is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// Why a linearizable read cannot be served here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader as far as this member knows.
        leader: Option<(NodeId, Node)>,
    },
    /// No quorum confirmed the leadership.
    #[error("leadership was not confirmed: {reason}")]
    Unavailable {
        /// What openraft said.
        reason: String,
    },
    /// Raft stopped on this member.
    #[error("Raft stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a membership change, leader transfer or purge did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// Ask the leader.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader as far as this member knows.
        leader: Option<(NodeId, Node)>,
    },
    /// The cluster's state does not allow it.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
        /// Log entries that the member lacks, where that is the reason.
        lag: Option<u64>,
    },
    /// It was begun; whether it took effect is not known.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// Why Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings contradict each other.
    #[error("invalid settings: {0}")]
    Settings(#[from] openraft::ConfigError),
    /// The log writer's thread could not be started.
    #[error("starting the log writer failed: {0}")]
    Writer(#[from] io::Error),
    /// Raft refused the state on disk, or stopped at once.
    #[error("starting Raft failed: {0}")]
    Raft(#[from] Fatal<TypeConfig>),
    /// An entry of the log is damaged. Names file and offset.
    #[error("{0}")]
    Damage(String),
    /// Started twice.
    #[error("{0}")]
    Twice(&'static str),
}

pub(super) fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<(NodeId, Node)> {
    forward.leader_id.zip(forward.leader_node.clone())
}

pub(super) fn admin_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> AdminError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => AdminError::NotLeader {
            leader: leader_of(&to),
        },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
            let hint = match e {
                ChangeMembershipError::InProgress(_) => "; wait until it is done",
                ChangeMembershipError::UncommittedLeaderLog(_) => "; try again in a moment",
                _ => "",
            };
            AdminError::Refused {
                reason: format!("{e}{hint}"),
                lag: None,
            }
        }
        RaftError::APIError(e) => AdminError::Unknown {
            reason: e.to_string(),
        },
        RaftError::Fatal(e) => AdminError::Unknown {
            reason: e.to_string(),
        },
    }
}
