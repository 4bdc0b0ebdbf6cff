//! A long run is judged in seconds.

use std::time::Instant;

use nezha_jepsen::check::{Options, Verdict, check};

use crate::simulate::{Shape, simulate};

#[test]
fn a_hundred_thousand_operations_are_judged_in_seconds() {
    let shape = Shape {
        operations: 100_000,
        keys: 100,
        clients: 32,
        unknown: 0.01,
        scans: 0.01,
        deletes: 0.05,
        adds: 0.01,
        lose: None,
    };
    let seed: u64 = rand::random_range(0..1 << 40);
    let made = simulate(&shape, seed);
    let begun = Instant::now();
    let report = check(&made.history, &Options::default());
    let took = begun.elapsed();
    println!(
        "seed {seed}: {} operations judged in {took:?}",
        made.history.operations.len()
    );
    assert_eq!(report.verdict(), Verdict::Linearizable, "seed {seed}: {report}");
    // Ten times what it takes on an idle machine.
    assert!(took.as_secs() < 20, "seed {seed}: {took:?}");
}
