//! Planted bugs: missing lines that the proofs must notice. Test-only (feature `planted-bugs`).

use std::io;
use std::sync::Arc;

use nezha_vlog as vlog;
use nezha_vlog::{Head, HeadPayload, OpHead, Payload, SegmentId, ValueRef};

use super::convert::{entry_from_head, invalid_data, max_node_id};
use super::types::Entry;
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
}

/// Whether `bug` is switched on.
pub(crate) fn planted(bug: Bug) -> bool {
    match std::env::var("NEZHA_PLANTED_BUG").as_deref() {
        Ok("apply-before-commit") => bug == Bug::ApplyBeforeCommit,
        Ok("flush-without-log") => bug == Bug::FlushWithoutLog,
        Ok("purge-past-flushed") => bug == Bug::PurgePastFlushed,
        _ => false,
    }
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
