//! Names each step that changes what is durable, and crashes before and after it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nezha_vlog::fs::CrashFs;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::store_test::root;
use crate::index::MapEngine;

/// Crashes at each point: the kill of a process, which leaves the page cache, and power cuts.
const CRASHES: u64 = 3;

/// What the store is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The purge before a job.
    Purge,
    /// A job over log segments, while clients write.
    CollectLog,
    SweepLog,
    /// A job over log segments and sorted ones, while clients write.
    CollectSorted,
    SweepSorted,
    /// A view is read for a transfer.
    Send,
    /// A job at the sender meanwhile.
    CollectWhileSending,
    SweepAfterSending,
    /// The received keys.
    Stage,
    /// The end of a transfer.
    Finish,
    Install,
    /// The purge record after an install.
    PurgeInstalled,
    /// The replaced store goes.
    SweepReplaced,
    /// Writes in the new store.
    GoOn,
    /// A job in the old store during which the new one is installed.
    CollectReplaced,
    /// The next start.
    Reopen,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    MakeDir,
    Create,
    Write,
    Cut,
    Sync,
    Rename,
    Unlink,
    RemoveTree,
    SyncDir,
    Commit,
    Flush,
    /// The engine is told that an index is gone.
    Forget,
    Send,
}

/// What it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    DataDir,
    Current,
    CurrentTemporary,
    LogDir,
    LogSegment,
    StoreDir,
    ValuesDir,
    ValueSegment,
    ValueTemporary,
    Index,
    /// Entries of the log that are applied, in one write of the index.
    ApplyBatch,
    /// Keys that a job relocates, in one write of the index.
    RelocationBatch,
    /// Keys of a snapshot, in one write of its index.
    StagingBatch,
    /// Part of a view that is sent.
    Chunk,
}

impl What {
    /// The kind of file or directory at `path`.
    pub fn at(path: &Path) -> What {
        let inside = path.strip_prefix(root()).expect("a path in the data directory");
        let parts: Vec<&str> = inside
            .iter()
            .map(|part| part.to_str().expect("names are text"))
            .collect();
        match parts[..] {
            [] => What::DataDir,
            ["CURRENT"] => What::Current,
            ["CURRENT.tmp"] => What::CurrentTemporary,
            ["log"] => What::LogDir,
            ["log", _] => What::LogSegment,
            [_] => What::StoreDir,
            [_, "values"] => What::ValuesDir,
            [_, "values", name] if name.ends_with(".tmp") => What::ValueTemporary,
            [_, "values", _] => What::ValueSegment,
            _ => panic!("{} is no file of a store", path.display()),
        }
    }
}

/// A kind of step.
pub type Step = (Phase, Action, What);

/// How often each kind of step was taken.
pub type Counts = BTreeMap<Step, u64>;

/// What a crash has left.
pub struct Crash {
    pub fs: CrashFs,
    pub engine: Arc<MapEngine>,
    /// Chooses what was left, and what happens next.
    pub seed: u64,
    /// The first one after this kind of step.
    pub first: bool,
}

/// Is shown what each crash leaves.
type Check = Arc<dyn Fn(Crash) + Send + Sync>;

/// Watches the steps of one store.
#[derive(Clone)]
pub struct Recorder {
    pub disk: CrashFs,
    pub engine: Arc<MapEngine>,
    check: Check,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// None: nothing is recorded.
    phase: Option<Phase>,
    counts: Counts,
    crashes: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Watches what happens on `disk` and in `engine`. `seed` chooses what crashes leave.
    pub fn new(disk: CrashFs, engine: Arc<MapEngine>, seed: u64, check: Check) -> Recorder {
        let state = State {
            crashes: seed << 32,
            ..State::default()
        };
        Recorder {
            disk,
            engine,
            check,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records from here on as steps of `phase`; with None, nothing.
    pub fn enter(&self, phase: impl Into<Option<Phase>>) {
        self.state().phase = phase.into();
    }

    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Takes a step, with a crash before it, and one after it and before everything that follows.
    pub fn step<T>(&self, action: Action, what: What, take: impl FnOnce() -> T) -> T {
        let recorded = {
            let mut state = self.state();
            state.phase.map(|phase| {
                let step = (phase, action, what);
                let count = state.counts.entry(step).or_default();
                *count += 1;
                (step, *count)
            })
        };
        let Some((step, count)) = recorded else {
            return take();
        };
        self.crash("before", step, false);
        let done = take();
        self.crash("after", step, count == 1);
        done
    }

    fn crash(&self, when: &str, step: Step, first: bool) {
        for kind in 0..CRASHES {
            let seed = {
                let mut state = self.state();
                state.crashes += 1;
                state.crashes
            };
            let _named = Point(format!("crash {when} {step:?}, seed {seed}"));
            let mut rng = StdRng::seed_from_u64(seed);
            let fs = match kind {
                0 => self.disk.fork(),
                _ => self.disk.crash(seed),
            };
            // The index may have flushed any prefix of its commits by itself.
            let engine = self.engine.after_crash(|unflushed| match rng.random_range(0..3) {
                0 => 0,
                1 => unflushed,
                _ => rng.random_range(0..=unflushed),
            });
            (self.check)(Crash {
                fs,
                engine: Arc::new(engine),
                seed,
                first: first && kind == 0,
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the crash when what it left is wrong.
struct Point(String);

impl Drop for Point {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
