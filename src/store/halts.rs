//! Views of exactly one applied index: apply halts there until they are taken.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Store;

/// How long apply stands still for those who take a view. Taking one needs no disk; whoever is not done by then finds
/// that the index has moved on.
const HALT_MAX: Duration = Duration::from_secs(1);
/// How often somebody who waits is asked whether it goes on.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// Indices at which apply halts, and who waits for each.
#[derive(Debug, Default)]
pub(super) struct Halts(Mutex<Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    next: u64,
    /// By index, and by a number that tells those of one index apart.
    waiting: BTreeMap<(u64, u64), Sender<Release>>,
}

/// Apply goes on when the last clone is dropped. Nothing is ever sent.
type Release = Sender<Infallible>;

/// Nothing is applied while one of them is there.
#[derive(Debug)]
#[expect(dead_code, reason = "both are only ever dropped")]
pub(super) enum Hold<'a> {
    /// Apply stands still.
    Halted(Release),
    /// Apply has not come yet.
    Locked(MutexGuard<'a, ()>),
}

/// Why there is no view of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// The store is past it already.
    Past,
    /// Whoever waited has given up.
    GivenUp,
}

/// A place in the queue; it is given up with this.
struct Ticket<'a> {
    halts: &'a Halts,
    key: (u64, u64),
    hold: Receiver<Release>,
}

impl Halts {
    /// The lowest index at which apply halts.
    pub(super) fn next(&self) -> Option<u64> {
        self.lock()
            .waiting
            .first_key_value()
            .map(|((index, _), _)| *index)
    }

    /// Says that everything up to `applied` is in the index; returns when those who wait for just that have their view.
    /// The caller keeps everybody from committing.
    pub(super) fn reached(&self, applied: u64) {
        let due = {
            let mut wanted = self.lock();
            let later = wanted.waiting.split_off(&(applied + 1, 0));
            std::mem::replace(&mut wanted.waiting, later)
        };
        if due.is_empty() {
            return;
        }
        let (release, released) = channel();
        for ((index, _), waiter) in due {
            // Those of a lower index learn from the end of their channel that they have missed it.
            if index == applied {
                // Whoever has given up meanwhile holds nothing.
                drop(waiter.send(release.clone()));
            }
        }
        drop(release);
        if released.recv_timeout(HALT_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                applied,
                "a view of this index was not taken in time; apply goes on"
            );
        }
    }

    fn want(&self, index: u64) -> Ticket<'_> {
        let (sender, hold) = channel();
        let mut wanted = self.lock();
        let key = (index, wanted.next);
        wanted.next += 1;
        wanted.waiting.insert(key, sender);
        Ticket {
            halts: self,
            key,
            hold,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // Every change of it is one insertion or one removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.halts.lock().waiting.remove(&self.key);
    }
}

impl Store {
    /// Waits until exactly `index` is applied, and keeps it so. Asks `go_on` now and then whether to wait on.
    ///
    /// Blocking. Let the hold go as soon as a view is taken: writes wait for it.
    pub(super) fn hold_at(
        &self,
        index: u64,
        until: Instant,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Hold<'_>, Missed> {
        let ticket = {
            let commits = self.commits();
            match self.applied_index().cmp(&index) {
                std::cmp::Ordering::Greater => return Err(Missed::Past),
                std::cmp::Ordering::Equal => return Ok(Hold::Locked(commits)),
                std::cmp::Ordering::Less => self.halts.want(index),
            }
        };
        loop {
            let wait = until.saturating_duration_since(Instant::now()).min(ASK_INTERVAL);
            match ticket.hold.recv_timeout(wait) {
                Ok(release) => return Ok(Hold::Halted(release)),
                // A snapshot that ends beyond it was installed.
                Err(RecvTimeoutError::Disconnected) => return Err(Missed::Past),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until || !go_on() => {
                    return Err(Missed::GivenUp);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Number of those who wait.
    #[cfg(test)]
    pub(super) fn waiting_for_halts(&self) -> usize {
        self.halts.lock().waiting.len()
    }

    /// Last index whose effect is in the live index; 0 before the first.
    pub(super) fn applied_index(&self) -> u64 {
        self.index().state().applied.map_or(0, |id| id.index)
    }
}
