//! Liveness: once nothing is wrong any more, the cluster has to serve within a bound.

use std::time::{Duration, Instant};

use futures::future::join_all;
use nezha_api::client::Dialer;
use tokio::runtime::Handle;

use crate::nemesis::{Api, Executor, Victim};
use crate::workload::connection::Connection;

/// Whoever serves no sooner than this after everything was healed is a finding. What is aimed at is a leader in 5 s and
/// service in 10 s.
pub const BOUND: Duration = Duration::from_secs(60);
const ANSWER_PATIENCE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(100);

/// How long it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converged {
    /// Until a member said that it leads.
    pub leader: Option<Duration>,
    /// Until every member had answered a linearizable read.
    pub serving: Option<Duration>,
    /// Members that had not, by name.
    pub silent: Vec<String>,
}

/// Waits until every member serves.
pub fn wait<V: Victim, A: Api>(runtime: &Handle, nemesis: &mut Executor<V, A>, api: &impl Api) -> Converged {
    let started = Instant::now();
    let mut converged = Converged::default();
    let mut silent: Vec<usize> = nemesis.members().to_vec();
    while started.elapsed() < BOUND && !silent.is_empty() {
        nemesis.watch();
        let endpoints = nemesis.victim().endpoints();
        if converged.leader.is_none() && api.leader(&endpoints).is_some() {
            converged.leader = Some(started.elapsed());
        }
        let asked = silent.iter().map(|member| serves(&endpoints[*member]));
        let serving = runtime.block_on(join_all(asked));
        let mut serving = serving.into_iter();
        silent.retain(|_| !serving.next().unwrap_or(false));
        if !silent.is_empty() && silent.iter().all(|member| nemesis.has_given_up(*member)) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let names = nemesis.victim().names();
    match silent.is_empty() {
        true => converged.serving = Some(started.elapsed()),
        false => converged.silent = silent.iter().map(|member| names[*member].clone()).collect(),
    }
    // It served, so it led, be it between two questions.
    converged.leader = converged.leader.or(converged.serving);
    converged
}

async fn serves(endpoint: &str) -> bool {
    match Connection::pinned(endpoint, ANSWER_PATIENCE, &Dialer::default()) {
        Ok(connection) => connection.get("harness/serving").await.is_ok(),
        Err(_) => false,
    }
}
