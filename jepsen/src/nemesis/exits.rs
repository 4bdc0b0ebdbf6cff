//! Ends of processes that nobody here ended: which fault explains each, and what follows.

use std::time::Duration;

use super::Kind;
use super::executor::Executor;
use super::undo::{Active, DAMAGED, Undo, may_end};
use super::victim::{Api, Exit, Victim};
use crate::history::Fault;

/// How long after a fault a process may still end because of it: it reads its log again when it starts.
const AFTERMATH: Duration = Duration::from_secs(8);
/// A member that has ended so often, and no fault explains it, is left alone.
const UNEXPLAINED_MAX: u32 = 3;

impl<V: Victim, A: Api> Executor<V, A> {
    /// A process has ended, and nobody here ended it.
    pub(super) fn ended(&mut self, member: usize, exit: &Exit) {
        let name = self.name(member);
        let how = match (exit.code, exit.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        let cause = self
            .active
            .iter()
            .find(|fault| fault.holds.contains(&member) && may_end(fault.kind, exit.code, exit.signal))
            .map(|fault| (fault.kind, Some(fault.number)));
        let past = || {
            let (kind, at) = self.past.get(&member)?;
            let lost = *kind == Kind::FsyncErrors && exit.code == Some(DAMAGED);
            let may = lost || may_end(*kind, exit.code, exit.signal);
            // It may have ended just after it was looked at last: a change of members takes many seconds.
            let soon = self.watched.saturating_duration_since(*at) < AFTERMATH;
            (soon && may).then_some((*kind, None))
        };
        let cause = cause.or_else(past);
        let detail = match cause {
            Some((kind, number)) => {
                if let Some(number) = number {
                    *self.ends.entry(number).or_default() += 1;
                }
                format!("{how}, as {} explains", kind.name())
            }
            None => {
                *self.unexplained.entry(member).or_default() += 1;
                let finding = format!(
                    "{name} ended by itself with {how}; its last words:\n{}",
                    exit.log.trim_end()
                );
                self.told.findings.push(finding);
                format!("{how}, which nothing explains")
            }
        };
        self.say(&format!("{name} ended: {detail}"));
        let now = self.recorder.now();
        let number = self.recorder.fault(Fault {
            kind: "exit".to_owned(),
            members: vec![name],
            detail,
            began: now,
            ended: Some(now),
        });
        // Whoever is held by a fault is started when that is taken back.
        for fault in &mut self.active {
            // Others wait for it to be over.
            if fault.kind == Kind::KillAtInstall && Some((fault.kind, Some(fault.number))) == cause {
                fault.until = Duration::ZERO;
            }
        }
        if self.active.iter().any(|fault| fault.holds.contains(&member)) {
            return;
        }
        // A disk that failed may have lost more than a log may lose; then the data comes from the others.
        if let Some((Kind::FsyncErrors, None)) = cause
            && exit.code == Some(DAMAGED)
        {
            self.active.push(Active {
                kind: Kind::FsyncErrors,
                number,
                until: Duration::ZERO,
                undo: Undo::Replace(member),
                holds: vec![member],
            });
            return;
        }
        if self.has_given_up(member) {
            self.say(&format!(
                "{} ends again and again, and stays down",
                self.name(member)
            ));
            return;
        }
        if let Err(error) = self.victim.start(member) {
            self.failed("starting a member that had ended", &error);
        }
    }

    /// Whether a member has ended so often without a reason that it is not started any more.
    pub fn has_given_up(&self, member: usize) -> bool {
        self.unexplained.get(&member).copied().unwrap_or(0) >= UNEXPLAINED_MAX
    }

    /// A process that was told to stop ended otherwise than it should.
    pub(super) fn stopped_badly(&mut self, member: usize, exit: &Exit) {
        let name = self.name(member);
        let how = format!("exit code {:?}, signal {:?}", exit.code, exit.signal);
        let log = exit.log.trim_end();
        self.told.findings.push(format!(
            "{name} was told to stop and ended with {how}; its last words:\n{log}"
        ));
    }

    /// Whether such a fault is over and may still show.
    pub(super) fn is_aftermath_of(&self, kind: Kind) -> bool {
        let mut past = self.past.values();
        past.any(|(past, at)| *past == kind && at.elapsed() < AFTERMATH)
    }
}
