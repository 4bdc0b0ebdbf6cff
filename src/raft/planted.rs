//! Planted bugs: missing lines that the proofs must notice. Test-only (feature `planted-bugs`).

use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use nezha_vlog as vlog;
use nezha_vlog::{Head, HeadPayload, OpHead, Payload, SegmentId, ValueRef};
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::ClientWriteResult;
use openraft::raft::linearizable_read::{Linearizer, ReadLogId};
use tokio::sync::mpsc;

use super::consensus::Written;
use super::convert::{entry_from_head, invalid_data, max_node_id};
use super::errors::ReadError;
use super::peer_service::Raft;
use super::read_index::{ReadPoint, Waiter};
use super::types::{Entry, TypeConfig};
use crate::index::{Apply, Outcome};
use crate::store::Store;

/// A bug that the environment variable `NEZHA_PLANTED_BUG` can switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// `apply-before-commit`: entries are applied as soon as they are appended.
    ApplyBeforeCommit,
    /// `flush-without-log`: apply, and with it the index flush, does not wait for the log's own sync.
    FlushWithoutLog,
    /// `purge-past-flushed`: a snapshot, which allows a purge up to it, does not flush the index.
    PurgePastFlushed,
    /// `stale-read-deposed`: a linearizable read does not ask a quorum whether this node still leads.
    StaleReadDeposed,
    /// `read-index-reused`: a read that comes while a round is under way does not wait for the next one: the answer of
    /// the last round will do.
    ReadIndexReused,
    /// `write-lost-on-transfer`: the target of a leader transfer does not wait until it has the leader's log, and a write
    /// whose entry was replaced by another leader's is answered as if the entry at its index were its own.
    WriteLostOnTransfer,
    /// `snapshot-misses-last`: the last chunk of a snapshot, which is not full, is not sent.
    SnapshotMissesLast,
}

/// Whether `bug` is switched on; the environment is read once.
pub(crate) fn planted(bug: Bug) -> bool {
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("NEZHA_PLANTED_BUG").as_deref() {
        Ok("apply-before-commit") => Some(Bug::ApplyBeforeCommit),
        Ok("flush-without-log") => Some(Bug::FlushWithoutLog),
        Ok("purge-past-flushed") => Some(Bug::PurgePastFlushed),
        Ok("stale-read-deposed") => Some(Bug::StaleReadDeposed),
        Ok("read-index-reused") => Some(Bug::ReadIndexReused),
        Ok("write-lost-on-transfer") => Some(Bug::WriteLostOnTransfer),
        Ok("snapshot-misses-last") => Some(Bug::SnapshotMissesLast),
        _ => None,
    });
    *chosen == Some(bug)
}

/// Heads of entries that may have no durable place yet: every value goes along.
fn head_of(entry: vlog::Entry) -> Head {
    let payload = match entry.payload {
        Payload::Blank => HeadPayload::Blank,
        Payload::Membership(bytes) => HeadPayload::Membership(bytes),
        Payload::Command(command) => HeadPayload::Command(command.ops().map(op_head).collect()),
    };
    Head {
        log_id: entry.log_id,
        payload,
    }
}

fn op_head(op: vlog::Op) -> OpHead {
    let place = ValueRef {
        segment: SegmentId::new(1),
        offset: 0,
        value_len: 0,
    };
    OpHead {
        kind: op.kind,
        precondition: op.precondition,
        key: op.key,
        place,
        inline: Some(op.value),
    }
}

/// `flush-without-log`: what apply gets without waiting for the log.
pub(crate) fn heads_now(log: &vlog::Log, range: std::ops::Range<u64>) -> io::Result<Vec<Entry>> {
    let entries = log.entries(range, u64::MAX).map_err(invalid_data)?;
    entries.into_iter().map(head_of).map(entry_from_head).collect()
}

/// `apply-before-commit`: applies what was just appended.
pub(crate) fn apply_now(store: &Arc<Store>, entries: Vec<vlog::Entry>) -> io::Result<()> {
    let index = store.index();
    let applied = index.state().applied.map_or(0, |id| id.index);
    let heads = entries
        .into_iter()
        .filter(|entry| entry.log_id.index > applied)
        .map(head_of)
        .collect();
    Apply::run(index.as_ref(), heads, &max_node_id)
        .map(drop)
        .map_err(invalid_data)
}

/// `apply-before-commit`: splits off what was applied early, with an answer for each of its operations.
pub(crate) fn already_applied(store: &Arc<Store>, heads: &mut Vec<Head>) -> Vec<Vec<Outcome>> {
    let applied = store.index().state().applied.map_or(0, |id| id.index);
    let split = heads.partition_point(|head| head.log_id.index <= applied);
    let early = heads.drain(..split);
    let answer = |head: Head| match head.payload {
        HeadPayload::Command(ops) => {
            let mod_revision = head.log_id.index;
            ops.iter()
                .map(|_| Outcome {
                    succeeded: true,
                    existed: false,
                    mod_revision,
                })
                .collect()
        }
        _ => Vec::new(),
    };
    early.map(answer).collect()
}

/// `stale-read-deposed`: where a read stands by this node's own belief that it leads. `None` where it does not lead, or
/// has committed nothing in its term so far: that is asked as ever.
///
/// All but the quorum's answer is there: what was committed before the call is applied here.
pub(super) async fn unconfirmed(raft: &Raft) -> Result<Option<ReadPoint>, ReadError> {
    if !planted(Bug::StaleReadDeposed) {
        return Ok(None);
    }
    let stopped = |error: Fatal<TypeConfig>| ReadError::Stopped {
        reason: error.to_string(),
    };
    let me = *raft.node_id();
    let believed = raft.with_raft_state(move |state| {
        let (vote, committed) = (state.vote_ref(), *state.local_committed()?);
        let leads = vote.committed && vote.leader_id.node_id == me;
        (leads && committed.leader_id == vote.leader_id).then_some(committed)
    });
    let Some(committed) = believed.await.map_err(stopped)? else {
        return Ok(None);
    };
    let unasked = Linearizer::new(me, ReadLogId::from_log_id(committed), None);
    unasked.await_ready(raft).await.map_err(stopped)?;
    Ok(Some(ReadPoint {
        revision: committed.index,
        term: committed.leader_id.term,
    }))
}

/// `read-index-reused`: waits for a round; reads that come meanwhile get the answer of the `last` one, if it had one.
pub(super) async fn with_late_reads(
    round: impl Future<Output = Result<ReadPoint, ReadError>>,
    waiting: &mut mpsc::Receiver<Waiter>,
    last: Option<ReadPoint>,
) -> Result<ReadPoint, ReadError> {
    let Some(last) = last.filter(|_| planted(Bug::ReadIndexReused)) else {
        return round.await;
    };
    let mut round = pin!(round);
    loop {
        tokio::select! {
            biased;
            result = &mut round => return result,
            // The read may have been given up.
            Some(late) = waiting.recv() => drop(late.send(Ok(last))),
        }
    }
}

/// `write-lost-on-transfer`: the answer to a write whose entry is no longer in the log, with the index from which on the
/// log is another leader's; `None` for every other result.
pub(super) fn taken_for_applied(
    store: &Store,
    result: Option<&ClientWriteResult<TypeConfig>>,
) -> Option<Written> {
    let Some(Err(ClientWriteError::LogEntryDiscarded(_))) = result else {
        return None;
    };
    let last = store
        .log()
        .last_log_id()
        .filter(|_| planted(Bug::WriteLostOnTransfer))?;
    Some(Written {
        revision: last.index + 1,
        term: last.term,
        outcome: Outcome {
            succeeded: true,
            existed: false,
            mod_revision: last.index + 1,
        },
    })
}
