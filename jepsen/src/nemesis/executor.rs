use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::undo::{Active, Link, Undo};
use super::victim::{Api, Refused, Victim};
use super::{Force, Kind, Planned, Schedule};
use crate::history::Fault;
use crate::workload::Recorder;

/// Between two looks at clock and processes.
const TICK: Duration = Duration::from_millis(50);
/// How long a fault waits for a member that is free for it, or for a leader, before it is left out.
const POSTPONED_MAX: Duration = Duration::from_secs(12);
/// How long a member that was down may take until it installs a snapshot.
const INSTALL_PATIENCE: Duration = Duration::from_secs(12);
/// Pause before a change of members that the cluster did not do is asked for again.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// How long the members have to elect a leader before changes of members are taken back, and how long these may take.
const LEADER_PATIENCE: Duration = Duration::from_secs(30);
const CHANGES_PATIENCE: Duration = Duration::from_secs(90);

/// What a nemesis found out.
#[derive(Debug, Default)]
pub struct Told {
    /// Ends of processes that no fault explains.
    pub findings: Vec<String>,
    /// Mechanisms that failed.
    pub harness_failures: Vec<String>,
    /// Planned faults that could not begin, and why.
    pub left_out: Vec<String>,
    /// How often each kind was done.
    pub done: BTreeMap<&'static str, u64>,
}

/// Does what a schedule plans, and takes everything back.
pub struct Executor<V, A> {
    pub(super) victim: V,
    pub(super) api: A,
    pub(super) recorder: Arc<Recorder>,
    pub(super) members: Vec<usize>,
    pub(super) active: Vec<Active>,
    /// Links that are cut, and by how many faults.
    pub(super) cuts: BTreeMap<Link, u32>,
    pub(super) rng: StdRng,
    pub(super) told: Told,
    /// Of each member, the last fault on its process or disk that is over.
    pub(super) past: BTreeMap<usize, (Kind, Instant)>,
    /// When all processes were looked at last.
    pub(super) watched: Instant,
    /// How many processes ended because of each fault, by its number.
    pub(super) ends: BTreeMap<usize, usize>,
    /// How often each member has ended without a reason.
    pub(super) unexplained: BTreeMap<usize, u32>,
    say: Box<dyn Fn(&str) + Send>,
}

/// Why a fault does not begin.
pub(super) enum Hindrance {
    /// Not now, for this reason.
    Later(String),
    /// Not before everything that is in force has ended: what comes next waits too.
    Calm,
    /// The mechanism failed.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Hindrance {
    fn from(error: anyhow::Error) -> Hindrance {
        Hindrance::Failed(error)
    }
}

impl<V: Victim, A: Api> Executor<V, A> {
    /// For the members of `victim` that it has now. `say` gets a line for each fault.
    pub fn new(
        victim: V,
        api: A,
        recorder: Arc<Recorder>,
        seed: u64,
        say: impl Fn(&str) + Send + 'static,
    ) -> Self {
        let members = (0..victim.names().len()).collect();
        Executor {
            victim,
            api,
            recorder,
            members,
            active: Vec::new(),
            cuts: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed ^ 0x6465_6564),
            told: Told::default(),
            past: BTreeMap::new(),
            watched: Instant::now(),
            ends: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            say: Box::new(say),
        }
    }

    /// Does what is planned until everything is done, or `stop` is set. A mechanism that fails ends it.
    pub fn run(&mut self, schedule: &Schedule, duration: Duration, stop: &AtomicBool) {
        let started = Instant::now();
        // With the time from which on each has waited.
        let mut planned: Vec<(&Planned, Duration)> =
            schedule.faults.iter().map(|fault| (fault, fault.at)).collect();
        while !stop.load(Ordering::Relaxed) && self.told.harness_failures.is_empty() {
            let now = started.elapsed();
            if now >= duration {
                break;
            }
            self.watch();
            self.undo_due(now);
            let mut waiting = Vec::new();
            // Members are to change back: that needs calm too.
            let mut held = self
                .active
                .iter()
                .any(|fault| fault.undo.is_membership() && fault.until <= now);
            for (fault, since) in planned {
                let now = started.elapsed();
                if fault.at > now || !self.told.harness_failures.is_empty() {
                    waiting.push((fault, since));
                    continue;
                }
                if held {
                    waiting.push((fault, now));
                    continue;
                }
                match self.begin(fault, started) {
                    Ok(()) => {}
                    Err(Hindrance::Failed(error)) => self.failed(fault.kind.name(), &error),
                    Err(hindrance) if now < since + POSTPONED_MAX => {
                        held = matches!(hindrance, Hindrance::Calm);
                        waiting.push((fault, since));
                    }
                    Err(Hindrance::Calm) => {
                        let why = "something else was in force all the time";
                        self.told.left_out.push(format!("{}: {why}", fault.kind.name()))
                    }
                    Err(Hindrance::Later(why)) => {
                        self.told.left_out.push(format!("{}: {why}", fault.kind.name()))
                    }
                }
            }
            planned = waiting;
            std::thread::sleep(TICK);
        }
        for (fault, _) in planned {
            if fault.at < started.elapsed() {
                let why = "it could not begin before the end";
                self.told.left_out.push(format!("{}: {why}", fault.kind.name()));
            }
        }
    }

    /// Takes back everything that is in force, in an order that the seed draws, and starts whoever does not run.
    pub fn heal(&mut self) {
        self.watch();
        let mut active = std::mem::take(&mut self.active);
        active.shuffle(&mut self.rng);
        // Changes of members last: they need a majority.
        active.sort_by_key(|fault| fault.undo.is_membership());
        let (later, first): (Vec<_>, Vec<_>) =
            active.into_iter().partition(|fault| fault.undo.is_membership());
        for fault in first {
            self.undo(fault);
        }
        if let Err(error) = self.victim.heal_network() {
            self.failed("healing the network", &error);
        }
        self.start_all(&later);
        if !later.is_empty() {
            self.wait_for_leader();
        }
        self.active = later;
        let started = Instant::now();
        while !self.active.is_empty() && started.elapsed() < CHANGES_PATIENCE {
            for fault in std::mem::take(&mut self.active) {
                self.undo(fault);
            }
            self.watch();
        }
        for fault in std::mem::take(&mut self.active) {
            let what = fault.kind.name();
            let text = format!(
                "the cluster did not change its members back after {what} within {CHANGES_PATIENCE:?}"
            );
            self.told.findings.push(text);
        }
        if let Err(error) = self.victim.remove_strangers() {
            self.failed("removing members that were added late", &error);
        }
        self.start_all(&[]);
    }

    /// Starts members that ended, and tells of them; also for the time after [`Executor::heal`].
    pub fn watch(&mut self) {
        for member in self.members.clone() {
            match self.victim.exit(member) {
                Ok(None) => {}
                Ok(Some(exit)) => self.ended(member, &exit),
                Err(error) => self.failed("asking for the end of a process", &error),
            }
        }
        self.watched = Instant::now();
    }

    /// Positions of those who are members now.
    pub fn members(&self) -> &[usize] {
        &self.members
    }

    /// The cluster.
    pub fn victim(&mut self) -> &mut V {
        &mut self.victim
    }

    /// What was found out, and the cluster.
    pub fn finish(self) -> (V, Told) {
        (self.victim, self.told)
    }

    fn wait_for_leader(&mut self) {
        let started = Instant::now();
        while self.leader().is_none() && started.elapsed() < LEADER_PATIENCE {
            self.watch();
            std::thread::sleep(TICK);
        }
    }

    fn start_all(&mut self, except: &[Active]) {
        for member in self.members.clone() {
            if except.iter().any(|fault| fault.holds.contains(&member)) || self.victim.is_running(member) {
                continue;
            }
            if let Err(error) = self.victim.start(member) {
                self.failed("starting a member", &error);
            }
        }
    }

    pub(super) fn leader(&mut self) -> Option<usize> {
        let endpoints = self.victim.endpoints();
        let asked: Vec<String> = self.members.iter().map(|m| endpoints[*m].clone()).collect();
        let found = self.api.leader(&asked)?;
        self.members.get(found).copied()
    }

    pub(super) fn name(&self, member: usize) -> String {
        self.victim.names()[member].clone()
    }

    pub(super) fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let text = format!("{what}: {error:#}");
        (self.say)(&format!("harness failure: {text}"));
        self.told.harness_failures.push(text);
    }

    pub(super) fn say(&self, text: &str) {
        (self.say)(text);
    }

    /// Writes down a fault that is about to begin.
    pub(super) fn note(&mut self, kind: Kind, members: &[usize], detail: String) -> usize {
        let names: Vec<String> = members.iter().map(|member| self.name(*member)).collect();
        self.say(&format!("{} {} {detail}", kind.name(), names.join(",")));
        *self.told.done.entry(kind.name()).or_default() += 1;
        self.recorder.fault(Fault {
            kind: kind.name().to_owned(),
            members: names,
            detail,
            began: self.recorder.now(),
            ended: None,
        })
    }

    fn undo_due(&mut self, now: Duration) {
        let mut kept = Vec::new();
        let calm = self.active.iter().all(|fault| fault.undo.is_membership());
        for fault in std::mem::take(&mut self.active) {
            let due = fault.until <= now;
            // What needs a majority waits until nothing else is in force; at the latest until the end.
            if let (true, Undo::Install(member)) = (due, &fault.undo) {
                let member = *member;
                self.force_all(Force::Purge);
                if let Err(error) = self.victim.start_to_die_at_install(member) {
                    self.failed("starting a member that gets a snapshot", &error);
                }
                kept.push(Active {
                    undo: Undo::Inject(member),
                    until: now + INSTALL_PATIENCE,
                    ..fault
                });
            } else if due && (!fault.undo.is_membership() || calm && self.leader().is_some()) {
                self.undo(fault);
            } else {
                kept.push(fault);
            }
        }
        kept.append(&mut self.active);
        self.active = kept;
    }

    fn undo(&mut self, fault: Active) {
        // Whoever ended in the last moment ended under this fault.
        for member in &fault.holds {
            if let Ok(Some(exit)) = self.victim.exit(*member) {
                self.active.push(fault.clone());
                self.ended(*member, &exit);
                self.active.pop();
            }
        }
        let nothing = matches!(
            fault.kind,
            Kind::Eio | Kind::KillAtCall | Kind::KillAtInstall | Kind::FsyncErrors
        ) && self.ends_of(fault.number) == 0;
        match self.take_back(&fault) {
            Ok(()) => {}
            Err((rest, error)) if error.downcast_ref::<Refused>().is_some() => {
                self.say(&format!("{} is not taken back yet: {error:#}", fault.kind.name()));
                self.active.push(Active {
                    undo: rest,
                    until: fault.until + REFUSED_PAUSE,
                    ..fault
                });
                return;
            }
            Err((_, error)) => self.failed(&format!("taking back {}", fault.kind.name()), &error),
        }
        let ended = self.recorder.now();
        self.recorder.change_fault(fault.number, |written| {
            written.ended = Some(ended);
            if nothing {
                written.detail.push_str("; nothing came of it");
            }
        });
        if nothing && let Some(done) = self.told.done.get_mut(fault.kind.name()) {
            *done -= 1;
        }
        for member in fault.holds {
            self.past.insert(member, (fault.kind, Instant::now()));
        }
    }

    fn ends_of(&self, number: usize) -> usize {
        self.ends.get(&number).copied().unwrap_or(0)
    }

    /// Errors: what is still to be taken back, and why it was not.
    fn take_back(&mut self, fault: &Active) -> Result<(), (Undo, anyhow::Error)> {
        let rest = |error| (fault.undo.clone(), error);
        match &fault.undo {
            Undo::Replace(member) => {
                self.relieve(*member);
                self.remove(*member).map_err(rest)?;
                self.join().map_err(|error| (Undo::Join, error))?;
                Ok(())
            }
            Undo::Remove(member) => self.remove(*member).map_err(rest),
            Undo::Join => self.join().map(drop).map_err(rest),
            undo => self.take_back_alone(undo).map_err(rest),
        }
    }

    /// What no other member has a word in.
    fn take_back_alone(&mut self, undo: &Undo) -> Result<()> {
        match undo {
            Undo::Nothing => {}
            Undo::Start(members) => {
                for member in members {
                    self.start(*member)?;
                }
            }
            Undo::Resume(members) => {
                for member in members {
                    if self.victim.is_running(*member) {
                        self.victim.resume(*member)?;
                    }
                    self.start(*member)?;
                }
            }
            Undo::Cut(links) => {
                for link in links {
                    self.uncut(*link)?;
                }
            }
            Undo::Loss(links) => {
                for (from, to) in links {
                    self.victim.loss(*from, *to, 0)?;
                }
            }
            Undo::Delay(links) => {
                for (from, to) in links {
                    self.victim.delay(*from, *to, Duration::ZERO, Duration::ZERO)?;
                }
            }
            Undo::HalfOpen(links) => {
                for (from, to) in links {
                    self.victim.half_open(*from, *to, false)?;
                }
            }
            Undo::DiskFull(member) => {
                self.victim.disk_full(*member, false)?;
                self.start(*member)?;
            }
            Undo::DiskErrors(member) => {
                self.victim.disk_errors(*member, false)?;
                self.start(*member)?;
            }
            Undo::SlowDisk(member) => {
                self.victim.slow_disk(*member, None)?;
                self.start(*member)?;
            }
            // Before its other half.
            Undo::Install(member) => self.start(*member)?,
            Undo::Inject(member) => {
                self.victim.inject(*member, None)?;
                self.start(*member)?;
            }
            Undo::Replace(_) | Undo::Remove(_) | Undo::Join => {}
        }
        Ok(())
    }

    /// Has somebody else lead before a member goes, as an operator would: one whose data is damaged cannot bring up those who
    /// lag, and without them it cannot be removed.
    fn relieve(&mut self, member: usize) {
        if self.leader() != Some(member) {
            return;
        }
        for other in self.members.clone() {
            if other != member && self.api.transfer(&self.name(other)).is_ok() {
                return;
            }
        }
    }

    fn start(&mut self, member: usize) -> Result<()> {
        if self.members.contains(&member) && !self.victim.is_running(member) {
            self.victim.start(member)?;
        }
        Ok(())
    }

    fn uncut(&mut self, link: Link) -> Result<()> {
        let Some(count) = self.cuts.get_mut(&link) else {
            return Ok(());
        };
        *count -= 1;
        if *count == 0 {
            self.cuts.remove(&link);
            self.victim.cut(link.0, link.1, false)?;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, member: usize) -> Result<()> {
        let name = self.name(member);
        self.victim
            .remove(member)
            .with_context(|| format!("remove {name}"))?;
        self.members.retain(|kept| *kept != member);
        Ok(())
    }

    pub(super) fn join(&mut self) -> Result<usize> {
        let member = self.victim.join().context("add a member")?;
        self.members.push(member);
        Ok(member)
    }

    /// Draws a number, for choices that are made on the spot.
    pub(super) fn draw(&mut self) -> u64 {
        self.rng.random()
    }
}
