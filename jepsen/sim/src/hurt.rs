//! What is done to the cluster, and its undoing.

use std::collections::BTreeMap;
use std::time::Duration;

use nezha_vlog::fs::FailWith;
use rand::RngExt;

use crate::host::{Death, Origin, client_addr};
use crate::operator::Wish;
use crate::plan::{self, Fault, Target};
use crate::runner::{Later, Runner};

/// Room that a disk has which is nearly full.
const FULL_LEAVES_BYTES: u64 = 64 << 10;

impl Runner<'_> {
    pub(crate) fn count(counts: &mut BTreeMap<(usize, usize), u32>, link: (usize, usize), more: bool) {
        let count = counts.entry(link).or_default();
        *count = match more {
            true => *count + 1,
            false => count.saturating_sub(1),
        };
    }

    /// Makes a directed link what the faults in force say.
    pub(crate) fn set_link(&mut self, link: (usize, usize)) {
        let (from, to) = (self.hosts[link.0].name.as_str(), self.hosts[link.1].name.as_str());
        let count = |counts: &BTreeMap<(usize, usize), u32>, link| counts.get(&link).copied().unwrap_or(0);
        let clogged = count(&self.clogs, link) + count(&self.clogs, (link.1, link.0)) > 0;
        if count(&self.cuts, link) > 0 {
            self.sim.partition_oneway(from, to);
        } else if clogged {
            self.sim.hold(from, to);
        } else {
            self.sim.release(from, to);
            self.sim.repair_oneway(from, to);
        }
    }

    /// Has a link, in both directions, lose so many of a thousand messages.
    pub(crate) fn lose(&mut self, link: (usize, usize), per_mille: u32) {
        let (from, to) = (self.hosts[link.0].name.as_str(), self.hosts[link.1].name.as_str());
        self.sim
            .set_link_fail_rate(from, to, f64::from(per_mille) / 1_000.0);
    }

    pub(crate) fn resolve(&self, target: Target) -> usize {
        match target {
            Target::Member(position) => position,
            Target::Leader => self.leader().unwrap_or(0),
        }
    }

    pub(crate) fn note(&mut self, kind: &str) {
        *self.ran.faults.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn hurt(&mut self, fault: &Fault) {
        match fault {
            Fault::Die { target, death, down } => {
                let position = self.resolve(*target);
                if self.alive[position] {
                    self.note(&format!("{death:?}"));
                    self.die(position, *death);
                    self.after(*down, Later::Start(position));
                }
            }
            Fault::DieAt { target, moment, .. } => {
                let position = self.resolve(*target);
                if self.alive[position] {
                    self.note("PowerCutAtOperation");
                    self.hosts[position].halt_at(*moment);
                }
            }
            Fault::Blackout { down } => {
                self.note("Blackout");
                for position in 0..self.hosts.len() {
                    if self.alive[position] {
                        self.die(position, Death::PowerCut);
                        let more = Duration::from_millis(self.rng.random_range(0..500));
                        self.after(*down + more, Later::Start(position));
                    }
                }
            }
            Fault::Restart { target } => {
                self.note("Restart");
                let position = self.resolve(*target);
                self.hosts[position].stop();
            }
            Fault::Cut {
                targets,
                one_way,
                time,
            } => {
                self.note("Cut");
                let outside = (0..self.hosts.len()).filter(|position| !targets.contains(position));
                let mut links = Vec::new();
                for other in outside {
                    for target in targets {
                        links.push((*target, other));
                        if !one_way {
                            links.push((other, *target));
                        }
                    }
                }
                for link in &links {
                    Self::count(&mut self.cuts, *link, true);
                    self.set_link(*link);
                }
                self.after(*time, Later::Uncut(links));
            }
            Fault::Clog { links, time } => {
                self.note("Clog");
                for link in links {
                    Self::count(&mut self.clogs, *link, true);
                    self.set_link(*link);
                    self.set_link((link.1, link.0));
                    let more = Duration::from_millis(self.rng.random_range(0..1_000));
                    self.after(*time + more, Later::Unclog(*link));
                }
            }
            Fault::Loss {
                links,
                per_mille,
                time,
            } => {
                self.note("Loss");
                for link in links {
                    self.lose(*link, *per_mille);
                }
                self.after(*time, Later::Unlose(links.clone()));
            }
            Fault::DiskError { target, kind, skip } => {
                let position = self.resolve(*target);
                if self.alive[position] {
                    self.note("DiskError");
                    self.excused[position] = true;
                    self.hosts[position].disk().fail(*kind, *skip, FailWith::Eio);
                }
            }
            Fault::DiskFull { target, time } => {
                self.note("DiskFull");
                let position = self.resolve(*target);
                self.excused[position] = true;
                self.hosts[position].disk().fill(FULL_LEAVES_BYTES);
                self.after(*time, Later::Unfill(position));
            }
            Fault::Stall { target, time } => {
                self.note("Stall");
                let position = self.resolve(*target);
                self.hosts[position].stall(true);
                self.after(*time, Later::Unstall(position));
            }
            Fault::Jump { target, by } => {
                self.note("Jump");
                let position = self.resolve(*target);
                self.hosts[position].jump(*by);
            }
            Fault::Join => {
                self.note("Join");
                self.join();
            }
            Fault::Leave { target, lingers } => {
                self.note("Leave");
                let position = self.resolve(*target);
                self.lingers[position] = *lingers;
                self.leave(position);
            }
            Fault::Rot { target, time } => {
                let position = self.resolve(*target);
                if let Some(what) = self.hosts[position].rot() {
                    self.note("Rot");
                    self.say(what.clone());
                    self.rotten[position] = true;
                    self.recorder.fault(nezha_jepsen::history::Fault {
                        kind: "bit-rot".to_owned(),
                        members: vec![self.hosts[position].name.clone()],
                        detail: what,
                        began: 0,
                        ended: None,
                    });
                    self.after(*time, Later::Replace(position));
                }
            }
            Fault::Order { target, order } => {
                self.note(&format!("{order:?}"));
                let position = self.resolve(*target);
                let endpoint = client_addr(&self.hosts[position].name);
                self.desk.push(Wish::Order(*order, endpoint));
            }
        }
    }

    /// Has a further member added.
    fn join(&mut self) {
        self.named += 1;
        self.desk.push(Wish::Join(format!("n{}", self.named)));
    }

    /// Has a member removed.
    fn leave(&mut self, position: usize) {
        self.desk.push(Wish::Leave(self.hosts[position].name.clone()));
    }

    /// Has a member removed, and another one added in its place.
    pub(crate) fn replace(&mut self, position: usize) {
        self.leave(position);
        self.join();
    }

    /// Sees to those that an operator has added or removed.
    pub(crate) fn follow_operator(&mut self) {
        for name in self.desk.take_removed() {
            self.say(format!("{name} was removed"));
            if let Some(position) = self.hosts.iter().position(|host| host.name == name) {
                self.is_member[position] = false;
                self.after(self.lingers[position], Later::Retire(position));
            }
        }
        for name in self.desk.take_added() {
            self.say(format!("{name} was added, and starts"));
            let members = self.members().map(|host| host.name.clone()).collect();
            let seed = self.rng.random();
            self.add(&name, Origin::Joiner(members), seed);
            // Most of what it does first is to receive and to install a snapshot.
            if !self.is_healed && self.rng.random_ratio(1, 2) {
                let position = self.hosts.len() - 1;
                let moment = plan::moment(&mut self.rng);
                self.hosts[position].halt_at(moment);
            }
        }
    }

    /// Takes everything back and starts whoever does not run.
    pub(crate) fn heal(&mut self) {
        self.say("healing".to_owned());
        self.is_healed = true;
        for (_, what) in std::mem::take(&mut self.later) {
            self.now(what);
        }
        for position in 0..self.hosts.len() {
            self.hosts[position].disk().disarm();
            self.start(position);
        }
    }
}
