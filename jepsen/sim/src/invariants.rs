//! What always holds, looked at from outside while the cluster runs.

use std::collections::BTreeMap;

use crate::host::Running;

/// What was seen of one machine before; some of it must survive every crash.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: u64,
    committed: u64,
}

/// Remembers what was seen, and compares.
#[derive(Default)]
pub struct Invariants {
    seen: BTreeMap<String, Seen>,
    /// Of each log index that was seen applied anywhere: term and leader of its entry.
    applied: BTreeMap<u64, (u64, u64)>,
}

/// Where a node stands, for the trace.
pub type Position = [u64; 6];

impl Invariants {
    /// Looks at one node. Answers where it stands, and what is wrong.
    pub fn look(&mut self, name: &str, running: &Running) -> (Position, Vec<String>) {
        let metrics = running.consensus.metrics();
        let mut wrong = Vec::new();
        let mut check = |holds: bool, text: &dyn Fn() -> String| {
            if !holds {
                wrong.push(format!("{name}: {}", text()));
            }
        };
        let seen = self.seen.entry(name.to_owned()).or_default();
        check(metrics.term >= seen.term, &|| {
            format!("R4: its term was {} and is {}", seen.term, metrics.term)
        });
        seen.term = seen.term.max(metrics.term);
        seen.committed = seen.committed.max(metrics.committed);

        // Each line is read at another moment, the later ones last: what grows meanwhile only widens the gap.
        let store = &running.store;
        let purged = store.log().purged().map_or(0, |id| id.index);
        let flushed = store.index().flushed().map_or(0, |id| id.index);
        let applied = store.index().state().applied;
        let applied_index = applied.map_or(0, |id| id.index);
        let durable = store.log().durable_log_id().map_or(0, |id| id.index);
        let last = store.log().last_log_id().map_or(0, |id| id.index);
        check(purged <= flushed.max(applied_index), &|| {
            format!("I4: purged to {purged}, flushed to {flushed}")
        });
        check(flushed <= applied_index, &|| {
            format!("I8: flushed to {flushed}, applied to {applied_index}")
        });
        let installed = store.index().state().installed_at;
        // Of what is purged it is not known any more whether it was durable.
        check(
            applied_index <= durable.max(purged) || installed == applied,
            &|| {
                format!(
                    "I3: applied to {applied_index}, installed at {installed:?}, durable to {durable} of {last}, purged to {purged}"
                )
            },
        );
        check(durable <= last, &|| {
            format!("I8: durable to {durable}, but the log ends at {last}")
        });

        if let Some(id) = applied {
            let leader = (id.term, id.node);
            let before = *self.applied.entry(id.index).or_insert(leader);
            check(before == leader, &|| {
                format!(
                    "R8: entry {} of {before:?} was applied before, here that of {leader:?}",
                    id.index
                )
            });
        }
        let position = [
            metrics.term,
            last,
            metrics.committed,
            applied_index,
            flushed,
            purged,
        ];
        (position, wrong)
    }
}
