//! Many seeds, each in a process of its own, and the fewest faults that a failing one needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run::Ran;

/// After so many seeds it is told how far things are.
const TELL_EVERY: u64 = 250;

/// What a run says at its end, as one line of JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// The seed.
    pub seed: u64,
    /// What must not be; empty if all is well.
    pub violations: Vec<String>,
    /// What clients did.
    pub operations: u64,
    /// How much of it had a good answer.
    pub ok: u64,
    /// Simulated seconds.
    pub simulated: f64,
    /// Faults, and how often each happened.
    pub faults: BTreeMap<String, u64>,
    /// How many faults were planned.
    pub planned: usize,
    /// The same for the same seed.
    pub trace: String,
}

impl Line {
    /// Of a run.
    pub fn of(seed: u64, ran: &Ran) -> Line {
        Line {
            seed,
            violations: ran.violations.clone(),
            operations: ran.history.operations.len() as u64,
            ok: ran.ok as u64,
            simulated: ran.simulated.as_secs_f64(),
            faults: ran.faults.clone(),
            planned: ran.planned,
            trace: ran.trace.clone(),
        }
    }
}

fn command(seed: u64, seconds: u64) -> Result<Command> {
    let program = std::env::current_exe().context("where is this program?")?;
    let mut command = Command::new(program);
    command
        .args(["--seed", &seed.to_string()])
        .args(["--seconds", &seconds.to_string()]);
    Ok(command)
}

/// Runs one seed in a process of its own, which tells what happens in it.
///
/// Errors: the process cannot be started.
pub fn show(seed: u64, seconds: u64) -> Result<()> {
    command(seed, seconds)?
        .status()
        .context("a run cannot be started")?;
    Ok(())
}

/// Runs one seed in a process of its own, without some of its faults.
///
/// Errors: the process cannot be started, or says nothing: it was killed, or is broken.
pub fn one(seed: u64, seconds: u64, without: &BTreeSet<usize>) -> Result<Line> {
    let numbers: Vec<String> = without.iter().map(usize::to_string).collect();
    let mut command = command(seed, seconds)?;
    command.arg("--json");
    if !numbers.is_empty() {
        command.args(["--without", &numbers.join(",")]);
    }
    let output = command
        .stderr(Stdio::null())
        .output()
        .context("a run cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().last() else {
        bail!("the run of seed {seed} said nothing: {}", output.status);
    };
    serde_json::from_str(line).with_context(|| format!("the run of seed {seed} said {line:?}"))
}

/// Of many runs together.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Runs.
    pub seeds: u64,
    /// Those in which something is wrong.
    pub failed: Vec<Line>,
    operations: u64,
    ok: u64,
    simulated: f64,
    faults: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, line: Line) {
        self.seeds += 1;
        self.operations += line.operations;
        self.ok += line.ok;
        self.simulated += line.simulated;
        for (kind, count) in &line.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        if !line.violations.is_empty() {
            self.failed.push(line);
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} failed; {} operations ({} ok), {:.2} h simulated",
            self.seeds,
            self.failed.len(),
            self.operations,
            self.ok,
            self.simulated / 3600.0,
        )
    }
}

/// Runs all seeds of a range, so many at a time; with `until_found`, up to the first that fails. Tells of each that fails, of
/// all together now and then, and at the end.
///
/// Errors: as [`one`].
pub fn all(seeds: Range<u64>, jobs: usize, seconds: u64, until_found: bool) -> Result<Sum> {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Ok(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let line = one(seed, seconds, &BTreeSet::new());
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *sum, line) {
                        (Ok(sum), Ok(line)) => {
                            if let Some(first) = line.violations.first() {
                                println!("seed {seed} FAILED: {first}");
                                if until_found {
                                    next.store(seeds.end, Ordering::Relaxed);
                                }
                            }
                            sum.add(line);
                            if sum.seeds.is_multiple_of(TELL_EVERY) {
                                println!("so far {sum}; faults: {:?}", sum.faults);
                            }
                        }
                        (Ok(_), Err(error)) => *sum = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    println!(
        "{sum}, {:.2} CPU s per seed",
        cpu_seconds()? / sum.seeds.max(1) as f64
    );
    println!("faults: {:?}", sum.faults);
    Ok(sum)
}

/// CPU time of all processes that were started here and have ended.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("who runs here?")?;
    // After the name, which may hold anything: fields 16 and 17 are the children's ticks.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |number: usize| {
        let field = fields.split_whitespace().nth(number - 3);
        field.and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok((ticks(16) + ticks(17)) / rustix::param::clock_ticks_per_second() as f64)
}

/// Leaves out planned faults of a failing seed, as long as it still fails with as few as may be. Answers the numbers that
/// can be left out.
///
/// Errors: as [`one`]; the seed does not fail.
pub fn shrink(seed: u64, seconds: u64) -> Result<BTreeSet<usize>> {
    let whole = one(seed, seconds, &BTreeSet::new())?;
    if whole.violations.is_empty() {
        bail!("seed {seed} does not fail: there is nothing to shrink");
    }
    let mut without = BTreeSet::new();
    let mut step = whole.planned.div_ceil(2).max(1);
    loop {
        let kept: Vec<usize> = (0..whole.planned)
            .filter(|number| !without.contains(number))
            .collect();
        for part in kept.chunks(step) {
            let mut tried = without.clone();
            tried.extend(part);
            if !one(seed, seconds, &tried)?.violations.is_empty() {
                without = tried;
                println!(
                    "still fails with {} of {} faults",
                    whole.planned - without.len(),
                    whole.planned
                );
            }
        }
        if step == 1 {
            return Ok(without);
        }
        step = step.div_ceil(2);
    }
}
