//! The types that openraft is instantiated with.

use std::fmt;

use nezha_vlog::{Command, Draft, OpHead};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::impls::{BoxedErrorSource, InlineBatch, TokioRuntime};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

use super::responder::OnDone;
use crate::index::Outcome;

/// Identifies a member for ever: an id is never reused, not even after the member was removed.
pub type NodeId = u64;

/// What the membership says about a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Name chosen by the operator; unique within the cluster.
    pub name: String,
    /// `host:port` that the other members connect to.
    pub peer_addr: String,
    /// `host:port` that clients connect to.
    pub client_addr: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (peer {}, client {})",
            self.name, self.peer_addr, self.client_addr
        )
    }
}

/// Application data of a log entry, in the form that its place in the write path needs.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// From a client: revision and checksum are still open. Becomes `Sealed` in `append`, when the log index is known.
    Draft(Draft),
    /// As it stands in the log and on the wire.
    Sealed(Command),
    /// From the log to apply: keys and places, no values. Never on the wire.
    Heads(Vec<OpHead>),
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draft(draft) => write!(f, "draft of {} bytes", draft.len()),
            Self::Sealed(command) => write!(f, "command of {} bytes", command.as_bytes().len()),
            Self::Heads(heads) => write!(f, "{} operations", heads.len()),
        }
    }
}

/// Nezha's instance of openraft: its defaults, but for what is proposed, what members are, and who is told.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig {}

// By hand: openraft's macro takes no responder.
impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Vec<Outcome>;
    type NodeId = NodeId;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId<Self::Term, Self::NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = OnDone<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Raft log id: leader (term, node) and index.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// Raft vote.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// Raft log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Raft membership.
pub type Membership = openraft::Membership<NodeId, Node>;
/// Membership and the log id of the entry that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// Snapshot metadata.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
