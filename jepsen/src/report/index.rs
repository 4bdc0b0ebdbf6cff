//! The page over a folder of runs, from their `verdict.json`: for long campaigns made of many runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::html::{Cell, banner, note, page, table};
use super::svg::{count, trimmed, utc};
use super::tables;
use super::verdict::{FailoverLine, FaultTotal, Judgement, Outcomes, Summary, failover_totals};

/// Runs on the page at most, the ones that did not pass first; all are counted.
const LISTED_MAX: usize = 2000;

/// All runs of a folder together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Folders of runs.
    pub runs: u64,
    /// Of these, by verdict; folders without a readable verdict are in none.
    pub verdicts: BTreeMap<String, u64>,
    /// Folders without a readable `verdict.json`: runs that were cut off. Never a pass.
    pub unfinished: u64,
    /// Together, in seconds.
    pub seconds: f64,
    /// By kind of call.
    pub operations: BTreeMap<String, Outcomes>,
    /// By kind of fault.
    pub faults: BTreeMap<String, FaultTotal>,
    /// Of all runs.
    pub failovers: Vec<FailoverLine>,
}

impl Totals {
    /// Runs that passed.
    pub fn passed(&self) -> u64 {
        self.verdicts.get(Judgement::Passed.word()).copied().unwrap_or(0)
    }

    fn add(&mut self, summary: &Summary) {
        *self
            .verdicts
            .entry(summary.verdict.word().to_string())
            .or_default() += 1;
        self.seconds += summary.duration_seconds;
        for (kind, outcomes) in &summary.operations {
            let all = self.operations.entry(kind.clone()).or_default();
            all.ok += outcomes.ok;
            all.fail += outcomes.fail;
            all.unknown += outcomes.unknown;
        }
        for (kind, fault) in &summary.faults {
            let all = self.faults.entry(kind.clone()).or_default();
            all.count += fault.count;
            all.seconds += fault.seconds;
        }
        self.failovers.extend(summary.failovers.iter().cloned());
    }

    fn judgement(&self) -> Judgement {
        let any = |judgement: Judgement| self.verdicts.contains_key(judgement.word());
        if any(Judgement::Violated) {
            Judgement::Violated
        } else if any(Judgement::Invalid) {
            Judgement::Invalid
        } else if any(Judgement::HarnessFailed) || self.unfinished > 0 || self.runs == 0 {
            Judgement::HarnessFailed
        } else if any(Judgement::Undecided) {
            Judgement::Undecided
        } else {
            Judgement::Passed
        }
    }

    fn sentence(&self) -> String {
        let mut parts: Vec<String> = self
            .verdicts
            .iter()
            .map(|(word, n)| format!("{} {}", count(*n), word.to_lowercase()))
            .collect();
        if self.unfinished > 0 {
            parts.push(format!("{} without a verdict", count(self.unfinished)));
        }
        let operations: u64 = self.operations.values().map(|o| o.ok + o.fail + o.unknown).sum();
        let faults: u64 = self.faults.values().map(|f| f.count).sum();
        format!(
            "{} runs: {}. {} operations under {} faults in {} minutes.",
            count(self.runs),
            if parts.is_empty() {
                "none".to_string()
            } else {
                parts.join(", ")
            },
            count(operations),
            count(faults),
            trimmed(self.seconds / 60.0, 1)
        )
    }
}

/// Writes `index.html` over the runs in the folders of `dir`.
///
/// A folder is a run if it has a `verdict.json` or a `history.jsonl`; others are passed over. A run whose verdict is
/// missing or unreadable is listed as such.
///
/// Errors: the folder cannot be read or the page cannot be written.
pub fn index(dir: &Path) -> anyhow::Result<Totals> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list the runs in {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("list the runs in {}", dir.display()))?
            .path();
        if path.join("verdict.json").is_file() || path.join("history.jsonl").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    let runs: Vec<(String, Result<Summary, String>)> = folders
        .iter()
        .map(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, read(&path.join("verdict.json")))
        })
        .collect();
    let mut totals = Totals {
        runs: runs.len() as u64,
        ..Totals::default()
    };
    for (_, run) in &runs {
        match run {
            Ok(summary) => totals.add(summary),
            Err(_) => totals.unfinished += 1,
        }
    }
    let path = dir.join("index.html");
    fs::write(&path, index_page(&totals, runs)).with_context(|| format!("write {}", path.display()))?;
    Ok(totals)
}

fn read(path: &Path) -> Result<Summary, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

fn index_page(totals: &Totals, mut runs: Vec<(String, Result<Summary, String>)>) -> String {
    let sentence = totals.sentence();
    let section = |title: &str, content: String| format!("<section><h2>{title}</h2>\n{content}</section>\n");
    let mut content = banner(totals.judgement(), &sentence);
    content.push_str(&format!(
        "<div class=\"tables\">{}{}</div>\n",
        section("Operations", tables::operations(&totals.operations)),
        section("Faults", tables::faults(&totals.faults)),
    ));
    content.push_str(&section(
        "From losing the leader to the next acknowledged write",
        tables::failovers(totals.failovers.iter()),
    ));
    let shown = runs.len().min(LISTED_MAX);
    if runs.len() > LISTED_MAX {
        runs.sort_by_key(|(_, run)| matches!(run, Ok(summary) if summary.verdict == Judgement::Passed));
    }
    let rows: Vec<Vec<Cell>> = runs
        .iter()
        .take(shown)
        .map(|(name, run)| row(name, run))
        .collect();
    let headings = [
        "run",
        "verdict",
        "seed",
        "started",
        "lasted",
        "acknowledged",
        "operations",
        "faults",
        "failover median",
        "p99",
    ];
    content.push_str("<h2>Runs</h2>\n");
    content.push_str(&table(&headings, &rows));
    if runs.len() > shown {
        content.push_str(&note(&format!(
            "{} more runs passed and are not listed.",
            count((runs.len() - shown) as u64)
        )));
    }
    page("nezha-jepsen, all runs", &content)
}

fn row(name: &str, run: &Result<Summary, String>) -> Vec<Cell> {
    let summary = match run {
        Ok(summary) => summary,
        Err(why) => {
            return vec![
                Cell::text(name),
                Cell::colour("amber", "No verdict"),
                Cell::text(why),
            ];
        }
    };
    let (ok, all) = summary.operation_totals();
    // Over all kinds of faults: the same name, so that they are one group.
    let together: Vec<FailoverLine> = summary
        .failovers
        .iter()
        .map(|line| FailoverLine {
            fault: String::new(),
            ..line.clone()
        })
        .collect();
    let failover = failover_totals(together.iter()).into_iter().next();
    let (median, p99) = failover.map_or(("–".to_string(), "–".to_string()), |f| (f.median, f.p99));
    vec![
        Cell::link(&format!("{name}/index.html"), name),
        Cell::colour(summary.verdict.class(), summary.verdict.word()),
        Cell::code(&summary.seed),
        Cell::short(&utc(summary.started_unix_ms)),
        Cell::number(&format!("{} s", trimmed(summary.duration_seconds, 1))),
        Cell::count(ok),
        Cell::count(all),
        Cell::count(summary.fault_total()),
        Cell::number(&median),
        Cell::number(&p99),
    ]
}
