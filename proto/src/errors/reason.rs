use std::fmt;

use tonic::Code;

/// Why a call was refused: `google.rpc.ErrorInfo.reason`. Stable: names are added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// This member does not lead; the leader is named. Not proposed.
    NotLeader,
    /// No leader is known: an election is running or the quorum is lost. Not proposed.
    NoLeader,
    /// The write was proposed and its outcome is not known to the server that answers.
    OutcomeUnknown,
    /// Time ran out before the command was proposed or the read was confirmed.
    TimedOut,
    /// The member has started and not yet caught up with what it knew before.
    NotReady,
    /// The member is shutting down and takes no new work. Not proposed.
    Stopping,
    /// Too much is in flight; come back after the stated delay. Not proposed.
    Overloaded,
    /// Log and values take nearly as much space as they may; gc frees some. Not proposed.
    SpaceBound,
    /// The key is empty.
    KeyEmpty,
    /// The key is longer than the limit.
    KeyTooLarge,
    /// The value is longer than the limit.
    ValueTooLarge,
    /// Range bounds that cannot hold a key, or a resume key outside of them.
    InvalidRange,
    /// Any other field that is not valid.
    InvalidRequest,
    /// No member has this name or id.
    UnknownMember,
    /// A member already has this name or address.
    MemberExists,
    /// The member, or the cluster, is in the wrong state for this change.
    MemberState,
    /// The request names another cluster.
    ClusterMismatch,
    /// A checksum did not match; the value was not served.
    DataDamaged,
    /// The disk of a member is full.
    NoSpace,
    /// The view that a scan reads has reached the end of its life.
    ScanExpired,
    /// A defect or a failed disk on the server.
    Internal,
}

/// Reason, its name on the wire, its gRPC code, and whether another attempt may find a better answer.
const TABLE: [(Reason, &str, Code, bool); 21] = [
    (Reason::NotLeader, "NOT_LEADER", Code::Unavailable, true),
    (Reason::NoLeader, "NO_LEADER", Code::Unavailable, true),
    (
        Reason::OutcomeUnknown,
        "OUTCOME_UNKNOWN",
        Code::DeadlineExceeded,
        false,
    ),
    (Reason::TimedOut, "TIMED_OUT", Code::Unavailable, true),
    (Reason::NotReady, "NOT_READY", Code::Unavailable, true),
    (Reason::Stopping, "STOPPING", Code::Unavailable, true),
    (Reason::Overloaded, "OVERLOADED", Code::ResourceExhausted, true),
    (Reason::SpaceBound, "SPACE_BOUND", Code::ResourceExhausted, true),
    (Reason::KeyEmpty, "KEY_EMPTY", Code::InvalidArgument, false),
    (Reason::KeyTooLarge, "KEY_TOO_LARGE", Code::InvalidArgument, false),
    (
        Reason::ValueTooLarge,
        "VALUE_TOO_LARGE",
        Code::InvalidArgument,
        false,
    ),
    (
        Reason::InvalidRange,
        "INVALID_RANGE",
        Code::InvalidArgument,
        false,
    ),
    (
        Reason::InvalidRequest,
        "INVALID_REQUEST",
        Code::InvalidArgument,
        false,
    ),
    (Reason::UnknownMember, "UNKNOWN_MEMBER", Code::NotFound, false),
    (Reason::MemberExists, "MEMBER_EXISTS", Code::AlreadyExists, false),
    (
        Reason::MemberState,
        "MEMBER_STATE",
        Code::FailedPrecondition,
        false,
    ),
    (
        Reason::ClusterMismatch,
        "CLUSTER_MISMATCH",
        Code::FailedPrecondition,
        false,
    ),
    (Reason::DataDamaged, "DATA_DAMAGED", Code::DataLoss, false),
    (Reason::NoSpace, "NO_SPACE", Code::ResourceExhausted, false),
    (Reason::ScanExpired, "SCAN_EXPIRED", Code::Aborted, false),
    (Reason::Internal, "INTERNAL", Code::Internal, false),
];

impl Reason {
    /// Returns every reason, for documentation and tests.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|row| row.0)
    }

    /// Returns the name on the wire, such as `NOT_LEADER`.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Returns the gRPC code that goes with the reason.
    pub fn code(self) -> Code {
        self.row().2
    }

    /// Whether the same call may succeed later or elsewhere without anything being changed. For a write this still
    /// needs `proposed=false`.
    pub fn is_transient(self) -> bool {
        self.row().3
    }

    /// Returns the reason with this name on the wire.
    pub fn parse(name: &str) -> Option<Reason> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static (Reason, &'static str, Code, bool) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has every reason: see the test")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no reason is missing from the table. The match fails to compile when a reason is added; its count is
    /// compared with the table.
    #[test]
    fn table_is_complete() {
        for reason in Reason::all() {
            match reason {
                Reason::NotLeader
                | Reason::NoLeader
                | Reason::OutcomeUnknown
                | Reason::TimedOut
                | Reason::NotReady
                | Reason::Stopping
                | Reason::Overloaded
                | Reason::SpaceBound
                | Reason::KeyEmpty
                | Reason::KeyTooLarge
                | Reason::ValueTooLarge
                | Reason::InvalidRange
                | Reason::InvalidRequest
                | Reason::UnknownMember
                | Reason::MemberExists
                | Reason::MemberState
                | Reason::ClusterMismatch
                | Reason::DataDamaged
                | Reason::NoSpace
                | Reason::ScanExpired
                | Reason::Internal => {}
            }
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        let last = Reason::Internal as usize;
        assert_eq!(Reason::all().count(), last + 1);
        for (at, reason) in Reason::all().enumerate() {
            assert_eq!(reason as usize, at, "table order is declaration order");
        }
    }
}
