//! What a log entry does to the index. Pure semantics, the same over every engine and on every replica (I11).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use nezha_vlog::{Head, HeadPayload, LogId, OpHead, OpKind, Precondition, SegmentId, record_len};

use super::{AppliedState, Index, IndexEntry, IndexError, Outline, Place, WriteSet};

/// What one operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// False: the precondition did not hold and nothing was written.
    pub succeeded: bool,
    /// The key existed before the operation.
    pub existed: bool,
    /// mod_revision of the key afterwards; 0 if it does not exist.
    pub mod_revision: u64,
}

/// Applies committed log entries to an index.
///
/// Each operation of a command stands on its own: its precondition is judged on the state that all earlier operations
/// left, and a failed one writes nothing. Whether a value is inline changes where it is stored and nothing that a
/// client sees: outcomes, revisions, `keys` and `live_bytes` depend on the log alone.
pub struct Apply;

impl Apply {
    /// Applies `heads` in order and commits them as one batch, applied id included.
    ///
    /// Shape: one vector of outcomes per head, one outcome per operation; empty for blank and membership heads.
    /// `max_node_id` answers the highest node id in an encoded membership.
    /// Errors: `OutOfOrder` if log indices do not ascend from the applied one; errors of the engine. Nothing is
    /// committed then.
    /// Blocking: one batched read, one write without sync. One caller at a time.
    pub fn run(
        index: &dyn Index,
        heads: Vec<Head>,
        max_node_id: &dyn Fn(&Bytes) -> u64,
    ) -> Result<Vec<Vec<Outcome>>, IndexError> {
        if heads.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::load(index, &heads)?;
        let mut outcomes = Vec::with_capacity(heads.len());
        for head in heads {
            batch.advance(head.log_id)?;
            outcomes.push(match head.payload {
                HeadPayload::Blank => Vec::new(),
                HeadPayload::Membership(bytes) => {
                    batch.state.max_node_id = batch.state.max_node_id.max(max_node_id(&bytes));
                    batch.state.membership_log_id = Some(head.log_id);
                    batch.state.membership = bytes;
                    Vec::new()
                }
                HeadPayload::Command(ops) => ops
                    .into_iter()
                    .map(|op| batch.apply(head.log_id.index, op))
                    .collect(),
            });
        }
        index.commit(batch.into_write_set())?;
        Ok(outcomes)
    }
}

/// The keys of one batch as they change while it is evaluated.
struct Batch {
    state: AppliedState,
    slots: Vec<Slot>,
    slot_of: HashMap<Bytes, usize>,
    live_delta: BTreeMap<SegmentId, i64>,
}

struct Slot {
    key: Bytes,
    now: Option<Outline>,
    /// What this batch leaves, once it has changed the key.
    written: Option<Option<IndexEntry>>,
}

impl Batch {
    fn load(index: &dyn Index, heads: &[Head]) -> Result<Batch, IndexError> {
        let mut slot_of = HashMap::new();
        let mut keys = Vec::new();
        for head in heads {
            let HeadPayload::Command(ops) = &head.payload else {
                continue;
            };
            for op in ops {
                slot_of.entry(op.key.clone()).or_insert_with(|| {
                    keys.push(op.key.clone());
                    keys.len() - 1
                });
            }
        }
        let outlines = index.outlines(&keys)?;
        assert_eq!(
            outlines.len(),
            keys.len(),
            "the index answered for another number of keys"
        );
        let slots = keys
            .into_iter()
            .zip(outlines)
            .map(|(key, now)| Slot {
                key,
                now,
                written: None,
            })
            .collect();
        Ok(Batch {
            state: index.state(),
            slots,
            slot_of,
            live_delta: BTreeMap::new(),
        })
    }

    fn advance(&mut self, log_id: LogId) -> Result<(), IndexError> {
        if let Some(applied) = self.state.applied
            && log_id.index <= applied.index
        {
            return Err(IndexError::OutOfOrder { applied, got: log_id });
        }
        self.state.applied = Some(log_id);
        Ok(())
    }

    fn apply(&mut self, revision: u64, op: OpHead) -> Outcome {
        let slot = &mut self.slots[self.slot_of[&op.key]];
        let existed = slot.now.is_some();
        let current = slot.now.map_or(0, |entry| entry.mod_revision);
        let holds = match op.precondition {
            Precondition::None => true,
            Precondition::Absent => !existed,
            Precondition::ModRevision(expected) => existed && current == expected,
        };
        if !holds {
            return Outcome {
                succeeded: false,
                existed,
                mod_revision: current,
            };
        }
        let new = match op.kind {
            OpKind::Delete => None,
            OpKind::Put => Some(IndexEntry {
                create_revision: slot.now.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: slot.now.map_or(1, |old| old.version + 1),
                place: match op.inline {
                    Some(value) => Place::Inline(value),
                    None => Place::At(op.place),
                },
            }),
        };
        let mod_revision = new.as_ref().map_or(0, |entry| entry.mod_revision);
        if !existed && new.is_none() {
            return Outcome {
                succeeded: true,
                existed,
                mod_revision,
            };
        }
        let now = new.as_ref().map(IndexEntry::outline);
        let old = std::mem::replace(&mut slot.now, now);
        slot.written = Some(new);
        account(&mut self.state, &mut self.live_delta, &slot.key, old, now);
        Outcome {
            succeeded: true,
            existed,
            mod_revision,
        }
    }

    fn into_write_set(self) -> WriteSet {
        let entries = self
            .slots
            .into_iter()
            .filter_map(|slot| Some((slot.key, slot.written?)))
            .collect();
        WriteSet {
            entries,
            live_delta: self.live_delta,
            state: self.state,
        }
    }
}

/// Moves the counts from `old` to `new`. The only place that knows what counts as live.
pub(crate) fn account(
    state: &mut AppliedState,
    live_delta: &mut BTreeMap<SegmentId, i64>,
    key: &[u8],
    old: Option<Outline>,
    new: Option<Outline>,
) {
    // A record is bounded by the frame size limit, far below i64::MAX.
    let signed = |bytes: u64| i64::try_from(bytes).expect("a record is shorter than 2^63 bytes");
    if let Some(old) = old {
        let bytes = record_len(key.len(), old.value_len);
        state.keys -= 1;
        state.live_bytes -= bytes;
        if let Some(segment) = old.segment {
            *live_delta.entry(segment).or_default() -= signed(bytes);
        }
    }
    if let Some(new) = new {
        let bytes = record_len(key.len(), new.value_len);
        state.keys += 1;
        state.live_bytes += bytes;
        if let Some(segment) = new.segment {
            *live_delta.entry(segment).or_default() += signed(bytes);
        }
    }
}
