//! Where Raft stands on a member, and who the members are.

use std::collections::BTreeSet;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{RaftMetrics, ServerState};

use super::consensus::Consensus;
use super::errors::AdminError;
use super::types::{LogId, Node, NodeId, TypeConfig};

/// A member as the leader sees it.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name and addresses.
    pub node: Node,
    /// Votes; else it is a learner.
    pub voter: bool,
    /// Highest log index known to be on it; None when this member does not lead.
    pub matched: Option<u64>,
}

/// Where Raft stands on this member.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Current term.
    pub term: u64,
    /// Role of this member.
    pub role: ServerState,
    /// The leader as far as this member knows.
    pub leader: Option<(NodeId, Node)>,
    /// Last log index on this member, 0 when there is none; the same for those below.
    pub last_log_index: u64,
    /// Committed as far as this member knows.
    pub committed: u64,
    /// Applied to the index.
    pub applied: u64,
    /// Applied index that the index has flushed.
    pub flushed: u64,
    /// Purged from the log.
    pub purged: u64,
    /// Covered by the snapshot.
    pub snapshot: u64,
    /// Members, by id.
    pub members: Vec<MemberInfo>,
    /// Why Raft stopped, if it did.
    pub stopped: Option<String>,
}

/// Tells when metrics change.
pub struct Changes(WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>);

impl Changes {
    /// Waits for a change since the last that was told; the first call may tell of an older one. Errors: Raft stopped.
    pub async fn next(&mut self) -> Result<(), AdminError> {
        self.0.changed().await.map_err(|e| AdminError::Unknown {
            reason: e.to_string(),
        })
    }
}

impl Consensus {
    /// Where Raft stands now.
    pub fn metrics(&self) -> Metrics {
        self.told(self.raft.metrics().borrow_watched().clone())
    }

    fn told(&self, m: RaftMetrics<TypeConfig>) -> Metrics {
        let membership = m.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let matched = |id: NodeId| {
            m.replication
                .as_ref()
                .map(|r| r.get(&id).and_then(|l| l.as_ref()).map_or(0, |l| l.index))
        };
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        Metrics {
            term: m.current_term,
            role: m.state,
            leader: m
                .current_leader
                .and_then(|id| membership.get_node(&id).map(|node| (id, node.clone()))),
            last_log_index: m.last_log_index.unwrap_or(0),
            committed: index(&m.local_committed),
            applied: index(&m.last_applied),
            flushed: self.store.index().flushed().map_or(0, |id| id.index),
            purged: index(&m.purged),
            snapshot: index(&m.snapshot),
            members: membership
                .nodes()
                .map(|(id, node)| MemberInfo {
                    id: *id,
                    node: node.clone(),
                    voter: voters.contains(id),
                    matched: matched(*id),
                })
                .collect(),
            stopped: m.running_state.err().map(|e| e.to_string()),
        }
    }

    /// Follows [`Consensus::metrics`] from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.raft.metrics())
    }

    /// Waits until the last change of members that is in this member's log is committed: before that it may yet be undone.
    /// Errors: Raft stopped.
    pub async fn settled_members(&self) -> Result<Vec<MemberInfo>, AdminError> {
        let mut changes = self.changes();
        loop {
            let now = changes.0.borrow_watched().clone();
            if *now.membership_config.log_id() <= now.local_committed {
                return Ok(self.told(now).members);
            }
            changes.next().await?;
        }
    }
}
