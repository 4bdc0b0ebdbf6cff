//! What a run leaves behind: a folder with everything that is needed to understand it, and to repeat it.
//!
//! ```text
//! index.html      for people: verdict, witness, figures, plots with the faults shaded
//! verdict.json    for machines: see [`Summary`]
//! history.jsonl   every operation and fault; `nezha-jepsen check` reads it
//! history.edn     the same as Jepsen has it, for checkers elsewhere
//! schedule.txt    the faults that were planned, and those that were done
//! logs/           of the members
//! ```
//!
//! [`index`] makes a page over the folders of many runs.

mod bands;
mod html;
mod index;
mod members;
mod plots;
mod run_page;
mod stats;
mod svg;
mod tables;
mod verdict;
mod witness;

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value};

use crate::check;
use crate::history::{History, edn, jsonl};

pub use index::{Totals, index};
pub(crate) use stats::percentile;
pub use verdict::{
    FailoverLine, FaultTotal, FindingLine, Judgement, Outcomes, RequirementLine, Summary, WitnessLine,
};

/// Everything that is known about a run when it is over.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// From which workload and faults follow.
    pub seed: u64,
    /// The command line that repeats the run.
    pub command: String,
    /// What was tested: version and commit.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Facts about the machine, in the order in which they are shown.
    pub machine: Vec<(String, String)>,
    /// Options of the run, likewise.
    pub options: Vec<(String, String)>,
    /// Names of the members at the start; those that joined later are known from the faults.
    pub members: Vec<String>,
    /// What was done and answered; its operations in the order that `report` speaks of.
    pub history: &'a History,
    /// When the load had ended, in the history's time. What was asked later, the final reads, is not drawn over time.
    pub load_until: u64,
    /// What the checkers said of it.
    pub report: &'a check::Report,
    /// What had to happen for the run to show anything.
    pub requirements: Vec<Requirement>,
    /// From losing the leader to the next acknowledged write.
    pub failovers: Vec<Failover>,
    /// What went wrong with the harness itself. One is enough to spoil the run.
    pub harness_failures: Vec<String>,
    /// The planned faults, as text.
    pub schedule: String,
    /// Log files of the members, to be copied.
    pub logs: Vec<Log>,
}

impl Run<'_> {
    /// What the run is worth. Only [`Judgement::Passed`] is a pass.
    pub fn judgement(&self) -> Judgement {
        Judgement::of(self)
    }
}

/// Something that has to happen in a run, or it shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What.
    pub what: String,
    /// How often at least.
    pub needed: u64,
    /// How often it did.
    pub happened: u64,
}

impl Requirement {
    /// Whether it happened often enough.
    pub fn met(&self) -> bool {
        self.happened >= self.needed
    }
}

/// A fault that took the leader away. Times are nanoseconds since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Kind of the fault.
    pub fault: String,
    /// Name of the leader.
    pub member: String,
    /// When the fault began.
    pub began: u64,
    /// When the first write was acknowledged that was invoked after that; `None` if none was.
    pub first_write: Option<u64>,
}

/// A log file of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its name in `logs/`, such as `n1.log`.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
}

/// Writes the folder of a run.
///
/// A `history.jsonl` that lies there already is the one that was recorded during the run, and stays as it is.
///
/// Errors: what could not be written. Logs come last, and one that is missing does not keep the others away.
pub fn write(dir: &Path, run: &Run<'_>) -> anyhow::Result<()> {
    let summary = Summary::of(run);
    fs::create_dir_all(dir.join("logs")).with_context(|| format!("create {}", dir.join("logs").display()))?;
    // The verdict first: whatever fails afterwards, it is known.
    let mut verdict = serde_json::to_vec_pretty(&summary).context("write the verdict as JSON")?;
    verdict.push(b'\n');
    put(dir, "verdict.json", &verdict)?;
    put(dir, "schedule.txt", schedule(run).as_bytes())?;
    let mut files = ["verdict.json", "history.jsonl", "history.edn", "schedule.txt"]
        .map(String::from)
        .to_vec();
    files.extend(run.logs.iter().map(|log| format!("logs/{}", log.name)));
    put(
        dir,
        "index.html",
        run_page::run_page(run, &summary, &files).as_bytes(),
    )?;
    histories(dir, run)?;
    logs(dir, &run.logs)
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(name);
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
}

fn histories(dir: &Path, run: &Run<'_>) -> anyhow::Result<()> {
    let path = dir.join("history.jsonl");
    if !path.exists() {
        let facts: Map<String, Value> = run
            .options
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.clone())))
            .collect();
        let write = || {
            let writer = jsonl::Writer::create(&path, &jsonl::Header::new(run.seed, facts))?;
            run.history
                .operations
                .iter()
                .try_for_each(|operation| writer.operation(operation))?;
            run.history
                .faults
                .iter()
                .try_for_each(|fault| writer.fault(fault))?;
            writer.flush()
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    let path = dir.join("history.edn");
    let write = || {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        edn::write(run.history, &mut out)?;
        out.flush()
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn schedule(run: &Run<'_>) -> String {
    let mut out = format!(
        "seed {}\n\nPlanned\n{}\n\nDone\n",
        run.seed,
        run.schedule.trim_end()
    );
    for fault in &run.history.faults {
        out.push_str(&members::describe(fault));
        out.push('\n');
    }
    out
}

fn logs(dir: &Path, logs: &[Log]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for log in logs {
        // A name is one part of a path: anything else could write outside the folder.
        let plain = Path::new(&log.name)
            .file_name()
            .is_some_and(|name| name == log.name.as_str());
        let to = dir.join("logs").join(&log.name);
        if !plain {
            failed.push(format!("{:?} is no name of a file", log.name));
        } else if to != log.path
            && let Err(error) = fs::copy(&log.path, &to)
        {
            failed.push(format!("{}: {error}", log.path.display()));
        }
    }
    anyhow::ensure!(failed.is_empty(), "copy logs: {}", failed.join("; "));
    Ok(())
}
