//! Tables that the page of a run and the list of runs share. Pure.

use std::collections::BTreeMap;

use super::html::{Cell, table};
use super::stats::KINDS;
use super::svg::trimmed;
use super::verdict::{FailoverLine, FaultTotal, Outcomes, Summary, failover_totals};

/// Operations by kind and outcome.
pub(super) fn operations(operations: &BTreeMap<String, Outcomes>) -> String {
    let row = |name: &str, o: &Outcomes| {
        let all = o.ok + o.fail + o.unknown;
        vec![
            Cell::text(name),
            Cell::count(o.ok),
            Cell::count(o.fail),
            Cell::count(o.unknown),
            Cell::count(all),
        ]
    };
    let mut all = Outcomes::default();
    let mut rows = Vec::new();
    for kind in KINDS {
        if let Some(outcomes) = operations.get(kind) {
            all.ok += outcomes.ok;
            all.fail += outcomes.fail;
            all.unknown += outcomes.unknown;
            rows.push(row(kind, outcomes));
        }
    }
    rows.push(row("all", &all));
    table(&["kind", "ok", "fail", "unknown", "all"], &rows)
}

/// Faults by kind.
pub(super) fn faults(faults: &BTreeMap<String, FaultTotal>) -> String {
    let row = |name: &str, count: u64, seconds: f64| {
        let seconds = if seconds > 0.0 {
            format!("{} s", trimmed(seconds, 1))
        } else {
            "–".to_string()
        };
        vec![Cell::text(name), Cell::count(count), Cell::number(&seconds)]
    };
    let mut rows: Vec<Vec<Cell>> = faults
        .iter()
        .map(|(kind, f)| row(kind, f.count, f.seconds))
        .collect();
    rows.push(row(
        "all",
        faults.values().map(|f| f.count).sum(),
        faults.values().map(|f| f.seconds).sum(),
    ));
    table(&["kind", "number", "in force"], &rows)
}

/// What had to happen, and whether it did.
pub(super) fn requirements(summary: &Summary) -> String {
    let rows: Vec<Vec<Cell>> = summary
        .requirements
        .iter()
        .map(|requirement| {
            let met = if requirement.met {
                Cell::colour("green", "met")
            } else {
                Cell::colour("red", "not met")
            };
            vec![
                Cell::text(&requirement.what),
                Cell::count(requirement.needed),
                Cell::count(requirement.happened),
                met,
            ]
        })
        .collect();
    table(&["what", "needed", "happened", ""], &rows)
}

/// Failover times by kind of fault.
pub(super) fn failovers<'a>(lines: impl Iterator<Item = &'a FailoverLine>) -> String {
    let rows: Vec<Vec<Cell>> = failover_totals(lines)
        .into_iter()
        .map(|total| {
            vec![
                Cell::text(&total.fault),
                Cell::count(total.times),
                Cell::number(&total.median),
                Cell::number(&total.p99),
                Cell::number(&total.max),
                Cell::count(total.never),
            ]
        })
        .collect();
    table(&["fault", "times", "median", "p99", "max", "never"], &rows)
}
