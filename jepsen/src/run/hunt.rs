//! Proof that the harness bites: each planted bug is hunted until it is caught or the time is over.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::bugs::{self, Recipe};
use super::{Outcome, Ran, run};

/// Faults of the first attempt, in seconds; each further one is longer.
const FIRST_SECONDS: u64 = 12;
const LATER_SECONDS_MAX: u64 = 45;
/// Of the control runs, likewise.
const CONTROL_SECONDS: u64 = 20;

/// One line of the table.
#[derive(Debug)]
struct Hunted {
    bug: &'static str,
    /// Which check, or why not.
    caught: Result<String, String>,
    nemesis: String,
    workload: String,
    operations: usize,
    seconds: f64,
}

/// What is hunted, and with what.
#[derive(Debug)]
pub struct Hunt<'a> {
    /// A node that was built with the bugs.
    pub kvd: &'a Path,
    /// Where the folders of the runs are made.
    pub dir: &'a Path,
    /// Names of bugs; all if there is none.
    pub only: Option<&'a str>,
    /// Of these only so many, drawn from the seed.
    pub pick: Option<usize>,
    /// At most so long for each.
    pub minutes: u64,
    /// Draws bugs and runs; by chance if there is none.
    pub seed: Option<u64>,
}

/// Hunts planted bugs. Prints the table; answers whether all were caught and the control run without one was green.
///
/// Errors: names that are none, runs that cannot begin.
pub fn hunt(what: &Hunt<'_>) -> Result<bool> {
    let Hunt {
        kvd, dir, minutes, ..
    } = *what;
    let mut recipes = bugs::named(what.only).map_err(anyhow::Error::msg)?;
    let seed = what.seed.unwrap_or_else(|| rand::random::<u32>().into());
    if let Some(pick) = what.pick {
        recipes.shuffle(&mut StdRng::seed_from_u64(seed));
        recipes.truncate(pick);
    }
    let budget = Duration::from_secs(minutes * 60);
    println!(
        "seed {seed}, at most {minutes} min for each of {} bugs",
        recipes.len()
    );
    let mut lines = Vec::new();
    for recipe in &recipes {
        let line = hunt_one(recipe, kvd, dir, seed, budget)?;
        println!("{}", row(&line));
        lines.push(line);
    }
    let control = run(&bugs::control(kvd, dir, seed, CONTROL_SECONDS)).context("the control run")?;
    let green = control.findings.is_empty() && control.outcome != Outcome::HarnessFailed;
    let what = match green {
        true => "green".to_owned(),
        false => format!("NOT GREEN\n{}", control.summary),
    };
    println!("\n{}", table(&lines));
    println!("control without a bug: {what}, {} operations", control.operations);
    Ok(green && lines.iter().all(|line| line.caught.is_ok()))
}

fn hunt_one(recipe: &Recipe, kvd: &Path, dir: &Path, seed: u64, budget: Duration) -> Result<Hunted> {
    let started = Instant::now();
    let mut operations = 0;
    let mut caught = Err("not caught".to_owned());
    let mut seconds = FIRST_SECONDS;
    let mut attempt = 0;
    while started.elapsed() < budget {
        let options = recipe.options(kvd, dir, seed + attempt, seconds, true);
        let ran = run(&options).with_context(|| format!("a run with {}", recipe.bug))?;
        operations += ran.operations;
        if let Some(check) = caught_by(&ran) {
            caught = Ok(check);
            break;
        }
        if ran.outcome == Outcome::HarnessFailed {
            caught = Err(format!(
                "not caught; the harness failed, see {}",
                ran.dir.display()
            ));
        }
        attempt += 1;
        seconds = (seconds * 2).min(LATER_SECONDS_MAX);
    }
    Ok(Hunted {
        bug: recipe.bug,
        caught,
        nemesis: recipe.only.to_owned(),
        workload: recipe.workload.to_owned(),
        operations,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Which checks have found something.
fn caught_by(ran: &Ran) -> Option<String> {
    let mut checks: Vec<&str> = ran
        .findings
        .iter()
        .map(|finding| finding.check.as_str())
        .collect();
    checks.sort_unstable();
    checks.dedup();
    (!checks.is_empty()).then(|| checks.join(", "))
}

fn row(line: &Hunted) -> String {
    let caught = match &line.caught {
        Ok(check) => check,
        Err(why) => why,
    };
    let (bug, nemesis, workload) = (line.bug, &line.nemesis, &line.workload);
    format!(
        "| {bug} | {caught} | {nemesis} | {workload} | {} | {:.0} |",
        line.operations, line.seconds
    )
}

fn table(lines: &[Hunted]) -> String {
    let mut rows = vec![
        "| bug | caught by | nemesis | workload | operations | seconds |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    rows.extend(lines.iter().map(row));
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_caught_a_bug_and_what_did_not() {
        let line = |caught| Hunted {
            bug: "skip-crc",
            caught,
            nemesis: "bit-rot".into(),
            workload: "churn".into(),
            operations: 1234,
            seconds: 20.4,
        };
        let text = table(&[line(Ok("witness".into())), line(Err("not caught".into()))]);
        assert!(
            text.contains("| skip-crc | witness | bit-rot | churn | 1234 | 20 |"),
            "{text}"
        );
        assert!(text.contains("| not caught |"));
    }
}
