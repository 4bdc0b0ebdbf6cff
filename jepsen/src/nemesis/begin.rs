//! How each kind of fault begins: whom it hits, what is done, and how it will be taken back.

use std::time::{Duration, Instant};

use super::executor::{Executor, Hindrance};
use super::links::{around, partition, rotate, to_clients};
use super::schedule::{Behind, Blow, Calls, Cut, Force, Parameters, Planned, Target};
use super::undo::{Active, Link, Undo};
use super::victim::{Api, Victim};
use super::{Kind, Shape};

/// How a fault says in its detail that it hits whoever leads.
pub const OF_THE_LEADER: &str = "of the leader";

/// How much later than the others the last one gets its power back: they have elected by then.
const LAST_LATER: Duration = Duration::from_millis(3000);

/// What a fault came to.
pub(super) struct Begun {
    pub(super) number: usize,
    pub(super) undo: Undo,
    pub(super) holds: Vec<usize>,
}

impl Begun {
    /// It is over already.
    pub(super) fn over(number: usize) -> Begun {
        Begun {
            number,
            undo: Undo::Nothing,
            holds: Vec::new(),
        }
    }
}

/// A disk is lost, or members change: never two of these at a time, so that what is lost is on a majority of the others
/// before the next disk goes.
fn is_exclusive(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::FsyncErrors | Kind::BitRot | Kind::Replace | Kind::Grow | Kind::Shrink
    )
}

/// What needs a cluster that is well to come about: it waits for the end of what is in force, and what is planned after it
/// waits for its begin. Afterwards it overlaps with everything.
fn wants_calm(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Grow | Kind::Shrink | Kind::Replace | Kind::FsyncErrors | Kind::KillAtInstall
    )
}

pub(super) fn later<T>(why: &str) -> Result<T, Hindrance> {
    Err(Hindrance::Later(why.to_owned()))
}

impl<V: Victim, A: Api> Executor<V, A> {
    /// Begins a planned fault.
    pub(super) fn begin(&mut self, planned: &Planned, started: Instant) -> Result<(), Hindrance> {
        let kind = planned.kind;
        if is_exclusive(kind)
            && (self.active.iter().any(|fault| is_exclusive(fault.kind))
                || self.is_aftermath_of(Kind::FsyncErrors))
        {
            return later("another member is being replaced or repaired");
        }
        if wants_calm(kind) && (!self.active.is_empty() || self.leader().is_none()) {
            return Err(Hindrance::Calm);
        }
        let begun = match kind {
            Kind::Kill | Kind::Pause | Kind::Restart | Kind::PowerCut => {
                self.hit_processes(planned, started)?
            }
            Kind::Partition | Kind::ClientCut => self.cut_links(planned)?,
            Kind::Loss | Kind::Delay | Kind::HalfOpen => self.spoil_links(planned)?,
            Kind::DiskFull | Kind::FsyncErrors | Kind::SlowDisk | Kind::Eio | Kind::KillAtCall => {
                self.hit_disk(planned)?
            }
            Kind::KillAtInstall => self.lag_behind(planned)?,
            Kind::BitRot => self.rot(planned)?,
            Kind::Grow | Kind::Shrink | Kind::Replace => self.change_members(planned)?,
            Kind::Transfer => {
                self.transfer()?;
                return Ok(());
            }
            Kind::Gc => return self.force(kind, Force::Gc),
            Kind::Purge => return self.force(kind, Force::Purge),
            Kind::Burst => self.burst(planned)?,
        };
        if begun.undo == Undo::Nothing {
            let now = self.recorder.now();
            self.recorder
                .change_fault(begun.number, |fault| fault.ended = Some(now));
            return Ok(());
        }
        self.active.push(Active {
            kind,
            number: begun.number,
            until: started.elapsed() + planned.duration,
            undo: begun.undo,
            holds: begun.holds,
        });
        Ok(())
    }

    /// Members whose processes run and are nobody else's.
    fn free(&mut self) -> Vec<usize> {
        let held: Vec<usize> = self.active.iter().flat_map(|fault| fault.holds.clone()).collect();
        let members = self.members.clone();
        members
            .into_iter()
            .filter(|member| !held.contains(member) && self.victim.is_running(*member))
            .collect()
    }

    /// Those of `among` that `target` means.
    fn resolve(&mut self, target: Target, mut among: Vec<usize>) -> Vec<usize> {
        let all = self.members.len();
        match target {
            Target::All => among,
            Target::Leader => match self.leader() {
                Some(leader) if among.contains(&leader) => vec![leader],
                // Nobody leads, or the leader is taken: whoever is there.
                _ => {
                    let pick = self.draw();
                    rotate(&mut among, pick);
                    among.truncate(1);
                    among
                }
            },
            Target::One { pick } => {
                rotate(&mut among, pick);
                among.truncate(1);
                among
            }
            Target::Minority { pick } => {
                rotate(&mut among, pick);
                among.truncate((all - 1) / 2);
                among
            }
            Target::Majority { pick } => {
                rotate(&mut among, pick);
                among.truncate(all / 2 + 1);
                among
            }
        }
    }

    pub(super) fn free_targets(&mut self, planned: &Planned) -> Result<Vec<usize>, Hindrance> {
        let free = self.free();
        let targets = self.resolve(planned.target, free);
        match targets.is_empty() {
            true => later("every member is under another fault"),
            false => Ok(targets),
        }
    }

    fn hit_processes(&mut self, planned: &Planned, started: Instant) -> Result<Begun, Hindrance> {
        let targets = self.free_targets(planned)?;
        let detail = match planned.kind {
            Kind::Kill => "SIGKILL",
            Kind::Pause => "SIGSTOP",
            Kind::Restart => "SIGTERM",
            _ => "power cut",
        };
        let detail = match planned.parameters {
            Parameters::None => detail.to_owned(),
            _ => format!("{detail} {}", planned.parameters),
        };
        let detail = self.mention_leader(detail, &targets);
        let number = self.note(planned.kind, &targets, detail);
        let mut undo = Undo::Start(targets.clone());
        let mut holds = targets.clone();
        match planned.kind {
            Kind::Kill => {
                for target in &targets {
                    self.victim.kill(*target)?;
                }
            }
            Kind::Pause => {
                for target in &targets {
                    self.victim.pause(*target)?;
                }
                undo = Undo::Resume(targets.clone());
            }
            Kind::Restart => {
                for target in &targets {
                    if let Some(exit) = self.victim.terminate(*target)? {
                        self.stopped_badly(*target, &exit);
                    }
                }
            }
            _ => {
                if let Parameters::Cut(cut) = planned.parameters
                    && let Some(last) = self.power_cut(cut, &targets)?
                {
                    holds.retain(|member| *member != last);
                    undo = Undo::Start(holds.clone());
                    self.active.push(Active {
                        kind: planned.kind,
                        number,
                        until: started.elapsed() + planned.duration + LAST_LATER,
                        undo: Undo::Start(vec![last]),
                        holds: vec![last],
                    });
                }
            }
        }
        Ok(Begun { number, undo, holds })
    }

    /// Cuts the power of `targets`, after some have fallen behind. Answers who is to get it back last, if anybody.
    fn power_cut(&mut self, cut: Cut, targets: &[usize]) -> Result<Option<usize>, Hindrance> {
        let leader = self.leader();
        let last = leader.filter(|leader| cut.leader_last && targets.len() > 1 && targets.contains(leader));
        let behind = targets.iter().copied().filter(|target| Some(*target) != last);
        for member in behind {
            match cut.behind {
                Behind::Nothing => {}
                Behind::Disks => self.victim.stall_disk(member)?,
                Behind::Logs => self.victim.stall_log(member)?,
            }
        }
        if cut.behind == Behind::Logs {
            self.force_all(Force::Purge);
        }
        std::thread::sleep(cut.stall);
        self.victim.power_cut(targets)?;
        Ok(last)
    }

    fn cut_links(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        let targets = self.resolve(planned.target, self.members.clone());
        let (links, detail) = match planned.parameters {
            Parameters::Partition(shape) => {
                let pick = self.draw();
                let links = partition(shape, &self.members, &targets, pick);
                let detail = match shape {
                    Shape::Halves => self.describe_halves(&links),
                    Shape::Isolated | Shape::Mute => self.mention_leader(shape.to_string(), &targets),
                    Shape::Bridge | Shape::Deaf => shape.to_string(),
                };
                (links, detail)
            }
            _ => (to_clients(&targets), "from clients".to_owned()),
        };
        if links.is_empty() {
            return later("there is nobody to cut off");
        }
        let number = self.note(planned.kind, &targets, detail);
        for link in &links {
            let count = self.cuts.entry(*link).or_default();
            *count += 1;
            if *count == 1 {
                self.victim.cut(link.0, link.1, true)?;
            }
        }
        Ok(Begun {
            number,
            undo: Undo::Cut(links),
            holds: Vec::new(),
        })
    }

    /// Adds to `detail` that whoever leads is hit.
    fn mention_leader(&mut self, detail: String, targets: &[usize]) -> String {
        match self.leader() {
            Some(leader) if targets.contains(&leader) => format!("{detail} {OF_THE_LEADER}"),
            _ => detail,
        }
    }

    fn describe_halves(&self, links: &[Link]) -> String {
        let Some((super::Side::Member(first), _)) = links.first() else {
            return "halves".to_owned();
        };
        let beyond = links.iter().filter_map(|(from, to)| match (from, to) {
            (super::Side::Member(from), super::Side::Member(to)) if from == first => Some(self.name(*to)),
            _ => None,
        });
        let beyond: Vec<String> = beyond.collect();
        format!(
            "halves: {} on the other side of {}",
            beyond.join(","),
            self.name(*first)
        )
    }

    fn spoil_links(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        if self.active.iter().any(|fault| fault.kind == planned.kind) {
            return later("the network is already spoilt so");
        }
        let targets = self.resolve(planned.target, self.members.clone());
        let links = around(&self.members, &targets);
        if links.is_empty() {
            return later("there is nobody to talk to");
        }
        let number = self.note(planned.kind, &targets, planned.parameters.to_string());
        let undo = match planned.parameters {
            Parameters::Loss { percent } => {
                for (from, to) in &links {
                    self.victim.loss(*from, *to, percent)?;
                }
                Undo::Loss(links)
            }
            Parameters::Delay { delay, jitter } => {
                for (from, to) in &links {
                    self.victim.delay(*from, *to, delay, jitter)?;
                }
                Undo::Delay(links)
            }
            _ => {
                for (from, to) in &links {
                    self.victim.half_open(*from, *to, true)?;
                }
                Undo::HalfOpen(links)
            }
        };
        Ok(Begun {
            number,
            undo,
            holds: Vec::new(),
        })
    }

    fn hit_disk(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        let target = self.free_targets(planned)?[0];
        let number = self.note(planned.kind, &[target], planned.parameters.to_string());
        let undo = match (planned.kind, planned.parameters) {
            (Kind::DiskFull, _) => {
                self.victim.disk_full(target, true)?;
                Undo::DiskFull(target)
            }
            (Kind::SlowDisk, Parameters::Throttle { bytes_per_second }) => {
                self.victim.slow_disk(target, Some(bytes_per_second))?;
                Undo::SlowDisk(target)
            }
            (kind, Parameters::Call { calls, nth }) => {
                self.victim.inject(target, Some(&injection(kind, calls, nth)))?;
                Undo::Inject(target)
            }
            _ => {
                self.victim.disk_errors(target, true)?;
                Undo::DiskErrors(target)
            }
        };
        Ok(Begun {
            number,
            undo,
            holds: vec![target],
        })
    }

    /// A follower is down until others have more than its log can get from them.
    fn lag_behind(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        let leader = self.leader();
        let free: Vec<usize> = self.free().into_iter().filter(|m| Some(*m) != leader).collect();
        let Some(member) = self.resolve(planned.target, free).first().copied() else {
            return later("there is no follower that is free");
        };
        let number = self.note(planned.kind, &[member], "SIGKILL".to_owned());
        self.victim.kill(member)?;
        Ok(Begun {
            number,
            undo: Undo::Install(member),
            holds: vec![member],
        })
    }

    fn rot(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        let target = self.free_targets(planned)?[0];
        let seed = self.draw();
        let Some(place) = self.victim.rot(target, seed)? else {
            return later("no file is cold yet");
        };
        let number = self.note(planned.kind, &[target], place);
        Ok(Begun {
            number,
            undo: Undo::Replace(target),
            holds: vec![target],
        })
    }

    fn transfer(&mut self) -> Result<(), Hindrance> {
        let Some(leader) = self.leader() else {
            return later("nobody leads");
        };
        let others: Vec<usize> = self.members.iter().copied().filter(|m| *m != leader).collect();
        if others.is_empty() {
            return later("there is nobody to lead");
        }
        let to = others[(self.draw() % others.len() as u64) as usize];
        let name = self.name(to);
        let began = self.recorder.now();
        if let Err(error) = self.api.transfer(&name) {
            return later(&format!("leadership is not handed on: {error:#}"));
        }
        let now = self.recorder.now();
        let number = self.note(Kind::Transfer, &[leader], format!("to {name}"));
        self.recorder.change_fault(number, |fault| {
            fault.began = began;
            fault.ended = Some(now);
        });
        Ok(())
    }

    fn force(&mut self, kind: Kind, what: Force) -> Result<(), Hindrance> {
        let members = self.members.clone();
        let number = self.note(kind, &members, "ordered".to_owned());
        let done = self.force_all(what);
        let now = self.recorder.now();
        self.recorder.change_fault(number, |fault| {
            fault.ended = Some(now);
            fault.detail = format!("ordered, taken by {done} of {}", members.len());
        });
        if done == 0 {
            self.not_done(kind);
        }
        Ok(())
    }

    /// Orders it from every member; how many took the order.
    pub(super) fn force_all(&mut self, what: Force) -> usize {
        let endpoints = self.victim.endpoints();
        let ordered = self.members.iter().map(|member| match what {
            Force::Gc => self.api.gc(&endpoints[*member]),
            Force::Purge => self.api.purge(&endpoints[*member]),
        });
        ordered.filter(Result::is_ok).count()
    }

    fn not_done(&mut self, kind: Kind) {
        if let Some(done) = self.told.done.get_mut(kind.name()) {
            *done -= 1;
        }
    }

    fn burst(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        let Parameters::Burst { first, blow, pause } = planned.parameters else {
            return later("it has no parts");
        };
        let targets = self.free_targets(planned)?;
        let number = self.note(planned.kind, &targets, planned.parameters.to_string());
        self.force_all(first);
        std::thread::sleep(pause);
        match blow {
            Blow::Kill => {
                for target in &targets {
                    self.victim.kill(*target)?;
                }
            }
            Blow::PowerCut(cut) => drop(self.power_cut(cut, &targets)?),
            Blow::Transfer => {
                let name = self.name(targets[0]);
                // One that leads already, or nobody who could hand it on: the collection alone is the fault then.
                let _ = self.api.transfer(&name);
                return Ok(Begun::over(number));
            }
        }
        Ok(Begun {
            number,
            undo: Undo::Start(targets.clone()),
            holds: targets,
        })
    }
}

/// What strace's `inject` is told.
fn injection(kind: Kind, calls: Calls, nth: u32) -> String {
    let calls = match calls {
        // Without `write`: events and sockets are written to by that, and no disk fails there.
        Calls::Write if kind == Kind::Eio => "pwrite64,pwritev,pwritev2",
        Calls::Write => "write,writev,pwrite64,pwritev",
        Calls::Sync => "fsync,fdatasync",
        Calls::Name => "rename,renameat,renameat2,unlink,unlinkat",
    };
    match kind {
        Kind::KillAtCall => format!("{calls}:signal=KILL:when={nth}"),
        _ => format!("{calls}:error=EIO:when={nth}"),
    }
}
