//! Right histories pass, whatever is unknown in them.

use nezha_jepsen::check::{Options, Verdict, check};

use crate::simulate::{Shape, simulate};

/// Shapes that differ in what makes checking hard.
pub fn shapes() -> Vec<Shape> {
    let usual = Shape::default();
    let with = |change: fn(&mut Shape)| {
        let mut shape = usual.clone();
        change(&mut shape);
        shape
    };
    vec![
        usual.clone(),
        with(|shape| shape.unknown = 0.3),
        with(|shape| (shape.unknown, shape.keys, shape.clients) = (0.15, 1, 16)),
        with(|shape| (shape.deletes, shape.unknown) = (0.4, 0.1)),
        with(|shape| (shape.scans, shape.adds) = (0.3, 0.3)),
        with(|shape| (shape.keys, shape.clients, shape.unknown) = (2, 2, 0.0)),
        with(|shape| (shape.keys, shape.adds, shape.scans, shape.unknown) = (40, 0.0, 0.2, 0.2)),
    ]
}

#[test]
fn right_histories_pass() {
    let first: u64 = rand::random_range(0..1 << 40);
    for seed in first..first + 60 {
        for shape in shapes() {
            let made = simulate(&shape, seed);
            let report = check(&made.history, &Options::default());
            assert_eq!(
                report.verdict(),
                Verdict::Linearizable,
                "seed {seed}, {shape:?}: {report}"
            );
            assert_eq!(report.counts["checked by revision"], 1);
            assert_eq!(report.counts["acknowledged writes lost"], 0);
        }
    }
}

#[test]
fn right_histories_pass_without_revisions() {
    let first: u64 = rand::random_range(0..1 << 40);
    for seed in first..first + 60 {
        for mut shape in shapes() {
            // With so many, a search through all that may have happened has no end.
            shape.unknown = shape.unknown.min(0.1);
            shape.operations = 300;
            let made = simulate(&shape, seed);
            let report = check(&made.without_revisions(), &Options::default());
            assert_eq!(
                report.verdict(),
                Verdict::Linearizable,
                "seed {seed}, {shape:?}: {report}"
            );
            assert_eq!(report.counts["checked by revision"], 0);
        }
    }
}
