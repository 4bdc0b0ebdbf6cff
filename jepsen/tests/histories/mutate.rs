//! Right histories with one thing wrong. Each change says why nothing can explain it.

use nezha_jepsen::history::{Answer, Call, Expected, Found, History, Operation, Outcome, Stamp};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::mutate_scans as scans;
use crate::simulate::{Effect, Made, Shape, simulate};

/// Changes a history, if it has a place for it.
pub type Change = fn(&Made, &mut StdRng) -> Option<History>;

/// Changes that need no revisions to be seen: they are wrong for every register.
pub const REGISTER: &[(&str, Change)] = &[
    ("reads swapped", swapped),
    ("stale read", stale),
    ("read of the future", future),
    ("value corrupted", corrupted),
    ("write never recorded", unrecorded),
    ("failure that had an effect", failed),
];

/// Changes of what only this store tells.
pub const STORE: &[(&str, Change)] = &[
    ("acknowledgement too early", too_early),
    ("two writes of one revision", same_revision),
    ("version wrong", version),
    ("created wrong", created),
    ("existed wrong", existed),
    ("refusal of another state", refusal),
    ("condition did not hold", condition),
    ("reads a revision that was passed", claim),
    ("scan stitched from two revisions", scans::stitched),
    ("scan without a key", scans::row_lost),
    ("scan with a row twice", scans::row_twice),
    ("scan with a phantom", scans::phantom),
    ("scan with a corrupted row", scans::row_corrupted),
    ("scan in the past", scans::scan_past),
    ("scan behind its revision", scans::scan_claim),
    ("lost at the end", lost_at_end),
];

pub(super) fn answer(operation: &Operation) -> Option<&Answer> {
    match &operation.outcome {
        Outcome::Ok { answer } => Some(answer),
        _ => None,
    }
}

fn found(operation: &Operation) -> Option<&Found> {
    match answer(operation)? {
        Answer::Read { found, .. } => found.as_ref(),
        _ => None,
    }
}

fn stamp(found: &Found) -> Stamp {
    found.stamp.expect("the store tells stamps")
}

/// Positions of operations in random order.
pub(super) fn shuffled(made: &Made, rng: &mut StdRng) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..made.history.operations.len()).collect();
    positions.shuffle(rng);
    positions
}

pub(super) fn effect_at(made: &Made, revision: u64) -> Option<&Effect> {
    made.effects.iter().find(|effect| effect.revision == revision)
}

/// The writer of what was found, if it was acknowledged.
fn writer<'a>(made: &'a Made, found: &Found) -> Option<&'a Operation> {
    let effect = effect_at(made, stamp(found).revision)?;
    let operation = &made.history.operations[effect.operation];
    answer(operation).map(|_| operation)
}

/// Whether something without an answer may have changed the key.
fn has_open(made: &Made, key: &str) -> bool {
    let mut operations = made.history.operations.iter();
    operations.any(|operation| operation.is_open() && operation.call.key() == Some(key))
}

fn set_found(history: &mut History, position: usize, new: Option<Found>) {
    let Outcome::Ok {
        answer: Answer::Read { found, .. },
    } = &mut history.operations[position].outcome
    else {
        panic!("not a read");
    };
    *found = new;
}

/// The write of the second was invoked after the write of the first had ended, so the first value cannot follow the second.
fn swapped(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let positions = shuffled(made, rng);
    for first in &positions {
        let Some(old) = found(&operations[*first]) else {
            continue;
        };
        for second in &positions {
            let Some(new) = found(&operations[*second]) else {
                continue;
            };
            if operations[*first].call != operations[*second].call
                || !operations[*first].precedes(&operations[*second])
                || stamp(old).revision >= stamp(new).revision
            {
                continue;
            }
            if let (Some(old_writer), Some(new_writer)) = (writer(made, old), writer(made, new))
                && old_writer.precedes(new_writer)
            {
                let mut history = made.history.clone();
                set_found(&mut history, *first, Some(new.clone()));
                set_found(&mut history, *second, Some(old.clone()));
                return Some(history);
            }
        }
    }
    None
}

/// What was overwritten by a write that began after the old one had ended, and ended before the read began.
fn stale_among(made: &Made, positions: &[usize]) -> Option<History> {
    let operations = &made.history.operations;
    for position in positions {
        let Some(new) = found(&operations[*position]) else {
            continue;
        };
        let Some(new_writer) = writer(made, new) else {
            continue;
        };
        let before = effect_at(made, stamp(new).revision).and_then(|effect| effect.before.clone());
        let Some(old) = before else { continue };
        if new_writer.precedes(&operations[*position])
            && writer(made, &old).is_some_and(|old_writer| old_writer.precedes(new_writer))
        {
            let mut history = made.history.clone();
            set_found(&mut history, *position, Some(old));
            return Some(history);
        }
    }
    None
}

fn stale(made: &Made, rng: &mut StdRng) -> Option<History> {
    stale_among(made, &shuffled(made, rng))
}

/// The last reads come after everything else.
fn lost_at_end(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let over = operations.iter().filter(|operation| operation.call.mutates());
    let over = over
        .map(|operation| operation.ended.unwrap_or(operation.invoked))
        .max()?;
    let mut finals = shuffled(made, rng);
    finals.retain(|position| operations[*position].invoked > over);
    stale_among(made, &finals)
}

/// A value whose write was invoked after the read had ended.
fn future(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    for position in shuffled(made, rng) {
        let read = &operations[position];
        let Some(Answer::Read { .. }) = answer(read) else {
            continue;
        };
        let later: Vec<&Effect> = made
            .effects
            .iter()
            .filter(|effect| Some(effect.key.as_str()) == read.call.key())
            .filter(|effect| effect.after.is_some() && read.precedes(&operations[effect.operation]))
            .collect();
        if let Some(effect) = later.choose(rng) {
            let mut history = made.history.clone();
            set_found(&mut history, position, effect.after.clone());
            return Some(history);
        }
    }
    None
}

/// Nobody writes that.
fn corrupted(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let position = shuffled(made, rng)
        .into_iter()
        .find(|position| found(&operations[*position]).is_some())?;
    let mut wrong = found(&operations[position])?.clone();
    wrong.value.push('?');
    let mut history = made.history.clone();
    set_found(&mut history, position, Some(wrong));
    Some(history)
}

/// An acknowledged write that was read.
fn read_write(made: &Made, rng: &mut StdRng) -> Option<usize> {
    let operations = &made.history.operations;
    let reads = shuffled(made, rng).into_iter();
    let mut writers = reads.filter_map(|position| {
        let found = found(&operations[position])?;
        writer(made, found)?;
        Some(effect_at(made, stamp(found).revision)?.operation)
    });
    writers.next()
}

fn unrecorded(made: &Made, rng: &mut StdRng) -> Option<History> {
    let position = read_write(made, rng)?;
    let mut history = made.history.clone();
    history.operations.remove(position);
    Some(history)
}

fn failed(made: &Made, rng: &mut StdRng) -> Option<History> {
    let position = read_write(made, rng)?;
    let mut history = made.history.clone();
    history.operations[position].outcome = Outcome::Fail {
        why: "said the server".to_owned(),
    };
    Some(history)
}

/// The store itself loses it, and goes on; a read that was invoked after the acknowledgement finds what was there before,
/// with no other write in between.
pub fn lost(made: &Made, rng: &mut StdRng) -> Option<Made> {
    (0..40).find_map(|_| lost_once(made, rng))
}

fn lost_once(made: &Made, rng: &mut StdRng) -> Option<Made> {
    let shape = Shape {
        lose: Some(rng.random_range(0..made.effects.len())),
        ..Shape::default()
    };
    let made = simulate(&shape, rng.random());
    let operations = &made.history.operations;
    let lost = made.lost?;
    let key = operations[lost].call.key()?;
    // Whatever may change the key after the lost write began.
    let begun = operations[lost].invoked;
    let mut changes = operations.iter().enumerate().filter(|(position, operation)| {
        let may_be_later = operation.is_open() && operation.ended.is_none_or(|_| true);
        *position != lost
            && operation.call.mutates()
            && operation.call.key() == Some(key)
            && (may_be_later || operation.ended.is_none_or(|ended| ended > begun))
    });
    let read = operations.iter().find(|operation| {
        operation.call.key() == Some(key)
            && operations[lost].precedes(operation)
            && matches!(answer(operation), Some(Answer::Read { .. }))
    })?;
    let undisturbed = changes.all(|(_, change)| read.precedes(change));
    undisturbed.then_some(made)
}

/// A later write of the log ended before an earlier one began.
fn too_early(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let acknowledged = |effect: &&Effect| answer(&operations[effect.operation]).is_some();
    let effects: Vec<&Effect> = made.effects.iter().filter(acknowledged).collect();
    for _ in 0..100 {
        let (first, second) = (effects.choose(rng)?, effects.choose(rng)?);
        let began = operations[first.operation].invoked;
        if first.revision < second.revision && began > 2 {
            let mut history = made.history.clone();
            let moved = &mut history.operations[second.operation];
            (moved.invoked, moved.ended) = (began - 2, Some(began - 1));
            moved.process = 1 << 40;
            history.sort();
            return Some(history);
        }
    }
    None
}

fn same_revision(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let is_written =
        |position: &usize| matches!(answer(&operations[*position]), Some(Answer::Written { .. }));
    let writes: Vec<usize> = shuffled(made, rng).into_iter().filter(is_written).collect();
    let mut history = made.history.clone();
    history.operations[*writes.first()?].outcome = operations[*writes.get(1)?].outcome.clone();
    Some(history)
}

/// Changes the metadata of a read of a key of which everything is known.
fn with_stamp(made: &Made, rng: &mut StdRng, change: fn(&mut Stamp)) -> Option<History> {
    let operations = &made.history.operations;
    let position = shuffled(made, rng).into_iter().find(|position| {
        let operation = &operations[*position];
        found(operation).is_some_and(|found| stamp(found).version > 1)
            && !has_open(made, operation.call.key().unwrap_or_default())
    })?;
    let mut wrong = found(&operations[position])?.clone();
    change(wrong.stamp.as_mut()?);
    let mut history = made.history.clone();
    set_found(&mut history, position, Some(wrong));
    Some(history)
}

fn version(made: &Made, rng: &mut StdRng) -> Option<History> {
    let change = if rng.random_bool(0.5) {
        |stamp: &mut Stamp| stamp.version += 1
    } else {
        |stamp: &mut Stamp| stamp.version -= 1
    };
    with_stamp(made, rng, change)
}

fn created(made: &Made, rng: &mut StdRng) -> Option<History> {
    with_stamp(made, rng, |stamp| stamp.created -= 1)
}

fn existed(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let position = shuffled(made, rng).into_iter().find(|position| {
        let operation = &operations[*position];
        matches!(answer(operation), Some(Answer::Deleted { .. }))
            && !has_open(made, operation.call.key().unwrap_or_default())
    })?;
    let mut history = made.history.clone();
    if let Outcome::Ok {
        answer: Answer::Deleted { existed, .. },
    } = &mut history.operations[position].outcome
    {
        *existed = !*existed;
    }
    Some(history)
}

/// Revisions of acknowledged puts of `key` that were followed by another acknowledged effect before `by`.
fn overwritten(made: &Made, key: &str, by: u64) -> Vec<u64> {
    let acknowledged = |effect: &&Effect| answer(&made.history.operations[effect.operation]).is_some();
    let effects: Vec<&Effect> = made
        .effects
        .iter()
        .filter(|effect| effect.key == key && effect.revision < by)
        .filter(acknowledged)
        .collect();
    let earlier = effects.split_last().map_or([].as_slice(), |(_, earlier)| earlier);
    let puts = earlier.iter().filter(|effect| effect.after.is_some());
    puts.map(|effect| effect.revision).collect()
}

/// The answer names a revision that the key no longer had.
fn refusal(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    for position in shuffled(made, rng) {
        let Some(Answer::Refused {
            revision: Some(revision),
            ..
        }) = answer(&operations[position])
        else {
            continue;
        };
        let key = operations[position].call.key()?;
        if let Some(wrong) = overwritten(made, key, *revision).choose(rng) {
            let mut history = made.history.clone();
            if let Outcome::Ok {
                answer: Answer::Refused { current, .. },
            } = &mut history.operations[position].outcome
            {
                *current = Some(*wrong);
            }
            return Some(history);
        }
    }
    None
}

/// A conditional write that took effect although the key had moved on.
fn condition(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    for position in shuffled(made, rng) {
        let Some(Answer::Written {
            revision: Some(revision),
        }) = answer(&operations[position])
        else {
            continue;
        };
        let Call::Cas { key, .. } = &operations[position].call else {
            continue;
        };
        if let Some(wrong) = overwritten(made, key, *revision).choose(rng) {
            let mut history = made.history.clone();
            if let Call::Cas { expected, .. } = &mut history.operations[position].call {
                *expected = Expected::Revision(*wrong);
            }
            return Some(history);
        }
    }
    None
}

/// An operation with an answer, and the revision of a write that was acknowledged before it was invoked.
pub(super) fn after_write(made: &Made, rng: &mut StdRng, of: fn(&Answer) -> bool) -> Option<(usize, u64)> {
    let operations = &made.history.operations;
    for position in shuffled(made, rng) {
        if !answer(&operations[position]).is_some_and(of) {
            continue;
        }
        let before: Vec<u64> = made
            .effects
            .iter()
            .filter(|effect| answer(&operations[effect.operation]).is_some())
            .filter(|effect| operations[effect.operation].precedes(&operations[position]))
            .map(|effect| effect.revision)
            .collect();
        if let Some(revision) = before.choose(rng) {
            return Some((position, *revision));
        }
    }
    None
}

fn claim(made: &Made, rng: &mut StdRng) -> Option<History> {
    let (position, revision) = after_write(made, rng, |answer| matches!(answer, Answer::Read { .. }))?;
    let mut history = made.history.clone();
    if let Outcome::Ok {
        answer: Answer::Read { at, .. },
    } = &mut history.operations[position].outcome
    {
        *at = Some(revision - 1);
    }
    Some(history)
}
