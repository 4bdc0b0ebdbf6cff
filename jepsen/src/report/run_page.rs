//! `index.html` of one run: what happened, for people. Pure.

use super::Run;
use super::bands::FAMILIES;
use super::html::{Cell, banner, copy, list, note, page, table};
use super::members;
use super::plots::{Axis, latencies, legend, losses, plot, rates};
use super::stats::Buckets;
use super::svg::{count, duration, escape, moment, seconds, shorten, trimmed, utc};
use super::tables;
use super::verdict::{FindingLine, Summary, WitnessLine};
use super::witness;
use crate::history::Fault;

/// Faults in the list at most.
const FAULTS_LISTED_MAX: usize = 1000;
/// Operations in the table of a witness at most.
const WITNESS_MAX: usize = 200;
/// Findings that are shown in full.
const FINDINGS_MAX: usize = 20;
/// Characters of a cell: an answer may hold thousands of rows.
const CELL_MAX: usize = 300;

/// The page of a run.
pub(super) fn run_page(run: &Run<'_>, summary: &Summary, files: &[String]) -> String {
    let title = format!("nezha-jepsen, seed {}", summary.seed);
    let content = [
        banner(summary.verdict, &summary.sentence),
        copy("seed", &summary.seed),
        copy("replay", &summary.command),
        facts(summary),
        problems(summary),
        findings(summary, &run.history.faults),
        figures(summary),
        drawings(run, summary.duration_seconds),
        fault_list(&run.history.faults),
        settings(summary),
        file_list(files),
    ]
    .concat();
    page(&title, &content)
}

fn facts(summary: &Summary) -> String {
    note(&format!(
        "Started {}, lasted {} s. Tested: {}.",
        utc(summary.started_unix_ms),
        trimmed(summary.duration_seconds, 1),
        summary.version
    ))
}

fn problems(summary: &Summary) -> String {
    let mut out = String::new();
    if !summary.harness_failures.is_empty() {
        out.push_str("<h2>Failures of the harness</h2>\n");
        out.push_str(&list(&summary.harness_failures));
    }
    if !summary.undecided.is_empty() {
        out.push_str("<h2>Not decided</h2>\n");
        out.push_str(&list(&summary.undecided));
    }
    out
}

fn findings(summary: &Summary, faults: &[Fault]) -> String {
    if summary.findings.is_empty() {
        return String::new();
    }
    let mut out = String::from("<h2>Violations</h2>\n");
    for finding in summary.findings.iter().take(FINDINGS_MAX) {
        out.push_str(&one_finding(finding, faults));
    }
    if summary.findings.len() > FINDINGS_MAX {
        let more = summary.findings.len() - FINDINGS_MAX;
        out.push_str(&note(&format!(
            "{} more are in verdict.json.",
            count(more as u64)
        )));
    }
    out
}

fn one_finding(finding: &FindingLine, faults: &[Fault]) -> String {
    let lines = &finding.operations;
    let mut out = format!("<div class=\"finding\"><h3>{}</h3>\n", escape(&finding.check));
    out.push_str(&format!("<p>{}</p>\n", escape(&shorten(&finding.text, 2000))));
    if lines.is_empty() {
        return out + "</div>\n";
    }
    out.push_str(&witness::draw(lines, faults));
    out.push_str(
        "<p class=\"legend\"><span><svg class=\"swatch\"><rect class=\"ok\" width=\"14\" height=\"11\"/></svg>answered\
         </span><span><svg class=\"swatch\"><rect class=\"failed\" width=\"14\" height=\"11\"/></svg>failed</span><span>\
         <svg class=\"swatch\"><rect class=\"open\" width=\"14\" height=\"11\"/></svg>unknown: may take effect until \
         much later</span><span>Time is in order, not to scale.</span></p>\n",
    );
    if lines.len() > witness::DRAWN_MAX {
        out.push_str(&note(&format!(
            "Only the first {} operations are drawn.",
            witness::DRAWN_MAX
        )));
    }
    out.push_str(&witness_table(lines));
    let around: Vec<String> = witness::around(lines, faults)
        .into_iter()
        .take(20)
        .map(members::describe)
        .collect();
    if !around.is_empty() {
        out.push_str("<p>Faults in force meanwhile:</p>\n");
        out.push_str(&list(&around));
    }
    if let Some(before) = witness::before(lines, faults) {
        out.push_str(&note(&format!(
            "The last fault that was over before: {}.",
            members::describe(before)
        )));
    }
    out + "</div>\n"
}

fn witness_table(lines: &[WitnessLine]) -> String {
    let rows: Vec<Vec<Cell>> = lines
        .iter()
        .take(WITNESS_MAX)
        .map(|WitnessLine { position, operation }| {
            let took = match operation.ended {
                Some(ended) => duration(ended.saturating_sub(operation.invoked)),
                None => "no answer".to_string(),
            };
            vec![
                Cell::count(*position as u64),
                Cell::number(&operation.process.to_string()),
                Cell::short(&operation.endpoint),
                Cell::number(&moment(operation.invoked)),
                Cell::number(&took),
                Cell::code(&shorten(&operation.call.to_string(), CELL_MAX)),
                Cell::code(&shorten(&operation.outcome.to_string(), CELL_MAX)),
            ]
        })
        .collect();
    let mut out = table(
        &[
            "position", "process", "member", "invoked", "took", "call", "answer",
        ],
        &rows,
    );
    if lines.len() > WITNESS_MAX {
        let more = lines.len() - WITNESS_MAX;
        out.push_str(&note(&format!(
            "{} more are in verdict.json.",
            count(more as u64)
        )));
    }
    out
}

fn figures(summary: &Summary) -> String {
    let section = |title: &str, content: String| format!("<section><h2>{title}</h2>\n{content}</section>\n");
    let requirements = if summary.requirements.is_empty() {
        note("None were set.")
    } else {
        tables::requirements(summary)
    };
    let failovers = if summary.failovers.is_empty() {
        note("No leader was taken away.")
    } else {
        tables::failovers(summary.failovers.iter())
    };
    format!(
        "<div class=\"tables\">{}{}{}{}</div>\n",
        section("Operations", tables::operations(&summary.operations)),
        section("Faults", tables::faults(&summary.faults)),
        section("What had to happen", requirements),
        section("From losing the leader to the next acknowledged write", failovers),
    )
}

fn drawings(run: &Run<'_>, run_seconds: f64) -> String {
    let faults = &run.history.faults;
    let buckets = Buckets::of(run.history, run.load_until);
    let width = trimmed(buckets.width, 1);
    let mut out = String::from("<h2>Over time</h2>\n");
    out.push_str(&note(&format!(
        "Each point is {width} s; final reads are not shown. Shaded: a fault is in force; what has no duration is a thin line. Labels that would \
         overlap are left out, all of them where most would; the members below and the list of faults have all."
    )));
    out.push_str(&families());
    let parts = [
        (
            "Acknowledged operations per second",
            Axis::PerSecond,
            rates(&buckets),
        ),
        (
            "Failures and unknown outcomes per second",
            Axis::PerSecond,
            losses(&buckets),
        ),
        (
            "Latency of what was acknowledged, by its answer (logarithmic)",
            Axis::Latency,
            latencies(&buckets),
        ),
    ];
    for (name, axis, series) in parts {
        out.push_str(&format!("<h3>{name}</h3>\n{}\n", legend(&series)));
        out.push_str(&plot(name, axis, &buckets, &series, faults, run_seconds));
    }
    let (timeline, left_out) = members::timeline(&run.members, faults, run_seconds);
    out.push_str("<h3>Faults on each member</h3>\n");
    out.push_str(&timeline);
    if left_out > 0 {
        out.push_str(&note(&format!(
            "{} later faults are not drawn; history.jsonl has them.",
            count(left_out as u64)
        )));
    }
    out
}

fn families() -> String {
    let entries: String = FAMILIES
        .iter()
        .map(|family| {
            format!(
                "<span><svg class=\"swatch\"><rect class=\"bar f-{family}\" width=\"14\" height=\"11\"/></svg>{family}</span>"
            )
        })
        .collect();
    format!("<p class=\"legend\">{entries}</p>\n")
}

fn fault_list(faults: &[Fault]) -> String {
    if faults.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<Cell>> = faults
        .iter()
        .take(FAULTS_LISTED_MAX)
        .map(|fault| {
            let lasted = fault
                .ended
                .map_or("–".to_string(), |e| duration(e.saturating_sub(fault.began)));
            vec![
                Cell::number(&format!("{:.3} s", seconds(fault.began))),
                Cell::number(&lasted),
                Cell::short(&fault.kind),
                Cell::text(&fault.members.join(" ")),
                Cell::text(&shorten(&fault.detail, CELL_MAX)),
            ]
        })
        .collect();
    let mut content = table(&["began", "lasted", "kind", "members", "what exactly"], &rows);
    if faults.len() > FAULTS_LISTED_MAX {
        let more = faults.len() - FAULTS_LISTED_MAX;
        content.push_str(&note(&format!(
            "{} more are in history.jsonl.",
            count(more as u64)
        )));
    }
    let summary = format!("All {} faults", count(faults.len() as u64));
    format!("<details><summary>{summary}</summary>\n{content}</details>\n")
}

fn settings(summary: &Summary) -> String {
    let rows = |pairs: &[(String, String)]| -> Vec<Vec<Cell>> {
        pairs
            .iter()
            .map(|(name, value)| vec![Cell::short(name), Cell::code(value)])
            .collect()
    };
    let counts: Vec<Vec<Cell>> = summary
        .counts
        .iter()
        .map(|(what, n)| vec![Cell::short(what), Cell::count(*n)])
        .collect();
    let section = |title: &str, content: String| format!("<section><h3>{title}</h3>\n{content}</section>\n");
    format!(
        "<details><summary>Options, machine, and what the checkers counted</summary><div class=\"tables\">{}{}{}</div></details>\n",
        section("Options", table(&["option", "value"], &rows(&summary.options))),
        section("Machine", table(&["what", "value"], &rows(&summary.machine))),
        section("Checkers", table(&["what", "number"], &counts)),
    )
}

fn file_list(files: &[String]) -> String {
    let rows: Vec<Vec<Cell>> = files.iter().map(|file| vec![Cell::link(file, file)]).collect();
    format!(
        "<details><summary>Files of this run</summary>\n{}</details>\n",
        table(&["file"], &rows)
    )
}
