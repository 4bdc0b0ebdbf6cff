//! A report as text: the verdict, then each finding with a table of the operations that show it.

use std::fmt;

use super::{Finding, Report, Verdict};
use crate::history::{Answer, Call, Expected, Operation, Outcome, Stamp};

/// Characters of one cell.
const CELL_MAX: usize = 72;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Linearizable => "linearizable",
            Verdict::Violated => "violated",
            Verdict::Undecided => "undecided",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict())?;
        for finding in &self.findings {
            self.finding(f, finding)?;
        }
        for what in &self.undecided {
            writeln!(f, "\nundecided: {what}")?;
        }
        writeln!(f)?;
        let width = self
            .counts
            .keys()
            .map(|what| what.len())
            .max()
            .unwrap_or_default();
        for (what, count) in &self.counts {
            writeln!(f, "{what:width$}  {count}")?;
        }
        Ok(())
    }
}

impl Report {
    fn finding(&self, f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
        writeln!(f, "\n{}: {}", finding.check, finding.text)?;
        let shown = finding
            .operations
            .iter()
            .filter_map(|position| self.shown.get(position));
        let mut table: Vec<[String; 5]> = shown.map(row).collect();
        if table.is_empty() {
            return Ok(());
        }
        let head = ["process", "from ms", "to ms", "call", "outcome"];
        table.insert(0, head.map(str::to_owned));
        let width = |column: usize| {
            table
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        for [process, from, to, call, outcome] in &table {
            let [a, b, c, d] = widths;
            writeln!(f, "  {process:>a$}  {from:>b$}  {to:>c$}  {call:d$}  {outcome}")?;
        }
        Ok(())
    }
}

fn row(operation: &Operation) -> [String; 5] {
    let ms = |nanos: u64| format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
    let cells = [
        operation.process.to_string(),
        ms(operation.invoked),
        operation.ended.map_or_else(|| "never".to_owned(), ms),
        operation.call.to_string(),
        operation.outcome.to_string(),
    ];
    cells.map(|cell| {
        if cell.chars().count() <= CELL_MAX {
            return cell;
        }
        let short: String = cell.chars().take(CELL_MAX - 3).collect();
        short + "..."
    })
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Absent => f.write_str("absent"),
            Expected::Revision(revision) => write!(f, "at {revision}"),
            Expected::Value(value) => write!(f, "{value:?}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Read { key } => write!(f, "read {key}"),
            Call::Write { key, value } => write!(f, "write {key} {value:?}"),
            Call::Cas { key, expected, value } => write!(f, "write {key} {value:?} if {expected}"),
            Call::Delete { key, expected: None } => write!(f, "delete {key}"),
            Call::Delete {
                key,
                expected: Some(expected),
            } => write!(f, "delete {key} if {expected}"),
            Call::Append { key, value } => write!(f, "append {key} {value:?}"),
            Call::Scan {
                start,
                end,
                reverse,
                limit,
            } => {
                write!(f, "scan [{start}, {end})")?;
                if *reverse {
                    f.write_str(" backwards")?;
                }
                if *limit == 0 {
                    Ok(())
                } else {
                    write!(f, " {limit} rows")
                }
            }
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} v{} since {}", self.revision, self.version, self.created)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok { answer } => answer.fmt(f),
            Outcome::Fail { why } => write!(f, "failed: {why}"),
            Outcome::Unknown { why } => write!(f, "unknown: {why}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, word: &str, revision: &Option<u64>| match revision {
            Some(revision) => write!(f, "{word}{revision}"),
            None => Ok(()),
        };
        match self {
            Answer::Read { found, at: reflects } => {
                match found {
                    None => f.write_str("absent")?,
                    Some(found) => {
                        write!(f, "{:?}", found.value)?;
                        if let Some(stamp) = found.stamp {
                            write!(f, " {stamp}")?;
                        }
                    }
                }
                at(f, ", reflects ", reflects)
            }
            Answer::Written { revision } => {
                f.write_str("done")?;
                at(f, " at ", revision)
            }
            Answer::Deleted { existed, revision } => {
                f.write_str(if *existed { "deleted" } else { "was absent" })?;
                at(f, " at ", revision)
            }
            Answer::Refused { current, revision } => {
                f.write_str("refused")?;
                at(f, ": is at ", current)?;
                at(f, ", told at ", revision)
            }
            Answer::Rows {
                rows,
                at: revision,
                more,
            } => {
                write!(f, "{} rows{}", rows.len(), if *more { " and more" } else { "" })?;
                at(f, " at ", revision)?;
                if rows.len() <= 8 {
                    let rows: Vec<String> = rows
                        .iter()
                        .map(|row| format!("{}={:?}", row.key, row.value))
                        .collect();
                    write!(f, ": {}", rows.join(" "))?;
                }
                Ok(())
            }
        }
    }
}
