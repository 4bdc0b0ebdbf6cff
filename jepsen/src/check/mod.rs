//! Judges histories: pure, a history in, a verdict and the smallest witness out.
//!
//! - [`keys`]: is there an order of the operations on each key that explains every answer? (Wing, Gong, Lowe.) A black box:
//!   of what the store says about revisions it uses the order of writes, and what reads say of metadata.
//! - [`witness`]: do all answers agree with the one order that the store itself states? A revision is the place of a write
//!   in the log, so one pass over the history decides, all keys and scans together.
//! - [`scans`]: was there one revision at which the keys stood as a scan says, whatever revision it claims?
//! - [`sets`], [`durability`], [`revisions`]: what such violations mean to those who use the store, by simple rules that do
//!   not depend on the others.
//!
//! Whatever has no definite answer may take effect at any time after its invocation, or never, and no checker assumes
//! either.

mod answers;
mod cover;
mod display;
mod durability;
mod facts;
mod keys;
mod models;
mod revisions;
mod scans;
mod sets;
mod shrink;
mod timeline;
mod wgl;
mod witness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::history::{History, Operation, Outcome};
use facts::Facts;

/// What a check may cost, and how much it says.
#[derive(Clone, Debug)]
pub struct Options {
    /// States per key after which the search for an order is given up (2,000,000: about 300 MB).
    pub states_max: u64,
    /// Time for all searches together (5 min).
    pub time_max: Duration,
    /// Findings of one checker that are told in full; the others are counted (10).
    pub findings_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            states_max: 2_000_000,
            time_max: Duration::from_secs(300),
            findings_max: 10,
        }
    }
}

/// A contradiction, with the fewest operations that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which checker found it.
    pub check: String,
    /// What is wrong.
    pub text: String,
    /// Positions in the history's operations, in order.
    pub operations: Vec<usize>,
}

/// What can be said about a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every checker is content.
    Linearizable,
    /// Something contradicts the promises of the store.
    Violated,
    /// Nothing was found, but not everything could be checked. Never a pass.
    Undecided,
}

/// What the checkers found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Contradictions.
    pub findings: Vec<Finding>,
    /// What could not be decided.
    pub undecided: Vec<String>,
    /// How much was looked at, and how many findings there are of each checker.
    pub counts: BTreeMap<String, u64>,
    /// Operations that findings mention, by position.
    pub shown: BTreeMap<usize, Operation>,
}

impl Report {
    /// A violation outweighs what could not be decided.
    pub fn verdict(&self) -> Verdict {
        if !self.findings.is_empty() {
            Verdict::Violated
        } else if !self.undecided.is_empty() {
            Verdict::Undecided
        } else {
            Verdict::Linearizable
        }
    }

    fn count(&mut self, what: &str, number: usize) {
        *self.counts.entry(what.to_owned()).or_default() += number as u64;
    }
}

/// Findings of one checker.
#[derive(Debug, Default)]
struct Findings {
    check: &'static str,
    told: Vec<Finding>,
    more: usize,
    max: usize,
}

impl Findings {
    fn new(check: &'static str, options: &Options) -> Findings {
        Findings {
            check,
            told: Vec::new(),
            more: 0,
            max: options.findings_max.max(1),
        }
    }

    /// Whether another one will be told in full.
    fn wants_more(&self) -> bool {
        self.told.len() < self.max
    }

    fn add(&mut self, text: String, operations: impl IntoIterator<Item = usize>) {
        if !self.wants_more() {
            self.more += 1;
            return;
        }
        let mut operations: Vec<usize> = operations.into_iter().collect();
        operations.sort_unstable();
        operations.dedup();
        self.told.push(Finding {
            check: self.check.to_owned(),
            text,
            operations,
        });
    }

    fn report(self, report: &mut Report) {
        report.count(
            &format!("findings of {}", self.check),
            self.told.len() + self.more,
        );
        report.findings.extend(self.told);
    }
}

/// Runs every checker that applies to `history`.
pub fn check(history: &History, options: &Options) -> Report {
    let mut report = Report::default();
    let until = Instant::now() + options.time_max;
    let operations = &history.operations;
    let facts = Facts::of(operations);
    tally(operations, &facts, &mut report);
    if facts.revisioned {
        witness::check(&facts, options).report(&mut report);
        revisions::check(&facts, options).report(&mut report);
    }
    scans::check(&facts, options).report(&mut report);
    sets::check(&facts, options).report(&mut report);
    durability::check(&facts, options, &mut report.counts).report(&mut report);
    answers::check(history, options).report(&mut report);
    keys::check(&facts, options, until, &mut report);
    for finding in &report.findings {
        let shown = finding.operations.iter();
        report
            .shown
            .extend(shown.map(|position| (*position, operations[*position].clone())));
    }
    report
}

fn tally(operations: &[Operation], facts: &Facts<'_>, report: &mut Report) {
    report.count("operations", operations.len());
    report.count("keys", facts.lines.len());
    for outcome in ["ok", "failed", "unknown"] {
        report.count(outcome, 0);
    }
    for operation in operations {
        let outcome = match operation.outcome {
            Outcome::Ok { .. } => "ok",
            Outcome::Fail { .. } => "failed",
            Outcome::Unknown { .. } => "unknown",
        };
        report.count(outcome, 1);
    }
    report.count("unknown, seen later", facts.resolved.len());
    report.count("checked by revision", usize::from(facts.revisioned));
}
