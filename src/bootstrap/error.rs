//! Why a node may not take part.

use thiserror::Error;

use crate::identity::IdentityError;
use crate::raft::NodeId;

/// Why a node may not take part. Texts name the reason and the next step.
#[derive(Debug, Error)]
pub enum BootError {
    /// The data directory is not this node's, damaged, or cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Neither an identity nor a way to get one.
    #[error(
        "{dir} has not taken part in a cluster yet: for a new cluster give --initial-cluster n1=HOST:PORT,... (the same on each member), to \
         join a running one `kvctl member add {name} ...` and then --join ENDPOINT"
    )]
    NoOrigin {
        /// The data directory.
        dir: String,
        /// Name of this node.
        name: String,
    },
    /// The cluster knows this id under another incarnation.
    #[error(
        "member {by} knows node {id} as incarnation {known:016x}, but this data directory is {ours:016x}: it was wiped or \
         replaced, and must not come back under this id. {}",
        next_commands(name)
    )]
    Wiped {
        /// Name of this node.
        name: String,
        /// The id.
        id: NodeId,
        /// Address of the member that knows better.
        by: String,
        /// What it knows.
        known: u64,
        /// What this directory has.
        ours: u64,
    },
    /// The member list says that this node took part before, but its directory is empty.
    #[error(
        "node {name} (id {id}) has taken part in the cluster before, but {dir} is empty. {}",
        next_commands(name)
    )]
    Emptied {
        /// Name of this node.
        name: String,
        /// Its id.
        id: NodeId,
        /// The data directory.
        dir: String,
    },
    /// Somebody else answers at a member's address.
    #[error("{addr} is answered by {found}, expected {wanted}: check --initial-cluster and the addresses")]
    Stranger {
        /// The address.
        addr: String,
        /// Who answers.
        found: String,
        /// Who should.
        wanted: String,
    },
    /// Nobody added this node.
    #[error(
        "the cluster has no member {name}; its members are: {known}. Next: `kvctl member add {name} --peer-addr {peer} \
         --client-addr {client}`, then start this node again"
    )]
    NotAdded {
        /// Name of this node.
        name: String,
        /// Names of the members.
        known: String,
        /// Peer address of this node.
        peer: String,
        /// Client address of this node.
        client: String,
    },
    /// This node was added under another address.
    #[error(
        "{name} was added with {what} {added}, but this node states {stated}; start it with --{option} {added}"
    )]
    OtherAddress {
        /// Name of this node.
        name: String,
        /// Which address.
        what: &'static str,
        /// As added.
        added: String,
        /// As configured here.
        stated: String,
        /// The option to set.
        option: &'static str,
    },
    /// The one that would form the cluster has lost its log.
    #[error(
        "the log of {name} is empty, but member {by} is part of a running cluster: the log was removed. {}",
        next_commands(name)
    )]
    LogLost {
        /// Name of this node.
        name: String,
        /// Address of a member that runs.
        by: String,
    },
}

/// What to do about a node that lost its data.
fn next_commands(name: &str) -> String {
    format!(
        "Next: `kvctl member remove {name}`, then `kvctl member add NEWNAME --peer-addr HOST:PORT --client-addr \
         HOST:PORT`, then start kvd with --name NEWNAME, --join ENDPOINT and an empty --data-dir"
    )
}
