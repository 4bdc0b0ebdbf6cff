//! The order that the store itself states: a revision is the place of a write in the log.
//!
//! One pass in the order of time. Each write stands where its revision says; each read at the first revision where its
//! answer fits and that is not below what was reached before it was invoked. First places are never too late, so if an
//! answer fits nowhere, or a write stands at or below what was reached before it, then no order explains the history.

use rustc_hash::FxHashMap;

use super::cover::{self, Scan};
use super::facts::{Facts, answer, before, written};
use super::timeline::{Seen, Timeline, Window};
use super::{Findings, Options};
use crate::history::{Answer, Call, Expected, Operation, Outcome};

/// A revision that was reached, and the operation that showed it.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    revision: u64,
    by: Option<usize>,
}

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Findings {
    let mut pass = Pass {
        facts,
        findings: Findings::new("witness", options),
    };
    pass.unique();
    let mut reached = Reached::default();
    let mut reached_before = vec![Reached::default(); facts.operations.len()];
    for (position, is_end) in in_time(facts.operations) {
        if !is_end {
            reached_before[position] = reached;
            pass.unanswered(position, reached);
        } else if let Some(revision) = pass.place(position, reached_before[position])
            && revision > reached.revision
        {
            reached = Reached {
                revision,
                by: Some(position),
            };
        }
    }
    pass.findings
}

/// Invocations and answers in the order of time; of one time, invocations first.
fn in_time(operations: &[Operation]) -> Vec<(usize, bool)> {
    let mut marks: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
    for (position, operation) in operations.iter().enumerate() {
        marks.push((operation.invoked, false, position));
        if answer(operation).is_some() {
            // Without a time, it was there at the end.
            marks.push((operation.ended.unwrap_or(u64::MAX), true, position));
        }
    }
    marks.sort_unstable();
    marks
        .into_iter()
        .map(|(_, is_end, position)| (position, is_end))
        .collect()
}

struct Pass<'a> {
    facts: &'a Facts<'a>,
    findings: Findings,
}

impl<'a> Pass<'a> {
    /// No two writes have one revision.
    fn unique(&mut self) {
        let mut owners: FxHashMap<u64, usize> = FxHashMap::default();
        for (position, operation) in self.facts.operations.iter().enumerate() {
            let revision = written(operation).or_else(|| self.facts.resolved.get(&position).copied());
            let Some(revision) = revision else {
                continue;
            };
            if let Some(other) = owners.insert(revision, position) {
                let text = format!("two writes have revision {revision}");
                self.findings.add(text, [other, position]);
            }
        }
    }

    /// A write without an answer that was seen stands above what was reached before it, too, and its condition held.
    fn unanswered(&mut self, position: usize, reached: Reached) {
        if let Some(revision) = self.facts.resolved.get(&position) {
            self.wrote(position, *revision, reached);
        }
    }

    /// Where an operation stands, if it fits anywhere.
    fn place(&mut self, position: usize, reached: Reached) -> Option<u64> {
        let operation = &self.facts.operations[position];
        match answer(operation)? {
            Answer::Written { revision } | Answer::Deleted { revision, .. } => {
                let revision = (*revision)?;
                self.wrote(position, revision, reached);
                Some(revision)
            }
            Answer::Refused { current, revision } => self.refused(position, *current, *revision, reached),
            Answer::Read { found, at } => {
                let line = self.facts.line(operation.call.key()?)?;
                let seen = found
                    .as_ref()
                    .map_or(Seen::Absent, |found| Seen::Value(&found.value, found.stamp));
                let within = Window {
                    lo: reached.revision.max(at.unwrap_or(0)),
                    hi: u64::MAX,
                };
                self.stood(position, line, seen, within, reached)
            }
            Answer::Rows { .. } => self.scanned(position, &Scan::of(operation)?, reached),
        }
    }

    fn wrote(&mut self, position: usize, revision: u64, reached: Reached) {
        let operation = &self.facts.operations[position];
        if revision <= reached.revision {
            let text = format!(
                "a write stands at revision {revision}, but revision {} was reached before it was invoked",
                reached.revision
            );
            self.findings.add(text, reached.by.into_iter().chain([position]));
        }
        if let (Some(seen), Some(line)) = (
            before(operation),
            operation.call.key().and_then(|key| self.facts.line(key)),
        ) {
            let just_before = revision.saturating_sub(1);
            let within = Window {
                lo: just_before,
                hi: just_before,
            };
            self.stood(position, line, seen, within, Reached::default());
        }
    }

    fn refused(
        &mut self,
        position: usize,
        current: Option<u64>,
        at: Option<u64>,
        reached: Reached,
    ) -> Option<u64> {
        let operation = &self.facts.operations[position];
        let (Call::Cas { expected, .. }
        | Call::Delete {
            expected: Some(expected),
            ..
        }) = &operation.call
        else {
            self.findings
                .add("a write without a condition was refused".to_owned(), [position]);
            return None;
        };
        let is_as_expected = match (expected, current) {
            (Expected::Absent, Some(current)) => current == 0,
            (Expected::Revision(expected), Some(current)) => current == *expected,
            (Expected::Value(_), _) | (_, None) => false,
        };
        if is_as_expected {
            let text = "refused, although the answer says that the key was as expected".to_owned();
            self.findings.add(text, [position]);
            return None;
        }
        let seen = match current {
            Some(0) => Seen::Absent,
            Some(current) => Seen::Revision(current),
            None => Seen::not_held(expected),
        };
        let within = match at {
            Some(at) if at < reached.revision => {
                self.behind(position, at, reached);
                return None;
            }
            Some(at) => Window { lo: at, hi: at },
            None => Window {
                lo: reached.revision,
                hi: u64::MAX,
            },
        };
        let line = self.facts.line(operation.call.key()?)?;
        self.stood(position, line, seen, within, reached)
    }

    fn scanned(&mut self, position: usize, scan: &Scan<'a>, reached: Reached) -> Option<u64> {
        // Without a revision there is nothing to compare with; `scans` looks for one.
        let at = scan.at?;
        if at < reached.revision {
            self.behind(position, at, reached);
            return None;
        }
        let within = Window { lo: at, hi: at };
        for (line, row) in scan.covered(self.facts) {
            self.stood(position, line, cover::seen(row), within, Reached::default())?;
        }
        Some(at)
    }

    fn behind(&mut self, position: usize, at: u64, reached: Reached) {
        let text = format!(
            "the answer is of revision {at}, but revision {} was reached before the call",
            reached.revision
        );
        self.findings.add(text, reached.by.into_iter().chain([position]));
    }

    /// The first revision within `within` at which the key stood as `seen` says.
    fn stood(
        &mut self,
        position: usize,
        line: &Timeline<'_>,
        seen: Seen<'_>,
        within: Window,
        reached: Reached,
    ) -> Option<u64> {
        let first = line.windows(seen, within).next();
        if first.is_none() && self.findings.wants_more() {
            let (text, others) = explain(self.facts, line, seen, within);
            let others = others.into_iter().chain(reached.by).chain([position]);
            self.findings.add(text, others);
        } else if first.is_none() {
            self.findings.add(String::new(), []);
        }
        first.map(|window| window.lo)
    }
}

/// Why a key cannot have stood so, and the operations that tell.
pub(super) fn explain(
    facts: &Facts<'_>,
    line: &Timeline<'_>,
    seen: Seen<'_>,
    within: Window,
) -> (String, Vec<usize>) {
    let key = line.key;
    let when = match within {
        Window { lo, hi } if lo == hi => format!("at revision {lo}"),
        Window { lo, hi: u64::MAX } => format!("at revision {lo} or later"),
        Window { lo, hi } => format!("between revisions {lo} and {hi}"),
    };
    let at_begin = line.base(line.gap(within.lo));
    let instead = match at_begin {
        Some(effect) => match effect.value {
            Some(value) => format!("it was {value:?} since revision {}", effect.revision),
            None => format!("it did not exist since revision {}", effect.revision),
        },
        None => "nobody had written it".to_owned(),
    };
    let mut others: Vec<usize> = at_begin.and_then(|effect| effect.operation).into_iter().collect();
    let text = match seen {
        Seen::Absent => format!("{key} did not exist {when}: {instead}"),
        Seen::Exists => format!("{key} existed {when}: {instead}"),
        Seen::Revision(revision) => format!("{key} had revision {revision} {when}: {instead}"),
        Seen::OtherThanRevision(revision) => {
            format!("{key} did not have revision {revision} {when}: {instead}")
        }
        Seen::OtherThan(value) => format!("{key} was not {value:?} {when}: {instead}"),
        Seen::Value(value, stamp) => {
            let writes = line.mutations.iter().copied();
            let writers: Vec<usize> = writes
                .filter(|position| facts.operations[*position].call.value() == Some(value))
                .collect();
            let why = match writers.first().map(|writer| &facts.operations[*writer]) {
                None => "nobody ever wrote that".to_owned(),
                Some(Operation {
                    outcome: Outcome::Fail { .. },
                    ..
                }) => "its write failed for certain".to_owned(),
                Some(_) => instead,
            };
            others.extend(writers.first());
            let revision = stamp.map(|stamp| format!(" of revision {}", stamp.revision));
            format!(
                "{key} was {value:?}{} {when}: {why}",
                revision.unwrap_or_default()
            )
        }
    };
    (text, others)
}
