//! Each key for itself: is there an order of its operations that explains every answer?
//!
//! That is enough for operations on one key: a history is linearizable if the histories of its objects are (Herlihy and
//! Wing 1990). Scans are not of one key: `scans` and `witness` look at them, where writes tell their revisions. Where they
//! do not, each row is taken for a read of its key, which is less than a scan promises, and said so.

use std::hash::Hash;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::cover::Scan;
use super::facts::{Facts, answer, written};
use super::models::{Register, RegisterOp, Text, TextOp, UNSEEN, ValueId, When};
use super::shrink::shrink;
use super::timeline::Timeline;
use super::wgl::{Budget, Model, Search, Span, search};
use super::{Findings, Options, Report};
use crate::history::{Answer, Call, Expected, Operation, Outcome, Stamp};

pub(super) fn check(facts: &Facts<'_>, options: &Options, until: Instant, report: &mut Report) {
    let mut findings = Findings::new("keys", options);
    let is_text = facts
        .operations
        .iter()
        .any(|operation| matches!(operation.call, Call::Append { .. }));
    let scanned = if facts.revisioned { Vec::new() } else { rows(facts) };
    if !scanned.is_empty() {
        report
            .undecided
            .push("whether scans show one state: writes do not tell their revisions".to_owned());
    }
    let mut events: Vec<Vec<Event<'_>>> = vec![Vec::new(); facts.lines.len()];
    for (line, event) in direct(facts).chain(scanned) {
        events[line].push(event);
    }
    for (line, events) in facts.lines.iter().zip(events) {
        let mut spans: Vec<Span> = events
            .iter()
            .enumerate()
            .map(|(number, event)| event.span(number))
            .collect();
        let budget = Budget {
            states: options.states_max,
            until,
        };
        let judged = if is_text {
            let operations: Vec<TextOp> = events.iter().map(Event::text).collect();
            classify(&operations, &mut spans);
            judge(&Text { operations }, &spans, budget, findings.wants_more())
        } else {
            let model = register(facts, &events);
            classify(&model.operations, &mut spans);
            for (span, operation) in spans.iter_mut().zip(&model.operations) {
                span.sees = operation.sees().and_then(|value| usize::try_from(value).ok());
            }
            judge(&model, &spans, budget, findings.wants_more())
        };
        match judged {
            Judged::Fine => {}
            Judged::GivenUp => report.undecided.push(format!(
                "{}: whether its {} operations have an order; the search was given up after {} states",
                line.key,
                events.len(),
                options.states_max
            )),
            Judged::Violated(witness) => {
                let text = format!("{}: no order of its operations explains these", name(line));
                findings.add(text, witness.iter().map(|number| events[*number].position));
            }
        }
    }
    findings.report(report);
}

fn name<'a>(line: &Timeline<'a>) -> &'a str {
    if line.key.is_empty() {
        "the only key"
    } else {
        line.key
    }
}

enum Judged {
    Fine,
    GivenUp,
    /// With the numbers of the events that show it.
    Violated(Vec<usize>),
}

fn judge<M: Model>(model: &M, spans: &[Span], mut budget: Budget, is_told: bool) -> Judged {
    match search(model, spans, &mut budget) {
        Search::Linearizable => Judged::Fine,
        Search::GivenUp => Judged::GivenUp,
        Search::Impossible if is_told => Judged::Violated(shrink(model, spans, budget.until)),
        Search::Impossible => Judged::Violated(Vec::new()),
    }
}

/// One operation, or one row of a scan, as a key sees it.
#[derive(Clone, Copy, Debug)]
struct Event<'a> {
    position: usize,
    operation: &'a Operation,
    /// Of a scan: what it says of this key.
    row: Option<Option<(&'a str, Option<Stamp>)>>,
    /// Where it took effect, if that is known.
    revision: Option<u64>,
}

/// Operations on one key, but none that tell nothing.
fn direct<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (usize, Event<'a>)> {
    let all = facts.operations.iter().enumerate();
    all.filter_map(|(position, operation)| {
        let key = operation.call.key()?;
        let is_telling = operation.is_open() || answer(operation).is_some();
        let revision = written(operation).or_else(|| facts.resolved.get(&position).copied());
        let event = Event {
            position,
            operation,
            row: None,
            revision,
        };
        let line = facts.lines.partition_point(|line| line.key < key);
        is_telling.then_some((line, event))
    })
}

fn rows<'a>(facts: &Facts<'a>) -> Vec<(usize, Event<'a>)> {
    let mut events = Vec::new();
    for (position, operation) in facts.operations.iter().enumerate() {
        let Some(scan) = Scan::of(operation) else {
            continue;
        };
        for (line, row) in scan.covered(facts) {
            let event = Event {
                position,
                operation,
                row: Some(row.map(|row| (row.value.as_str(), row.stamp))),
                revision: None,
            };
            events.push((facts.lines.partition_point(|other| other.key < line.key), event));
        }
    }
    events
}

impl<'a> Event<'a> {
    fn span(&self, number: usize) -> Span {
        let is_answered = answer(self.operation).is_some();
        Span {
            operation: number,
            invoked: self.operation.invoked,
            ended: is_answered.then_some(self.operation.ended.unwrap_or(u64::MAX)),
            sure: self.is_sure(),
            rank: self.revision,
            sees: None,
            class: None,
        }
    }

    /// Whether it took effect, as far as anybody knows.
    fn is_sure(&self) -> bool {
        answer(self.operation).is_some() || self.revision.is_some()
    }

    fn found(&self) -> Option<(&'a str, Option<Stamp>)> {
        match (self.row, answer(self.operation)) {
            (Some(row), _) => row,
            (None, Some(Answer::Read { found, .. })) => {
                found.as_ref().map(|found| (found.value.as_str(), found.stamp))
            }
            _ => None,
        }
    }

    fn text(&self) -> TextOp {
        let value = |value: &str| value.to_owned();
        let expected = |expected: &Expected| match expected {
            Expected::Value(value) => Some(value.clone()),
            Expected::Absent => Some(String::new()),
            Expected::Revision(_) => None,
        };
        let is_refused = matches!(answer(self.operation), Some(Answer::Refused { .. }));
        match &self.operation.call {
            Call::Read { .. } | Call::Scan { .. } => TextOp::Read {
                found: self
                    .found()
                    .map_or_else(String::new, |(found, _)| found.to_owned()),
            },
            Call::Cas { expected: e, .. }
            | Call::Delete {
                expected: Some(e), ..
            } if is_refused => TextOp::Refused {
                expected: expected(e),
            },
            Call::Cas {
                expected: e,
                value: v,
                ..
            } => match expected(e) {
                Some(expected) => TextOp::Cas {
                    expected,
                    value: value(v),
                },
                None => TextOp::Put { value: value(v) },
            },
            Call::Write { value: v, .. } => TextOp::Put { value: value(v) },
            Call::Append { value: v, .. } => TextOp::Append { value: value(v) },
            Call::Delete { .. } => TextOp::Delete,
        }
    }

    fn register(&self, id: &mut impl FnMut(&'a str) -> ValueId) -> RegisterOp {
        let revision = self.revision;
        let mut when = |expected: Option<&'a Expected>| match expected {
            None => When::Always,
            Some(Expected::Absent) => When::Absent,
            Some(Expected::Revision(revision)) => When::Revision(*revision),
            Some(Expected::Value(value)) => When::Value(id(value)),
        };
        match (&self.operation.call, &self.operation.outcome) {
            (
                Call::Cas { expected, .. }
                | Call::Delete {
                    expected: Some(expected),
                    ..
                },
                Outcome::Ok {
                    answer: Answer::Refused { current, revision },
                },
            ) => RegisterOp::Refused {
                when: when(Some(expected)),
                current: *current,
                revision: *revision,
            },
            (Call::Read { .. } | Call::Scan { .. }, _) => RegisterOp::Read {
                found: self.found().map(|(value, stamp)| (id(value), stamp)),
            },
            (Call::Write { value, .. } | Call::Append { value, .. }, _) => RegisterOp::Put {
                value: id(value),
                when: When::Always,
                revision,
            },
            (Call::Cas { expected, value, .. }, _) => RegisterOp::Put {
                when: when(Some(expected)),
                value: id(value),
                revision,
            },
            (Call::Delete { expected, .. }, outcome) => RegisterOp::Delete {
                when: when(expected.as_ref()),
                existed: match outcome {
                    Outcome::Ok {
                        answer: Answer::Deleted { existed, .. },
                    } => Some(*existed),
                    _ => None,
                },
                revision,
            },
        }
    }
}

/// Finds those that may never have happened and would do the same.
fn classify<T: Eq + Hash>(operations: &[T], spans: &mut [Span]) {
    let mut classes: FxHashMap<&T, usize> = FxHashMap::default();
    for (span, operation) in spans.iter_mut().zip(operations).filter(|(span, _)| !span.sure) {
        let new = classes.len();
        span.class = Some(*classes.entry(operation).or_insert(new));
    }
}

fn register<'b>(facts: &'b Facts<'_>, events: &[Event<'_>]) -> Register<'b> {
    let mut ids: FxHashMap<&str, ValueId> = FxHashMap::default();
    let mut operations = Vec::with_capacity(events.len());
    for event in events {
        operations.push(event.register(&mut |value| {
            // No key has that many operations.
            let new = ValueId::try_from(ids.len()).unwrap_or(UNSEEN);
            *ids.entry(value).or_insert(new)
        }));
    }
    let mut writers: FxHashMap<ValueId, usize> = FxHashMap::default();
    let mut told: FxHashSet<ValueId> = FxHashSet::default();
    for operation in &operations {
        writers.extend(
            operation
                .writes()
                .map(|value| (value, writers.get(&value).map_or(1, |n| n + 1))),
        );
        told.extend(operation.sees());
        if let RegisterOp::Refused {
            when: When::Value(value),
            ..
        } = operation
        {
            told.insert(*value);
        }
    }
    for (operation, event) in operations.iter_mut().zip(events) {
        if let RegisterOp::Put { value, .. } = operation
            && !event.is_sure()
            && !told.contains(value)
        {
            *value = UNSEEN;
        }
    }
    let all = 0..ValueId::try_from(ids.len()).unwrap_or(UNSEEN);
    Register {
        operations,
        taken: &facts.taken,
        stamped: events
            .iter()
            .any(|event| matches!(event.found(), Some((_, Some(_))))),
        unique: all.map(|value| writers.get(&value) == Some(&1)).collect(),
    }
}
