use std::fmt;

use bytes::Bytes;

use crate::errors::{ApiError, Reason};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An endpoint that is not `host:port`.
    #[error("endpoint {endpoint:?}: {reason}; write it as host:port")]
    InvalidEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server refused the request; it had no effect.
    #[error("{endpoint}: {}", error.message)]
    Refused {
        /// Who answered.
        endpoint: String,
        /// What it said.
        error: Box<ApiError>,
    },
    /// The write was sent and no answer tells whether it took effect. It was not repeated.
    #[error(
        "{endpoint}: outcome unknown: {cause}; the write may or may not take effect: read before repeating it"
    )]
    OutcomeUnknown {
        /// Where it was sent.
        endpoint: String,
        /// What happened instead of an answer.
        cause: String,
    },
    /// No member could serve the request in time. It had no effect.
    #[error("no member could serve the request:{}", Causes(failures))]
    Unavailable {
        /// The last failure of each endpoint that was tried, in order of first trial.
        failures: Vec<EndpointFailure>,
    },
    /// A scan broke after it had delivered rows, and could not be continued on the same view.
    #[error(
        "{endpoint}: the scan broke after {} rows: {cause}; rows so far are complete as of revision {}; \
         start a new scan from the resume key",
        at.rows, at.revision
    )]
    ScanInterrupted {
        /// Who served it last.
        endpoint: String,
        /// What happened.
        cause: String,
        /// How far it came.
        at: Box<ScanPosition>,
    },
    /// A server of another kind, or a defect: an answer that lacks what the API promises.
    #[error("{endpoint}: malformed answer: {what}")]
    Malformed {
        /// Who answered.
        endpoint: String,
        /// What is missing or wrong.
        what: String,
    },
}

impl ClientError {
    /// Returns what the server said, if the error is a refusal.
    pub fn api_error(&self) -> Option<&ApiError> {
        match self {
            ClientError::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Returns the server's reason, if the error is a refusal with one.
    pub fn reason(&self) -> Option<Reason> {
        self.api_error().and_then(|error| error.reason)
    }
}

/// How far a scan came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPosition {
    /// Rows delivered.
    pub rows: u64,
    /// Key and value bytes delivered.
    pub bytes: u64,
    /// Revision of the view.
    pub revision: u64,
    /// Last key delivered: pass it as `resume_key`.
    pub resume_key: Bytes,
}

/// Why one endpoint did not serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFailure {
    /// `host:port`.
    pub endpoint: String,
    /// What kind of failure.
    pub kind: FailureKind,
    /// The cause, in words.
    pub cause: String,
}

/// Kinds of failures of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection.
    Unreachable,
    /// Connected, and no answer in time.
    TimedOut,
    /// Answered that it does not lead or knows no leader.
    NoLeader,
    /// Answered that it cannot serve now (starting, stopping, overloaded).
    NotServing,
    /// The connection or the call broke.
    Broken,
}

struct Causes<'a>(&'a [EndpointFailure]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, " time ran out before any was tried");
        }
        for failure in self.0 {
            write!(f, "\n  {}: {}", failure.endpoint, failure.cause)?;
        }
        Ok(())
    }
}
