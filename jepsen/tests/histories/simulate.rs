//! A store that is right by construction, and clients that see it through slow and broken lines.
//!
//! Events happen one after the other in made-up time; each operation takes effect at one of them, between invocation and
//! answer. Clients that give up go on as another process, and what they asked for may happen later, or never.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use nezha_jepsen::history::{Answer, Call, Expected, Found, History, Operation, Outcome, Row, Stamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Shape {
    pub operations: usize,
    pub keys: usize,
    pub clients: u64,
    /// Share of operations that nobody hears of again.
    pub unknown: f64,
    pub scans: f64,
    pub deletes: f64,
    /// Share of operations that add to a set.
    pub adds: f64,
    /// The write that is acknowledged but has no effect, counted in effects.
    pub lose: Option<usize>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            operations: 600,
            keys: 6,
            clients: 8,
            unknown: 0.03,
            scans: 0.08,
            deletes: 0.08,
            adds: 0.1,
            lose: None,
        }
    }
}

/// An effect, as the store knows it.
#[derive(Clone, Debug)]
pub struct Effect {
    pub revision: u64,
    pub operation: usize,
    pub key: String,
    pub before: Option<Found>,
    pub after: Option<Found>,
}

/// A history and the truth behind it.
#[derive(Clone, Debug)]
pub struct Made {
    pub history: History,
    /// By revision.
    pub effects: Vec<Effect>,
    /// The acknowledged write that had none.
    pub lost: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Next(u64),
    ReadPoint(usize),
    Effect(usize),
    End(usize),
}

struct Simulation {
    shape: Shape,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    operations: Vec<Operation>,
    answers: Vec<Option<Answer>>,
    clients: Vec<u64>,
    fates: Vec<Fate>,
    points: Vec<u64>,
    processes: u64,
    revision: u64,
    keys: BTreeMap<String, Found>,
    effects: Vec<Effect>,
    lost: Option<usize>,
    /// Where clients last saw keys.
    seen: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Failed,
    Unknown,
    /// The history ends before the client gives up.
    NeverEnded,
}

/// Simulates `shape`. The same seed makes the same history.
pub fn simulate(shape: &Shape, seed: u64) -> Made {
    let mut simulation = Simulation {
        shape: shape.clone(),
        rng: StdRng::seed_from_u64(seed),
        queue: BinaryHeap::new(),
        sequence: 0,
        operations: Vec::new(),
        answers: Vec::new(),
        clients: Vec::new(),
        fates: Vec::new(),
        points: Vec::new(),
        processes: shape.clients,
        revision: 0,
        keys: BTreeMap::new(),
        effects: Vec::new(),
        lost: None,
        seen: BTreeMap::new(),
    };
    for client in 0..shape.clients {
        let at = simulation.rng.random_range(0..1_000_000);
        simulation.push(at, Event::Next(client));
    }
    simulation.run();
    simulation.finals();
    Made {
        history: simulation.history(),
        effects: simulation.effects,
        lost: simulation.lost,
    }
}

impl Simulation {
    fn push(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence, event)));
    }

    fn run(&mut self) {
        while let Some(Reverse((now, _, event))) = self.queue.pop() {
            match event {
                Event::Next(process) => {
                    if self.operations.len() < self.shape.operations {
                        let call = self.call();
                        self.begin(now, process, call);
                    }
                }
                Event::ReadPoint(position) => self.points[position] = self.revision,
                Event::Effect(position) => {
                    let answer = self.effect(position);
                    self.answers[position] = Some(answer);
                }
                Event::End(position) => self.end(now, position),
            }
        }
    }

    /// Reads of everything after everything.
    fn finals(&mut self) {
        let over = self
            .operations
            .iter()
            .map(|operation| operation.ended.unwrap_or(operation.invoked));
        let mut now = over.max().unwrap_or(0) + 1_000_000;
        self.shape.unknown = 0.0;
        self.shape.operations = 0;
        let process = self.processes;
        let mut calls: Vec<Call> = (0..self.shape.keys)
            .map(|n| Call::Read { key: register(n) })
            .collect();
        calls.push(scan("s/", "s0", false, 0));
        calls.push(scan("", "", true, 0));
        for call in calls {
            self.begin(now, process, call);
            self.run();
            now = self
                .operations
                .last()
                .and_then(|last| last.ended)
                .expect("a final read ends")
                + 1;
        }
    }

    fn call(&mut self) -> Call {
        let value = format!("v{}", self.operations.len());
        let kind: f64 = self.rng.random();
        let key = register(self.rng.random_range(0..self.shape.keys));
        let Shape {
            scans, deletes, adds, ..
        } = self.shape;
        if kind < scans {
            let limit = if self.rng.random_bool(0.3) {
                self.rng.random_range(1..6)
            } else {
                0
            };
            let reverse = self.rng.random_bool(0.3);
            return match self.rng.random_range(0..3) {
                0 if adds > 0.0 => scan("s/", "s0", reverse, limit),
                1 => scan(&key, "", reverse, limit),
                _ => scan("r/", "s", reverse, limit),
            };
        }
        if kind < scans + adds {
            let key = format!("s/{:06}", self.operations.len());
            return if self.rng.random_bool(0.5) {
                Call::Write { key, value }
            } else {
                let expected = Expected::Absent;
                Call::Cas { key, expected, value }
            };
        }
        let is_conditional = self.rng.random_bool(0.5);
        let expected = match self.seen.get(&key) {
            Some(revision) if self.rng.random_bool(0.8) => Expected::Revision(*revision),
            _ => Expected::Absent,
        };
        if kind < scans + adds + deletes {
            let expected = is_conditional.then_some(expected);
            return Call::Delete { key, expected };
        }
        match self.rng.random_range(0..10) {
            0..5 => Call::Read { key },
            5..8 => Call::Write { key, value },
            _ => Call::Cas { key, expected, value },
        }
    }

    fn begin(&mut self, now: u64, process: u64, call: Call) {
        let position = self.operations.len();
        let takes = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(5_000_000..40_000_000),
            _ => self.rng.random_range(100_000..3_000_000),
        };
        let mut at = now + self.rng.random_range(1..takes);
        let fate = if self.rng.random_bool(self.shape.unknown) {
            if self.rng.random_bool(0.1) {
                Fate::NeverEnded
            } else {
                Fate::Unknown
            }
        } else if self.shape.unknown > 0.0 && self.rng.random_bool(0.01) {
            Fate::Failed
        } else {
            Fate::Answered
        };
        let is_lost = matches!(fate, Fate::Unknown | Fate::NeverEnded);
        if is_lost && self.rng.random_bool(0.5) {
            at += self.rng.random_range(1..100_000_000);
        }
        let happens = fate != Fate::Failed && !(is_lost && self.rng.random_bool(0.4));
        if happens {
            let point = self.rng.random_range(now..at);
            self.push(point, Event::ReadPoint(position));
            self.push(at, Event::Effect(position));
        }
        self.push(now + takes, Event::End(position));
        self.operations.push(Operation {
            process,
            invoked: now,
            ended: None,
            endpoint: String::new(),
            call,
            outcome: Outcome::Unknown {
                why: "timed out".to_owned(),
            },
        });
        self.answers.push(None);
        self.clients.push(process);
        self.fates.push(fate);
        self.points.push(0);
    }

    fn end(&mut self, now: u64, position: usize) {
        let operation = &mut self.operations[position];
        if self.fates[position] != Fate::NeverEnded {
            operation.ended = Some(now);
        }
        match self.fates[position] {
            Fate::Answered => {
                let answer = self.answers[position].clone().expect("it took effect");
                operation.outcome = Outcome::Ok { answer };
            }
            Fate::Failed => {
                operation.outcome = Outcome::Fail {
                    why: "not the leader".to_owned(),
                }
            }
            Fate::Unknown | Fate::NeverEnded => {}
        }
        let mut process = operation.process;
        if matches!(self.fates[position], Fate::Unknown | Fate::NeverEnded) {
            process = self.processes;
            self.processes += 1;
        }
        let pause = self.rng.random_range(1..200_000);
        self.push(now + pause, Event::Next(process));
    }

    fn effect(&mut self, position: usize) -> Answer {
        let call = self.operations[position].call.clone();
        match call {
            Call::Read { key } => {
                let found = self.keys.get(&key).cloned();
                if let Some(stamp) = found.as_ref().and_then(|found| found.stamp) {
                    self.seen.insert(key, stamp.revision);
                }
                let newest = found
                    .as_ref()
                    .and_then(|found| found.stamp)
                    .map_or(0, |stamp| stamp.revision);
                Answer::Read {
                    found,
                    at: Some(self.points[position].max(newest)),
                }
            }
            Call::Scan {
                start,
                end,
                reverse,
                limit,
            } => self.scanned(&start, &end, reverse, limit),
            Call::Write { key, value } => self.change(position, &key, None, Some(value)),
            Call::Cas { key, expected, value } => self.change(position, &key, Some(&expected), Some(value)),
            Call::Delete { key, expected } => self.change(position, &key, expected.as_ref(), None),
            Call::Append { .. } => panic!("the store cannot append"),
        }
    }

    fn scanned(&mut self, start: &str, end: &str, reverse: bool, limit: u64) -> Answer {
        let is_inside = |key: &str| key >= start && (end.is_empty() || key < end);
        let inside = self.keys.iter().filter(|(key, _)| is_inside(key));
        let mut rows: Vec<Row> = inside
            .map(|(key, found)| Row {
                key: key.clone(),
                value: found.value.clone(),
                stamp: found.stamp,
            })
            .collect();
        if reverse {
            rows.reverse();
        }
        let most = if limit == 0 {
            usize::MAX
        } else {
            usize::try_from(limit).expect("a small limit")
        };
        let more = rows.len() > most;
        rows.truncate(most);
        Answer::Rows {
            rows,
            at: Some(self.revision),
            more,
        }
    }

    fn change(
        &mut self,
        position: usize,
        key: &str,
        expected: Option<&Expected>,
        value: Option<String>,
    ) -> Answer {
        self.revision += self.rng.random_range(1..3);
        let revision = self.revision;
        let before = self.keys.get(key).cloned();
        let stamp = before.as_ref().and_then(|found| found.stamp);
        let current = stamp.map_or(0, |stamp| stamp.revision);
        let holds = match expected {
            None => true,
            Some(Expected::Absent) => before.is_none(),
            Some(Expected::Revision(expected)) => current == *expected,
            Some(Expected::Value(_)) => panic!("the store compares revisions"),
        };
        if !holds {
            self.seen.insert(key.to_owned(), current.max(1));
            return Answer::Refused {
                current: Some(current),
                revision: Some(revision),
            };
        }
        let is_delete = value.is_none();
        let after = value.map(|value| Found {
            value,
            stamp: Some(Stamp {
                created: stamp.map_or(revision, |stamp| stamp.created),
                revision,
                version: stamp.map_or(1, |stamp| stamp.version + 1),
            }),
        });
        let is_lost = self.shape.lose.is_some_and(|nth| nth <= self.effects.len())
            && self.lost.is_none()
            && self.fates[position] == Fate::Answered
            && !(is_delete && before.is_none());
        if is_lost {
            self.lost = Some(position);
        } else {
            match &after {
                Some(found) => self.keys.insert(key.to_owned(), found.clone()),
                None => self.keys.remove(key),
            };
            self.effects.push(Effect {
                revision,
                operation: position,
                key: key.to_owned(),
                before: before.clone(),
                after,
            });
        }
        if is_delete {
            Answer::Deleted {
                existed: before.is_some(),
                revision: Some(revision),
            }
        } else {
            Answer::Written {
                revision: Some(revision),
            }
        }
    }

    /// Operations were begun in the order of time, so their positions stay.
    fn history(&self) -> History {
        assert!(self.operations.is_sorted_by_key(|operation| operation.invoked));
        History {
            operations: self.operations.clone(),
            faults: Vec::new(),
        }
    }
}

fn register(number: usize) -> String {
    format!("r/{number:03}")
}

fn scan(start: &str, end: &str, reverse: bool, limit: u64) -> Call {
    Call::Scan {
        start: start.to_owned(),
        end: end.to_owned(),
        reverse,
        limit,
    }
}

impl Made {
    /// The same without a word about revisions: what another store would tell. Scans are left out.
    pub fn without_revisions(&self) -> History {
        let value_at = |revision: u64| {
            let effect = self.effects.iter().find(|effect| effect.revision == revision);
            effect
                .and_then(|effect| effect.after.as_ref())
                .map(|found| found.value.clone())
        };
        let expected = |expected: Expected| match expected {
            Expected::Revision(revision) => {
                Expected::Value(value_at(revision).unwrap_or_else(|| "never written".to_owned()))
            }
            other => other,
        };
        let mut history = self.history.clone();
        history
            .operations
            .retain(|operation| operation.call.key().is_some());
        for operation in &mut history.operations {
            operation.call = match operation.call.clone() {
                Call::Cas {
                    key,
                    expected: e,
                    value,
                } => Call::Cas {
                    key,
                    expected: expected(e),
                    value,
                },
                Call::Delete { key, expected: e } => Call::Delete {
                    key,
                    expected: e.map(&expected),
                },
                other => other,
            };
            let Outcome::Ok { answer } = &mut operation.outcome else {
                continue;
            };
            match answer {
                Answer::Read { found, at } => {
                    *at = None;
                    if let Some(found) = found {
                        found.stamp = None;
                    }
                }
                Answer::Written { revision } | Answer::Deleted { revision, .. } => *revision = None,
                Answer::Refused { current, revision } => (*current, *revision) = (None, None),
                Answer::Rows { .. } => {}
            }
        }
        history
    }
}
