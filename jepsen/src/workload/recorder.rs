use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::history::{Call, Fault, History, Operation, Outcome};

/// Writes down what clients do and are told, in the order of invocation, on the one clock of the run.
pub struct Recorder {
    started: Instant,
    next_process: AtomicU64,
    counts: Counts,
    operations: Mutex<Vec<Operation>>,
    faults: Mutex<Vec<Fault>>,
}

/// Operations that have ended, for the line of progress.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answered.
    pub ok: AtomicU64,
    /// Certainly without effect.
    pub fail: AtomicU64,
    /// Without a definite answer.
    pub unknown: AtomicU64,
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "an operation that is not ended stays open"]
pub struct Begun(usize);

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            started: Instant::now(),
            next_process: AtomicU64::new(0),
            counts: Counts::default(),
            operations: Mutex::default(),
            faults: Mutex::default(),
        }
    }
}

impl Recorder {
    /// Nanoseconds since the start of the run.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A process number that nobody had before.
    pub fn new_process(&self) -> u64 {
        self.next_process.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down that `call` is about to be sent. Without an end it may take effect at any time.
    pub fn begin(&self, process: u64, endpoint: &str, call: Call) -> Begun {
        let mut operations = self.operations();
        // Under the lock, so that the order of the list is the order of times.
        let invoked = self.now();
        operations.push(Operation {
            process,
            invoked,
            ended: None,
            endpoint: endpoint.to_owned(),
            call,
            outcome: Outcome::Unknown {
                why: "the run ended first".into(),
            },
        });
        Begun(operations.len() - 1)
    }

    /// Writes down what became of it.
    pub fn end(&self, begun: Begun, outcome: Outcome) {
        // The time before the lock is waited for: the answer was there.
        let count = match &outcome {
            Outcome::Ok { .. } => &self.counts.ok,
            Outcome::Fail { .. } => &self.counts.fail,
            Outcome::Unknown { .. } => &self.counts.unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let ended = self.now();
        let mut operations = self.operations();
        let operation = &mut operations[begun.0];
        operation.ended = Some(ended);
        operation.outcome = outcome;
    }

    /// Operations that have ended so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Writes down a fault that begins; returns its number.
    pub fn fault(&self, fault: Fault) -> usize {
        let mut faults = self.faults();
        faults.push(fault);
        faults.len() - 1
    }

    /// Adds to, or ends, a fault.
    pub fn change_fault(&self, number: usize, change: impl FnOnce(&mut Fault)) {
        change(&mut self.faults()[number]);
    }

    /// Kinds of the faults in force.
    pub fn in_force(&self) -> Vec<String> {
        let faults = self.faults();
        let mut kinds: Vec<String> = faults
            .iter()
            .filter(|fault| fault.ended.is_none())
            .map(|fault| fault.kind.clone())
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// All that was written down so far.
    pub fn history(&self) -> History {
        let mut faults = self.faults().clone();
        faults.sort_by_key(|fault| fault.began);
        History {
            operations: self.operations().clone(),
            faults,
        }
    }

    fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().expect("no panic while held")
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().expect("no panic while held")
    }
}
