//! Goal: whatever a crash leaves, the log that opens again is the one that was acknowledged, plus a prefix of what was
//! still under way; and damage that no crash explains is refused by name.
//!
//! Method: a seeded history of operations on CrashFs beside a model; power cuts in the middle of writes, again during
//! recovery, failing operations, process kills; after each reopening the log is compared with the model after some
//! prefix of the submissions. Damage is planted into copies of the files.

mod check;
mod damage;
mod history;
mod model;

use std::collections::BTreeMap;

use nezha_vlog::RecoveryCase;

pub use history::run_history;

/// What histories did; shows that they did enough.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How often each recovery case was seen.
    pub cases: BTreeMap<RecoveryCase, u64>,
    /// Everything else that is counted.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Counts a recovery case.
    pub fn case(&mut self, case: RecoveryCase) {
        *self.cases.entry(case).or_default() += 1;
    }

    /// Counts something else.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        for (case, n) in &other.cases {
            *self.cases.entry(*case).or_default() += n;
        }
        for (what, n) in &other.counts {
            *self.counts.entry(what).or_default() += n;
        }
    }
}
