//! Whether a run shows anything: a run in which nothing happened proves nothing.

use std::collections::BTreeMap;

use crate::history::{History, Operation, Outcome};
use crate::nemesis::{Kind, Schedule};
use crate::report::Requirement;

/// Operations that have to succeed.
const OK_MIN: u64 = 1000;
/// Of a hundred operations before the first fault, how many have to succeed.
const CALM_PERCENT_MIN: u64 = 95;
/// The same for the whole run.
const PERCENT_MIN: u64 = 20;

/// What had to happen, and how often it did. `done` counts faults by kind; `calm_until` is when the first fault could
/// begin.
pub fn requirements(
    history: &History,
    schedule: &Schedule,
    done: &BTreeMap<&'static str, u64>,
    calm_until: u64,
) -> Vec<Requirement> {
    let operations = history.operations.iter();
    let calm = operations
        .clone()
        .filter(|operation| operation.ended.is_some_and(|ended| ended < calm_until));
    let mut required = vec![
        requirement("successful operations", OK_MIN, ok(operations.clone())),
        requirement(
            "percent of operations that succeed before the first fault",
            CALM_PERCENT_MIN,
            percent(calm),
        ),
        requirement(
            "percent of operations that succeed",
            PERCENT_MIN,
            percent(operations),
        ),
    ];
    for kind in Kind::all() {
        if schedule.faults.iter().any(|planned| planned.kind == kind) {
            let happened = done.get(kind.name()).copied().unwrap_or(0);
            required.push(requirement(
                &format!("faults of kind {}", kind.name()),
                1,
                happened,
            ));
        }
    }
    required
}

fn requirement(what: &str, needed: u64, happened: u64) -> Requirement {
    Requirement {
        what: what.to_owned(),
        needed,
        happened,
    }
}

fn ok<'a>(operations: impl Iterator<Item = &'a Operation>) -> u64 {
    operations
        .filter(|operation| matches!(operation.outcome, Outcome::Ok { .. }))
        .count() as u64
}

fn percent<'a>(operations: impl Iterator<Item = &'a Operation> + Clone) -> u64 {
    let all = operations.clone().count() as u64;
    // Nothing at all is not a success.
    ok(operations) * 100 / all.max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{Answer, Call};

    fn read(ended: u64, ok: bool) -> Operation {
        Operation {
            process: 0,
            invoked: ended - 1,
            ended: Some(ended),
            endpoint: String::new(),
            call: Call::Read { key: "k".into() },
            outcome: match ok {
                true => Outcome::Ok {
                    answer: Answer::Read {
                        found: None,
                        at: None,
                    },
                },
                false => Outcome::Fail { why: "no".into() },
            },
        }
    }

    fn history(ok: u64, failed: u64) -> History {
        let ok = (1..=ok).map(|at| read(at, true));
        History {
            operations: ok
                .chain((1..=failed).map(|at| read(1_000_000 + at, false)))
                .collect(),
            faults: Vec::new(),
        }
    }

    fn met(history: &History, done: &[(&'static str, u64)]) -> Vec<bool> {
        let schedule = Schedule::draw(1, &[Kind::Kill], Duration::from_secs(20));
        let required = requirements(history, &schedule, &done.iter().copied().collect(), 500_000);
        required.iter().map(Requirement::met).collect()
    }

    #[test]
    fn a_run_needs_operations_success_and_every_planned_kind() {
        assert_eq!(met(&history(1000, 0), &[("kill", 1)]), [true, true, true, true]);
        assert!(!met(&history(999, 0), &[("kill", 1)])[0]);
        assert!(!met(&history(1000, 0), &[("pause", 1)])[3]);
        assert_eq!(
            met(&history(1000, 9000), &[("kill", 1)]),
            [true, true, false, true]
        );
        assert_eq!(met(&history(0, 0), &[]), [false, false, false, false]);
    }
}
