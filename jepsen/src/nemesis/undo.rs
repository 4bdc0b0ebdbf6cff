use std::time::Duration;

use super::Kind;
use super::victim::Side;

/// A directed link.
pub type Link = (Side, Side);

/// How a fault is taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum Undo {
    /// Nothing to take back.
    Nothing,
    /// Members are started if they do not run.
    Start(Vec<usize>),
    /// Members go on.
    Resume(Vec<usize>),
    /// Links carry everything again.
    Cut(Vec<Link>),
    /// Links lose nothing any more.
    Loss(Vec<Link>),
    /// Links delay nothing any more.
    Delay(Vec<Link>),
    /// Connections carry everything again.
    HalfOpen(Vec<Link>),
    /// The disk has space.
    DiskFull(usize),
    /// The disk is sound.
    DiskErrors(usize),
    /// The disk is as fast as it is.
    SlowDisk(usize),
    /// System calls do what they do.
    Inject(usize),
    /// The member is started, to be killed in the midst of the installation of a snapshot: the other half of the fault.
    Install(usize),
    /// The member is removed, and another one joins.
    Replace(usize),
    /// The member is removed.
    Remove(usize),
    /// A member joins.
    Join,
}

impl Undo {
    /// Whether it needs a majority.
    pub fn is_membership(&self) -> bool {
        matches!(self, Undo::Replace(_) | Undo::Remove(_) | Undo::Join)
    }
}

/// A fault in force.
#[derive(Clone, Debug)]
pub struct Active {
    /// What.
    pub kind: Kind,
    /// Its number in the record.
    pub number: usize,
    /// When it is to be undone, since the start of the nemesis.
    pub until: Duration,
    /// How.
    pub undo: Undo,
    /// Members whose processes nobody else touches meanwhile.
    pub holds: Vec<usize>,
}

/// Exit codes of `kvd` that faults may cause: one without a name, no space, a write or sync of the log failed, damaged data.
const OTHER: i32 = 1;
const NO_SPACE: i32 = 10;
const LOG_FAILED: i32 = 11;
pub const DAMAGED: i32 = 12;
/// SIGKILL.
const KILLED: i32 = 9;

/// Whether a process may end so by itself under a fault of this kind.
pub fn may_end(kind: Kind, code: Option<i32>, signal: Option<i32>) -> bool {
    match (code, signal) {
        (Some(code), _) => match kind {
            Kind::DiskFull => matches!(code, NO_SPACE | LOG_FAILED),
            // While it starts, a write that fails has no name of its own.
            Kind::FsyncErrors | Kind::Eio => matches!(code, LOG_FAILED | OTHER),
            Kind::BitRot => code == DAMAGED,
            _ => false,
        },
        (None, Some(signal)) => matches!(kind, Kind::KillAtCall | Kind::KillAtInstall) && signal == KILLED,
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_are_expected_and_ends_that_are_findings() {
        assert!(may_end(Kind::Eio, Some(11), None));
        assert!(may_end(Kind::BitRot, Some(12), None));
        assert!(may_end(Kind::KillAtCall, None, Some(9)));
        for kind in Kind::all() {
            assert!(!may_end(kind, Some(101), None), "{kind:?}: a panic is a finding");
            assert!(
                !may_end(kind, Some(134), None) && !may_end(kind, None, Some(6)),
                "{kind:?}: abort"
            );
            assert_eq!(
                may_end(kind, Some(12), None),
                kind == Kind::BitRot,
                "{kind:?}: data refused"
            );
        }
    }
}
