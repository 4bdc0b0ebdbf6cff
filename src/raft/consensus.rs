//! The front of the Raft room: what the server calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nezha_api::client::Dialer;
use nezha_vlog::{Draft, Writer};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, ServerState};
use tokio::sync::{oneshot, watch};

use super::errors::{AdminError, ReadError, StartError, WriteError, admin_error, leader_of};
use super::log_reader::Damage;
use super::log_store::LogStore;
use super::log_writer::{GroupTimes, LogWriter};
use super::network::Network;
use super::peer_service::{PeerServer, Raft};
use super::read_index::{ReadIndex, ReadPoint};
use super::responder::OnDone;
use super::settings::Settings;
use super::state_machine::StateMachine;
use super::transfer::{Patience, Sending};
use super::types::{Node, NodeId, Proposal, TypeConfig};
use crate::index::Outcome;
use crate::store::Store;

/// Time for a leader transfer to show before it is reported as failed.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(5);

/// Log entries that a learner may lack when it is promoted.
const PROMOTE_LAG_MAX: u64 = 1000;

/// A write that took effect, or whose precondition did not hold.
#[derive(Debug, Clone)]
pub struct Written {
    /// Log index of the write: its revision.
    pub revision: u64,
    /// Term in which it was proposed.
    pub term: u64,
    /// What it did.
    pub outcome: Outcome,
}

/// How far a log may be purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purgeable {
    /// Up to this log index.
    pub index: u64,
    /// Whether it is a transfer that keeps it from being more.
    pub is_bounded_by_transfer: bool,
}

/// A running Raft member. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    pub(super) raft: Raft,
    pub(super) store: Arc<Store>,
    reads: ReadIndex,
    durable_purge: watch::Receiver<Option<u64>>,
    damage: Damage,
    group_times: Arc<GroupTimes>,
    writer: Arc<Mutex<Option<LogWriter>>>,
}

impl Consensus {
    /// Starts the log writer and Raft over an opened store.
    ///
    /// Errors: contradicting settings, or state on disk that Raft refuses.
    pub async fn start(
        settings: &Settings,
        store: Arc<Store>,
        writer: Writer,
        peers: &PeerServer,
        dialer: Dialer,
    ) -> Result<Self, StartError> {
        let identity = peers.identity().clone();
        let config = Arc::new(settings.to_openraft(identity.cluster_id)?);
        let writer = LogWriter::spawn(store.log(), writer, store.threads())?;
        let log = LogStore::new(
            store.log().clone(),
            writer.durable(),
            store.options().inline_value_max,
            Some(store.clone()),
        );
        let (durable_purge, damage) = (log.durable_purge(), log.damage());
        let state_machine = StateMachine::new(store.clone(), settings.flush.clone());
        let sending = Sending::new(settings.snapshot_bytes_per_second, Patience::DEFAULT);
        let network = Network::new(identity.clone(), settings.message_bytes_max, sending, dialer);
        let started = Raft::new(identity.node_id, config, network, log, state_machine).await;
        let raft = started.map_err(|error| match damage.found() {
            Some(found) => StartError::Damage(found.to_owned()),
            None => StartError::Raft(error),
        })?;
        peers
            .attach(raft.clone(), store.clone())
            .map_err(StartError::Twice)?;
        let reads = ReadIndex::spawn(raft.clone());
        Ok(Self {
            raft,
            store,
            reads,
            durable_purge,
            damage,
            group_times: writer.times(),
            writer: Arc::new(Mutex::new(Some(writer))),
        })
    }

    /// Forms a new cluster of these members. Errors: when this member has a log already.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Node>) -> Result<(), AdminError> {
        self.raft
            .initialize(members)
            .await
            .map_err(|e| AdminError::Refused {
                reason: e.to_string(),
                lag: None,
            })
    }

    /// True once this member has a log or a vote. Errors: Raft stopped.
    pub async fn is_initialized(&self) -> Result<bool, AdminError> {
        self.raft.is_initialized().await.map_err(|e| AdminError::Unknown {
            reason: e.to_string(),
        })
    }

    /// Waits until everything that was committed before a restart is applied; no local read may be served before.
    pub async fn wait_ready(&self) -> Result<(), ReadError> {
        self.raft
            .wait_for_recovery(None)
            .await
            .map(drop)
            .map_err(|e| ReadError::Stopped {
                reason: e.to_string(),
            })
    }

    /// Proposes a write. `done` is called once, when it is applied here or will not be, on one of Raft's tasks: it must
    /// neither block nor wait.
    ///
    /// Returns once Raft has taken the proposal into its queue; proposals of one caller keep their order. The caller
    /// bounds the bytes that are proposed at a time.
    pub async fn propose(
        &self,
        draft: Draft,
        done: impl FnOnce(Result<Written, WriteError>) + Send + 'static,
    ) {
        #[cfg(feature = "planted-bugs")]
        let store = self.store.clone();
        let responder = OnDone::new(move |result| {
            #[cfg(feature = "planted-bugs")]
            if let Some(lost) = super::planted::taken_for_applied(&store, result.as_ref()) {
                return done(Ok(lost));
            }
            done(written(result));
        });
        // When Raft has stopped it drops the responder, which tells.
        drop(
            self.raft
                .client_write_ff(Proposal::Draft(draft), Some(responder))
                .await,
        );
    }

    /// Proposes a write and waits until it is applied here; see [`Consensus::propose`].
    pub async fn write(&self, draft: Draft) -> Result<Written, WriteError> {
        let (tx, rx) = oneshot::channel();
        // The caller may have given up.
        self.propose(draft, move |result| drop(tx.send(result))).await;
        rx.await.unwrap_or_else(|_| Err(raft_stopped()))
    }

    /// Waits until this member is proven to lead and has applied everything committed before the call.
    pub async fn read_barrier(&self) -> Result<ReadPoint, ReadError> {
        self.reads.barrier().await
    }

    /// How long the log's groups take on this member.
    pub fn group_times(&self) -> &GroupTimes {
        &self.group_times
    }

    /// Damage found in the log, with file and offset: the reason why Raft stopped, if it did.
    pub fn damage(&self) -> Option<&str> {
        self.damage.found()
    }

    /// Adds a learner; it begins to catch up at once.
    pub async fn add_learner(&self, id: NodeId, node: Node) -> Result<(), AdminError> {
        self.raft
            .add_learner(id, node, false)
            .await
            .map(drop)
            .map_err(admin_error)
    }

    /// Makes a learner a voter. Errors: `Refused` with the lag while it was never reached or lacks more than 1,000
    /// entries.
    pub async fn promote(&self, id: NodeId) -> Result<(), AdminError> {
        let metrics = self.metrics();
        // Promoting a voter again only waits until the change is committed.
        let learner = metrics.members.iter().find(|m| m.id == id && !m.voter);
        if let Some(matched) = learner.and_then(|m| m.matched) {
            let lag = metrics.last_log_index.saturating_sub(matched);
            // Nothing matched: it was never reached, and a voter that is not there weakens the quorum.
            if matched == 0 || lag > PROMOTE_LAG_MAX {
                let reason = format!(
                    "member {id} lacks {lag} log entries; start it if it is down, and wait until it has caught up"
                );
                return Err(AdminError::Refused {
                    reason,
                    lag: Some(lag),
                });
            }
        }
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft
            .change_membership(change, true)
            .await
            .map(drop)
            .map_err(admin_error)
    }

    /// Removes a voter or learner for ever.
    pub async fn remove(&self, id: NodeId) -> Result<(), AdminError> {
        let metrics = self.metrics();
        let voter = metrics.members.iter().any(|m| m.id == id && m.voter);
        let ids = BTreeSet::from([id]);
        let change = if voter {
            ChangeMembers::RemoveVoters(ids)
        } else {
            ChangeMembers::RemoveNodes(ids)
        };
        self.raft
            .change_membership(change, false)
            .await
            .map(drop)
            .map_err(admin_error)
    }

    /// Hands leadership to `target`, or to the voter that is furthest, and answers who leads then.
    pub async fn transfer_leader(&self, target: Option<NodeId>) -> Result<NodeId, AdminError> {
        let metrics = self.metrics();
        let me = *self.raft.node_id();
        if metrics.role != ServerState::Leader {
            return Err(AdminError::NotLeader {
                leader: metrics.leader,
            });
        }
        let furthest = || {
            metrics
                .members
                .iter()
                .filter(|m| m.voter && m.id != me)
                .max_by_key(|m| m.matched)
        };
        let Some(to) = target.or_else(|| furthest().map(|m| m.id)) else {
            let reason = "there is no other voter to lead".into();
            return Err(AdminError::Refused { reason, lag: None });
        };
        if to == me {
            return Ok(me);
        }
        if !metrics.members.iter().any(|m| m.id == to && m.voter) {
            let reason = format!("member {to} is no voter; promote it first");
            return Err(AdminError::Refused { reason, lag: None });
        }
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|e| AdminError::Unknown {
                reason: e.to_string(),
            })?;
        let led = self
            .raft
            .wait(Some(TRANSFER_DEADLINE))
            .metrics(
                |m| m.current_leader.is_some_and(|id| id != me),
                "another member leads",
            )
            .await
            .map_err(|e| AdminError::Unknown {
                reason: e.to_string(),
            })?;
        match led.current_leader {
            Some(id) if id == to => Ok(id),
            other => Err(AdminError::Refused {
                reason: format!("member {to} did not take over; member {other:?} leads"),
                lag: None,
            }),
        }
    }

    /// Log index up to which this member may purge its log without cutting off somebody who needs it: what is applied here;
    /// on the leader also what every member has, except one that lacks more than `lagging_bytes_max` bytes of log; and
    /// not beyond a transfer, whose receiver will go on from there: without, it might never catch up.
    pub fn purgeable(&self, lagging_bytes_max: u64) -> Purgeable {
        let metrics = self.metrics();
        let me = *self.raft.node_id();
        let matched = |id: NodeId| metrics.members.iter().find(|member| member.id == id)?.matched;
        let others = metrics.members.iter().filter(|member| member.id != me);
        let by_members = others
            .filter_map(|member| member.matched)
            .filter(|matched| self.store.log().bytes_since(*matched) <= lagging_bytes_max)
            .fold(metrics.applied, u64::min);
        let by_transfers = self.store.transfers().logs(matched).into_iter().min();
        Purgeable {
            index: by_transfers.map_or(by_members, |index| index.min(by_members)),
            is_bounded_by_transfer: by_transfers.is_some_and(|index| index <= by_members),
        }
    }

    /// Takes a snapshot (metadata only) and purges the log up to `upto`, or to the snapshot when that is less; 0 means
    /// everything that is flushed. Logical: no file is unlinked. Returns the purged index once its record is durable.
    pub async fn purge(&self, upto: u64) -> Result<u64, AdminError> {
        let unknown = |e: &dyn std::fmt::Display| AdminError::Unknown {
            reason: e.to_string(),
        };
        let applied = self.metrics().applied;
        if applied == 0 {
            return Err(AdminError::Refused {
                reason: "nothing was applied yet".into(),
                lag: None,
            });
        }
        self.raft.trigger().snapshot().await.map_err(|e| unknown(&e))?;
        let wanted = if upto == 0 { applied } else { upto.min(applied) };
        let covered = self
            .raft
            .wait(Some(Duration::from_secs(60)))
            .metrics(
                |m| m.snapshot.is_some_and(|s| s.index >= wanted),
                "the snapshot covers what is to be purged",
            )
            .await
            .map_err(|e| unknown(&e))?;
        self.raft
            .trigger()
            .purge_log(wanted)
            .await
            .map_err(|e| unknown(&e))?;
        let goal = wanted.min(covered.snapshot.map_or(0, |s| s.index));
        let mut durable = self.durable_purge.clone();
        let purged = tokio::time::timeout(Duration::from_secs(60), durable.wait_for(|at| *at >= Some(goal)))
            .await
            .map_err(|e| unknown(&e))?
            .map_err(|e| unknown(&e))?;
        Ok(purged.unwrap_or(0))
    }

    /// Stops in good order: the caller has stopped admission and drained. Leadership moves first, if there is someone
    /// to take it; then Raft stops, the index is flushed, the log closed.
    pub async fn shutdown(&self) {
        if self.metrics().role == ServerState::Leader
            && let Err(error) = self.transfer_leader(None).await
        {
            tracing::warn!(%error, "leadership was not handed over; the others will elect");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "stopping Raft failed");
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let store = self.store.clone();
        let threads = store.threads().clone();
        let closing = threads.run(move || {
            if let Err(error) = store.index().flush() {
                tracing::error!(%error, "flushing the index failed; the next start replays the log instead");
            }
            store.log().close();
            if let Some(writer) = writer {
                writer.join();
            }
        });
        if let Err(error) = closing.await {
            tracing::error!(%error, "closing the log failed");
        }
    }
}

fn raft_stopped() -> WriteError {
    WriteError::Unknown {
        reason: "Raft stopped".into(),
    }
}

/// What Raft says about a proposal, in the words of this room.
fn written(result: Option<ClientWriteResult<TypeConfig>>) -> Result<Written, WriteError> {
    match result {
        Some(Ok(done)) => {
            let outcome = done.data.into_iter().next().ok_or_else(|| WriteError::Unknown {
                reason: "the state machine answered nothing".into(),
            })?;
            Ok(Written {
                revision: done.log_id.index,
                term: done.log_id.leader_id.term,
                outcome,
            })
        }
        Some(Err(ClientWriteError::ForwardToLeader(to))) => Err(WriteError::NotLeader {
            leader: leader_of(&to),
        }),
        Some(Err(error)) => Err(WriteError::Unknown {
            reason: error.to_string(),
        }),
        None => Err(raft_stopped()),
    }
}
