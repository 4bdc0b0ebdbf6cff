//! `verdict.json`: what a run showed, for machines.
//!
//! Keys are stable: later versions may add some, and never change the meaning of one. Times are in the unit of their
//! name; `began_seconds` and the like count from the start of the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stats::{self, KINDS};
use super::svg::{count, duration, seconds, shorten};
use super::{Failover, Run};
use crate::check;
use crate::history::{Operation, Outcome};

/// What a run is worth as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// Everything was checked and right, and everything that had to happen did.
    Passed,
    /// An answer contradicts the promises of the store. Stands whatever else went wrong.
    Violated,
    /// The harness failed: the run shows nothing.
    HarnessFailed,
    /// A required fault, or the least number of operations, did not happen: the run shows nothing.
    Invalid,
    /// Nothing wrong was found, but not everything could be checked.
    Undecided,
}

impl Judgement {
    /// Judges a run: a violation outweighs a failure of the harness, that a run that was not valid, that an open check.
    pub(super) fn of(run: &Run<'_>) -> Judgement {
        let verdict = run.report.verdict();
        if verdict == check::Verdict::Violated {
            Judgement::Violated
        } else if !run.harness_failures.is_empty() {
            Judgement::HarnessFailed
        } else if run.requirements.iter().any(|requirement| !requirement.met()) {
            Judgement::Invalid
        } else if verdict == check::Verdict::Undecided {
            Judgement::Undecided
        } else {
            Judgement::Passed
        }
    }

    /// The word for it, as a heading.
    pub(super) fn word(self) -> &'static str {
        match self {
            Judgement::Passed => "Passed",
            Judgement::Violated => "Violated",
            Judgement::HarnessFailed => "Harness failed",
            Judgement::Invalid => "Not valid",
            Judgement::Undecided => "Undecided",
        }
    }

    /// Class of its colour on the pages.
    pub(super) fn class(self) -> &'static str {
        match self {
            Judgement::Passed => "green",
            Judgement::Violated | Judgement::Invalid => "red",
            Judgement::HarnessFailed | Judgement::Undecided => "amber",
        }
    }
}

/// Operations of one kind by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Acknowledged or answered.
    pub ok: u64,
    /// Certainly without effect.
    pub fail: u64,
    /// With or without effect.
    pub unknown: u64,
}

/// Faults of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultTotal {
    /// How many.
    pub count: u64,
    /// How long they were in force, together; faults that need no undoing add nothing.
    pub seconds: f64,
}

/// Something that had to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementLine {
    /// What.
    pub what: String,
    /// How often at least.
    pub needed: u64,
    /// How often it did.
    pub happened: u64,
    /// Whether that is enough.
    pub met: bool,
}

/// A violation with its witness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingLine {
    /// Which checker found it.
    pub check: String,
    /// What is wrong.
    pub text: String,
    /// The operations that show it.
    pub operations: Vec<WitnessLine>,
}

/// An operation of a witness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WitnessLine {
    /// Place in the history, counted from 0 in the order of invocation.
    pub position: usize,
    /// As in `history.jsonl`.
    #[serde(flatten)]
    pub operation: Operation,
}

/// From a fault that took the leader away to the next acknowledged write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverLine {
    /// Kind of the fault.
    pub fault: String,
    /// The leader.
    pub member: String,
    /// When the fault began.
    pub began_seconds: f64,
    /// How long until a write was acknowledged; null if none was.
    pub first_write_ms: Option<f64>,
}

/// The whole of `verdict.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of these keys: 1.
    pub format: u64,
    /// What the run is worth.
    pub verdict: Judgement,
    /// The same in a sentence.
    pub sentence: String,
    /// Decimal digits in a string: many readers of JSON round numbers above 2^53.
    pub seed: String,
    /// Repeats the run.
    pub command: String,
    /// What was tested: version and commit.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// From the start to the last answer or fault.
    pub duration_seconds: f64,
    /// Pairs of name and value.
    pub machine: Vec<(String, String)>,
    /// Pairs of name and value.
    pub options: Vec<(String, String)>,
    /// By kind of call.
    pub operations: BTreeMap<String, Outcomes>,
    /// By kind of fault.
    pub faults: BTreeMap<String, FaultTotal>,
    /// What had to happen.
    pub requirements: Vec<RequirementLine>,
    /// What the checkers counted.
    pub counts: BTreeMap<String, u64>,
    /// Violations.
    pub findings: Vec<FindingLine>,
    /// What could not be decided.
    pub undecided: Vec<String>,
    /// How long the cluster took to write again.
    pub failovers: Vec<FailoverLine>,
    /// What went wrong with the harness itself.
    pub harness_failures: Vec<String>,
}

impl Summary {
    /// Sums a run up.
    pub(super) fn of(run: &Run<'_>) -> Summary {
        let mut operations: BTreeMap<String, Outcomes> = BTreeMap::new();
        for operation in &run.history.operations {
            let outcomes = operations
                .entry(KINDS[stats::kind(&operation.call)].to_string())
                .or_default();
            match operation.outcome {
                Outcome::Ok { .. } => outcomes.ok += 1,
                Outcome::Fail { .. } => outcomes.fail += 1,
                Outcome::Unknown { .. } => outcomes.unknown += 1,
            }
        }
        let faults = stats::faults(&run.history.faults)
            .into_iter()
            .map(|(kind, (count, nanoseconds))| {
                (
                    kind,
                    FaultTotal {
                        count,
                        seconds: seconds(nanoseconds),
                    },
                )
            })
            .collect();
        let mut summary = Summary {
            format: 1,
            verdict: Judgement::of(run),
            sentence: String::new(),
            seed: run.seed.to_string(),
            command: run.command.clone(),
            version: run.version.clone(),
            started_unix_ms: run.started_unix_ms,
            duration_seconds: seconds(stats::end(run.history)),
            machine: run.machine.clone(),
            options: run.options.clone(),
            operations,
            faults,
            requirements: run
                .requirements
                .iter()
                .map(|r| RequirementLine {
                    what: r.what.clone(),
                    needed: r.needed,
                    happened: r.happened,
                    met: r.met(),
                })
                .collect(),
            counts: run.report.counts.clone(),
            findings: run
                .report
                .findings
                .iter()
                .map(|finding| finding_line(finding, run))
                .collect(),
            undecided: run.report.undecided.clone(),
            failovers: run.failovers.iter().map(failover_line).collect(),
            harness_failures: run.harness_failures.clone(),
        };
        summary.sentence = sentence(&summary);
        summary
    }

    /// Acknowledged operations, and all.
    pub fn operation_totals(&self) -> (u64, u64) {
        self.operations.values().fold((0, 0), |(ok, all), o| {
            (ok + o.ok, all + o.ok + o.fail + o.unknown)
        })
    }

    /// Faults of all kinds.
    pub fn fault_total(&self) -> u64 {
        self.faults.values().map(|fault| fault.count).sum()
    }
}

fn finding_line(finding: &check::Finding, run: &Run<'_>) -> FindingLine {
    let operations = finding
        .operations
        .iter()
        .filter_map(|position| {
            let operation = run.history.operations.get(*position)?.clone();
            Some(WitnessLine {
                position: *position,
                operation,
            })
        })
        .collect();
    FindingLine {
        check: finding.check.clone(),
        text: finding.text.clone(),
        operations,
    }
}

fn failover_line(failover: &Failover) -> FailoverLine {
    FailoverLine {
        fault: failover.fault.clone(),
        member: failover.member.clone(),
        began_seconds: seconds(failover.began),
        first_write_ms: failover
            .first_write
            .map(|at| at.saturating_sub(failover.began) as f64 / 1e6),
    }
}

fn sentence(summary: &Summary) -> String {
    let (ok, all) = summary.operation_totals();
    let under = format!(
        "{} operations ({} acknowledged) under {} faults of {} kinds",
        count(all),
        count(ok),
        count(summary.fault_total()),
        summary.faults.len()
    );
    let others = |number: usize| match number {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    match summary.verdict {
        Judgement::Passed => format!("No violation in {under}; everything that had to happen did."),
        Judgement::Violated => {
            let first = summary
                .findings
                .first()
                .map_or("", |finding| finding.text.as_str());
            format!(
                "{}{}, in {under}.",
                shorten(first, 200),
                others(summary.findings.len())
            )
        }
        Judgement::HarnessFailed => {
            let first = summary.harness_failures.first().map_or("", String::as_str);
            let more = others(summary.harness_failures.len());
            format!(
                "The run shows nothing: {}{more}. It made {under}.",
                shorten(first, 200)
            )
        }
        Judgement::Invalid => {
            let missing: Vec<&RequirementLine> = summary.requirements.iter().filter(|r| !r.met).collect();
            let first = missing.first().map_or(String::new(), |r| {
                format!(
                    "{}: {} needed, {} happened",
                    r.what,
                    count(r.needed),
                    count(r.happened)
                )
            });
            format!(
                "The run shows nothing: {first}{}. It made {under}.",
                others(missing.len())
            )
        }
        Judgement::Undecided => {
            let first = summary.undecided.first().map_or("", String::as_str);
            format!(
                "Not a pass: {}{}, in {under}.",
                shorten(first, 200),
                others(summary.undecided.len())
            )
        }
    }
}

/// Failover times of one kind of fault, for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailoverTotal {
    pub fault: String,
    pub times: u64,
    /// How often no write followed at all.
    pub never: u64,
    pub median: String,
    pub p99: String,
    pub max: String,
}

/// Sums up failovers by kind of fault.
pub(super) fn failover_totals<'a>(lines: impl Iterator<Item = &'a FailoverLine>) -> Vec<FailoverTotal> {
    let mut kinds: BTreeMap<&str, (Vec<u64>, u64)> = BTreeMap::new();
    for line in lines {
        let (times, never) = kinds.entry(&line.fault).or_default();
        match line.first_write_ms {
            Some(ms) => times.push((ms * 1e6) as u64),
            None => *never += 1,
        }
    }
    kinds
        .into_iter()
        .map(|(fault, (mut times, never))| {
            times.sort_unstable();
            let at = |percent| stats::percentile(&times, percent).map_or("–".to_string(), duration);
            let (median, p99, max) = (at(50.0), at(99.0), at(100.0));
            FailoverTotal {
                fault: fault.to_string(),
                times: times.len() as u64 + never,
                never,
                median,
                p99,
                max,
            }
        })
        .collect()
}
