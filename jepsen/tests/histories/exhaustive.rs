//! The search for an order against one that tries all of them. Method: very short histories of one key, mostly wrong in
//! interesting ways; every order of every choice of what may have happened is tried by the simplest code there is.

use nezha_jepsen::check::{Options, Verdict, check};
use nezha_jepsen::history::{Answer, Call, Expected, Found, History, Operation, Outcome, Stamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::simulate::{Shape, simulate};

/// A key as the simplest store keeps it. Revisions of writes that nobody was told are free.
#[derive(Clone, Debug)]
struct Key {
    here: Option<(String, Stamp)>,
    revision: u64,
}

/// Whether `operation` can come next, and what then. `free` is the revision of a write without one.
fn next(key: &Key, operation: &Operation, free: u64) -> Option<Key> {
    let answer = match &operation.outcome {
        Outcome::Ok { answer } => Some(answer),
        _ => None,
    };
    let holds = |expected: &Expected| match (expected, &key.here) {
        (Expected::Absent, here) => here.is_none(),
        (Expected::Value(value), Some((here, _))) => here == value,
        (Expected::Revision(revision), Some((_, stamp))) => stamp.revision == *revision,
        (_, None) => false,
    };
    let put = |value: &str, revision: Option<u64>| {
        let revision = revision.unwrap_or(free);
        let stamp = key.here.as_ref().map_or(
            Stamp {
                created: revision,
                revision,
                version: 1,
            },
            |(_, stamp)| Stamp {
                created: stamp.created,
                revision,
                version: stamp.version + 1,
            },
        );
        let here = Some((value.to_owned(), stamp));
        (revision > key.revision).then_some(Key { here, revision })
    };
    if let Some(Answer::Refused { current, revision }) = answer {
        let (Call::Cas { expected, .. }
        | Call::Delete {
            expected: Some(expected),
            ..
        }) = &operation.call
        else {
            return None;
        };
        let is_told =
            current.is_none_or(|current| current == key.here.as_ref().map_or(0, |(_, stamp)| stamp.revision));
        let revision = revision.unwrap_or(key.revision + 1);
        let here = key.here.clone();
        return (!holds(expected) && is_told && revision > key.revision).then_some(Key { here, revision });
    }
    match (&operation.call, answer) {
        _ if matches!(operation.outcome, Outcome::Fail { .. }) => None,
        (Call::Read { .. }, Some(Answer::Read { found, .. })) => {
            let is_right = match (found, &key.here) {
                (None, None) => true,
                (Some(found), Some((value, stamp))) => {
                    found.value == *value && found.stamp.is_none_or(|told| told == *stamp)
                }
                _ => false,
            };
            is_right.then(|| key.clone())
        }
        (Call::Write { value, .. }, Some(Answer::Written { revision })) => put(value, *revision),
        (Call::Write { value, .. }, None) => put(value, None),
        (Call::Cas { expected, value, .. }, Some(Answer::Written { revision })) if holds(expected) => {
            put(value, *revision)
        }
        (Call::Cas { expected, value, .. }, None) if holds(expected) => put(value, None),
        (Call::Delete { expected, .. }, answer) if expected.as_ref().is_none_or(holds) => {
            let (is_right, revision) = match answer {
                Some(Answer::Deleted { existed, revision }) => (*existed == key.here.is_some(), *revision),
                _ => (true, None),
            };
            let revision = revision.unwrap_or(free);
            (is_right && revision > key.revision).then_some(Key { here: None, revision })
        }
        _ => None,
    }
}

/// Tries everything.
fn has_order(operations: &[Operation], done: u32, key: &Key, revisions: &[u64]) -> bool {
    let is_done = |position: usize| done & (1 << position) != 0;
    // Where nobody is told revisions, the next one will do.
    let next_free = revisions.is_empty().then_some(key.revision + 1);
    let left: Vec<usize> = (0..operations.len())
        .filter(|position| !is_done(*position))
        .collect();
    if left
        .iter()
        .all(|position| !matches!(operations[*position].outcome, Outcome::Ok { .. }))
    {
        return true;
    }
    left.iter().any(|position| {
        let operation = &operations[*position];
        let is_answered = |other: &Operation| matches!(other.outcome, Outcome::Ok { .. });
        let overtakes = left
            .iter()
            .any(|other| is_answered(&operations[*other]) && operations[*other].precedes(operation));
        let is_free = !is_answered(operation) || revisions.is_empty();
        let place = if is_free { revisions } else { &[0] };
        !overtakes
            && place.iter().chain(&next_free).any(|free| {
                let next = next(key, operation, *free);
                next.is_some_and(|key| has_order(operations, done | 1 << position, &key, revisions))
            })
    })
}

fn pick<T: Clone>(rng: &mut StdRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())].clone()
}

/// Some history without revisions.
fn any(rng: &mut StdRng) -> Vec<Operation> {
    let values = ["a", "b", "c"];
    let key = || "k".to_owned();
    let length = rng.random_range(2..8);
    let mut operations: Vec<Operation> = (0..length)
        .map(|process| {
            let value = pick(rng, &values).to_owned();
            let expected = Expected::Value(pick(rng, &values).to_owned());
            let expected = pick(rng, &[Expected::Absent, expected]);
            let call = match rng.random_range(0..8) {
                0..3 => Call::Read { key: key() },
                3..5 => Call::Write { key: key(), value },
                5 => Call::Delete {
                    key: key(),
                    expected: rng.random_bool(0.5).then_some(expected),
                },
                _ => Call::Cas {
                    key: key(),
                    expected,
                    value,
                },
            };
            let refused = Answer::Refused {
                current: None,
                revision: None,
            };
            let is_conditional = matches!(
                call,
                Call::Cas { .. }
                    | Call::Delete {
                        expected: Some(_),
                        ..
                    }
            );
            let answer = match &call {
                Call::Read { .. } => Answer::Read {
                    found: rng.random_bool(0.7).then(|| Found {
                        value: pick(rng, &values).to_owned(),
                        stamp: None,
                    }),
                    at: None,
                },
                _ if is_conditional && rng.random_bool(0.5) => refused,
                Call::Delete { .. } => Answer::Deleted {
                    existed: rng.random_bool(0.5),
                    revision: None,
                },
                _ => Answer::Written { revision: None },
            };
            operation(rng, process, call, answer)
        })
        .collect();
    operations.sort_by_key(|operation| operation.invoked);
    operations
}

fn operation(rng: &mut StdRng, process: u64, call: Call, answer: Answer) -> Operation {
    let invoked = rng.random_range(0..20);
    let is_unknown = call.mutates() && rng.random_bool(0.3);
    Operation {
        process,
        invoked,
        ended: Some(invoked + rng.random_range(1..10)),
        endpoint: String::new(),
        call,
        outcome: if is_unknown {
            Outcome::Unknown { why: String::new() }
        } else {
            Outcome::Ok { answer }
        },
    }
}

/// Verdicts against trying everything; how many histories had an order. There is never a false alarm; `missed_max` are
/// missed, all because no revision is left for a write that nobody was told of, which would cost the search too much.
fn compare(
    rounds: usize,
    seed: u64,
    make: fn(&mut StdRng) -> Vec<Operation>,
    free: fn(&[Operation]) -> Vec<u64>,
    mut missed_max: usize,
) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut right = 0;
    for round in 0..rounds {
        let operations = make(&mut rng);
        let start = Key {
            here: None,
            revision: 0,
        };
        let expected = if has_order(&operations, 0, &start, &free(&operations)) {
            right += 1;
            Verdict::Linearizable
        } else {
            Verdict::Violated
        };
        let history = History {
            operations,
            faults: Vec::new(),
        };
        let report = check(&history, &Options::default());
        if expected == Verdict::Violated && report.verdict() == Verdict::Linearizable && missed_max > 0 {
            missed_max -= 1;
            continue;
        }
        assert_eq!(
            report.verdict(),
            expected,
            "seed {seed}, round {round}: {report}\n{history:#?}"
        );
    }
    right
}

/// What our store may have told about one key, then one answer changed for another one that was given.
fn told(rng: &mut StdRng) -> Vec<Operation> {
    let shape = Shape {
        operations: 7,
        keys: 1,
        clients: 3,
        unknown: 0.3,
        scans: 0.0,
        deletes: 0.25,
        adds: 0.0,
        lose: None,
    };
    let mut operations = simulate(&shape, rng.random()).history.operations;
    operations.retain(|operation| operation.call.key().is_some());
    for operation in &mut operations {
        if let Outcome::Ok {
            answer: Answer::Read { at, .. },
        } = &mut operation.outcome
        {
            *at = None;
        }
    }
    let (one, other) = (
        rng.random_range(0..operations.len()),
        rng.random_range(0..operations.len()),
    );
    let given = operations[other].outcome.clone();
    match (&mut operations[one].outcome, given) {
        (
            Outcome::Ok {
                answer: Answer::Read { found, .. },
            },
            Outcome::Ok {
                answer: Answer::Read { found: given, .. },
            },
        ) => {
            *found = given;
            if let Some(Found {
                stamp: Some(stamp), ..
            }) = found
                && rng.random_bool(0.2)
            {
                stamp.version += 1;
            }
        }
        (
            Outcome::Ok {
                answer: Answer::Deleted { existed, .. },
            },
            _,
        ) => *existed = !*existed,
        (
            Outcome::Ok {
                answer: Answer::Refused { current, .. },
            },
            Outcome::Ok {
                answer: Answer::Written { revision },
            },
        ) => *current = revision,
        (
            Outcome::Ok {
                answer: Answer::Written { revision },
            },
            Outcome::Ok {
                answer: Answer::Written {
                    revision: Some(given),
                },
            },
        ) if one != other => *revision = Some(given + 1),
        _ => {}
    }
    operations
}

/// Revisions that nobody was told that he wrote at.
fn free(operations: &[Operation]) -> Vec<u64> {
    let own = |operation: &Operation| match &operation.outcome {
        Outcome::Ok {
            answer: Answer::Written { revision } | Answer::Deleted { revision, .. },
        } => *revision,
        _ => None,
    };
    let taken: Vec<u64> = operations.iter().filter_map(own).collect();
    // No more writes than that can lie behind the last revision that anybody was told.
    let shown = |operation: &Operation| match &operation.outcome {
        Outcome::Ok {
            answer: Answer::Read { found, .. },
        } => found.as_ref()?.stamp.map(|stamp| stamp.revision),
        Outcome::Ok {
            answer: Answer::Refused { revision, .. },
        } => *revision,
        _ => own(operation),
    };
    let last = operations.iter().filter_map(shown).max().unwrap_or_default();
    (1..last + 6)
        .filter(|revision| !taken.contains(revision))
        .collect()
}

#[test]
fn verdicts_are_those_of_trying_everything_with_revisions() {
    let seed: u64 = rand::random_range(0..1 << 40);
    let rounds = 1_000;
    let right = compare(rounds, seed, told, free, rounds / 200);
    println!("seed {seed}: {right} of {rounds} have an order");
    assert!(
        right > rounds / 10 && right < rounds * 9 / 10,
        "seed {seed}: {right} of {rounds}"
    );
}

#[test]
fn verdicts_are_those_of_trying_everything() {
    let seed: u64 = rand::random_range(0..1 << 40);
    let rounds = 10_000;
    let right = compare(rounds, seed, any, |_| Vec::new(), 0);
    println!("seed {seed}: {right} of {rounds} have an order");
    assert!(
        right > rounds / 10 && right < rounds * 9 / 10,
        "seed {seed}: {right} of {rounds}"
    );
}
