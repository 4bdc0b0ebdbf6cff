//! What the clients were told about each key. Every key is written once, so its value follows from the seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::client::Outcome;

/// One written key.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Length of the value, bytes.
    pub len: usize,
    /// Unknown while the call is under way.
    pub outcome: Outcome,
}

/// All written keys of one seed. Shared by the clients of a load.
#[derive(Clone)]
pub struct Ledger {
    pub seed: u64,
    entries: Arc<Mutex<BTreeMap<Vec<u8>, Written>>>,
}

impl Ledger {
    pub fn new(seed: u64) -> Ledger {
        Ledger {
            seed,
            entries: Arc::default(),
        }
    }

    /// Notes that a write is about to be sent: from here its outcome is unknown.
    pub fn sending(&self, key: &[u8], len: usize) {
        let before = self.entries.lock().expect("no panic").insert(
            key.to_vec(),
            Written {
                len,
                outcome: Outcome::Unknown,
            },
        );
        assert!(
            before.is_none(),
            "keys are unique: {}",
            String::from_utf8_lossy(key)
        );
    }

    /// Notes the answer.
    pub fn answered(&self, key: &[u8], outcome: Outcome) {
        self.entries
            .lock()
            .expect("no panic")
            .get_mut(key)
            .expect("the key was sent")
            .outcome = outcome;
    }

    /// The value that belongs to a key.
    pub fn value(&self, key: &[u8], len: usize) -> Vec<u8> {
        super::seed::value_of(self.seed, key, len)
    }

    /// A copy of everything known now.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Written> {
        self.entries.lock().expect("no panic").clone()
    }

    /// Counts of acknowledged, failed and unknown writes.
    pub fn counts(&self) -> (usize, usize, usize) {
        let entries = self.entries.lock().expect("no panic");
        let count = |of: fn(&Outcome) -> bool| entries.values().filter(|w| of(&w.outcome)).count();
        (
            count(|o| matches!(o, Outcome::Acknowledged(_))),
            count(|o| matches!(o, Outcome::Failed)),
            count(|o| matches!(o, Outcome::Unknown)),
        )
    }
}
