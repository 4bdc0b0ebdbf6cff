//! Goal: whatever a schedule does is taken back, whoever ended meanwhile, and ends of processes are judged rightly.
//! Method: a cluster that only remembers what was done to it; schedules of all kinds, twenty times as fast, from seeds.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::*;
use crate::workload::Recorder;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Schedules are that much faster than real ones.
const FASTER: u32 = 20;

/// What is wrong with a member or a link now; empty for a sound cluster.
type Wrongs = BTreeSet<String>;

#[derive(Default)]
struct Fake {
    members: Vec<bool>,
    running: BTreeSet<usize>,
    wrongs: Wrongs,
    ended: Vec<(usize, Exit)>,
}

impl Fake {
    fn of(count: usize) -> Fake {
        Fake {
            members: vec![true; count],
            running: (0..count).collect(),
            ..Fake::default()
        }
    }

    fn mark(&mut self, wrong: bool, what: String) -> Result<()> {
        match wrong {
            true => self.wrongs.insert(what),
            false => self.wrongs.remove(&what),
        };
        Ok(())
    }
}

impl Victim for Fake {
    fn names(&self) -> Vec<String> {
        (1..=self.members.len())
            .map(|number| format!("n{number}"))
            .collect()
    }
    fn endpoints(&self) -> Vec<String> {
        self.names()
    }
    fn is_running(&mut self, member: usize) -> bool {
        self.running.contains(&member)
    }
    fn exit(&mut self, member: usize) -> Result<Option<Exit>> {
        let found = self.ended.iter().position(|(ended, _)| *ended == member);
        Ok(found.map(|at| {
            self.running.remove(&member);
            // Whoever has ended is not paused.
            self.wrongs.remove(&format!("{member} paused"));
            self.ended.remove(at).1
        }))
    }
    fn start(&mut self, member: usize) -> Result<()> {
        assert!(self.members[member], "a removed member stays away");
        assert!(self.running.insert(member), "it runs already");
        Ok(())
    }
    fn kill(&mut self, member: usize) -> Result<()> {
        self.running.remove(&member);
        self.mark(false, format!("{member} paused"))
    }
    fn terminate(&mut self, member: usize) -> Result<Option<Exit>> {
        self.kill(member).map(|()| None)
    }
    fn pause(&mut self, member: usize) -> Result<()> {
        self.mark(true, format!("{member} paused"))
    }
    fn resume(&mut self, member: usize) -> Result<()> {
        self.mark(false, format!("{member} paused"))
    }
    fn start_to_die_at_install(&mut self, member: usize) -> Result<()> {
        self.start(member)
    }
    fn stall_disk(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
    fn stall_log(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
    fn power_cut(&mut self, members: &[usize]) -> Result<()> {
        members.iter().try_for_each(|member| self.kill(*member))
    }
    fn cut(&mut self, from: Side, to: Side, cut: bool) -> Result<()> {
        self.mark(cut, format!("{from:?} to {to:?} cut"))
    }
    fn loss(&mut self, from: Side, to: Side, percent: u8) -> Result<()> {
        self.mark(percent > 0, format!("{from:?} to {to:?} lossy"))
    }
    fn delay(&mut self, from: Side, to: Side, delay: Duration, _: Duration) -> Result<()> {
        self.mark(delay > Duration::ZERO, format!("{from:?} to {to:?} late"))
    }
    fn half_open(&mut self, from: Side, to: Side, stuck: bool) -> Result<()> {
        self.mark(stuck, format!("{from:?} to {to:?} half open"))
    }
    fn disk_full(&mut self, member: usize, full: bool) -> Result<()> {
        self.mark(full, format!("{member} full"))
    }
    fn disk_errors(&mut self, member: usize, failing: bool) -> Result<()> {
        if !failing {
            self.kill(member)?;
        }
        self.mark(failing, format!("{member} fails to sync"))
    }
    fn slow_disk(&mut self, member: usize, bytes_per_second: Option<u64>) -> Result<()> {
        self.mark(bytes_per_second.is_some(), format!("{member} slow"))
    }
    fn inject(&mut self, member: usize, injection: Option<&str>) -> Result<()> {
        self.mark(injection.is_some(), format!("{member} injected"))
    }
    fn rot(&mut self, member: usize, _: u64) -> Result<Option<String>> {
        Ok(Some(format!("a file of {member}")))
    }
    fn join(&mut self) -> Result<usize> {
        self.members.push(true);
        self.running.insert(self.members.len() - 1);
        Ok(self.members.len() - 1)
    }
    fn remove(&mut self, member: usize) -> Result<()> {
        self.members[member] = false;
        self.wrongs
            .retain(|wrong| !wrong.starts_with(&format!("{member} ")));
        self.kill(member)
    }
}

/// The first that is asked leads; everything is done.
struct Willing;

impl Api for Willing {
    fn leader(&self, endpoints: &[String]) -> Option<usize> {
        (!endpoints.is_empty()).then_some(0)
    }
    fn transfer(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn gc(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn purge(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// What an executor says, line by line.
type Said = Arc<Mutex<Vec<String>>>;

fn executor(fake: Fake) -> (Executor<Fake, Willing>, Arc<Recorder>, Said) {
    let (recorder, said) = (Arc::new(Recorder::default()), Said::default());
    let say = {
        let said = said.clone();
        move |text: &str| said.lock().unwrap().push(text.to_owned())
    };
    (
        Executor::new(fake, Willing, recorder.clone(), 1, say),
        recorder,
        said,
    )
}

fn faster(mut schedule: Schedule) -> Schedule {
    for fault in &mut schedule.faults {
        fault.at /= FASTER;
        fault.duration /= FASTER;
    }
    schedule
}

#[test]
fn everything_is_taken_back() {
    let kinds: Vec<Kind> = Kind::all().collect();
    // Long enough for a busy machine, which comes late to faults that begin by the clock.
    let simulated = Duration::from_secs(120);
    for _ in 0..4 {
        let seed: u64 = rand::random_range(0..1 << 32);
        let (mut nemesis, recorder, said) = executor(Fake::of(3));
        let schedule = faster(Schedule::draw(seed, &kinds, simulated));
        nemesis.run(&schedule, simulated / FASTER, &AtomicBool::new(false));
        // A process that dies in the middle of whatever is in force is no excuse.
        let death = Exit {
            code: Some(101),
            signal: None,
            log: "panicked".into(),
        };
        let running = nemesis.victim().running.first().copied();
        if let Some(member) = running {
            nemesis.victim().ended.push((member, death));
        }
        nemesis.heal();
        let members: BTreeSet<usize> = nemesis.members().iter().copied().collect();
        let (fake, told) = nemesis.finish();
        let said = said.lock().unwrap().join("\n");
        assert!(
            told.harness_failures.is_empty(),
            "seed {seed}: {:?}\n{said}",
            told.harness_failures
        );
        assert!(fake.wrongs.is_empty(), "seed {seed}: {:?}\n{said}", fake.wrongs);
        assert_eq!(members.len(), 3, "seed {seed}\n{said}");
        assert_eq!(
            fake.running, members,
            "seed {seed}: all members run, and nobody else\n{said}"
        );
        assert_eq!(
            told.findings.len(),
            usize::from(running.is_some()),
            "seed {seed}: the panic is told\n{said}"
        );
        let history = recorder.history();
        assert!(
            history.faults.len() > 2,
            "seed {seed}: {} faults",
            history.faults.len()
        );
        let open = history.faults.iter().find(|fault| fault.ended.is_none());
        assert_eq!(open, None, "seed {seed}: each fault has an end\n{said}");
    }
}

#[test]
fn an_end_that_a_fault_explains_is_no_finding_and_any_other_is() {
    let plan = |kind, parameters| Schedule {
        seed: 0,
        faults: vec![Planned {
            at: Duration::ZERO,
            kind,
            target: Target::Leader,
            duration: Duration::from_millis(300),
            parameters,
        }],
    };
    let call = Parameters::Call {
        calls: Calls::Sync,
        nth: 1,
    };
    for (code, findings) in [(11, 0), (12, 1), (101, 1)] {
        let end = Exit {
            code: Some(code),
            signal: None,
            log: String::new(),
        };
        let (mut nemesis, recorder, _) = executor(Fake::of(3));
        let schedule = plan(Kind::Eio, call);
        nemesis.run(&schedule, Duration::from_millis(100), &AtomicBool::new(false));
        nemesis.victim().ended.push((0, end));
        nemesis.heal();
        let (fake, told) = nemesis.finish();
        assert_eq!(
            told.findings.len(),
            findings,
            "exit code {code}: {:?}",
            told.findings
        );
        assert_eq!(fake.running.len(), 3, "whoever ended is started again");
        assert!(recorder.history().faults.iter().any(|fault| fault.kind == "exit"));
    }
}

/// Once, a member that a fault had killed was looked at only after a long change of members, and its end was a finding.
#[test]
fn an_end_counts_from_when_it_was_looked_for_last() {
    let minute = Duration::from_secs(60);
    for (watched_after, findings) in [(Duration::ZERO, 0), (minute, 1)] {
        let (mut nemesis, _, _) = executor(Fake::of(3));
        let over = Instant::now().checked_sub(2 * minute).unwrap();
        nemesis.past.insert(0, (Kind::KillAtInstall, over));
        nemesis.watched = over + watched_after;
        let end = Exit {
            code: None,
            signal: Some(9),
            log: String::new(),
        };
        nemesis.victim().ended.push((0, end));
        nemesis.watch();
        let (_, told) = nemesis.finish();
        assert_eq!(told.findings.len(), findings, "{:?}", told.findings);
    }
}
