//! What happens when: drawn from the seed before anything runs, so that a part of it can be left out.

use std::fmt;
use std::time::Duration;

use nezha_vlog::fs::FailKind;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::host::Death;

/// A fault, and when.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Since the start of the load.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Whoever leads, or else the first.
    Leader,
    /// Somebody, by number.
    Member(usize),
}

/// An operation of a disk at which its power goes.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// One of a kind, after so many others of it.
    Operation(FailKind, u64),
    /// One on a file or directory with this in its path, after so many others.
    Path(&'static str, u64),
}

/// Parts of the data directory; the first are rarely touched.
const PARTS: [&str; 5] = ["/IDENTITY", "/CURRENT", "/store-", "/values", "/log/"];
const RARE_PARTS: usize = 2;

/// A call of an operator.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// The lead goes to another.
    Transfer,
    /// Garbage is collected.
    Collect,
    /// The log is purged.
    Purge,
}

/// Something that happens to the cluster.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A life ends; the next one begins `down` later.
    Die {
        /// Who.
        target: Target,
        /// How.
        death: Death,
        /// When again.
        down: Duration,
    },
    /// Power goes at an operation of the disk to come, in whatever is being done then.
    DieAt {
        /// Who.
        target: Target,
        /// At which.
        moment: Moment,
        /// When again.
        down: Duration,
    },
    /// All lose power at once.
    Blackout {
        /// When again.
        down: Duration,
    },
    /// Stops in good order and starts again.
    Restart {
        /// Who.
        target: Target,
    },
    /// Messages between these members and all others are lost, in one direction or both.
    Cut {
        /// Who.
        targets: Vec<usize>,
        /// Only what they send.
        one_way: bool,
        /// For how long.
        time: Duration,
    },
    /// Messages of some links are held, one link after the other, and released in another order.
    Clog {
        /// Which links.
        links: Vec<(usize, usize)>,
        /// For how long, at least.
        time: Duration,
    },
    /// Some links lose a message now and then, with all that are on their way.
    Loss {
        /// Which links.
        links: Vec<(usize, usize)>,
        /// Of a thousand messages.
        per_mille: u32,
        /// For how long.
        time: Duration,
    },
    /// One operation of the disk fails.
    DiskError {
        /// Who.
        target: Target,
        /// Which kind.
        kind: FailKind,
        /// Operations of this kind that still succeed.
        skip: u64,
    },
    /// The disk has little room.
    DiskFull {
        /// Who.
        target: Target,
        /// For how long.
        time: Duration,
    },
    /// The disk is slow.
    Stall {
        /// Who.
        target: Target,
        /// For how long.
        time: Duration,
    },
    /// An operator's call to a member.
    Order {
        /// Who.
        target: Target,
        /// What.
        order: Order,
    },
    /// A clock jumps forward: the machine was paused.
    Jump {
        /// Whose.
        target: Target,
        /// By how much.
        by: Duration,
    },
    /// A member is added, and started with an empty disk.
    Join,
    /// A member is removed, and stopped some time after that.
    Leave {
        /// Who.
        target: Target,
        /// How long it runs on.
        lingers: Duration,
    },
    /// A bit of a cold file is damaged; some time later the member is replaced by a new one.
    Rot {
        /// Whose.
        target: Target,
        /// How long it is left as it is.
        time: Duration,
    },
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.3} s  {:?}", self.at.as_secs_f64(), self.fault)
    }
}

/// Draws the faults of a run of `members` that lasts `time`.
pub fn draw(seed: u64, members: usize, time: Duration) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    // Some runs are rough, some nearly calm: rare sequences need both.
    let mean_gap = rng.random_range(300..2_500);
    let mut plan = Vec::new();
    let mut at = Duration::from_millis(rng.random_range(500..2_000));
    while at < time {
        let fault = fault(&mut rng, members);
        if hits_leader(&fault) && rng.random_ratio(1, 3) {
            aftershock(&mut rng, members, at, &mut plan);
        }
        plan.push(Planned { at, fault });
        at += Duration::from_millis(rng.random_range(1..2 * mean_gap));
    }
    plan.sort_by_key(|planned| planned.at);
    for fault in changes(&mut rng, members, time) {
        let at = time.mul_f64(rng.random_range(0.1..0.6));
        let place = plan.partition_point(|planned| planned.at < at);
        plan.insert(place, Planned { at, fault });
    }
    plan
}

/// A moment at which a disk loses power: any, or one at which names change, something becomes durable, or a certain part
/// of the data directory is touched.
pub fn moment(rng: &mut StdRng) -> Moment {
    match rng.random_range(0..5) {
        0 => Moment::Operation(FailKind::Name, rng.random_range(0..8)),
        1 => Moment::Operation(FailKind::SyncDir, rng.random_range(0..8)),
        2 => Moment::Operation(FailKind::Sync, rng.random_range(0..30)),
        3 => Moment::Operation(FailKind::Any, rng.random_range(0..200)),
        _ => Moment::Path(PARTS.choose(rng).expect("there are some"), rng.random_range(0..6)),
    }
}

/// A moment that a life may never reach: something that is rarely touched is touched.
pub fn rare_moment(rng: &mut StdRng) -> Moment {
    let part = PARTS[rng.random_range(0..RARE_PARTS)];
    Moment::Path(part, rng.random_range(0..6))
}

fn hits_leader(fault: &Fault) -> bool {
    match fault {
        Fault::Die { target, .. } | Fault::DieAt { target, .. } => matches!(target, Target::Leader),
        Fault::Blackout { .. } | Fault::Cut { .. } => true,
        _ => false,
    }
}

/// What follows the loss of a leader at `at`: about when others vote, and write under a new one, one of them dies too,
/// on a slow disk or not.
fn aftershock(rng: &mut StdRng, members: usize, at: Duration, plan: &mut Vec<Planned>) {
    let target = Target::Member(rng.random_range(0..members));
    let down = millis(rng, 50..2_000);
    let election = at + millis(rng, 300..1_500);
    if rng.random_ratio(1, 2) {
        plan.push(Planned {
            at: election,
            fault: Fault::Stall {
                target,
                time: millis(rng, 500..3_000),
            },
        });
        plan.push(Planned {
            at: election + millis(rng, 100..2_000),
            fault: Fault::Die {
                target,
                death: Death::PowerCut,
                down,
            },
        });
        return;
    }
    plan.push(Planned {
        at: election,
        fault: Fault::DieAt {
            target,
            moment: Moment::Operation(FailKind::Any, rng.random_range(0..16)),
            down,
        },
    });
}

/// Changes of the members: none in most runs. One member at most leaves or is damaged, so that enough remain.
fn changes(rng: &mut StdRng, members: usize, time: Duration) -> Vec<Fault> {
    let mut changes = Vec::new();
    if rng.random_ratio(1, 3) {
        changes.push(Fault::Join);
    }
    let target = Target::Member(rng.random_range(0..members));
    match rng.random_range(0..6) {
        0 => changes.push(Fault::Leave {
            target,
            lingers: millis(rng, 0..8_000),
        }),
        1 => changes.push(Fault::Rot {
            target,
            time: time.mul_f64(rng.random_range(0.05..0.3)),
        }),
        _ => {}
    }
    changes
}

fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// Some of the links between members, in any order.
fn links(rng: &mut StdRng, members: usize) -> Vec<(usize, usize)> {
    let pairs: Vec<(usize, usize)> = (0..members)
        .flat_map(|from| (0..from).map(move |to| (from, to)))
        .collect();
    let count = rng.random_range(1..=pairs.len());
    let mut links: Vec<(usize, usize)> = pairs.sample(rng, count).copied().collect();
    links.shuffle(rng);
    links
}

fn fault(rng: &mut StdRng, members: usize) -> Fault {
    let target = match rng.random_ratio(2, 5) {
        true => Target::Leader,
        false => Target::Member(rng.random_range(0..members)),
    };
    match rng.random_range(0..100) {
        0..18 => {
            let death = match rng.random_ratio(2, 3) {
                true => Death::PowerCut,
                false => Death::Kill,
            };
            let down = millis(rng, 50..4_000);
            Fault::Die { target, death, down }
        }
        18..30 => {
            let moment = moment(rng);
            Fault::DieAt {
                target,
                moment,
                down: millis(rng, 50..3_000),
            }
        }
        30..34 => Fault::Blackout {
            down: millis(rng, 50..2_000),
        },
        34..40 => Fault::Restart { target },
        40..52 => {
            let mut all: Vec<usize> = (0..members).collect();
            all.shuffle(rng);
            all.truncate(rng.random_range(1..=members / 2));
            Fault::Cut {
                targets: all,
                one_way: rng.random_ratio(1, 3),
                time: millis(rng, 200..5_000),
            }
        }
        52..57 => Fault::Clog {
            links: links(rng, members),
            time: millis(rng, 100..2_500),
        },
        57..60 => Fault::Loss {
            links: links(rng, members),
            per_mille: rng.random_range(1..=30),
            time: millis(rng, 200..4_000),
        },
        60..64 => Fault::DiskError {
            target,
            kind: *[FailKind::Read, FailKind::Write, FailKind::Sync, FailKind::Any]
                .choose(rng)
                .expect("there are some"),
            skip: rng.random_range(0..60),
        },
        64..68 => Fault::DiskFull {
            target,
            time: millis(rng, 500..4_000),
        },
        68..73 => Fault::Stall {
            target,
            time: millis(rng, 200..3_000),
        },
        73..76 => Fault::Jump {
            target,
            by: millis(rng, 10..8_000),
        },
        rest => Fault::Order {
            target,
            order: match rest % 3 {
                0 => Order::Transfer,
                1 => Order::Collect,
                _ => Order::Purge,
            },
        },
    }
}
