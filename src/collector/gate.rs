//! Admission of writes by space: slowed near the bound on space amplification, refused before it is broken, and refused
//! while the disk has only the reserve left that gc needs to free some.
//!
//! The bound is this node's own, and counts where writes are proposed: on the leader. A member whose disk runs out takes
//! no appends until it has room again; the others go on without it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nezha_gc::plan::{Pressure, SpaceState};
use tokio::sync::watch;
use tokio::time::Instant;

/// Slowed writes are admitted at this many bytes per second at least.
const RATE_MIN: u64 = 64 << 10;

/// The disk of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free for this process.
    pub free_bytes: u64,
    /// Bytes that writes leave to gc.
    pub reserve_bytes: u64,
    /// Writes are refused: the reserve was touched, and less than five quarters of it are free.
    pub low: bool,
}

impl Disk {
    /// The disk as found now, after it was as `self`.
    pub(super) fn now(self, free_bytes: u64) -> Disk {
        let enough = match self.low {
            true => self.reserve_bytes + self.reserve_bytes / 4,
            false => self.reserve_bytes,
        };
        Disk {
            free_bytes,
            low: free_bytes < enough,
            ..self
        }
    }

    /// Whether there is room for what other members append: half of the reserve is gc's alone.
    pub(super) fn takes_appends(&self) -> bool {
        self.free_bytes >= self.reserve_bytes / 2
    }
}

/// What the space of this node allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Log and values against their bound; `None` where gc does not run by itself: then there is no bound.
    pub pressure: Option<Pressure>,
    /// Gc is stopped by order.
    pub paused: bool,
    /// The disk.
    pub disk: Disk,
    /// Bytes per second that were written while nothing was slowed.
    pub unslowed: u64,
}

impl Space {
    /// Whether gc goes before the foreground.
    pub(super) fn is_urgent(&self) -> bool {
        self.disk.low || self.state() >= SpaceState::Urgent
    }

    /// What the bound asks for.
    pub fn state(&self) -> SpaceState {
        self.pressure.map_or(SpaceState::Calm, |pressure| pressure.state)
    }

    fn verdict(&self, more: u64) -> Verdict {
        let free = self.disk.free_bytes.saturating_sub(more);
        if self.disk.now(free).low {
            return Verdict::Shut;
        }
        let Some(pressure) = self
            .pressure
            .map(|pressure| pressure.at(pressure.file_bytes + more))
        else {
            return Verdict::Open;
        };
        match pressure.state {
            SpaceState::Calm | SpaceState::Urgent => Verdict::Open,
            SpaceState::Slow => {
                let rate = u128::from(self.unslowed) * u128::from(pressure.write_per_mille) / 1000;
                Verdict::Slow(u64::try_from(rate).unwrap_or(u64::MAX).max(RATE_MIN))
            }
            SpaceState::Refuse => Verdict::Shut,
        }
    }
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    /// At this many bytes per second.
    Slow(u64),
    Shut,
}

/// Why a write was refused: what [`Space`] was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage(pub Space);

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pressure) = self.0.pressure else {
            return f.write_str("its disk is nearly full");
        };
        write!(f, "{pressure}")?;
        match self.0.paused {
            true => f.write_str("; gc is paused: see `kvctl gc resume`"),
            false => Ok(()),
        }
    }
}

/// How often writes were held up since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldUp {
    /// Writes that waited and were admitted.
    pub slowed: u64,
    /// Writes that were refused.
    pub refused: u64,
}

/// Admits writes as space allows.
#[derive(Debug)]
pub struct Gate {
    now: watch::Sender<Space>,
    /// Bytes admitted since `now` was found.
    since: AtomicU64,
    /// When the next slowed write may go.
    next: Mutex<Instant>,
    slowed: AtomicU64,
    refused: AtomicU64,
}

impl Gate {
    /// A gate that is open until [`Gate::update`] says otherwise. `disk_reserve_bytes`: what writes leave to gc.
    pub fn new(disk_reserve_bytes: u64) -> Gate {
        let space = Space {
            pressure: None,
            paused: false,
            disk: Disk {
                free_bytes: u64::MAX,
                reserve_bytes: disk_reserve_bytes,
                low: false,
            },
            unslowed: 0,
        };
        Gate {
            now: watch::Sender::new(space),
            since: AtomicU64::new(0),
            next: Mutex::new(Instant::now()),
            slowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// What was found last.
    pub fn space(&self) -> Space {
        *self.now.borrow()
    }

    /// How often writes were held up.
    pub fn held_up(&self) -> HeldUp {
        HeldUp {
            slowed: self.slowed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Takes in what was found. Returns the bytes that were admitted since the last time.
    pub(super) fn update(&self, space: Space) -> u64 {
        let since = self.since.swap(0, Ordering::Relaxed);
        self.now.send_replace(space);
        since
    }

    /// Bytes that were admitted since the last update.
    pub(super) fn admitted(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Whether a write of `bytes` would be admitted now without waiting.
    pub fn is_open(&self, bytes: u64) -> bool {
        let admitted = self.since.load(Ordering::Relaxed);
        self.space().verdict(admitted + bytes) == Verdict::Open
    }

    /// Admits a write of `bytes`; waits while space is short, until `until`.
    ///
    /// Errors: space stayed short; nothing was proposed.
    pub async fn admit(&self, bytes: u64, until: Instant) -> Result<(), Shortage> {
        let mut waited = false;
        let mut updates = None;
        loop {
            let space = self.space();
            let wait_until = match space.verdict(self.since.load(Ordering::Relaxed)) {
                Verdict::Open => None,
                Verdict::Slow(rate) => Some(self.slot(bytes, rate, until).ok_or(space)),
                Verdict::Shut => Some(Err(space)),
            };
            match wait_until {
                None => break,
                Some(Ok(slot)) => {
                    waited |= slot > Instant::now();
                    tokio::time::sleep_until(slot).await;
                    break;
                }
                Some(Err(space)) => {
                    let Some(updates) = &mut updates else {
                        // Then look again: what came before is not told.
                        updates = Some(self.now.subscribe());
                        continue;
                    };
                    if tokio::time::timeout_at(until, updates.changed()).await.is_err() {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        return Err(Shortage(space));
                    }
                    waited = true;
                }
            }
        }
        self.since.fetch_add(bytes, Ordering::Relaxed);
        self.slowed.fetch_add(u64::from(waited), Ordering::Relaxed);
        Ok(())
    }

    /// When a slowed write may go, in order of arrival; `None` if that is after `until`.
    fn slot(&self, bytes: u64, rate: u64, until: Instant) -> Option<Instant> {
        let mut next = self.next();
        let slot = (*next).max(Instant::now());
        if slot > until {
            return None;
        }
        *next = slot + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(slot)
    }

    fn next(&self) -> MutexGuard<'_, Instant> {
        // Every change of it is one assignment.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nezha_gc::plan::{Limits, Usage, pressure};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(file_bytes: u64, free_bytes: u64) -> Space {
        let limits = Limits {
            space_floor_bytes: 0,
            segment_bytes: MIB,
            ..Limits::default()
        };
        let usage = Usage {
            file_bytes,
            live_bytes: 1000 * MIB,
        };
        Space {
            pressure: Some(pressure(&[], usage, &limits)),
            paused: false,
            disk: Gate::new(100 * MIB).space().disk.now(free_bytes),
            unslowed: 10 * MIB,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn writes_are_slowed_and_then_refused_with_reasons() {
        let gate = Gate::new(100 * MIB);
        gate.update(space(1000 * MIB, 1000 * MIB));
        let start = Instant::now();
        gate.admit(100 * MIB, soon()).await.unwrap();
        assert_eq!(gate.held_up(), HeldUp::default());

        // Half way between slow and refuse: half of 10 MiB per second.
        let half = space(1894 * MIB, 10_000 * MIB);
        let rate = 10 * MIB * half.pressure.unwrap().write_per_mille / 1000;
        assert!((4 * MIB..6 * MIB).contains(&rate), "{rate}");
        gate.update(half);
        for _ in 0..3 {
            gate.admit(MIB, soon()).await.unwrap();
        }
        // The third waits for two before it.
        assert!(
            start.elapsed() >= Duration::from_millis(300),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(gate.held_up().slowed, 2);
        let error = gate.admit(MIB, Instant::now()).await.unwrap_err();
        assert!(error.to_string().contains("writes are slowed"), "{error}");

        gate.update(Space {
            paused: true,
            ..space(1990 * MIB, 10_000 * MIB)
        });
        let error = gate
            .admit(1, Instant::now() + Duration::from_millis(20))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("writes are refused") && text.contains("gc resume"),
            "{text}"
        );
        assert_eq!(gate.held_up().refused, 2);
    }

    /// What is admitted between two looks counts.
    #[tokio::test]
    async fn the_gate_shuts_between_two_looks() {
        let gate = Gate::new(100 * MIB);
        gate.update(space(1800 * MIB, 10_000 * MIB));
        let mut admitted = 0;
        while gate.admit(MIB, Instant::now()).await.is_ok() {
            admitted += 1;
        }
        assert!((50..=150).contains(&admitted), "{admitted}");
        let gate = Gate::new(100 * MIB);
        gate.update(space(0, 150 * MIB));
        let mut admitted = 0;
        while gate.admit(MIB, Instant::now()).await.is_ok() {
            admitted += 1;
        }
        assert!((50..=52).contains(&admitted), "{admitted}");
    }

    #[tokio::test]
    async fn a_write_that_waits_goes_once_there_is_space() {
        let gate = std::sync::Arc::new(Gate::new(100 * MIB));
        gate.update(space(1000 * MIB, 10 * MIB));
        assert!(gate.space().is_urgent());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.admit(MIB, soon()).await }
        });
        tokio::task::yield_now().await;
        let low = gate.space().disk;
        assert!(
            low.now(124 * MIB).low,
            "it clears at five quarters of the reserve"
        );
        assert!(!low.takes_appends() && low.now(50 * MIB).takes_appends());
        let clear = low.now(125 * MIB);
        assert!(!clear.low);
        gate.update(Space {
            disk: clear,
            ..space(1000 * MIB, 1000 * MIB)
        });
        waiting.await.unwrap().unwrap();
        let waited = HeldUp {
            slowed: 1,
            refused: 0,
        };
        assert_eq!(gate.held_up(), waited);
    }
}
