//! Which fault when: drawn from a seed, without a look at any cluster.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::Kind;

/// From one fault to the next, bounds.
const GAP: (Duration, Duration) = (Duration::from_millis(600), Duration::from_millis(3000));

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Since the first fault could have begun.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// To whom; found out when it begins.
    pub target: Target,
    /// Until it is undone; what is over at once has none.
    pub duration: Duration,
    /// How.
    pub parameters: Parameters,
}

/// To whom. `pick` chooses among those who are there when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One member.
    One {
        /// Chooses it.
        pick: u64,
    },
    /// Whoever leads.
    Leader,
    /// Fewer than half, the leader perhaps among them.
    Minority {
        /// Chooses them.
        pick: u64,
    },
    /// More than half.
    Majority {
        /// Chooses them.
        pick: u64,
    },
    /// All.
    All,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parameters {
    /// There is only one way.
    None,
    /// Who hears whom.
    Partition(Shape),
    /// Of each packet.
    Loss {
        /// Percent.
        percent: u8,
    },
    /// Of each packet.
    Delay {
        /// Mean.
        delay: Duration,
        /// Up to so much less or more.
        jitter: Duration,
    },
    /// At a system call.
    Call {
        /// Which calls count.
        calls: Calls,
        /// Which of them, from 1.
        nth: u32,
    },
    /// Of the disk.
    Throttle {
        /// What it still writes.
        bytes_per_second: u64,
    },
    /// Of the power.
    Cut(Cut),
    /// One after the other.
    Burst {
        /// First.
        first: Force,
        /// Then.
        blow: Blow,
        /// Between them.
        pause: Duration,
    },
}

/// What the power finds when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What has fallen behind by then.
    pub behind: Behind,
    /// For how long.
    pub stall: Duration,
    /// Whether the leader has not fallen behind, and gets its power back last: then the others go on without it.
    pub leader_last: bool,
}

/// What falls behind before a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing.
    Nothing,
    /// The disks: they write nothing any more.
    Disks,
    /// The syncs of the logs, while everything else is written; a purge is ordered too.
    Logs,
}

/// Shape of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two parts.
    Halves,
    /// The target alone.
    Isolated,
    /// Two parts, and the target hears both.
    Bridge,
    /// Nobody hears the target.
    Mute,
    /// The target hears nobody.
    Deaf,
}

/// System calls that a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Those that write to files.
    Write,
    /// fsync and fdatasync.
    Sync,
    /// Those that name or unname files.
    Name,
}

/// What is forced first in a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// A collection.
    Gc,
    /// A purge.
    Purge,
}

/// What follows in a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of the target.
    Kill,
    /// A power cut of the target.
    PowerCut(Cut),
    /// Leadership handed on.
    Transfer,
}

/// Faults in the order of their begin; they overlap.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// From which it was drawn.
    pub seed: u64,
    /// What is planned.
    pub faults: Vec<Planned>,
}

impl Schedule {
    /// Draws faults of `kinds` for `duration`: each kind once in a while, in an order of their own every time round.
    ///
    /// All faults are planned to be undone before the end.
    pub fn draw(seed: u64, kinds: &[Kind], duration: Duration) -> Schedule {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6e65_6d65_7369_7300);
        let mut faults = Vec::new();
        let mut deck: Vec<Kind> = Vec::new();
        let mut at = Duration::from_millis(rng.random_range(0..500));
        // The last second brings nothing new: what begins then has no time to do anything.
        while !kinds.is_empty() && at + Duration::from_secs(1) < duration {
            if deck.is_empty() {
                deck = kinds.to_vec();
                deck.shuffle(&mut rng);
            }
            let Some(kind) = deck.pop() else { break };
            let mut planned = draw(&mut rng, kind, at);
            planned.duration = planned.duration.min(duration - at);
            at += gap(&mut rng, kinds.len(), planned.duration);
            faults.push(planned);
        }
        Schedule { seed, faults }
    }
}

/// Time to the next fault. A single kind mostly waits for its own end, many kinds overlap.
fn gap(rng: &mut StdRng, kinds: usize, duration: Duration) -> Duration {
    let gap = Duration::from_secs_f64(rng.random_range(GAP.0.as_secs_f64()..GAP.1.as_secs_f64()));
    match kinds {
        1 | 2 => gap + duration,
        _ => gap,
    }
}

fn draw(rng: &mut StdRng, kind: Kind, at: Duration) -> Planned {
    let pick = rng.random();
    let (from, to) = match kind {
        Kind::Transfer | Kind::Gc | Kind::Purge | Kind::Replace => (0, 1),
        Kind::Burst | Kind::Restart => (300, 3000),
        // Some calls are rare.
        Kind::KillAtCall => (1500, 5000),
        Kind::PowerCut | Kind::Kill => (200, 4000),
        Kind::Grow | Kind::Shrink | Kind::BitRot => (4000, 9000),
        _ => (1500, 6000),
    };
    let target = match kind {
        Kind::Kill | Kind::Pause | Kind::PowerCut => match rng.random_range(0..10) {
            0..2 => Target::One { pick },
            2..5 => Target::Leader,
            5..6 => Target::Minority { pick },
            6..8 => Target::Majority { pick },
            _ => Target::All,
        },
        Kind::Partition | Kind::Burst | Kind::SlowDisk | Kind::Delay | Kind::Loss | Kind::ClientCut => {
            match rng.random_range(0..10) {
                0..6 => Target::Leader,
                6..9 => Target::One { pick },
                _ => Target::Minority { pick },
            }
        }
        Kind::Gc | Kind::Purge => Target::All,
        _ => match rng.random_range(0..10) {
            0..5 => Target::Leader,
            _ => Target::One { pick },
        },
    };
    Planned {
        at,
        kind,
        target,
        duration: Duration::from_millis(rng.random_range(from..to)),
        parameters: parameters(rng, kind),
    }
}

fn parameters(rng: &mut StdRng, kind: Kind) -> Parameters {
    let ms = Duration::from_millis;
    match kind {
        Kind::Partition => Parameters::Partition(match rng.random_range(0..10) {
            0..2 => Shape::Halves,
            2..6 => Shape::Isolated,
            6..8 => Shape::Bridge,
            8 => Shape::Mute,
            _ => Shape::Deaf,
        }),
        Kind::Loss => Parameters::Loss {
            percent: rng.random_range(5..=40),
        },
        Kind::Delay => {
            let delay = rng.random_range(5..=200);
            Parameters::Delay {
                delay: ms(delay),
                jitter: ms(rng.random_range(0..=delay / 2)),
            }
        }
        Kind::Eio => Parameters::Call {
            calls: match rng.random_range(0..2) {
                0 => Calls::Write,
                _ => Calls::Sync,
            },
            nth: rng.random_range(1..20),
        },
        // Names change seldom.
        Kind::KillAtCall => match rng.random_range(0..3) {
            0 => Parameters::Call {
                calls: Calls::Write,
                nth: rng.random_range(1..60),
            },
            1 => Parameters::Call {
                calls: Calls::Sync,
                nth: rng.random_range(1..60),
            },
            _ => Parameters::Call {
                calls: Calls::Name,
                nth: rng.random_range(1..4),
            },
        },
        Kind::PowerCut => Parameters::Cut(cut(rng)),
        Kind::SlowDisk => Parameters::Throttle {
            bytes_per_second: rng.random_range(50_000..1_000_000),
        },
        Kind::Burst => Parameters::Burst {
            first: match rng.random_range(0..2) {
                0 => Force::Gc,
                _ => Force::Purge,
            },
            blow: match rng.random_range(0..3) {
                0 => Blow::Kill,
                1 => Blow::PowerCut(cut(rng)),
                _ => Blow::Transfer,
            },
            pause: ms(rng.random_range(0..120)),
        },
        _ => Parameters::None,
    }
}

/// Power often fails while disks are busy, and then what was not synced is as much as they were behind.
fn cut(rng: &mut StdRng) -> Cut {
    let (behind, stall) = match rng.random_range(0..4) {
        0 => (Behind::Nothing, 0),
        1 => (Behind::Disks, rng.random_range(20..400)),
        // Time enough for a flush.
        _ => (Behind::Logs, rng.random_range(300..1200)),
    };
    Cut {
        behind,
        stall: Duration::from_millis(stall),
        leader_last: rng.random_range(0..2) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn every_kind() -> Vec<Kind> {
        Kind::all().collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_schedule() {
        let drawn = Schedule::draw(7, &every_kind(), MINUTE);
        assert_eq!(drawn, Schedule::draw(7, &every_kind(), MINUTE));
        assert_ne!(drawn.faults, Schedule::draw(8, &every_kind(), MINUTE).faults);
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for seed in 0..50 {
            let faults = Schedule::draw(seed, &every_kind(), 2 * MINUTE).faults;
            let mut first: Vec<Kind> = faults.iter().take(every_kind().len()).map(|p| p.kind).collect();
            first.sort();
            assert_eq!(first, every_kind(), "seed {seed}");
        }
    }

    #[test]
    fn faults_are_in_order_overlap_and_end_in_time() {
        let mut overlaps = 0;
        for seed in 0..50 {
            let faults = Schedule::draw(seed, &every_kind(), MINUTE).faults;
            assert!(faults.is_sorted_by_key(|planned| planned.at), "seed {seed}");
            assert!(
                faults
                    .iter()
                    .all(|planned| planned.at + planned.duration <= MINUTE)
            );
            overlaps += faults
                .windows(2)
                .filter(|pair| pair[0].at + pair[0].duration > pair[1].at)
                .count();
        }
        assert!(overlaps > 500, "{overlaps}");
    }

    #[test]
    fn a_single_kind_does_not_overlap_with_itself() {
        let faults = Schedule::draw(3, &[Kind::Kill], MINUTE).faults;
        assert!(faults.len() > 8, "{}", faults.len());
        assert!(
            faults
                .windows(2)
                .all(|pair| pair[0].at + pair[0].duration < pair[1].at)
        );
    }

    #[test]
    fn nothing_is_drawn_from_nothing() {
        assert!(Schedule::draw(3, &[], MINUTE).faults.is_empty());
        assert!(Schedule::draw(3, &[Kind::Kill], Duration::ZERO).faults.is_empty());
    }
}
