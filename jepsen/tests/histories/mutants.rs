//! Every wrong history is caught: one thing is changed in a right one, so that nothing explains it any more.

use std::collections::BTreeMap;

use nezha_jepsen::check::{Options, Verdict, check};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::mutate::{Change, REGISTER, STORE, lost};
use crate::simulate::{Made, Shape, simulate};

const SEEDS: u64 = 20;
/// The store itself has a bug.
const LOST: &str = "acknowledged write lost";

fn options() -> Options {
    Options {
        findings_max: 1,
        ..Options::default()
    }
}

/// Mutants of `changes` by kind, each with whom it was caught by; `strip` leaves out what only this store tells.
fn hunt(changes: &[(&'static str, Change)], strip: bool) {
    let first: u64 = rand::random_range(0..1 << 40);
    println!("seeds {first}..{}", first + SEEDS);
    let mut made_of: BTreeMap<&str, u64> = BTreeMap::new();
    let mut caught_by: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for seed in first..first + SEEDS {
        let shape = Shape {
            operations: 300,
            unknown: 0.02,
            ..Shape::default()
        };
        let made = simulate(&shape, seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let changed = |(kind, change): &(&'static str, Change)| {
            let history = change(&made, &mut rng)?;
            Some((
                *kind,
                Made {
                    history,
                    ..made.clone()
                },
            ))
        };
        let mut mutants: Vec<(&str, Made)> = changes.iter().filter_map(changed).collect();
        mutants.extend(lost(&made, &mut rng).map(|mutant| (LOST, mutant)));
        for (kind, mutant) in mutants {
            *made_of.entry(kind).or_default() += 1;
            let history = if strip {
                mutant.without_revisions()
            } else {
                mutant.history
            };
            let report = check(&history, &options());
            assert_eq!(
                report.verdict(),
                Verdict::Violated,
                "seed {seed}: {kind} was not caught: {report}"
            );
            for finding in report.findings {
                assert!(
                    !finding.operations.is_empty(),
                    "seed {seed}: {kind}: {}",
                    finding.text
                );
                *caught_by.entry((kind, finding.check)).or_default() += 1;
            }
        }
    }
    for ((kind, check), caught) in &caught_by {
        println!("{kind:40} {check:12} {caught}");
    }
    for kind in changes.iter().map(|(kind, _)| *kind).chain([LOST]) {
        let number = made_of.get(kind).copied().unwrap_or_default();
        assert!(
            number >= SEEDS / 4,
            "seeds from {first}: only {number} times: {kind}"
        );
    }
}

#[test]
fn mutants_are_caught() {
    hunt(REGISTER, false);
    hunt(STORE, false);
}

#[test]
fn mutants_are_caught_without_revisions() {
    hunt(REGISTER, true);
}
