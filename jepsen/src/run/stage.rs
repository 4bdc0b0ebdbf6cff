//! What happens between the begin of the load and the last question.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use nezha_api::client::Dialer;
use tokio::runtime::Handle;

use super::converge::{self, BOUND};
use super::load::{self, Load};
use super::replicas::{self, Replicas};
use super::{CALM, Setting, finals};
use crate::check::Finding;
use crate::nemesis::{Api, Executor, Victim};

/// Load after everything was healed, so that whatever the cluster has become is used.
const AFTERMATH: Duration = Duration::from_secs(3);

/// What came of it, beside the history.
#[derive(Debug, Default)]
pub struct Played {
    /// Contradictions that no operation shows.
    pub findings: Vec<Finding>,
    /// What could not be decided.
    pub undecided: Vec<String>,
    /// What went wrong with the harness.
    pub harness_failures: Vec<String>,
    /// Planned faults that were not done.
    pub left_out: Vec<String>,
    /// How often each kind was done.
    pub done: BTreeMap<&'static str, u64>,
    /// When the first fault could begin.
    pub calm_until: u64,
    /// When the load had ended; final reads come after it.
    pub load_until: u64,
    /// How long healing took, for people.
    pub converged: String,
    /// Names of the members at the start.
    pub members: Vec<String>,
    /// What was tested.
    pub version: String,
}

/// Calm, faults under load, healing, final questions. Gives the cluster back.
pub fn play<V: Victim, A: Api>(
    setting: &Setting<'_>,
    runtime: &Handle,
    victim: V,
    api: A,
    asking: &A,
) -> Result<(V, Played)> {
    let (recorder, console) = (&setting.recorder, &setting.console);
    let mut played = Played {
        members: victim.names(),
        ..Played::default()
    };
    let plan = load::Plan {
        label: String::new(),
        seed: setting.seed,
        names: &victim.names(),
        endpoints: &victim.endpoints(),
        workloads: &setting.workloads,
        clients: setting.options.clients,
        rate: setting.options.rate,
        dialer: Dialer::default(),
    };
    let load = Load::start(runtime, &plan, recorder)?;
    let progress = console.progress(recorder.clone());
    let say = {
        let (recorder, console) = (recorder.clone(), console.clone());
        move |text: &str| console.say(&format!("{:7.2} s  {text}", recorder.now() as f64 / 1e9))
    };
    let mut nemesis = Executor::new(victim, api, recorder.clone(), setting.seed, say);
    std::thread::sleep(CALM);
    played.calm_until = recorder.now();
    let duration = Duration::from_secs(setting.options.seconds);
    nemesis.run(&setting.schedule, duration, &AtomicBool::new(false));
    console.say("healing");
    nemesis.heal();
    let converged = converge::wait(runtime, &mut nemesis, asking);
    let text = |time: Option<Duration>| {
        time.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    let (leader, serving) = (text(converged.leader), text(converged.serving));
    played.converged = format!("after healing: a leader in {leader}, every member serving in {serving}");
    console.say(&played.converged);
    if !converged.silent.is_empty() {
        let silent = converged.silent.join(", ");
        let text = format!(
            "{silent}: no linearizable read was answered within {BOUND:?} after everything was healed"
        );
        played.findings.push(finding("liveness", text));
    }
    std::thread::sleep(AFTERMATH);
    nemesis.watch();
    if let Err(error) = runtime.block_on(load.stop()) {
        played.harness_failures.push(format!("{error:#}"));
    }
    played.load_until = recorder.now();
    drop(progress);
    let names = nemesis.victim().names();
    let endpoints = nemesis.victim().endpoints();
    let members: Vec<(String, String)> = nemesis
        .members()
        .iter()
        .map(|member| (names[*member].clone(), endpoints[*member].clone()))
        .collect();
    if converged.silent.is_empty() {
        console.say("final reads");
        let unanswered = runtime.block_on(finals::read(
            recorder,
            &setting.workloads,
            &members,
            finals::Extent::Everything,
            &Dialer::default(),
        ))?;
        played
            .findings
            .extend(unanswered.into_iter().map(|text| finding("liveness", text)));
        match replicas::compare(runtime, &members)? {
            Replicas::Equal { keys } => console.say(&format!("all members hold the same {keys} keys")),
            Replicas::Different(text) => played.findings.push(finding("replicas", text)),
            Replicas::Undecided(text) => played.undecided.push(format!("replicas: {text}")),
        }
    }
    nemesis.watch();
    let (victim, told) = nemesis.finish();
    let exits = told.findings.into_iter().map(|text| finding("processes", text));
    played.findings.extend(exits);
    played.harness_failures.extend(told.harness_failures);
    played.left_out = told.left_out;
    played.done = told.done;
    Ok((victim, played))
}

fn finding(check: &str, text: String) -> Finding {
    Finding {
        check: check.to_owned(),
        text,
        operations: Vec::new(),
    }
}
