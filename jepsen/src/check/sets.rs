//! Sets: keys that were written once and never deleted, read by scans. Once such an element was acknowledged or seen, each
//! later scan of its place shows it.

use super::cover::Scan;
use super::facts::{Facts, answer};
use super::timeline::Timeline;
use super::{Findings, Options};
use crate::history::{Answer, Call, Expected, Operation, Outcome};

/// What is known about one element.
#[derive(Clone, Copy, Debug)]
struct Element {
    add: usize,
    /// When it was known to be there, and who knew.
    since: Option<(u64, usize)>,
    /// The last scan that showed it, by its invocation.
    shown: Option<(u64, usize)>,
    /// The first scan that missed it after that.
    missed: Option<usize>,
}

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Findings {
    let mut findings = Findings::new("sets", options);
    let operations = facts.operations;
    let scans: Vec<(usize, Scan<'_>)> = operations
        .iter()
        .enumerate()
        .filter_map(|(position, operation)| Some((position, Scan::of(operation)?)))
        .collect();
    if scans.is_empty() {
        return findings;
    }
    let mut elements: Vec<Option<Element>> =
        facts.lines.iter().map(|line| element(operations, line)).collect();
    let number = |line: &Timeline<'_>| facts.lines.partition_point(|other| other.key < line.key);
    for (position, scan) in &scans {
        let operation = &operations[*position];
        for row in scan.rows {
            let Some(line) = facts.line(&row.key) else {
                continue;
            };
            if line.mutations.iter().all(|add| !may_add(&operations[*add])) {
                findings.add(format!("{}: in a scan, but never added", row.key), [*position]);
            }
            let Some(element) = &mut elements[number(line)] else {
                continue;
            };
            let since = operation.ended.map(|ended| (ended, *position));
            element.since = element.since.into_iter().chain(since).min();
            element.shown = element.shown.max(Some((operation.invoked, *position)));
        }
    }
    for (position, scan) in &scans {
        let operation = &operations[*position];
        for (line, row) in scan.covered(facts) {
            if row.is_some() {
                continue;
            }
            if let Some(element) = &mut elements[number(line)]
                && element.missed.is_none()
                && element.since.is_some_and(|(since, _)| since < operation.invoked)
            {
                element.missed = Some(*position);
            }
        }
    }
    for (line, element) in facts.lines.iter().zip(&elements) {
        let Some(element) = element else { continue };
        let (Some(missed), Some((_, known))) = (element.missed, element.since) else {
            continue;
        };
        let is_later =
            |(invoked, _): &(u64, usize)| operations[missed].ended.is_some_and(|ended| *invoked > ended);
        let (what, witness) = match element.shown {
            None => ("acknowledged, but no scan shows it", None),
            Some(shown) if is_later(&shown) => (
                "a scan misses it that was known before and is shown later",
                Some(shown.1),
            ),
            Some(_) => ("lost: known, and then missing", None),
        };
        let text = format!("{}: {what}", line.key);
        findings.add(text, [element.add, known, missed].into_iter().chain(witness));
    }
    findings
}

/// Whether it may have made its key exist.
fn may_add(operation: &Operation) -> bool {
    operation.call.value().is_some()
        && !matches!(operation.outcome, Outcome::Fail { .. })
        && !matches!(answer(operation), Some(Answer::Refused { .. }))
}

/// If the key is one.
fn element(operations: &[Operation], line: &Timeline<'_>) -> Option<Element> {
    let mut effects = line.mutations.iter().filter(|position| {
        let operation = &operations[**position];
        may_add(operation)
            || (matches!(operation.call, Call::Delete { .. })
                && !matches!(operation.outcome, Outcome::Fail { .. }))
    });
    let (Some(add), None) = (effects.next(), effects.next()) else {
        return None;
    };
    let operation = &operations[*add];
    let is_add = matches!(
        operation.call,
        Call::Write { .. }
            | Call::Cas {
                expected: Expected::Absent,
                ..
            }
    );
    let acknowledged = answer(operation).and(operation.ended);
    is_add.then_some(Element {
        add: *add,
        since: acknowledged.map(|ended| (ended, *add)),
        shown: None,
        missed: None,
    })
}
