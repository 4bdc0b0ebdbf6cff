//! One run from its begin to its end: cluster, clients, faults, healing, final reads, checks, report.

mod attend;
pub mod bugs;
mod converge;
mod failover;
pub mod finals;
mod hunt;
pub mod load;
mod machine;
mod options;
mod progress;
mod replicas;
mod stage;
mod validity;

pub use attend::{AttendOptions, attend};
pub use hunt::{Hunt, hunt};
pub use options::Options;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::check::{self, Finding};
use crate::cluster::{Cluster, Spec};
use crate::history::History;
use crate::nemesis::{ApiCalls, Elsewhere, Own, Schedule};
use crate::report::{self, Log};
use crate::workload::{self, Recorder, Workload};
use progress::Console;
use stage::Played;

/// How long members may take until all serve at first.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Load without faults, first.
pub(crate) const CALM: Duration = Duration::from_secs(3);

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing contradicts the promises of the store.
    Passed,
    /// Something does.
    Violated,
    /// Not everything could be checked, or not enough happened.
    Undecided,
    /// The harness failed.
    HarnessFailed,
}

impl Outcome {
    /// The exit code that says so.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Passed => 0,
            Outcome::Violated => 1,
            Outcome::Undecided => 2,
            Outcome::HarnessFailed => 3,
        }
    }

    /// A violation counts whatever else went wrong; a failure of the harness spoils everything else.
    fn of(violated: bool, harness_failed: bool, decided: bool) -> Outcome {
        match (violated, harness_failed, decided) {
            (true, _, _) => Outcome::Violated,
            (false, true, _) => Outcome::HarnessFailed,
            (false, false, false) => Outcome::Undecided,
            (false, false, true) => Outcome::Passed,
        }
    }
}

/// A run that is over.
#[derive(Debug)]
pub struct Ran {
    /// What it came to.
    pub outcome: Outcome,
    /// Its folder.
    pub dir: PathBuf,
    /// Contradictions.
    pub findings: Vec<Finding>,
    /// Operations in its history.
    pub operations: usize,
    /// How long it took with everything.
    pub seconds: f64,
    /// Seed, result, figures, for people.
    pub summary: String,
}

/// What is the same for all parts of a run.
struct Setting<'a> {
    options: &'a Options,
    seed: u64,
    schedule: Schedule,
    workloads: Vec<Arc<dyn Workload>>,
    recorder: Arc<Recorder>,
    console: Console,
}

/// Runs once.
///
/// Errors: wrong options, and what kept the run from its begin: no cluster, no folder. Everything later is in the result.
pub fn run(options: &Options) -> Result<Ran> {
    let kinds = options.kinds().map_err(anyhow::Error::msg)?;
    let workloads = workload::named(&options.workload).map_err(anyhow::Error::msg)?;
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let setting = Setting {
        options,
        seed,
        schedule: Schedule::draw(seed, &kinds, Duration::from_secs(options.seconds)),
        workloads,
        recorder: Arc::new(Recorder::default()),
        console: Console::new(options.quiet),
    };
    let started = SystemTime::now();
    let started_unix_ms = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let dir = make_folder(&options.dir, started_unix_ms, seed)?;
    setting
        .console
        .say(&format!("run {}: {}", dir.display(), options.command(seed)));
    setting.console.say(&setting.schedule.to_string());
    let played = play(&setting, &dir)?;
    conclude(&setting, &dir, started, started_unix_ms, played)
}

fn make_folder(root: &Path, started_unix_ms: u64, seed: u64) -> Result<PathBuf> {
    std::fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    let dir = root.join(format!("run-{started_unix_ms}-{seed}"));
    std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    // Of a symbolic link or relative path, mounts and processes get the real one.
    dir.canonicalize()
        .with_context(|| format!("find {}", dir.display()))
}

/// The cluster and everything that is done to it.
fn play(setting: &Setting<'_>, dir: &Path) -> Result<Played> {
    let options = setting.options;
    if !options.endpoints.is_empty() {
        let runtime = runtime()?;
        let names = options.endpoints.clone();
        let victim = Elsewhere {
            names,
            endpoints: options.endpoints.clone(),
        };
        let api = || ApiCalls::new(runtime.handle().clone(), &options.endpoints);
        let (_, mut played) = stage::play(setting, runtime.handle(), victim, api()?, &api()?)?;
        played.version = machine::version_of(runtime.handle(), &options.endpoints[0]);
        return Ok(played);
    }
    let mut cluster = Cluster::new(Spec {
        nodes: options.nodes,
        kvd: options.kvd(),
        dir: dir.join("cluster"),
        options: options.kvd_option.clone(),
        env: options.env().map_err(anyhow::Error::msg)?,
        disk_mib: options.disk_mib,
    })?;
    cluster.start_all()?;
    cluster
        .wait_serving(START_PATIENCE)
        .context("start the cluster")?;
    // A thread of its own: it enters the namespace of the clients, and so do all that it starts.
    std::thread::scope(|scope| {
        let stage = scope.spawn(|| {
            cluster.network().enter()?;
            let runtime = runtime()?;
            let endpoints = cluster.endpoints();
            let version = machine::version_of(runtime.handle(), &endpoints[0]);
            let api = || ApiCalls::new(runtime.handle().clone(), &endpoints);
            let (own, mut played) =
                stage::play(setting, runtime.handle(), Own::new(cluster), api()?, &api()?)?;
            played.version = version;
            if options.keep
                && let Err(error) = keep(own.cluster(), &dir.join("data"))
            {
                played
                    .harness_failures
                    .push(format!("keeping the data: {error:#}"));
            }
            Ok(played)
        });
        let played = stage.join();
        played.unwrap_or_else(|_| Err(anyhow::anyhow!("the run panicked; see above")))
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("make a runtime")
}

/// Copies the data directories of all members.
fn keep(cluster: &Cluster, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for (member, name) in cluster.names().iter().enumerate() {
        let from = cluster.data_dir(member)?;
        let to = to.join(name);
        crate::cluster::command::run("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()])?;
    }
    Ok(())
}

/// Checks, judges, writes the folder.
fn conclude(
    setting: &Setting<'_>,
    dir: &Path,
    started: SystemTime,
    started_unix_ms: u64,
    played: Played,
) -> Result<Ran> {
    let history: History = setting.recorder.history();
    let mut report = check::check(&history, &check::Options::default());
    report.findings.extend(played.findings);
    report.undecided.extend(played.undecided);
    let requirements = validity::requirements(&history, &setting.schedule, &played.done, played.calm_until);
    let failovers = failover::of(&history);
    let mut harness_failures = played.harness_failures;
    let run = report::Run {
        seed: setting.seed,
        command: setting.options.command(setting.seed),
        version: played.version,
        started_unix_ms,
        machine: machine::facts(),
        options: facts(setting.options),
        members: played.members,
        history: &history,
        load_until: played.load_until,
        report: &report,
        requirements: requirements.clone(),
        failovers: failovers.clone(),
        harness_failures: harness_failures.clone(),
        schedule: setting.schedule.to_string(),
        logs: logs(&dir.join("cluster")),
    };
    if let Err(error) = report::write(dir, &run) {
        harness_failures.push(format!("writing the report: {error:#}"));
    } else if let Err(error) = std::fs::remove_dir_all(dir.join("cluster"))
        && setting.options.endpoints.is_empty()
    {
        harness_failures.push(format!("removing the members' files: {error}"));
    }
    let unmet: Vec<String> = requirements
        .iter()
        .filter(|requirement| !requirement.met())
        .map(|r| format!("{}: {} of {}", r.what, r.happened, r.needed))
        .collect();
    let decided = report.verdict() == check::Verdict::Linearizable && unmet.is_empty();
    let outcome = Outcome::of(!report.findings.is_empty(), !harness_failures.is_empty(), decided);
    let seconds = started.elapsed().unwrap_or_default().as_secs_f64();
    let mut lines = vec![format!(
        "{outcome:?} after {seconds:.0} s, seed {}: {}",
        setting.seed,
        dir.display()
    )];
    let faults: Vec<String> = played
        .done
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    lines.push(format!("faults: {}", faults.join(", ")));
    lines.extend(
        report
            .counts
            .iter()
            .map(|(what, count)| format!("  {what}: {count}")),
    );
    lines.extend(failover::describe(&failovers));
    lines.push(played.converged);
    lines.extend(played.left_out.iter().map(|what| format!("left out: {what}")));
    lines.extend(unmet.iter().map(|what| format!("invalid: {what}")));
    lines.extend(report.undecided.iter().map(|what| format!("undecided: {what}")));
    lines.extend(
        harness_failures
            .iter()
            .map(|what| format!("harness failure: {what}")),
    );
    lines.extend(
        report
            .findings
            .iter()
            .map(|f| format!("FINDING {}: {}", f.check, f.text)),
    );
    Ok(Ran {
        outcome,
        dir: dir.to_owned(),
        operations: history.operations.len(),
        findings: report.findings,
        seconds,
        summary: lines.join("\n"),
    })
}

fn facts(options: &Options) -> Vec<(String, String)> {
    let mut facts = vec![
        ("seconds of faults".to_owned(), options.seconds.to_string()),
        ("workload".to_owned(), options.workload.clone()),
        (
            "faults".to_owned(),
            options.only.clone().unwrap_or_else(|| "all".into()),
        ),
        ("clients".to_owned(), options.clients.to_string()),
        (
            "operations per second aimed at".to_owned(),
            options.rate.to_string(),
        ),
    ];
    match options.endpoints.is_empty() {
        true => {
            facts.push(("members".to_owned(), options.nodes.to_string()));
            facts.push(("disk of a member".to_owned(), format!("{} MiB", options.disk_mib)));
            facts.push(("options of members".to_owned(), options.kvd_option.join(" ")));
            facts.push(("environment of members".to_owned(), options.kvd_env.join(" ")));
        }
        false => facts.push(("endpoints".to_owned(), options.endpoints.join(","))),
    }
    facts
}

/// Log files of all members that there ever were.
fn logs(dir: &Path) -> Vec<Log> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<Log> = files
        .filter(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "log")
        })
        .map(|file| Log {
            name: file.file_name().to_string_lossy().into_owned(),
            path: file.path(),
        })
        .collect();
    logs.sort_by(|one, other| one.name.cmp(&other.name));
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_outweighs_a_failure_which_outweighs_the_rest() {
        assert_eq!(Outcome::of(true, true, false), Outcome::Violated);
        assert_eq!(Outcome::of(false, true, true), Outcome::HarnessFailed);
        assert_eq!(Outcome::of(false, false, false), Outcome::Undecided);
        assert_eq!(Outcome::of(false, false, true), Outcome::Passed);
        let codes = [
            Outcome::Passed,
            Outcome::Violated,
            Outcome::Undecided,
            Outcome::HarnessFailed,
        ]
        .map(Outcome::exit_code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }
}
