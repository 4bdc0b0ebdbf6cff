//! The cluster while it runs: steps, looks, deaths and starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nezha_jepsen::workload::Recorder;
use nezha_vlog::fs::FailKind;
use rand::RngExt;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};
use turmoil::Sim;

use crate::host::{Death, Ended, Host, Origin, Running};
use crate::invariants::{Invariants, Subject};
use crate::operator::Desk;
use crate::plan::{self, Moment, Planned};
use crate::run::{Ran, Settings};

/// Steps between two looks at the invariants.
const LOOK_STEPS: u64 = 10;
/// A process that has ended by itself is started again so much later.
const RESTART_MILLIS: std::ops::Range<u64> = 100..2_000;

/// One start in so many loses power again after a few operations of its disk; two more wait for something rare.
const AGAIN_ONE_IN: u32 = 6;
const AGAIN_OPERATIONS: std::ops::Range<u64> = 0..80;

/// What panicked, in any thread.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has panics written down, wherever they happen: the runtime would keep those of tasks for itself.
pub(crate) fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = format!("a panic: {info}");
        eprintln!("{text}");
        PANICS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.replace('\n', " "));
    }));
}

fn take_panics() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Something to do later.
pub(crate) enum Later {
    Start(usize),
    Uncut(Vec<(usize, usize)>),
    Unclog((usize, usize)),
    Unlose(Vec<(usize, usize)>),
    Unfill(usize),
    Unstall(usize),
    Retire(usize),
    Replace(usize),
}

pub(crate) struct Runner<'a> {
    pub(crate) sim: Sim<'a>,
    pub(crate) hosts: Vec<Arc<Host>>,
    /// Hosts whose software runs, or has ended by itself and was not buried.
    pub(crate) alive: Vec<bool>,
    /// Whether a life may end by itself.
    pub(crate) excused: Vec<bool>,
    /// Whether a file is damaged: it may end at any time.
    pub(crate) rotten: Vec<bool>,
    /// False once an operator has removed it.
    pub(crate) is_member: Vec<bool>,
    /// How long it runs on after that.
    pub(crate) lingers: Vec<Duration>,
    /// Members that were named so far.
    pub(crate) named: usize,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) later: Vec<(Duration, Later)>,
    pub(crate) cuts: BTreeMap<(usize, usize), u32>,
    pub(crate) clogs: BTreeMap<(usize, usize), u32>,
    pub(crate) desk: Desk,
    /// Whether nothing is done to it any more.
    pub(crate) is_healed: bool,
    pub(crate) invariants: Invariants,
    pub(crate) rng: StdRng,
    pub(crate) steps: u64,
    pub(crate) trace: Sha256,
    pub(crate) ran: Ran,
}

impl<'a> Runner<'a> {
    /// A machine with an empty disk, and the node on it.
    pub(crate) fn add(&mut self, name: &str, origin: Origin, seed: u64) {
        let host = Host::new(name, origin, seed);
        self.hosts.push(host.clone());
        self.alive.push(true);
        self.excused.push(false);
        self.rotten.push(false);
        self.is_member.push(true);
        self.lingers.push(Duration::ZERO);
        self.sim.host(name, move || {
            let host = host.clone();
            async move {
                host.live().await;
                Ok(())
            }
        });
    }

    pub(crate) fn say(&mut self, text: String) {
        self.ran
            .timeline
            .push(format!("{:8.3} s  {text}", self.sim.elapsed().as_secs_f64()));
    }

    pub(crate) fn violated(&mut self, text: String) {
        self.say(format!("VIOLATION {text}"));
        if self.ran.violations.len() < 20 {
            self.ran.violations.push(text);
        }
    }

    /// One step of everything, and a look at what came of it. False once something is wrong.
    pub(crate) fn step(&mut self) -> bool {
        if let Err(error) = self.sim.step() {
            self.violated(format!("the simulation failed: {error}"));
        }
        self.steps += 1;
        let now = self.sim.elapsed();
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Duration, Later)> = due;
        for (_, what) in due {
            self.now(what);
        }
        for position in 0..self.hosts.len() {
            self.look_after(position);
        }
        if self.steps.is_multiple_of(LOOK_STEPS) {
            self.follow_operator();
            self.look();
        }
        for panic in take_panics() {
            self.violated(panic);
        }
        self.ran.violations.is_empty()
    }

    pub(crate) fn look(&mut self) {
        for (position, host) in self.hosts.clone().iter().enumerate() {
            let Some(running) = host.running().filter(|_| self.alive[position]) else {
                continue;
            };
            let subject = Subject {
                name: &host.name,
                running: &running,
                disk: &host.disk(),
                rotten: self.rotten[position],
            };
            let (at, wrong) = self.invariants.look(&subject);
            self.trace.update([position as u8]);
            for number in at {
                self.trace.update(number.to_le_bytes());
            }
            for text in wrong {
                self.violated(text);
            }
        }
    }

    /// Buries whoever has ended by itself, or whose disk is gone, and has it start again.
    pub(crate) fn look_after(&mut self, position: usize) {
        if !self.alive[position] {
            return;
        }
        let host = self.hosts[position].clone();
        if host.disk().is_halted() {
            self.say(format!("{} loses power in the midst of it", host.name));
            self.die(position, Death::PowerCut);
            self.start_soon(position);
            return;
        }
        let Some(Ended { code, why }) = host.ended() else {
            return;
        };
        self.say(format!("{} ended with exit code {code}: {why}", host.name));
        if code != 0 && !self.excused[position] && !self.rotten[position] {
            self.violated(format!("{} ended with exit code {code}: {why}", host.name));
        }
        // After a failed sync nobody knows what the disk has; only a restart of the machine tells.
        self.die(
            position,
            match code {
                0 => Death::Kill,
                _ => Death::PowerCut,
            },
        );
        self.start_soon(position);
    }

    pub(crate) fn die(&mut self, position: usize, death: Death) {
        self.alive[position] = false;
        let host = &self.hosts[position];
        self.invariants.forget(&host.name);
        self.sim.crash(host.name.as_str());
        host.bury(death);
    }

    pub(crate) fn start_soon(&mut self, position: usize) {
        let after = Duration::from_millis(self.rng.random_range(RESTART_MILLIS));
        self.after(after, Later::Start(position));
    }

    pub(crate) fn start(&mut self, position: usize) {
        if self.alive[position] || !self.is_member[position] {
            return;
        }
        self.alive[position] = true;
        // A disk that is full stays so; an operation that was to fail is forgotten.
        self.excused[position] = self.hosts[position].disk().space_is_limited();
        let name = self.hosts[position].name.clone();
        self.say(format!("{name} starts"));
        if !self.is_healed {
            self.trap(position);
        }
        self.sim.bounce(name.as_str());
    }

    /// Some lives end in the midst of what they do about the end of the last one, others when they touch what is rarely
    /// touched; most of these never do.
    fn trap(&mut self, position: usize) {
        let moment = match self.rng.random_range(0..AGAIN_ONE_IN) {
            0 => {
                self.note("PowerCutAgain");
                Moment::Operation(FailKind::Any, self.rng.random_range(AGAIN_OPERATIONS))
            }
            1 | 2 => plan::rare_moment(&mut self.rng),
            _ => return,
        };
        self.hosts[position].halt_at(moment);
    }

    pub(crate) fn after(&mut self, time: Duration, what: Later) {
        self.later.push((self.sim.elapsed() + time, what));
    }

    pub(crate) fn now(&mut self, what: Later) {
        match what {
            Later::Start(position) => self.start(position),
            Later::Uncut(links) => {
                for link in links {
                    Self::count(&mut self.cuts, link, false);
                    self.set_link(link);
                }
            }
            Later::Unclog(link) => {
                Self::count(&mut self.clogs, link, false);
                self.set_link(link);
                self.set_link((link.1, link.0));
            }
            Later::Unlose(links) => {
                for link in links {
                    self.lose(link, 0);
                    // One that was just lost is repaired with the next message only.
                    self.set_link(link);
                    self.set_link((link.1, link.0));
                }
            }
            Later::Unfill(position) => self.hosts[position].disk().set_capacity(None),
            Later::Unstall(position) => self.hosts[position].stall(false),
            Later::Retire(position) => {
                if self.alive[position] {
                    self.die(position, Death::Kill);
                }
            }
            Later::Replace(position) => self.replace(position),
        }
    }

    /// Whoever leads the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |(position, host): (usize, &Arc<Host>)| {
            let metrics = host.running()?.consensus.metrics();
            let (id, _) = metrics.leader?;
            let me = metrics
                .members
                .iter()
                .find(|member| member.node.name == host.name)?;
            (me.id == id && self.alive[position]).then_some((metrics.term, position))
        };
        let found = self.hosts.iter().enumerate().filter_map(leads).max();
        found.map(|(_, position)| position)
    }

    pub(crate) fn play(&mut self, settings: &Settings, plan: &[Planned]) {
        let begun = self.sim.elapsed();
        let mut next = plan.iter().enumerate().peekable();
        while self.sim.elapsed() < begun + settings.time {
            while let Some((number, planned)) =
                next.next_if(|(_, planned)| begun + planned.at <= self.sim.elapsed())
            {
                if !settings.without.contains(&number) {
                    self.say(format!("[{number}] {:?}", planned.fault));
                    self.hurt(&planned.fault);
                }
            }
            if !self.step() {
                return;
            }
        }
    }

    /// Steps until `holds`; that it does not within `patience` is a violation. Answers whether all is well.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Runner<'a>) -> bool,
    ) -> bool {
        if !self.ran.violations.is_empty() {
            return false;
        }
        let begun = self.sim.elapsed();
        while !holds(self) {
            if self.sim.elapsed() > begun + patience {
                self.violated(format!(
                    "R20: {what}: not within {patience:?} after everything was healed"
                ));
            }
            if !self.step() {
                return false;
            }
        }
        self.say(what.to_owned());
        true
    }

    /// Whoever was not removed.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Host>> {
        let hosts = self.hosts.iter().zip(&self.is_member);
        hosts.filter_map(|(host, is_member)| is_member.then_some(host))
    }

    /// All members, if all of them run.
    pub(crate) fn running(&self) -> Option<Vec<Running>> {
        self.members().map(|host| host.running()).collect()
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.leader().is_some() && self.running().is_some()
    }

    /// Whether whatever an operator was asked for is done, everybody has applied the same, and that is all there is.
    pub(crate) fn is_equal(&self) -> bool {
        if self.desk.is_busy() {
            return false;
        }
        let Some(running) = self.running().filter(|_| self.leader().is_some()) else {
            return false;
        };
        let last = running
            .iter()
            .map(|one| one.store.log().last_log_id())
            .max()
            .flatten();
        running
            .iter()
            .all(|one| one.store.index().state().applied == last)
    }
}
