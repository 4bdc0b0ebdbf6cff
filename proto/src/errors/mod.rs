//! The error vocabulary of the API: one place for what servers say and what clients understand.
//!
//! Every refusal is a [`tonic::Status`] with a `google.rpc.ErrorInfo` (domain [`DOMAIN`], reason [`Reason`]) and the
//! typed details that fit: `RetryInfo`, `BadRequest`, `PreconditionFailure`, `QuotaFailure`. The one question a writer
//! must have answered is whether the command may have been proposed; it is always in the metadata field
//! [`field::PROPOSED`] of errors that a retry could repeat.
//!
//! Servers use the builders in this module ([`not_leader`], [`key_too_large`], ...); clients use
//! [`ApiError::from_status`]. Both read the same table, [`Reason`].

mod api_error;
mod build;
mod reason;

pub use api_error::{ApiError, LeaderHint, connect_failed, definitely_not_processed, no_answer_in_time};
pub use build::*;
pub use reason::Reason;

/// `google.rpc.ErrorInfo.domain` of every error of this API.
pub const DOMAIN: &str = "nezha";

/// Trailing metadata with the leader's client address, for clients that ignore error details.
pub const LEADER_ENDPOINT_TRAILER: &str = "nezha-leader-endpoint";

/// Trailing metadata (binary) with the last key delivered by a scan that ended early.
pub const RESUME_KEY_TRAILER: &str = "nezha-resume-key-bin";

/// Names of `ErrorInfo.metadata` fields.
pub mod field {
    /// Name of the member that refused.
    pub const NODE: &str = "node";
    /// Id of the leader, decimal.
    pub const LEADER_ID: &str = "leader_id";
    /// Client address of the leader, `host:port`.
    pub const LEADER_ENDPOINT: &str = "leader_endpoint";
    /// Raft term of the member that refused, decimal.
    pub const TERM: &str = "term";
    /// `false`: the command was not handed to Raft, so repeating it is safe. `true`: it may take effect.
    pub const PROPOSED: &str = "proposed";
    /// Why an outcome is unknown, in words.
    pub const CAUSE: &str = "cause";
    /// The limit that was passed, in bytes, decimal.
    pub const LIMIT: &str = "limit";
    /// What was sent, in bytes, decimal.
    pub const ACTUAL: &str = "actual";
    /// Log entries that a member is behind, decimal.
    pub const LAG: &str = "lag";
    /// Damaged file, relative to the data directory.
    pub const FILE: &str = "file";
    /// Offset of the damage in the file, in bytes, decimal.
    pub const OFFSET: &str = "offset";
    /// Free bytes on the full file system, decimal.
    pub const FREE: &str = "free";
}
