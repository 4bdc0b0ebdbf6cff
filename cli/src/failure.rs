//! What went wrong, and the exit code that says so.

use std::fmt;
use std::io;

use nezha_api::ClientError;
use nezha_api::client::{EndpointFailure, FailureKind};
use nezha_api::errors::Reason;
use nezha_ycsb::BenchError;
use tonic::Code;

/// Exit codes of kvctl; stable, listed in `kvctl --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The key is absent, or the condition of a write did not hold.
    Condition = 1,
    /// Wrong usage, or a local file that cannot be read or written.
    Usage = 2,
    /// No connection, or no leader.
    Unreachable = 3,
    /// The server refused the request.
    Refused = 4,
    /// Time ran out; the outcome of a write is unknown.
    Timeout = 5,
    /// The cluster is not healthy.
    Unhealthy = 6,
    /// A disk is full.
    NoSpace = 7,
    /// Stored data is damaged.
    Damage = 8,
    /// Replicas hold different data.
    Differs = 9,
    /// Replicas could not all be compared.
    Undecided = 10,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// Why a command ends without success. `Display` is what goes to stderr.
#[derive(Debug)]
pub enum Failure {
    /// The store answered, and the answer is "no".
    Condition(String),
    /// Arguments that cannot be used.
    Usage(String),
    /// A local file or stream.
    Local { what: String, source: io::Error },
    /// The client library gave up.
    Client(ClientError),
    /// The answer shows trouble; it has been printed already.
    Reported(Exit),
    /// A node answered, and did not do what it was asked for.
    Node { exit: Exit, text: String },
    /// The benchmark failed.
    Bench(anyhow::Error),
}

impl Failure {
    /// Wraps an error of a local file or stream; `what` completes "cannot ...".
    pub fn local(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
        |source| Failure::Local {
            what: what.into(),
            source,
        }
    }

    /// Returns the exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Condition(_) => Exit::Condition,
            Failure::Usage(_) | Failure::Local { .. } => Exit::Usage,
            Failure::Client(error) => exit_of(error),
            Failure::Reported(exit) | Failure::Node { exit, .. } => *exit,
            Failure::Bench(error) => match error.downcast_ref::<BenchError>() {
                Some(BenchError::Usage(_)) => Exit::Usage,
                Some(BenchError::Unreachable(_)) => Exit::Unreachable,
                None if error.is::<io::Error>() => Exit::Usage,
                None => Exit::Refused,
            },
        }
    }

    /// Whether the reader of our output has gone, which is no error of ours (`kvctl scan | head`).
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Condition(text) | Failure::Usage(text) | Failure::Node { text, .. } => f.write_str(text),
            Failure::Local { what, source } => write!(f, "cannot {what}: {source}"),
            Failure::Client(error) => {
                match error {
                    ClientError::Refused { endpoint, .. } if is_unknown_call(error) => {
                        write!(f, "{endpoint}: {UNKNOWN_CALL}")?;
                    }
                    error => write!(f, "{error}")?,
                }
                match advice(error) {
                    Some(advice) => write!(f, "\n{advice}"),
                    None => Ok(()),
                }
            }
            Failure::Reported(_) => Ok(()),
            Failure::Bench(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

/// Returns why a member did not answer, without its endpoint, for lines and tables that name it.
pub fn cause(error: &ClientError) -> String {
    match error {
        error if is_unknown_call(error) => UNKNOWN_CALL.into(),
        ClientError::Unavailable { failures } => match failures.first() {
            Some(failure) => failure.cause.clone(),
            None => "no answer".into(),
        },
        ClientError::Refused { error, .. } => error.message.clone(),
        ClientError::OutcomeUnknown { cause, .. } => format!("outcome unknown: {cause}"),
        error => error.to_string(),
    }
}

const UNKNOWN_CALL: &str = "does not know this call: its kvd is older than this kvctl";

/// Whether the server has no such method. That answer is the gRPC library's own, so it has no reason of ours.
fn is_unknown_call(error: &ClientError) -> bool {
    let answer = error.api_error();
    answer.is_some_and(|answer| answer.code == Code::Unimplemented && answer.reason.is_none())
}

/// Returns the exit code for an error of the client library.
fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::InvalidEndpoint { .. } => Exit::Usage,
        ClientError::Refused { error, .. } => match (error.reason, error.code) {
            (Some(Reason::NoSpace), _) => Exit::NoSpace,
            (_, Code::DataLoss) => Exit::Damage,
            _ => Exit::Refused,
        },
        ClientError::OutcomeUnknown { .. } => Exit::Timeout,
        ClientError::Unavailable { failures } if timed_out(failures) => Exit::Timeout,
        ClientError::Unavailable { .. } | ClientError::ScanInterrupted { .. } => Exit::Unreachable,
        _ => Exit::Refused,
    }
}

/// Whether someone was connected and did not answer, and nobody said that there is no leader.
fn timed_out(failures: &[EndpointFailure]) -> bool {
    let any = |kind| failures.iter().any(|failure| failure.kind == kind);
    any(FailureKind::TimedOut) && !any(FailureKind::NoLeader)
}

/// Returns what to do next, where the error itself does not say.
fn advice(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Unavailable { failures } => {
            let all = |kind| failures.iter().all(|failure| failure.kind == kind);
            Some(if all(FailureKind::Unreachable) {
                "nothing was changed; check that kvd runs there, or name other members with --endpoints"
            } else {
                "nothing was changed; `kvctl status` shows which members are up; --timeout waits longer"
            })
        }
        error if is_unknown_call(error) => {
            Some("nothing was changed; `kvctl status` shows the version that each member runs")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nezha_api::errors::{self, ApiError};

    fn refused(status: tonic::Status) -> Failure {
        let error = Box::new(ApiError::from_status(&status));
        Failure::Client(ClientError::Refused {
            endpoint: "a:1".into(),
            error,
        })
    }

    fn unavailable(kinds: &[FailureKind]) -> Failure {
        let failures = kinds
            .iter()
            .map(|kind| EndpointFailure {
                endpoint: "a:1".into(),
                kind: *kind,
                cause: "x".into(),
            })
            .collect();
        Failure::Client(ClientError::Unavailable { failures })
    }

    #[test]
    fn exit_codes_follow_the_table() {
        assert_eq!(refused(errors::value_too_large(2, 1)).exit(), Exit::Refused);
        assert_eq!(refused(errors::no_space("n1", 1, 2)).exit(), Exit::NoSpace);
        assert_eq!(
            refused(errors::data_damaged("n1", "f", 1, "crc")).exit(),
            Exit::Damage
        );
        let unknown = ClientError::OutcomeUnknown {
            endpoint: "a:1".into(),
            cause: "x".into(),
        };
        assert_eq!(Failure::Client(unknown).exit(), Exit::Timeout);
        assert_eq!(unavailable(&[FailureKind::Unreachable]).exit(), Exit::Unreachable);
        assert_eq!(
            unavailable(&[FailureKind::Unreachable, FailureKind::TimedOut]).exit(),
            Exit::Timeout
        );
        assert_eq!(
            unavailable(&[FailureKind::NoLeader, FailureKind::TimedOut]).exit(),
            Exit::Unreachable
        );
        assert_eq!(Failure::Condition(String::new()).exit(), Exit::Condition);
        let bench = |error: anyhow::Error| Failure::Bench(error.context("cannot run")).exit();
        assert_eq!(bench(BenchError::Usage("x".into()).into()), Exit::Usage);
        assert_eq!(
            bench(BenchError::Unreachable("x".into()).into()),
            Exit::Unreachable
        );
        assert_eq!(bench(io::Error::other("x").into()), Exit::Usage);
        assert_eq!(bench(anyhow::anyhow!("x")), Exit::Refused);
    }
}
