//! Why a node does not run, or stopped, and the exit codes of kvd that say so.
//!
//! The codes are part of its interface: scripts and supervisors act on them.

use std::io;

use thiserror::Error;

use crate::bootstrap::BootError;
use crate::identity::IdentityError;
use crate::index::IndexError;
use crate::offline::OfflineError;
use crate::raft::{AdminError, StartError};
use crate::store::StoreError;

/// Something that none of the others names.
pub const OTHER: i32 = 1;
/// Options that make no configuration.
pub const USAGE: i32 = 2;
/// No space to start, or to go on.
pub const NO_SPACE: i32 = 10;
/// A write or sync of the log failed: what was not synced is not acknowledged, and the process stops.
pub const LOG_FAILED: i32 = crate::raft::EXIT_LOG_FAILED;
/// Data that cannot be used: damaged, or of an unknown format.
pub const DATA_REFUSED: i32 = 12;
/// The directory belongs to another node or cluster, or was wiped.
pub const WRONG_DIRECTORY: i32 = crate::raft::EXIT_REFUSED;
/// Another process uses the directory.
pub const LOCKED: i32 = 14;
/// A port is taken.
pub const PORT_IN_USE: i32 = 15;

/// Why a node does not run, or stopped.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The directory, or this node's right to it.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Log, index or values.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refused to start.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// Raft refused to form the cluster, or stopped while it started.
    #[error("forming the cluster failed: {0}")]
    Form(#[from] AdminError),
    /// A port cannot be listened on.
    #[error("cannot listen on {addr} ({option}): {source}. Next: {next}")]
    Port {
        /// The address.
        addr: String,
        /// The option that names it.
        option: &'static str,
        /// The operating system's answer.
        source: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// Too little space to start.
    #[error(
        "no space: {dir} is on a file system with {free} bytes free, kvd needs {needed} to start. Next: free some space \
         on that file system, or move the directory to a larger one and start with --data-dir there"
    )]
    NoSpace {
        /// The directory.
        dir: String,
        /// Free bytes.
        free: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// The index could not be written on.
    #[error(
        "no space: {reason}. Next: free some space on that file system, or move the directory to a larger one; then start \
         again: nothing that was acknowledged is lost"
    )]
    OutOfSpace {
        /// What could not be written.
        reason: String,
    },
    /// An entry of the log is damaged.
    #[error(
        "the log is damaged: {what}. This node cannot serve its part of the log any more. To go on, {}",
        crate::identity::REPLACE_NODE
    )]
    Damage {
        /// File, offset and what is wrong there.
        what: String,
    },
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The answer.
        source: io::Error,
    },
    /// Raft stopped by itself.
    #[error("Raft stopped: {reason}. Next: see the log above; start the node again once the cause is gone")]
    RaftStopped {
        /// Why.
        reason: String,
        /// The log could not be written.
        log_failed: bool,
    },
}

impl NodeError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Boot(BootError::Identity(error)) | Self::Store(StoreError::Identity(error)) => {
                identity_exit(error)
            }
            Self::Boot(BootError::NoOrigin { .. } | BootError::OtherAddress { .. }) => USAGE,
            Self::Boot(_) => WRONG_DIRECTORY,
            Self::Store(StoreError::Index(IndexError::NoSpace { .. })) => NO_SPACE,
            Self::Store(error) if is_no_space(error) => NO_SPACE,
            // The operating system refused: the data may be sound.
            Self::Store(
                StoreError::Log(nezha_vlog::Error::Io { .. })
                | StoreError::Values(nezha_gc::Error::Io { .. }),
            ) => OTHER,
            Self::Store(
                StoreError::Refused { .. } | StoreError::NoStore { .. } | StoreError::Damage { .. },
            ) => DATA_REFUSED,
            Self::Store(StoreError::Index(IndexError::UnknownFormat { .. })) => DATA_REFUSED,
            Self::Store(StoreError::Log(_) | StoreError::Values(_)) => DATA_REFUSED,
            Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => PORT_IN_USE,
            Self::NoSpace { .. } | Self::OutOfSpace { .. } => NO_SPACE,
            Self::Damage { .. } | Self::Raft(StartError::Damage(_)) => DATA_REFUSED,
            Self::RaftStopped { log_failed: true, .. } => LOG_FAILED,
            _ => OTHER,
        }
    }
}

fn identity_exit(error: &IdentityError) -> i32 {
    match error {
        IdentityError::Locked { .. } => LOCKED,
        IdentityError::Damage { .. } | IdentityError::UnknownVersion { .. } => DATA_REFUSED,
        IdentityError::Missing { .. }
        | IdentityError::OtherNode { .. }
        | IdentityError::OtherCluster { .. } => WRONG_DIRECTORY,
        error if is_no_space(error) => NO_SPACE,
        _ => OTHER,
    }
}

/// The exit code of `kvd check` and `kvd dump` when they cannot look at a directory.
pub fn offline_exit_code(error: &OfflineError) -> i32 {
    match error {
        OfflineError::Identity(error) => identity_exit(error),
        OfflineError::NoNode { .. } => WRONG_DIRECTORY,
        OfflineError::Output(_)
        | OfflineError::Log(nezha_vlog::Error::Io { .. })
        | OfflineError::Values(nezha_gc::Error::Io { .. }) => OTHER,
        OfflineError::Store(_) | OfflineError::Log(_) | OfflineError::Values(_) | OfflineError::Index(_) => {
            DATA_REFUSED
        }
    }
}

/// Whether the operating system said, somewhere below `error`, that the disk is full.
fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_own_exit_codes() {
        let dir = || "d".into();
        let boot = |error: IdentityError| NodeError::Boot(error.into());
        let cases = [
            (
                boot(IdentityError::Locked {
                    dir: dir(),
                    holder: Some(1),
                }),
                LOCKED,
            ),
            (
                boot(IdentityError::OtherCluster {
                    dir: dir(),
                    found: 1,
                    wanted: 2,
                }),
                WRONG_DIRECTORY,
            ),
            (
                boot(IdentityError::UnknownVersion {
                    path: dir(),
                    found: 9,
                    supported: 1,
                }),
                DATA_REFUSED,
            ),
            (
                NodeError::Boot(BootError::Wiped {
                    name: "n1".into(),
                    id: 1,
                    by: "h:1".into(),
                    known: 1,
                    ours: 2,
                }),
                WRONG_DIRECTORY,
            ),
            (
                NodeError::Boot(BootError::NoOrigin {
                    dir: "d".into(),
                    name: "n".into(),
                }),
                USAGE,
            ),
            (
                NodeError::Store(StoreError::Damage {
                    file: dir(),
                    offset: 7,
                    reason: "x".into(),
                }),
                DATA_REFUSED,
            ),
            (
                NodeError::Port {
                    addr: "h:1".into(),
                    option: "--listen-client",
                    source: io::ErrorKind::AddrInUse.into(),
                    next: "",
                },
                PORT_IN_USE,
            ),
            (
                NodeError::NoSpace {
                    dir: "d".into(),
                    free: 1,
                    needed: 2,
                },
                NO_SPACE,
            ),
            (NodeError::OutOfSpace { reason: "x".into() }, NO_SPACE),
            (
                NodeError::Store(StoreError::Index(IndexError::NoSpace {
                    op: "open",
                    dir: "d".into(),
                    detail: "x".into(),
                })),
                NO_SPACE,
            ),
            (NodeError::Damage { what: "x".into() }, DATA_REFUSED),
            (
                NodeError::RaftStopped {
                    reason: "x".into(),
                    log_failed: true,
                },
                LOG_FAILED,
            ),
            (
                NodeError::RaftStopped {
                    reason: "x".into(),
                    log_failed: false,
                },
                OTHER,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit_code(), code, "{error}");
        }
        let full = IdentityError::Io {
            action: "write",
            path: "d".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        assert_eq!(boot(full).exit_code(), NO_SPACE);
    }
}
