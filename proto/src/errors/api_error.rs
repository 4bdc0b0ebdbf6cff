use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{DOMAIN, LEADER_ENDPOINT_TRAILER, RESUME_KEY_TRAILER, Reason, field};

/// Who leads, as far as the answering member knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// Member id; 0 when only the address is known.
    pub id: u64,
    /// Client address, `host:port`.
    pub endpoint: String,
}

/// A refusal, read back from a [`Status`].
///
/// Source: the builders in this module; statuses of proxies and other servers give `reason: None`.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// gRPC code.
    pub code: Code,
    /// Reason, if the error came from a server of ours and this client knows the reason.
    pub reason: Option<Reason>,
    /// The server's sentence.
    pub message: String,
    /// The bare cause of an unknown outcome, without advice.
    pub cause: Option<String>,
    /// Member that refused; empty when it did not say.
    pub node: String,
    /// Who leads, if the server said so.
    pub leader: Option<LeaderHint>,
    /// `Some(false)`: repeating the command is safe. `Some(true)`: it may take effect. `None`: not stated.
    pub proposed: Option<bool>,
    /// Delay that the server asks for before another attempt.
    pub retry_after: Option<Duration>,
    /// Fields at fault with a description each.
    pub violations: Vec<(String, String)>,
    /// The limit that was passed, in bytes.
    pub limit: Option<u64>,
    /// Log entries that the member is behind.
    pub lag: Option<u64>,
    /// Last key that an expired scan delivered.
    pub resume_key: Option<Bytes>,
}

impl ApiError {
    /// Reads `status`. Never fails: what is absent or malformed is left out.
    pub fn from_status(status: &Status) -> ApiError {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let fact = |name: &str| info.and_then(|info| info.metadata.get(name));
        let number = |name: &str| fact(name).and_then(|text| text.parse::<u64>().ok());
        let trailer = || {
            let value = status.metadata().get(LEADER_ENDPOINT_TRAILER)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let leader = fact(field::LEADER_ENDPOINT)
            .cloned()
            .or_else(trailer)
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| LeaderHint {
                id: number(field::LEADER_ID).unwrap_or(0),
                endpoint,
            });
        let mut violations = Vec::new();
        if let Some(bad) = details.bad_request() {
            for violation in &bad.field_violations {
                violations.push((violation.field.clone(), violation.description.clone()));
            }
        }
        ApiError {
            code: status.code(),
            reason: info.and_then(|info| Reason::parse(&info.reason)),
            message: status.message().to_owned(),
            cause: fact(field::CAUSE).cloned(),
            node: fact(field::NODE).cloned().unwrap_or_default(),
            leader,
            proposed: fact(field::PROPOSED).and_then(|text| text.parse().ok()),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            violations,
            limit: number(field::LIMIT),
            lag: number(field::LAG),
            resume_key: status
                .metadata()
                .get_bin(RESUME_KEY_TRAILER)
                .and_then(|value| value.to_bytes().ok()),
        }
    }
}

/// Whether `status` reports a connection that could not be made, so that nothing was sent.
pub fn connect_failed(status: &Status) -> bool {
    chain(status).any(|error| error.is::<tonic::ConnectError>())
}

/// Whether `status` says that no answer came in time: the call's own timer ran out, on this side or on the other, or
/// the other side left the connection's pings unanswered.
pub fn no_answer_in_time(status: &Status) -> bool {
    // tonic tells of its own timer by this code and text on both sides, hyper of its pings by an error in the chain.
    status.code() == Code::DeadlineExceeded
        || status.code() == Code::Cancelled && status.message() == "Timeout expired"
        || chain(status).any(|error| error.to_string() == "keep-alive timed out")
}

/// Whether the request behind `status` certainly had no effect, so that a write may be repeated: the connection was
/// never made, or the server says that nothing was proposed.
///
/// Everything else that is not a plain refusal leaves the outcome unknown.
pub fn definitely_not_processed(status: &Status) -> bool {
    connect_failed(status) || ApiError::from_status(status).proposed == Some(false)
}

fn chain(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn every_error() -> Vec<(Status, Reason)> {
        let hint = LeaderHint {
            id: 2,
            endpoint: "10.0.0.2:7379".into(),
        };
        vec![
            (not_leader("n1", 7, Some(hint)), Reason::NotLeader),
            (not_leader("n1", 7, None), Reason::NoLeader),
            (outcome_unknown("n1", "deadline passed"), Reason::OutcomeUnknown),
            (timed_out("n1", "a leader"), Reason::TimedOut),
            (not_ready("n1", "applied 3 of 9"), Reason::NotReady),
            (stopping("n1"), Reason::Stopping),
            (
                overloaded("n1", "64 MiB in flight", Duration::from_millis(20)),
                Reason::Overloaded,
            ),
            (
                space_bound("n1", "200 bytes for 100 live bytes", Duration::from_millis(20)),
                Reason::SpaceBound,
            ),
            (key_empty(), Reason::KeyEmpty),
            (key_too_large(9000, 8192), Reason::KeyTooLarge),
            (value_too_large(17, 16), Reason::ValueTooLarge),
            (invalid_range("end", "end is before start"), Reason::InvalidRange),
            (
                invalid_request("precondition", "mod_revision is 0"),
                Reason::InvalidRequest,
            ),
            (unknown_member("n9", &["n1", "n2"]), Reason::UnknownMember),
            (member_exists("n1", "has id 1"), Reason::MemberExists),
            (member_state("n4", "is behind", Some(12)), Reason::MemberState),
            (cluster_mismatch("n1", 1, 2), Reason::ClusterMismatch),
            (
                data_damaged("n1", "vlog/3.log", 4096, "CRC differs"),
                Reason::DataDamaged,
            ),
            (no_space("n1", 10, 20), Reason::NoSpace),
            (
                scan_expired("n1", &Bytes::from_static(b"k\xff")),
                Reason::ScanExpired,
            ),
            (internal("n1", "disk failed", true), Reason::Internal),
        ]
    }

    /// Goal: every reason has a builder, and what it says survives the wire form.
    #[test]
    fn every_reason_round_trips() {
        let errors = every_error();
        assert_eq!(errors.len(), Reason::all().count());
        for (status, reason) in errors {
            let mut response = tonic::codegen::http::Response::new(());
            status.add_header(response.headers_mut()).unwrap();
            let back = Status::from_header_map(response.headers()).unwrap();
            let error = ApiError::from_status(&back);
            assert_eq!(error.reason, Some(reason));
            assert_eq!(error.code, reason.code());
            assert!(!error.message.is_empty());
            if reason.is_transient() {
                assert_eq!(
                    error.proposed,
                    Some(false),
                    "{reason}: transient refusals propose nothing"
                );
                assert!(error.retry_after.is_some(), "{reason}");
            }
        }
    }

    #[test]
    fn leader_hint_is_in_details_and_trailer() {
        let hint = LeaderHint {
            id: 2,
            endpoint: "10.0.0.2:7379".into(),
        };
        let status = not_leader("n1", 7, Some(hint.clone()));
        assert_eq!(ApiError::from_status(&status).leader, Some(hint));
        let trailer = status.metadata().get(LEADER_ENDPOINT_TRAILER).unwrap();
        assert_eq!(trailer, "10.0.0.2:7379");
        assert_eq!(ApiError::from_status(&status).node, "n1");
    }

    #[test]
    fn limits_lag_and_resume_key_are_read_back() {
        let error = ApiError::from_status(&key_too_large(9000, 8192));
        assert_eq!(error.limit, Some(8192));
        assert_eq!(error.violations[0].0, "key");
        assert_eq!(
            ApiError::from_status(&member_state("n4", "is behind", Some(12))).lag,
            Some(12)
        );
        let expired = ApiError::from_status(&scan_expired("n1", &Bytes::from_static(b"k\xff")));
        assert_eq!(expired.resume_key.unwrap().as_ref(), b"k\xff");
    }

    #[test]
    fn timers_and_unanswered_pings_mean_no_answer_in_time() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Because(&'static str);

        for text in ["keep-alive timed out", "connection reset"] {
            let status = Status::from_error(Box::new(Because(text)));
            assert_eq!(
                no_answer_in_time(&status),
                text.starts_with("keep-alive"),
                "{text}"
            );
        }
        assert!(no_answer_in_time(&Status::cancelled("Timeout expired")));
        assert!(no_answer_in_time(&Status::deadline_exceeded("")));
        assert!(!no_answer_in_time(&Status::cancelled("operation was canceled")));
        assert!(!no_answer_in_time(&Status::unavailable("keep-alive timed out")));
    }

    #[test]
    fn only_stated_facts_count_as_not_processed() {
        assert!(definitely_not_processed(&not_leader("n1", 7, None)));
        assert!(!definitely_not_processed(&outcome_unknown("n1", "x")));
        assert!(!definitely_not_processed(&Status::unavailable(
            "connection reset"
        )));
        assert!(!definitely_not_processed(&Status::cancelled("Timeout expired")));
    }
}
