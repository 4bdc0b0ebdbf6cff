//! What an error proves about a write.
//!
//! A call of the Rust client is one operation, its retries included. That is sound because the client repeats a write only
//! after a proof that nothing was proposed (no connection was made, or the server says `proposed=false`), and ends the
//! call as `OutcomeUnknown` at the first attempt without that proof: `judge` in `proto/src/client/call.rs`. A definite
//! failure therefore never hides an earlier attempt whose outcome is not known. From a pipeline it goes over to a call of
//! its own only if nothing was put on the stream, or the server refused the stream before it read from it.

use nezha_api::ClientError;
use nezha_api::errors::{ApiError, Reason, definitely_not_processed};
use tonic::{Code, Status};

use crate::history::Outcome;

/// What a client knows after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Certainly no effect, now or later.
    NoEffect,
    /// Nothing.
    None,
}

/// What the error of a call of the Rust client proves about a write.
pub fn of_error(error: &ClientError) -> Proof {
    match error {
        ClientError::InvalidEndpoint { .. } | ClientError::Unavailable { .. } => Proof::NoEffect,
        ClientError::Refused { error, .. } => of_refusal(error),
        _ => Proof::None,
    }
}

/// What the status of a single attempt proves about a write.
pub fn of_status(status: &Status) -> Proof {
    if definitely_not_processed(status) {
        return Proof::NoEffect;
    }
    of_refusal(&ApiError::from_status(status))
}

fn of_refusal(error: &ApiError) -> Proof {
    match error.proposed {
        Some(false) => return Proof::NoEffect,
        Some(true) => return Proof::None,
        None => {}
    }
    // A request that is not valid is never proposed; nor does a server run what it does not know.
    match (error.reason, error.code) {
        (Some(Reason::Internal | Reason::OutcomeUnknown), _) => Proof::None,
        (_, Code::InvalidArgument | Code::Unimplemented) => Proof::NoEffect,
        _ => Proof::None,
    }
}

/// The outcome of a write that ended with an error: unknown unless the error proves more.
pub fn write(proof: Proof, why: String) -> Outcome {
    match proof {
        Proof::NoEffect => Outcome::Fail { why },
        Proof::None => Outcome::Unknown { why },
    }
}

/// The outcome of a read that ended with an error: it had no effect, whatever the error was.
pub fn read(why: String) -> Outcome {
    Outcome::Fail { why }
}

#[cfg(test)]
mod tests {
    use nezha_api::errors;

    use super::*;

    #[test]
    fn a_write_has_failed_only_if_that_is_proven() {
        let none = [
            errors::outcome_unknown("n1", "no answer"),
            errors::internal("n1", "disk", true),
            errors::data_damaged("n1", "log/1.log", 7, "CRC differs"),
            Status::unavailable("connection reset"),
            Status::cancelled("Timeout expired"),
            Status::deadline_exceeded(""),
            Status::unknown("h2 protocol error"),
            Status::resource_exhausted("a proxy's word"),
        ];
        for status in none {
            assert_eq!(of_status(&status), Proof::None, "{status:?}");
        }
        let no_effect = [
            errors::not_leader("n1", 3, None),
            errors::stopping("n1"),
            errors::not_ready("n1", "applied 3 of 9"),
            errors::no_space("n1", 1, 2),
            errors::key_empty(),
            errors::value_too_large(17, 16),
            errors::internal("n1", "reading failed", false),
        ];
        for status in no_effect {
            assert_eq!(of_status(&status), Proof::NoEffect, "{status:?}");
        }
    }

    #[test]
    fn the_clients_errors() {
        let endpoint = "n1:1".to_owned();
        let refused = |status: &Status| ClientError::Refused {
            endpoint: "n1:1".into(),
            error: Box::new(ApiError::from_status(status)),
        };
        let unavailable = ClientError::Unavailable { failures: Vec::new() };
        assert_eq!(of_error(&unavailable), Proof::NoEffect);
        assert_eq!(of_error(&refused(&errors::no_space("n1", 1, 2))), Proof::NoEffect);
        let damaged = errors::data_damaged("n1", "f", 0, "CRC differs");
        assert_eq!(of_error(&refused(&damaged)), Proof::None);
        let cause = "connection lost".to_owned();
        let unknown = ClientError::OutcomeUnknown {
            endpoint: endpoint.clone(),
            cause,
        };
        assert_eq!(of_error(&unknown), Proof::None);
        let what = "the answer has no header".to_owned();
        assert_eq!(of_error(&ClientError::Malformed { endpoint, what }), Proof::None);
    }

    #[test]
    fn reads_fail_and_writes_stay_open() {
        assert!(matches!(read("time".into()), Outcome::Fail { .. }));
        assert!(matches!(
            write(Proof::None, "time".into()),
            Outcome::Unknown { .. }
        ));
        assert!(matches!(
            write(Proof::NoEffect, "refused".into()),
            Outcome::Fail { .. }
        ));
    }
}
