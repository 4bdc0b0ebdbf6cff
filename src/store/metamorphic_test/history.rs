//! One seeded history, and a plain model of what it does: what every replica is compared with.

use std::collections::BTreeMap;

use bytes::Bytes;
use nezha_vlog::{Command, Draft, Entry, LogId, Op, OpKind, Payload, Precondition, record_len};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Events;
use crate::index::Outcome;

const KEYS: u32 = 40;

/// Longest values that replicas keep in their index: history has values around each of them.
pub(super) const INLINE_MAX: [u32; 4] = [0, 16, 128, 400];

/// A live key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

/// Everything that replicas must agree on once they have applied the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub applied: Option<LogId>,
    pub membership_log_id: Option<LogId>,
    pub membership: Bytes,
    pub max_node_id: u64,
    pub rows: BTreeMap<Bytes, Row>,
}

impl State {
    /// Sum of the record lengths of all live keys.
    pub fn live_bytes(&self) -> u64 {
        let lens = self
            .rows
            .iter()
            .map(|(key, row)| record_len(key.len(), row.value.len()));
        lens.sum()
    }

    fn apply(&mut self, revision: u64, op: &Op) -> Outcome {
        let found = self.rows.get(&op.key);
        let (existed, current) = (found.is_some(), found.map_or(0, |row| row.mod_revision));
        let succeeded = match op.precondition {
            Precondition::None => true,
            Precondition::Absent => !existed,
            Precondition::ModRevision(wanted) => existed && wanted == current,
        };
        let mod_revision = match (succeeded, op.kind) {
            (false, _) => current,
            (true, OpKind::Delete) => {
                self.rows.remove(&op.key);
                0
            }
            (true, OpKind::Put) => {
                let row = Row {
                    value: op.value.clone(),
                    create_revision: found.map_or(revision, |row| row.create_revision),
                    mod_revision: revision,
                    version: found.map_or(0, |row| row.version) + 1,
                };
                self.rows.insert(op.key.clone(), row);
                revision
            }
        };
        Outcome {
            succeeded,
            existed,
            mod_revision,
        }
    }
}

/// Highest node id of a membership in this history: its first byte.
pub(super) fn max_node_id(membership: &Bytes) -> u64 {
    membership.first().copied().map_or(0, u64::from)
}

/// What a cluster has committed, from log index 1 on.
pub(super) struct History {
    pub seed: u64,
    entries: Vec<Entry>,
    /// State after each log index, from 0 on.
    states: Vec<State>,
    outcomes: Vec<Vec<Outcome>>,
}

impl History {
    pub fn new(seed: u64, len: u64, events: &mut Events) -> History {
        let mut history = History {
            seed,
            entries: Vec::new(),
            states: vec![State::default()],
            outcomes: Vec::new(),
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut term = 1;
        for index in 1..=len {
            if rng.random_range(0..25) == 0 {
                // Of the term in between, nothing was committed: what its leader wrote is cut off again.
                term += 2;
            }
            let log_id = leader_of(term, index);
            let payload = match rng.random_range(0..25) {
                0 => Payload::Blank,
                1 => Payload::Membership(Bytes::from(vec![rng.random_range(1..9); 3])),
                _ => Payload::Command(command(&mut rng, history.state(index - 1), index)),
            };
            history.push(Entry { log_id, payload }, events);
        }
        history
    }

    fn push(&mut self, entry: Entry, events: &mut Events) {
        let mut state = self.state(entry.log_id.index - 1).clone();
        state.applied = Some(entry.log_id);
        let mut outcomes = Vec::new();
        match &entry.payload {
            Payload::Blank => {}
            Payload::Membership(bytes) => {
                state.max_node_id = state.max_node_id.max(max_node_id(bytes));
                state.membership_log_id = Some(entry.log_id);
                state.membership = bytes.clone();
            }
            Payload::Command(command) => {
                for op in command.ops() {
                    let outcome = state.apply(entry.log_id.index, &op);
                    match (op.kind, outcome.succeeded, outcome.existed) {
                        (_, false, _) => events.count("precondition failed"),
                        (OpKind::Put, true, true) => events.count("overwrite"),
                        (OpKind::Delete, true, true) => events.count("delete"),
                        _ => {}
                    }
                    outcomes.push(outcome);
                }
                if outcomes.len() > 1 {
                    events.count("command of several operations");
                }
            }
        }
        self.entries.push(entry);
        self.states.push(state);
        self.outcomes.push(outcomes);
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn entry(&self, index: u64) -> &Entry {
        &self.entries[index as usize - 1]
    }

    pub fn log_id(&self, index: u64) -> LogId {
        self.entry(index).log_id
    }

    pub fn state(&self, index: u64) -> &State {
        &self.states[index as usize]
    }

    pub fn outcomes(&self, index: u64) -> &[Outcome] {
        &self.outcomes[index as usize - 1]
    }

    /// What a leader that nobody followed wrote after `index`; nothing if no term was lost there.
    pub fn stranded(&self, index: u64, rng: &mut StdRng) -> Vec<Entry> {
        let before = if index == 0 { 1 } else { self.log_id(index).term };
        if index == self.len() || self.log_id(index + 1).term == before {
            return Vec::new();
        }
        // Not beyond the end: a segment that held them can go only once as much was committed and purged.
        let last = self.len().min(index + rng.random_range(1..6));
        (index + 1..=last)
            .map(|at| Entry {
                log_id: leader_of(before + 1, at),
                payload: Payload::Command(command(rng, self.state(index), at)),
            })
            .collect()
    }
}

fn leader_of(term: u64, index: u64) -> LogId {
    LogId {
        term,
        node: 1 + term % 3,
        index,
    }
}

/// A random write on top of `state`: often of a few hot keys, values of all sizes, mostly of one operation.
fn command(rng: &mut StdRng, state: &State, revision: u64) -> Command {
    let count: usize = [1, 1, 1, 2, 4][rng.random_range(0..5)];
    let ops: Vec<Command> = (0..count)
        .map(|_| draft(rng, state, revision).seal(revision))
        .collect();
    let mut body = (count as u16).to_le_bytes().to_vec();
    for op in ops {
        body.extend_from_slice(&op.as_bytes()[nezha_vlog::format::COMMAND_HEADER_LEN as usize..]);
    }
    Command::from_bytes(body.into()).unwrap()
}

fn draft(rng: &mut StdRng, state: &State, revision: u64) -> Draft {
    let hot = rng.random_range(0..2) == 0;
    let number = rng.random_range(0..if hot { 4 } else { KEYS });
    let key = Bytes::from(format!("key-{number:02}"));
    let current = state.rows.get(&key).map_or(0, |row| row.mod_revision);
    let precondition = match rng.random_range(0..8) {
        0 => Precondition::Absent,
        1 => Precondition::ModRevision(current.max(1)),
        2 => Precondition::ModRevision(rng.random_range(1..revision + 1)),
        _ => Precondition::None,
    };
    if rng.random_range(0..6) == 0 {
        return Draft::delete(&key, precondition);
    }
    let around = INLINE_MAX[rng.random_range(0..INLINE_MAX.len())] as usize;
    let len = match rng.random_range(0..20) {
        0..8 => (around + rng.random_range(0..3)).saturating_sub(1),
        8..15 => rng.random_range(0..600),
        15..19 => rng.random_range(1000..3000),
        _ => rng.random_range(5_000..20_000),
    };
    let mut value = vec![0; len];
    rng.fill(&mut value[..]);
    Draft::put(&key, &value, precondition)
}
