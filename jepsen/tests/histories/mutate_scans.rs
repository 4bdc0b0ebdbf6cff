//! Right histories with one thing wrong in a scan.

use nezha_jepsen::history::{Answer, Call, History, Operation, Outcome, Row};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::mutate::{after_write, answer, effect_at, shuffled};
use crate::simulate::{Effect, Made};

fn rows_mut(history: &mut History, position: usize) -> &mut Vec<Row> {
    let Outcome::Ok {
        answer: Answer::Rows { rows, .. },
    } = &mut history.operations[position].outcome
    else {
        panic!("not a scan");
    };
    rows
}

fn rows(operation: &Operation) -> Option<&[Row]> {
    match answer(operation)? {
        Answer::Rows { rows, .. } => Some(rows),
        _ => None,
    }
}

pub fn scan_claim(made: &Made, rng: &mut StdRng) -> Option<History> {
    let (position, revision) = after_write(made, rng, |answer| matches!(answer, Answer::Rows { .. }))?;
    let mut history = made.history.clone();
    if let Outcome::Ok {
        answer: Answer::Rows { at, .. },
    } = &mut history.operations[position].outcome
    {
        *at = Some(revision - 1);
    }
    Some(history)
}

/// A row that can be changed: its scan, its place, and the acknowledged effect that made it.
fn any_row<'a>(
    made: &'a Made,
    rng: &mut StdRng,
    is_fit: impl Fn(&Operation, &Effect) -> bool,
) -> Option<(usize, usize, &'a Effect)> {
    let operations = &made.history.operations;
    for position in shuffled(made, rng) {
        let Some(rows) = rows(&operations[position]) else {
            continue;
        };
        let mut places: Vec<usize> = (0..rows.len()).collect();
        places.shuffle(rng);
        for place in places {
            let revision = rows[place].stamp?.revision;
            let Some(effect) = effect_at(made, revision) else {
                continue;
            };
            if answer(&operations[effect.operation]).is_some() && is_fit(&operations[position], effect) {
                return Some((position, place, effect));
            }
        }
    }
    None
}

/// One key as it was before another row was written.
pub fn stitched(made: &Made, rng: &mut StdRng) -> Option<History> {
    let is_fit = |scan: &Operation, effect: &Effect| {
        let newest = rows(scan).unwrap_or_default().iter().filter_map(|row| row.stamp);
        effect.before.is_some() && newest.map(|stamp| stamp.revision).max() > Some(effect.revision)
    };
    let (position, place, effect) = any_row(made, rng, is_fit)?;
    let old = effect.before.clone()?;
    let mut history = made.history.clone();
    let row = &mut rows_mut(&mut history, position)[place];
    (row.value, row.stamp) = (old.value, old.stamp);
    // Also without its own word about it.
    if rng.random_bool(0.5)
        && let Outcome::Ok {
            answer: Answer::Rows { at, .. },
        } = &mut history.operations[position].outcome
    {
        *at = None;
    }
    Some(history)
}

/// A scan without a row whose write had ended before, of a key that nobody may have deleted.
pub fn row_lost(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let is_deleted = |key: &str| {
        operations.iter().any(|operation| {
            matches!(operation.call, Call::Delete { .. }) && operation.call.key() == Some(key)
        })
    };
    let is_fit = |scan: &Operation, effect: &Effect| {
        let last = rows(scan).and_then(<[Row]>::last).map(|row| row.key.as_str());
        operations[effect.operation].precedes(scan)
            && !is_deleted(&effect.key)
            // The last row tells how far the scan came.
            && last != Some(effect.key.as_str())
    };
    let (position, place, _) = any_row(made, rng, is_fit)?;
    let mut history = made.history.clone();
    rows_mut(&mut history, position).remove(place);
    Some(history)
}

pub fn row_twice(made: &Made, rng: &mut StdRng) -> Option<History> {
    let (position, place, _) = any_row(made, rng, |_, _| true)?;
    let mut history = made.history.clone();
    let rows = rows_mut(&mut history, position);
    rows.insert(place, rows[place].clone());
    Some(history)
}

pub fn phantom(made: &Made, rng: &mut StdRng) -> Option<History> {
    let (position, place, _) = any_row(made, rng, |_, _| true)?;
    let mut history = made.history.clone();
    rows_mut(&mut history, position)[place].key.push('?');
    Some(history)
}

pub fn row_corrupted(made: &Made, rng: &mut StdRng) -> Option<History> {
    let (position, place, _) = any_row(made, rng, |_, _| true)?;
    let mut history = made.history.clone();
    rows_mut(&mut history, position)[place].value.push('?');
    Some(history)
}

/// The whole answer of an earlier scan of the same, after a row of it was overwritten.
pub fn scan_past(made: &Made, rng: &mut StdRng) -> Option<History> {
    let operations = &made.history.operations;
    let positions = shuffled(made, rng);
    for later in &positions {
        for earlier in &positions {
            if operations[*later].call != operations[*earlier].call {
                continue;
            }
            let (Some(old), Some(new)) = (rows(&operations[*earlier]), rows(&operations[*later])) else {
                continue;
            };
            let is_overwritten = |row: &Row| {
                let of_key = made.effects.iter().filter(|effect| effect.key == row.key);
                let mut newer =
                    of_key.filter(|effect| Some(effect.revision) > row.stamp.map(|stamp| stamp.revision));
                newer.any(|effect| {
                    let writer = &operations[effect.operation];
                    answer(writer).is_some() && writer.precedes(&operations[*later])
                })
            };
            if old != new && old.iter().any(is_overwritten) {
                let mut history = made.history.clone();
                history.operations[*later].outcome = operations[*earlier].outcome.clone();
                return Some(history);
            }
        }
    }
    None
}
