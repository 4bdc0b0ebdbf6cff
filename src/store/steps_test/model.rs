//! What a store must hold, and whether what a crash has left of it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nezha_vlog::format::segment_path;
use nezha_vlog::fs::{CrashFs, Fs};
use nezha_vlog::{Draft, Entry, Payload, Precondition};
use rand::RngExt;
use rand::rngs::StdRng;

use super::super::collect_test::{audit, inputs, job, purge};
use super::super::store_test::{self, Node, Rows, id, open_store, root};
use super::super::*;
use super::ports::{StepEngine, StepFs};
use super::recorder::{Counts, Crash, Phase, Recorder};
use crate::index::MapEngine;

/// Whether a received store is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    No,
    /// It is being installed.
    Maybe,
    Yes,
}

/// What clients were told.
#[derive(Clone, Debug)]
pub struct Model {
    /// Rows after each log index that was submitted, as long as no other store was installed.
    pub old: BTreeMap<u64, Rows>,
    /// Rows of the received store, and after each log index that was submitted to it.
    pub new: BTreeMap<u64, Rows>,
    /// Last acknowledged log index.
    pub acked: u64,
    pub installed: Installed,
}

impl Model {
    fn history(&mut self) -> &mut BTreeMap<u64, Rows> {
        match self.installed {
            Installed::Yes => &mut self.new,
            _ => &mut self.old,
        }
    }

    /// Rows after the last write.
    pub fn rows(&mut self) -> Rows {
        self.history()
            .last_key_value()
            .expect("it starts with some")
            .1
            .clone()
    }
}

/// Small segments; jobs and snapshots of more than one batch.
pub fn options() -> StoreOptions {
    StoreOptions {
        value_segment_bytes: 8 << 10,
        relocate_keys: 2,
        ..store_test::options()
    }
}

/// A store whose steps are recorded, with a crash before and after each.
pub struct Subject {
    pub node: Node,
    pub model: Arc<Mutex<Model>>,
    pub recorder: Recorder,
    /// Steps of the openings after crashes.
    reopened: Arc<Mutex<Counts>>,
}

impl Subject {
    pub fn new(seed: u64) -> Subject {
        let model = Arc::new(Mutex::new(Model {
            old: BTreeMap::from([(0, Rows::new())]),
            new: BTreeMap::new(),
            acked: 0,
            installed: Installed::No,
        }));
        let reopened = Arc::new(Mutex::new(Counts::new()));
        let check = {
            let (model, reopened) = (model.clone(), reopened.clone());
            move |crash: Crash| {
                let model = lock(&model);
                if crash.first {
                    add(&mut lock(&reopened), reopen(&crash, &model));
                }
                survives(&crash, &model);
            }
        };
        let recorder = Recorder::new(CrashFs::new(), Arc::default(), seed, Arc::new(check));
        let (fs, engine) = (StepFs(recorder.clone()), StepEngine(recorder.clone()));
        let (store, writer) = open_store(Arc::new(fs), Arc::new(engine), options()).unwrap();
        let node = Node {
            store,
            writer,
            history: BTreeMap::new(),
        };
        Subject {
            node,
            model,
            recorder,
            reopened,
        }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// A random write, acknowledged and applied.
    pub fn write(&mut self, rng: &mut StdRng) {
        write(&self.node.store, &mut self.node.writer, &self.model, rng);
    }

    /// Writes until the log has so many segments.
    pub fn fill(&mut self, segments: usize, rng: &mut StdRng) {
        while self.node.store.log().segments().len() < segments {
            self.write(rng);
        }
    }

    /// Steps so far, those of openings after crashes included.
    pub fn counts(&self) -> Counts {
        let mut counts = self.recorder.counts();
        add(&mut counts, lock(&self.reopened).clone());
        counts
    }
}

pub fn write(store: &Store, writer: &mut Writer, model: &Mutex<Model>, rng: &mut StdRng) {
    let index = store.log().last_log_id().map_or(0, |id| id.index) + 1;
    let key = format!("key-{}", rng.random_range(0..30)).into_bytes();
    let mut rows = lock(model).rows();
    let draft = if rng.random_range(0..6) == 0 {
        rows.remove(&key);
        Draft::delete(&key, Precondition::None)
    } else {
        let len = [
            rng.random_range(0..16),
            rng.random_range(17..600),
            rng.random_range(1000..3000),
        ];
        let value = vec![rng.random(); len[rng.random_range(0..3)]];
        rows.insert(key.clone(), (value.clone(), index));
        Draft::put(&key, &value, Precondition::None)
    };
    lock(model).history().insert(index, rows);
    let entry = Entry {
        log_id: id(index),
        payload: Payload::Command(draft.seal(index)),
    };
    store
        .log()
        .append(vec![entry], Box::new(|done| done.unwrap()))
        .unwrap();
    while writer.step().unwrap().is_some() {}
    lock(model).acked = index;
    let heads = store
        .log()
        .heads(index..index + 1, options().inline_value_max)
        .unwrap();
    store.apply(heads, &|_| 0).unwrap();
}

pub fn add(counts: &mut Counts, more: Counts) {
    for (step, count) in more {
        *counts.entry(step).or_default() += count;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens what a crash has left, with a crash before and after each step of that.
fn reopen(crash: &Crash, model: &Model) -> Counts {
    let model = model.clone();
    let check = move |crash: Crash| survives(&crash, &model);
    let engine = Arc::new(crash.engine.after_crash(|all| all));
    let recorder = Recorder::new(crash.fs.fork(), engine, crash.seed, Arc::new(check));
    let data = DataDir::unlocked(Arc::new(StepFs(recorder.clone())), &root()).unwrap();
    recorder.enter(Phase::Reopen);
    let opened = Store::open(Arc::new(data), Arc::new(StepEngine(recorder.clone())), options());
    opened.unwrap_or_else(|e| panic!("it does not open: {e}"));
    recorder.enter(None);
    recorder.counts()
}

/// What was acknowledged is there, nothing else is; no file is too many and none is missing, at once and after a collection;
/// and the store goes on.
fn survives(crash: &Crash, model: &Model) {
    let engine = Arc::clone(&crash.engine) as Arc<dyn Engine>;
    let (mut node, purged) = open(&crash.fs, engine);
    let installed = node.store.index().state().installed_at.is_some();
    match model.installed {
        Installed::No => assert!(!installed, "a store is live that was not installed"),
        Installed::Maybe => {}
        Installed::Yes => assert!(installed, "the installed store is gone"),
    }
    assert_eq!(
        files(&crash.fs),
        needed(&node.store, purged),
        "files after opening, and those that are needed"
    );
    node.apply();
    let last = node.last();
    assert!(
        last >= model.acked,
        "{} was acknowledged, the log ends at {last}",
        model.acked
    );
    let history = match installed {
        true => &model.new,
        false => &model.old,
    };
    let rows = &history[&last];
    assert_eq!(audit(&node), *rows, "after opening");

    purge(&mut node);
    let everything = job(inputs(&node), 2);
    let number = node.store.view().number;
    let done = node
        .store
        .collect(&everything, number, &mut |_| Pace::Go)
        .unwrap();
    assert!(done.finished);
    assert_eq!(node.store.sweep().unwrap().held, 0);
    assert_eq!(
        files(&crash.fs),
        needed(&node.store, node.store.log().purged()),
        "files after a collection, and those that are needed"
    );
    assert_eq!(node.store.log().segments().len(), 1, "the active one");
    assert_eq!(audit(&node), *rows, "after a collection");

    node.history = BTreeMap::from([(last, rows.clone())]);
    node.put(b"key-later", &[9; 700]);
    node.apply();
    let rows = &node.history[&(last + 1)];
    let engine: MapEngine = crash.engine.after_crash(|_| 0);
    let (again, _) = open(&crash.fs.crash(crash.seed), Arc::new(engine));
    again.apply();
    assert_eq!(audit(&again), *rows, "after another crash");
}

/// Opens a store; says also where its log is purged, durably.
fn open(fs: &CrashFs, engine: Arc<dyn Engine>) -> (Node, Option<LogId>) {
    let data = DataDir::unlocked(Arc::new(fs.clone()), &root()).unwrap();
    let opened = Store::open(Arc::new(data), engine, options());
    let (store, writer, recovered) = opened.unwrap_or_else(|e| panic!("it does not open: {e}"));
    let node = Node {
        store,
        writer,
        history: BTreeMap::new(),
    };
    (node, recovered.purged)
}

/// The files that somebody needs: CURRENT, the log as far as Raft or a live value does, and segments with live values.
fn needed(store: &Store, purged: Option<LogId>) -> BTreeSet<PathBuf> {
    let view = store.view();
    let live = view.index().live_bytes();
    let mut needed = BTreeSet::from([store.data().current_path()]);
    let (mut last, purged) = (None, purged.map(|id| id.index));
    for segment in store.log().segments() {
        last = last.max(segment.last);
        if !segment.sealed || last > purged || live.contains_key(&segment.id) {
            needed.insert(segment_path(&store.data().log_dir(), segment.id));
        }
    }
    let values = view.values().segments();
    let values = values
        .iter()
        .filter(|segment| live.contains_key(&segment.summary().id));
    needed.extend(values.map(|segment| segment.path().to_path_buf()));
    needed
}

/// All files there are.
fn files(fs: &CrashFs) -> BTreeSet<PathBuf> {
    fn walk(fs: &CrashFs, dir: &Path, files: &mut BTreeSet<PathBuf>) {
        for name in fs.list(dir).unwrap() {
            let path = dir.join(name);
            match fs.get(&path) {
                Some(_) => drop(files.insert(path)),
                None => walk(fs, &path, files),
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(fs, &root(), &mut found);
    found
}
