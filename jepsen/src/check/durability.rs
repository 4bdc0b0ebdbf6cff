//! What was acknowledged is there at the end: the reads that were invoked after everything else show it, unless something
//! may have overwritten it.

use std::collections::BTreeMap;

use super::cover::Scan;
use super::facts::{Facts, answer, found, written};
use super::timeline::Timeline;
use super::{Findings, Options};
use crate::history::{Answer, Call, Operation, Outcome};

/// What a key may hold at the end.
#[derive(Debug, Default)]
struct Last<'a> {
    values: Vec<&'a str>,
    may_be_absent: bool,
    /// The acknowledged write that must have survived, if nothing came after it.
    acknowledged: Option<usize>,
}

pub(super) fn check(facts: &Facts<'_>, options: &Options, counts: &mut BTreeMap<String, u64>) -> Findings {
    let mut findings = Findings::new("durability", options);
    let operations = facts.operations;
    let changes = operations.iter().filter(|operation| operation.call.mutates());
    let Some(over) = changes.map(|change| change.ended.unwrap_or(change.invoked)).max() else {
        return findings;
    };
    let mut lost = 0;
    let mut is_read = vec![false; facts.lines.len()];
    let lasts: Vec<Option<Last<'_>>> = facts.lines.iter().map(|line| last(facts, line)).collect();
    let number = |line: &Timeline<'_>| facts.lines.partition_point(|other| other.key < line.key);
    let mut look = |line: &Timeline<'_>, value: Option<&str>, position: usize| {
        let line_number = number(line);
        let Some(last) = &lasts[line_number] else { return };
        let was_read = std::mem::replace(&mut is_read[line_number], true);
        let is_right = value.map_or(last.may_be_absent, |value| last.values.contains(&value));
        if let (false, Some(acknowledged), false) = (is_right, last.acknowledged, was_read) {
            lost += 1;
            let what = value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"));
            let text = format!("{} is {what} at the end: an acknowledged write is lost", line.key);
            findings.add(text, [acknowledged, position]);
        }
    };
    let is_final = |operation: &&Operation| operation.invoked > over;
    let finals = operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| is_final(operation));
    for (position, operation) in finals {
        if let Some(scan) = Scan::of(operation) {
            for (line, row) in scan.covered(facts) {
                look(line, row.map(|row| row.value.as_str()), position);
            }
        } else if let (Call::Read { key }, Some(Answer::Read { .. })) = (&operation.call, answer(operation))
            && let Some(line) = facts.line(key)
        {
            look(line, found(operation).next().map(|(_, value, _)| value), position);
        }
    }
    let acknowledged = lasts.iter().flatten().filter(|last| last.acknowledged.is_some());
    let keys = acknowledged.count();
    let unread = lasts.iter().zip(&is_read);
    let unread = unread
        .filter(|(last, is_read)| last.as_ref().is_some_and(|l| l.acknowledged.is_some()) && !**is_read);
    counts.insert("keys with an acknowledged write".to_owned(), keys as u64);
    counts.insert("of these not read at the end".to_owned(), unread.count() as u64);
    counts.insert("acknowledged writes lost".to_owned(), lost);
    findings
}

/// What a key may hold at the end; `None` where values are put together from several writes.
fn last<'a>(facts: &Facts<'a>, line: &Timeline<'a>) -> Option<Last<'a>> {
    let mutations = || {
        let all = line
            .mutations
            .iter()
            .map(|position| (*position, &facts.operations[*position]));
        all.filter(|(_, operation)| {
            !matches!(operation.outcome, Outcome::Fail { .. })
                && !matches!(answer(operation), Some(Answer::Refused { .. }))
        })
    };
    if mutations().any(|(_, operation)| matches!(operation.call, Call::Append { .. })) {
        return None;
    }
    let acknowledged = || mutations().filter(|(_, operation)| answer(operation).is_some());
    // Whatever ended before that was overwritten.
    let last_begun = acknowledged().map(|(_, operation)| operation.invoked).max();
    // One that was seen but never acknowledged may have taken effect between the last reads.
    let last_revision = acknowledged()
        .filter_map(|(_, operation)| written(operation))
        .max();
    let mut last = Last {
        may_be_absent: last_begun.is_none(),
        ..Last::default()
    };
    for (position, operation) in mutations() {
        let revision = written(operation).or_else(|| facts.resolved.get(&position).copied());
        let is_answered = answer(operation).is_some();
        let is_overwritten = match revision {
            Some(_) if facts.revisioned => revision < last_revision,
            _ => {
                is_answered
                    && operation
                        .ended
                        .is_some_and(|ended| last_begun.is_some_and(|begun| ended < begun))
            }
        };
        if is_overwritten {
            continue;
        }
        match operation.call.value() {
            Some(value) => last.values.push(value),
            None => last.may_be_absent = true,
        }
    }
    let newest = acknowledged().max_by_key(|(_, operation)| (written(operation), operation.invoked));
    last.acknowledged = newest.map(|(position, _)| position);
    Some(last)
}
