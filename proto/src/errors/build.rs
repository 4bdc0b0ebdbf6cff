//! Builders, one per situation. Texts say what happened, on which node, and what to do next.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};

use super::{DOMAIN, LEADER_ENDPOINT_TRAILER, LeaderHint, RESUME_KEY_TRAILER, Reason, field};

/// How long a client should wait for an election to end before it asks again.
const ELECTION_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a client should wait for a start or a stop to end before it asks the same node again.
const LIFECYCLE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// This member does not lead (`leader` given) or knows no leader (`None`). Nothing was proposed.
///
/// `leader.endpoint` also goes into the trailing metadata [`LEADER_ENDPOINT_TRAILER`].
pub fn not_leader(node: &str, term: u64, leader: Option<LeaderHint>) -> Status {
    let mut facts = facts(node);
    facts.insert(field::TERM.into(), term.to_string());
    facts.insert(field::PROPOSED.into(), "false".into());
    let mut trailers = MetadataMap::new();
    let (reason, text) = match leader {
        Some(leader) => {
            let text = format!(
                "{node} does not lead; node {} at {} does: send the request there",
                leader.id, leader.endpoint
            );
            facts.insert(field::LEADER_ID.into(), leader.id.to_string());
            if let Ok(value) = MetadataValue::try_from(leader.endpoint.as_str()) {
                trailers.insert(LEADER_ENDPOINT_TRAILER, value);
            }
            facts.insert(field::LEADER_ENDPOINT.into(), leader.endpoint);
            (Reason::NotLeader, text)
        }
        None => (
            Reason::NoLeader,
            format!(
                "{node} knows no leader: an election is running or a majority is out of reach; \
                 retry, and see `kvctl status` if it lasts"
            ),
        ),
    };
    let mut details = details(reason, facts);
    // A hint can be followed at once; an election takes a moment.
    details.set_retry_info(Some(match reason {
        Reason::NotLeader => Duration::ZERO,
        _ => ELECTION_RETRY_DELAY,
    }));
    Status::with_error_details_and_metadata(reason.code(), text, details, trailers)
}

/// The write was handed to Raft and this node cannot tell whether it takes effect (deadline, lost leadership, lost
/// connection to the leader after forwarding). `cause` completes "outcome unknown: ...".
pub fn outcome_unknown(node: &str, cause: &str) -> Status {
    let mut facts = facts(node);
    facts.insert(field::PROPOSED.into(), "true".into());
    facts.insert(field::CAUSE.into(), cause.into());
    let text = format!(
        "{node}: outcome unknown: {cause}; the write may or may not take effect: read before repeating it"
    );
    let reason = Reason::OutcomeUnknown;
    Status::with_error_details(reason.code(), text, details(reason, facts))
}

/// Time ran out while nothing had been proposed (waiting for admission, a leader, or a read confirmation).
pub fn timed_out(node: &str, waiting_for: &str) -> Status {
    let text = format!("{node}: time ran out waiting for {waiting_for}; nothing was changed: retry");
    transient(Reason::TimedOut, node, text, false, Some(Duration::ZERO))
}

/// The member has not caught up since its start. `progress` completes "is starting: ...".
pub fn not_ready(node: &str, progress: &str) -> Status {
    let text = format!("{node} is starting: {progress}; retry, or ask another member");
    transient(Reason::NotReady, node, text, false, Some(LIFECYCLE_RETRY_DELAY))
}

/// The member is shutting down; nothing was proposed.
pub fn stopping(node: &str) -> Status {
    let text = format!("{node} is stopping and takes no new requests; ask another member");
    transient(Reason::Stopping, node, text, false, Some(LIFECYCLE_RETRY_DELAY))
}

/// Admission refused the request; nothing was proposed.
pub fn overloaded(node: &str, what: &str, retry_after: Duration) -> Status {
    let text = format!(
        "{node} is overloaded: {what}; retry after {} ms",
        retry_after.as_millis()
    );
    transient(Reason::Overloaded, node, text, false, Some(retry_after))
}

/// The space that log and values of `node` take is near its bound, and the write would have waited too long for gc;
/// nothing was proposed. `what` says how near, and what holds gc up.
pub fn space_bound(node: &str, what: &str, retry_after: Duration) -> Status {
    let text = format!(
        "{node} slows writes: {what}; retry after {} ms, see `kvctl gc status`, or raise --space-amplification-max",
        retry_after.as_millis()
    );
    transient(Reason::SpaceBound, node, text, false, Some(retry_after))
}

/// The request has no key.
pub fn key_empty() -> Status {
    invalid(
        Reason::KeyEmpty,
        "key",
        "the key is empty; give at least one byte",
        HashMap::new(),
    )
}

/// The key is longer than `limit` bytes.
pub fn key_too_large(actual: usize, limit: usize) -> Status {
    too_large(Reason::KeyTooLarge, "key", actual, limit)
}

/// The value is longer than `limit` bytes.
pub fn value_too_large(actual: usize, limit: usize) -> Status {
    too_large(Reason::ValueTooLarge, "value", actual, limit)
}

/// A range that cannot be read; `field_name` is the request field at fault and begins the text.
pub fn invalid_range(field_name: &str, description: &str) -> Status {
    invalid(
        Reason::InvalidRange,
        field_name,
        &format!("{field_name}: {description}"),
        HashMap::new(),
    )
}

/// Any other invalid field; `field_name` is the request field at fault and begins the text.
pub fn invalid_request(field_name: &str, description: &str) -> Status {
    invalid(
        Reason::InvalidRequest,
        field_name,
        &format!("{field_name}: {description}"),
        HashMap::new(),
    )
}

/// No member is called `who` (a name, or an id in decimal). `known` lists the members that exist.
pub fn unknown_member(who: &str, known: &[&str]) -> Status {
    let text = format!("no member {who}; members are: {}", known.join(", "));
    let details = details(Reason::UnknownMember, HashMap::new());
    Status::with_error_details(Reason::UnknownMember.code(), text, details)
}

/// A member already has the name or address `who`.
pub fn member_exists(who: &str, description: &str) -> Status {
    let text = format!("{who} already exists: {description}");
    let details = details(Reason::MemberExists, HashMap::new());
    Status::with_error_details(Reason::MemberExists.code(), text, details)
}

/// The member `subject` is in the wrong state for the change; `lag` is in log entries where that is the reason.
pub fn member_state(subject: &str, description: &str, lag: Option<u64>) -> Status {
    let mut facts = HashMap::new();
    facts.insert(field::PROPOSED.to_owned(), "false".to_owned());
    if let Some(lag) = lag {
        facts.insert(field::LAG.into(), lag.to_string());
    }
    failed_precondition(Reason::MemberState, subject, description, facts)
}

/// The caller believes to talk to another cluster.
pub fn cluster_mismatch(node: &str, ours: u64, theirs: u64) -> Status {
    let text =
        format!("{node} belongs to cluster {ours:016x}, the request is for {theirs:016x}; check the address");
    failed_precondition(Reason::ClusterMismatch, node, &text, facts(node))
}

/// Stored bytes failed their checksum. Never retried on the same node.
pub fn data_damaged(node: &str, file: &str, offset: u64, reason: &str) -> Status {
    let mut facts = facts(node);
    facts.insert(field::FILE.into(), file.into());
    facts.insert(field::OFFSET.into(), offset.to_string());
    let text = format!(
        "{node}: {file} is damaged at offset {offset}: {reason}; the value was not served. \
         Read it with --consistency stale from another member, then replace this node"
    );
    Status::with_error_details(
        Reason::DataDamaged.code(),
        text,
        details(Reason::DataDamaged, facts),
    )
}

/// The disk of `node` is full; the write was refused before it was proposed.
pub fn no_space(node: &str, free: u64, needed: u64) -> Status {
    let mut facts = facts(node);
    facts.insert(field::FREE.into(), free.to_string());
    facts.insert(field::PROPOSED.into(), "false".into());
    let description = format!("{free} bytes free, {needed} needed");
    let mut details = details(Reason::NoSpace, facts);
    details.add_quota_failure_violation(format!("disk of {node}"), description.clone());
    let text = format!("the disk of {node} is full: {description}; free space there, reads go on");
    Status::with_error_details(Reason::NoSpace.code(), text, details)
}

/// The scan's view has expired. The client may start a new scan after `resume_key`, on a newer view.
pub fn scan_expired(node: &str, resume_key: &Bytes) -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert_bin(RESUME_KEY_TRAILER, MetadataValue::from_bytes(resume_key));
    let text = format!("{node}: the scan's view has expired; start a new scan from the resume key");
    let details = details(Reason::ScanExpired, facts(node));
    Status::with_error_details_and_metadata(Reason::ScanExpired.code(), text, details, trailers)
}

/// A failure that no caller can mend. `maybe_proposed`: a write that may have reached Raft.
pub fn internal(node: &str, what: &str, maybe_proposed: bool) -> Status {
    transient(
        Reason::Internal,
        node,
        format!("{node}: {what}"),
        maybe_proposed,
        None,
    )
}

fn facts(node: &str) -> HashMap<String, String> {
    HashMap::from([(field::NODE.to_owned(), node.to_owned())])
}

fn details(reason: Reason, facts: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.as_str(), DOMAIN, facts)
}

fn transient(reason: Reason, node: &str, text: String, proposed: bool, retry: Option<Duration>) -> Status {
    let mut facts = facts(node);
    facts.insert(field::PROPOSED.into(), proposed.to_string());
    let mut details = details(reason, facts);
    if let Some(delay) = retry {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(reason.code(), text, details)
}

fn too_large(reason: Reason, name: &str, actual: usize, limit: usize) -> Status {
    let facts = HashMap::from([
        (field::LIMIT.to_owned(), limit.to_string()),
        (field::ACTUAL.to_owned(), actual.to_string()),
    ]);
    let text = format!("the {name} has {actual} bytes; the limit is {limit}");
    invalid(reason, name, &text, facts)
}

fn invalid(reason: Reason, field_name: &str, text: &str, mut facts: HashMap<String, String>) -> Status {
    facts.insert(field::PROPOSED.into(), "false".into());
    let mut details = details(reason, facts);
    details.add_bad_request_violation(field_name, text);
    Status::with_error_details(reason.code(), text, details)
}

fn failed_precondition(
    reason: Reason,
    subject: &str,
    description: &str,
    facts: HashMap<String, String>,
) -> Status {
    let mut details = details(reason, facts);
    details.add_precondition_failure_violation(reason.as_str(), subject, description);
    Status::with_error_details(reason.code(), format!("{subject}: {description}"), details)
}
