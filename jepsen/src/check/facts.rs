//! What a history tells about the order of writes, gathered once for all checkers.

use rustc_hash::{FxHashMap, FxHashSet};

use super::timeline::{Effect, Loose, Seen, Timeline};
use crate::history::{Answer, Call, Operation, Outcome, Stamp};

/// What is known.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) operations: &'a [Operation],
    /// Whether every write that was acknowledged tells its revision.
    pub(super) revisioned: bool,
    /// One for each key that is mentioned, in the order of keys.
    pub(super) lines: Vec<Timeline<'a>>,
    line_of: FxHashMap<&'a str, usize>,
    /// Revisions of operations without an answer whose value was seen.
    pub(super) resolved: FxHashMap<usize, u64>,
    /// Revisions of effects, on whichever key.
    pub(super) taken: FxHashSet<u64>,
    /// By what was seen, claims aside.
    pub(super) floor: Floor,
}

/// The highest revision that was certainly reached, by time.
#[derive(Debug, Default)]
pub(super) struct Floor {
    /// When an answer was there, the highest revision up to then, and whose answer showed it.
    steps: Vec<(u64, u64, usize)>,
}

impl Floor {
    pub(super) fn new(answers: impl Iterator<Item = (u64, u64, usize)>) -> Floor {
        let mut steps: Vec<(u64, u64, usize)> = answers.collect();
        steps.sort_unstable();
        for i in 1..steps.len() {
            if steps[i].1 < steps[i - 1].1 {
                (steps[i].1, steps[i].2) = (steps[i - 1].1, steps[i - 1].2);
            }
        }
        Floor { steps }
    }

    /// What was reached before `time`, and by which operation that is known.
    pub(super) fn before(&self, time: u64) -> (u64, Option<usize>) {
        let after = self.steps.partition_point(|(ended, ..)| *ended < time);
        match after.checked_sub(1) {
            Some(last) => (self.steps[last].1, Some(self.steps[last].2)),
            None => (0, None),
        }
    }
}

/// The answer to an operation that has one.
pub(super) fn answer(operation: &Operation) -> Option<&Answer> {
    match &operation.outcome {
        Outcome::Ok { answer } => Some(answer),
        Outcome::Fail { .. } | Outcome::Unknown { .. } => None,
    }
}

/// The revision of its own that a write was answered with.
pub(super) fn written(operation: &Operation) -> Option<u64> {
    match answer(operation)? {
        Answer::Written { revision } | Answer::Deleted { revision, .. } => *revision,
        _ => None,
    }
}

/// Keys that an answer shows, with what it shows.
pub(super) fn found(operation: &Operation) -> impl Iterator<Item = (&str, &str, Option<Stamp>)> {
    let (one, rows) = match answer(operation) {
        Some(Answer::Read { found, .. }) => (found.as_ref(), [].as_slice()),
        Some(Answer::Rows { rows, .. }) => (None, rows.as_slice()),
        _ => (None, [].as_slice()),
    };
    let key = operation.call.key().unwrap_or_default();
    let one = one
        .into_iter()
        .map(move |found| (key, found.value.as_str(), found.stamp));
    one.chain(
        rows.iter()
            .map(|row| (row.key.as_str(), row.value.as_str(), row.stamp)),
    )
}

/// The highest revision that an answer proves; with `claims` also what it says that it reflects.
pub(super) fn proven(operation: &Operation, claims: bool) -> u64 {
    let claimed = |at: &Option<u64>| at.filter(|_| claims).unwrap_or(0);
    let own = match answer(operation) {
        Some(Answer::Written { revision } | Answer::Deleted { revision, .. }) => revision.unwrap_or(0),
        Some(Answer::Refused { current, revision }) => current.unwrap_or(0).max(revision.unwrap_or(0)),
        Some(Answer::Read { at, .. } | Answer::Rows { at, .. }) => claimed(at),
        None => 0,
    };
    let stamps = found(operation).filter_map(|(_, _, stamp)| Some(stamp?.revision));
    stamps.max().unwrap_or(0).max(own)
}

impl<'a> Facts<'a> {
    /// Gathers what `operations` tell.
    pub(super) fn of(operations: &'a [Operation]) -> Facts<'a> {
        let mut facts = Facts {
            operations,
            revisioned: is_revisioned(operations),
            lines: Vec::new(),
            line_of: FxHashMap::default(),
            resolved: FxHashMap::default(),
            taken: FxHashSet::default(),
            floor: Floor::default(),
        };
        facts.name_keys();
        if facts.revisioned {
            let answers = operations.iter().enumerate();
            facts.floor = Floor::new(answers.filter_map(|(position, operation)| {
                Some((operation.ended?, proven(operation, false), position))
            }));
            facts.resolve();
            facts.place();
        }
        for line in &mut facts.lines {
            line.seal();
        }
        facts
    }

    /// The timeline of a key that some operation mentions.
    pub(super) fn line(&self, key: &str) -> Option<&Timeline<'a>> {
        self.line_of.get(key).map(|position| &self.lines[*position])
    }

    /// Timelines of keys in `[start, end)`; an empty end is the end of the key space.
    pub(super) fn range(&self, start: &str, end: &str) -> &[Timeline<'a>] {
        let from = self.lines.partition_point(|line| line.key < start);
        let to = if end.is_empty() {
            self.lines.len()
        } else {
            self.lines.partition_point(|line| line.key < end)
        };
        self.lines.get(from..to).unwrap_or_default()
    }

    fn name_keys(&mut self) {
        let mut keys: FxHashSet<&'a str> = FxHashSet::default();
        for operation in self.operations {
            keys.extend(operation.call.key());
            keys.extend(found(operation).map(|(key, ..)| key));
        }
        let mut keys: Vec<&str> = keys.into_iter().collect();
        keys.sort_unstable();
        self.line_of = keys
            .iter()
            .enumerate()
            .map(|(position, key)| (*key, position))
            .collect();
        self.lines = keys.into_iter().map(Timeline::new).collect();
        for (position, operation) in self.operations.iter().enumerate() {
            if operation.call.mutates()
                && let Some(key) = operation.call.key()
            {
                self.lines[self.line_of[key]].mutations.push(position);
            }
        }
        for (position, operation) in self.operations.iter().enumerate() {
            for (key, value, stamp) in found(operation) {
                let line = &mut self.lines[self.line_of[key]];
                line.stamps.extend(stamp.map(|stamp| (stamp, value, position)));
            }
        }
    }

    /// Finds out which operations without an answer were seen, and where they are.
    fn resolve(&mut self) {
        self.taken = self.operations.iter().filter_map(written).collect();
        for line in &mut self.lines {
            let mut writers: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
            for position in &line.mutations {
                let operation = &self.operations[*position];
                if let Some(value) = operation.call.value()
                    && operation.is_open()
                {
                    writers.entry(value).or_default().push(*position);
                }
            }
            if writers.is_empty() {
                continue;
            }
            for (stamp, value, _) in &line.stamps {
                // Whoever was told that its write has this revision wrote it; of several that may have, none is known to.
                if let Some([writer]) = writers.get(value).map(Vec::as_slice)
                    && !self.taken.contains(&stamp.revision)
                {
                    self.resolved.entry(*writer).or_insert(stamp.revision);
                }
            }
        }
        self.taken.extend(self.resolved.values());
    }

    /// Puts effects on their timelines, and what is loose beside them.
    fn place(&mut self) {
        for line in &mut self.lines {
            for position in &line.mutations {
                let operation = &self.operations[*position];
                let value = operation.call.value();
                let revision = written(operation).or_else(|| self.resolved.get(position).copied());
                if let Some(revision) = revision {
                    line.effects.push(Effect {
                        revision,
                        value,
                        operation: Some(*position),
                    });
                } else if operation.is_open() {
                    line.loose.push(Loose {
                        from: self.floor.before(operation.invoked).0 + 1,
                        value,
                    });
                }
            }
        }
    }
}

/// Whether revisions tell the order of all writes that were acknowledged.
fn is_revisioned(operations: &[Operation]) -> bool {
    let is_told = |operation: &Operation| {
        let is_write = matches!(
            answer(operation),
            Some(Answer::Written { .. } | Answer::Deleted { .. })
        );
        !is_write || written(operation).is_some()
    };
    operations.iter().any(|operation| written(operation).is_some())
        && operations.iter().all(is_told)
        && !operations
            .iter()
            .any(|operation| matches!(operation.call, Call::Append { .. }))
}

/// What a write that was carried out says about its key right before it.
pub(super) fn before(operation: &Operation) -> Option<Seen<'_>> {
    let existed = match answer(operation) {
        Some(Answer::Deleted { existed, .. }) => Some(*existed),
        _ => None,
    };
    match (&operation.call, existed) {
        (Call::Cas { expected, .. }, _)
        | (
            Call::Delete {
                expected: Some(expected),
                ..
            },
            _,
        ) => Some(Seen::held(expected)),
        (Call::Delete { expected: None, .. }, Some(true)) => Some(Seen::Exists),
        (Call::Delete { expected: None, .. }, Some(false)) => Some(Seen::Absent),
        _ => None,
    }
}
