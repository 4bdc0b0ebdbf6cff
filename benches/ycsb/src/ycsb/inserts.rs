//! Numbers of the records that are inserted, and which of them exist.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Hands out record numbers, and knows up to which number all were inserted: requests choose among those only.
#[derive(Debug)]
pub(crate) struct Inserts {
    next: AtomicU64,
    existing: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Finished above the first that is not. No longer than there are clients.
    finished: BTreeSet<u64>,
    /// Records whose insert failed or was not answered: they may exist or not.
    unsure: HashSet<u64>,
}

impl Inserts {
    /// The first insert gets number `first`; all records below it exist.
    pub(crate) fn new(first: u64) -> Inserts {
        Inserts {
            next: AtomicU64::new(first),
            existing: AtomicU64::new(first),
            state: Mutex::default(),
        }
    }

    /// The number of the next insert. [`Inserts::finish`] must follow, whatever becomes of it.
    pub(crate) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number that [`Inserts::begin`] hands out next.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The insert of `number` ended; `acknowledged` tells whether the record is known to exist.
    pub(crate) fn finish(&self, number: u64, acknowledged: bool) {
        let mut state = self.state();
        if !acknowledged {
            state.unsure.insert(number);
        }
        state.finished.insert(number);
        let mut existing = self.existing.load(Ordering::Relaxed);
        while state.finished.remove(&existing) {
            existing += 1;
        }
        // After the note about an unsure one: whoever reads the new count must find it.
        self.existing.store(existing, Ordering::Release);
    }

    /// All records below this number were inserted, or their insert failed.
    pub(crate) fn existing(&self) -> u64 {
        self.existing.load(Ordering::Acquire)
    }

    /// Whether record `number` may be missing.
    pub(crate) fn may_be_missing(&self, number: u64) -> bool {
        self.state().unsure.contains(&number)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gapless_acknowledgements_count() {
        let inserts = Inserts::new(1_000);
        let numbers: Vec<u64> = (0..4).map(|_| inserts.begin()).collect();
        assert_eq!(numbers, [1_000, 1_001, 1_002, 1_003]);
        assert_eq!(inserts.existing(), 1_000);
        inserts.finish(1_001, true);
        inserts.finish(1_003, true);
        assert_eq!(inserts.existing(), 1_000);
        inserts.finish(1_000, true);
        assert_eq!(inserts.existing(), 1_002);
        inserts.finish(1_002, true);
        assert_eq!(inserts.existing(), 1_004);
        assert!(inserts.state().finished.is_empty());
    }

    #[test]
    fn a_failed_insert_holds_nobody_up_and_is_remembered() {
        let inserts = Inserts::new(0);
        let (first, second) = (inserts.begin(), inserts.begin());
        inserts.finish(first, false);
        inserts.finish(second, true);
        assert_eq!(inserts.existing(), 2);
        assert!(inserts.may_be_missing(first) && !inserts.may_be_missing(second));
    }

    #[test]
    fn numbers_are_given_once_and_all_are_acknowledged() {
        let inserts = Inserts::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let number = inserts.begin();
                        assert!(inserts.existing() <= number);
                        inserts.finish(number, true);
                    }
                });
            }
        });
        assert_eq!((inserts.existing(), inserts.begin()), (20_000, 20_000));
    }
}
