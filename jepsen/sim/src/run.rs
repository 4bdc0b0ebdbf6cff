//! One run: the cluster forms, works under faults, heals, and is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nezha::index::ScanRange;
use nezha::store::HashOrder;
use nezha_jepsen::check::{self, Verdict};
use nezha_jepsen::history::History;

use nezha_jepsen::workload::{self, Recorder, Scan, Workload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::clients::{Clients, Signals};
use crate::host::{Host, Origin, client_addr};
use crate::invariants::{Invariants, Subject};
use crate::operator::{self, Desk};
use crate::plan;
use crate::runner::{Runner, note_panics};

const TICK: Duration = Duration::from_millis(1);
/// A new cluster serves within this time.
const FORM_PATIENCE: Duration = Duration::from_secs(20);
/// After everything was healed all members have the same within this time.
const CONVERGE_PATIENCE: Duration = Duration::from_secs(40);
/// The final questions are answered within this time.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// One run in so many has long values in scans, which cost as much time as all the rest.
const LONG_ONE_IN: u32 = 8;

/// What is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From which everything follows.
    pub seed: u64,
    /// Of load and faults, in simulated time.
    pub time: Duration,
    /// Numbers of planned faults that are left out.
    pub without: BTreeSet<usize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Ran {
    /// What must not be.
    pub violations: Vec<String>,
    /// What happened when.
    pub timeline: Vec<String>,
    /// Faults, and how often each happened.
    pub faults: BTreeMap<String, u64>,
    /// How many faults were planned.
    pub planned: usize,
    /// What clients did and were told.
    pub history: History,
    /// Operations with a good answer.
    pub ok: usize,
    /// Simulated time.
    pub simulated: Duration,
    /// Hash of everything that was observed: the same for the same seed.
    pub trace: String,
}

/// Runs it. Once per process: what is drawn in other places than the seed's depends on what was drawn before.
pub fn run(settings: &Settings) -> Ran {
    note_panics();
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let members = match rng.random_ratio(1, 5) {
        true => 5,
        false => 3,
    };
    let names: Vec<String> = (1..=members).map(|number| format!("n{number}")).collect();
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(rng.random())
        .tick_duration(TICK)
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(rng.random_range(1..20)))
        .simulation_duration(Duration::from_secs(100_000));
    let seeds: Vec<u64> = names.iter().map(|_| rng.random()).collect();
    let plan = plan::draw(rng.random(), members, settings.time);
    let recorder = Arc::new(Recorder::default());
    let signals = Arc::new(Signals::default());
    let unread = Arc::new(Mutex::new(Vec::new()));
    let clients = Clients {
        seed: rng.random(),
        members: names.clone(),
        workloads: workloads(rng.random_ratio(1, LONG_ONE_IN)),
        clients: 12,
        rate: 150,
        recorder: recorder.clone(),
        signals: signals.clone(),
    };
    let desk = Desk::default();
    let mut runner = Runner {
        sim: builder.build(),
        hosts: Vec::new(),
        alive: Vec::new(),
        excused: Vec::new(),
        rotten: Vec::new(),
        is_member: Vec::new(),
        lingers: Vec::new(),
        named: members,
        recorder: recorder.clone(),
        later: Vec::new(),
        cuts: BTreeMap::new(),
        clogs: BTreeMap::new(),
        desk: desk.clone(),
        is_healed: false,
        invariants: Invariants::new(StdRng::seed_from_u64(rng.random())),
        rng,
        steps: 0,
        trace: Sha256::new(),
        ran: Ran {
            planned: plan.len(),
            ..Ran::default()
        },
    };
    for (name, seed) in names.iter().zip(seeds) {
        runner.add(name, Origin::Founder(names.clone()), seed);
    }
    if runner.wait_for("the cluster forms", FORM_PATIENCE, Runner::is_serving) {
        let (into, done) = (unread.clone(), signals.clone());
        runner.sim.client("clients", async move {
            let result = clients.work().await;
            *into.lock().unwrap_or_else(PoisonError::into_inner) = match result {
                Ok(unread) => unread,
                Err(error) => vec![format!("{error:#}")],
            };
            done.done.store(true, Ordering::Relaxed);
            Ok(())
        });
        let endpoints = names.iter().map(|name| client_addr(name)).collect();
        runner.sim.client("operator", operator::work(desk, endpoints));
        runner.play(settings, &plan);
        runner.heal();
        signals.stop.store(true, Ordering::Relaxed);
        let stopped = |_: &Runner<'_>| signals.stopped.load(Ordering::Relaxed);
        if runner.wait_for("clients stop", CONVERGE_PATIENCE, stopped)
            && runner.wait_for("all members have the same", CONVERGE_PATIENCE, Runner::is_equal)
        {
            runner.read(&signals);
            let unread = unread.lock().unwrap_or_else(PoisonError::into_inner).clone();
            runner.ran.violations.extend(unread);
            runner.compare();
        }
    }
    runner.judge(recorder.history())
}

fn workloads(long: bool) -> Vec<Arc<dyn Workload>> {
    let mut chosen = workload::named("register,set,counter,churn").expect("these exist");
    chosen.push(match long {
        true => Arc::new(Scan::default()),
        false => Arc::new(Scan::light()),
    });
    chosen
}

impl Runner<'_> {
    fn read(&mut self, signals: &Signals) {
        let names = self.members().map(|host| host.name.clone()).collect();
        *signals.members.lock().unwrap_or_else(PoisonError::into_inner) = names;
        signals.read.store(true, Ordering::Relaxed);
        let done: &AtomicBool = &signals.done;
        self.wait_for("everything is read", READ_PATIENCE, |_| {
            done.load(Ordering::Relaxed)
        });
    }

    /// All members hold what the model has, and the same, byte for byte.
    fn compare(&mut self) {
        if !self.wait_for("all members have the same", CONVERGE_PATIENCE, Runner::is_equal) {
            return;
        }
        let Some(running) = self.running() else { return };
        let order = HashOrder {
            range: ScanRange {
                start: Bound::Unbounded,
                end: Bound::Unbounded,
                reverse: false,
            },
            applied_index: 0,
            wait_until: std::time::Instant::now(),
            keys_only: false,
            keys_max: 0,
        };
        let mut first: Option<[u8; 32]> = None;
        let members: Vec<Arc<Host>> = self.members().cloned().collect();
        for (host, one) in members.iter().zip(running) {
            let subject = Subject {
                name: &host.name,
                running: &one,
                disk: &host.disk(),
                rotten: false,
            };
            for text in self.invariants.compare(&subject) {
                self.violated(text);
            }
            match one.store.hash(&order, &mut || true) {
                Ok(hashed) => {
                    let same = *first.get_or_insert(hashed.digest) == hashed.digest;
                    self.trace.update(hashed.digest);
                    if !same {
                        self.violated(format!("R13: {} holds something else", host.name));
                    }
                }
                Err(error) => self.violated(format!("{} cannot be hashed: {error}", host.name)),
            }
        }
    }

    fn judge(mut self, history: History) -> Ran {
        let report = check::check(&history, &check::Options::default());
        if report.verdict() != Verdict::Linearizable {
            for finding in &report.findings {
                self.violated(format!("{}: {}", finding.check, finding.text));
            }
            for undecided in &report.undecided {
                self.violated(format!("undecided: {undecided}"));
            }
        }
        for operation in &history.operations {
            let text = serde_json::to_string(operation).expect("operations can be written");
            self.trace.update(text);
        }
        let trace = self.trace.clone().finalize();
        self.ran.trace = trace.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.ran.ok = history
            .operations
            .iter()
            .filter(|operation| matches!(operation.outcome, nezha_jepsen::history::Outcome::Ok { .. }))
            .count();
        self.ran.history = history;
        self.ran.simulated = self.sim.elapsed();
        self.ran
    }
}
