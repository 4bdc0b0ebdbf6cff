//! One replica of a history, with settings and accidents of its own.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use nezha_gc::plan::{Job, Limits, Reason, plan};
use nezha_vlog::fs::CrashFs;
use nezha_vlog::{LogId, Writer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::Events;
use super::history::{History, max_node_id};
use crate::index::{Engine, IndexEntry, MapEngine, ScanRange};
use crate::store::store_test::open_store;
use crate::store::{Pace, SnapshotMeta, Store, StoreError, StoreOptions, View};

/// Operations on files after which a job or an install is cut short, at most.
const HALT_MAX: u64 = 80;

/// How a replica collects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gc {
    Off,
    /// What the planner wants, with small limits.
    Planned,
    /// Any inputs, any level, cut anywhere.
    Random,
}

/// What makes a replica differ from the others.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub name: &'static str,
    pub gc: Gc,
    /// Of 100 turns, those that begin with a job.
    pub jobs: u32,
    /// Of 100 turns, jobs and installs, those that end in a crash.
    pub crashes: u32,
    /// It stays behind until it gets a snapshot of another one.
    pub lags: bool,
    pub log_segment_bytes: u64,
    pub log_cache_bytes: u64,
    pub value_segment_bytes: u64,
    pub inline_value_max: u32,
}

impl Profile {
    fn options(&self) -> StoreOptions {
        StoreOptions {
            inline_value_max: self.inline_value_max,
            value_segment_bytes: self.value_segment_bytes,
            log: nezha_vlog::Options::default()
                .with_segment_bytes(self.log_segment_bytes)
                .with_cache_bytes(self.log_cache_bytes),
            // Several batches a job.
            relocate_keys: 4,
            ..StoreOptions::default()
        }
    }
}

/// A view that a reader holds, with what it found in it.
struct Held {
    view: Arc<View>,
    places: Vec<(Bytes, IndexEntry)>,
    applied: u64,
}

/// A node without Raft that follows the history.
pub(super) struct Replica<'a> {
    pub profile: Profile,
    history: &'a History,
    rng: StdRng,
    fs: CrashFs,
    engine: Arc<MapEngine>,
    store: Arc<Store>,
    writer: Writer,
    /// Last index of the history that its log has.
    written: u64,
    /// Last index that may not be lost any more.
    durable: u64,
    /// Its log has more than that, from a leader that nobody followed.
    stranded: bool,
    held: Vec<Held>,
    pub events: Events,
}

impl<'a> Replica<'a> {
    pub fn new(profile: Profile, history: &'a History, seed: u64) -> Replica<'a> {
        let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
        let (store, writer) = open(&fs, &engine, &profile).unwrap();
        Replica {
            profile,
            history,
            rng: StdRng::seed_from_u64(seed),
            fs,
            engine,
            store,
            writer,
            written: 0,
            durable: 0,
            stranded: false,
            held: Vec::new(),
            events: Events::default(),
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn applied(&self) -> u64 {
        self.store.index().state().applied.map_or(0, |id| id.index)
    }

    /// Names the replica in a message.
    pub fn who(&self) -> String {
        format!("seed {}, replica {}", self.history.seed, self.profile.name)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Does something, on the way to `goal`.
    pub fn turn(&mut self, goal: u64) {
        if self.profile.gc != Gc::Off && self.chance(self.profile.jobs) {
            self.collect();
        }
        match self.rng.random_range(0..20) {
            0..7 => self.append(goal),
            7..10 => self.sync(),
            10..15 => self.apply(),
            15 => drop(self.store.flush().unwrap()),
            16 => self.purge(),
            17 => self.hold(),
            18 => self.read_held(),
            _ => self.sweep(),
        }
        if self.chance(self.profile.crashes) {
            self.crash();
        }
    }

    /// Goes straight to `goal`, all of it durable and applied.
    pub fn catch_up(&mut self, goal: u64) {
        while self.applied() < goal {
            self.append(goal);
            self.sync();
            self.apply();
        }
        assert_eq!(self.applied(), goal, "{}", self.who());
    }

    /// Submits entries; nothing is durable yet.
    fn append(&mut self, goal: u64) {
        if self.stranded {
            self.truncate();
        } else if self.rng.random_range(0..2) == 0 {
            let stranded = self.history.stranded(self.written, &mut self.rng);
            if !stranded.is_empty() {
                self.store.log().append(stranded, Box::new(|_| {})).unwrap();
                self.stranded = true;
                return;
            }
        }
        let last = goal.min(self.written + self.rng.random_range(1..6));
        let entries: Vec<_> = (self.written + 1..=last)
            .map(|index| self.history.entry(index).clone())
            .collect();
        if !entries.is_empty() {
            self.store.log().append(entries, Box::new(|_| {})).unwrap();
            self.written = last;
        }
    }

    /// Cuts off what nobody has committed.
    fn truncate(&mut self) {
        self.events.count("suffix truncated");
        self.store
            .log()
            .truncate_after(Some(self.written), Box::new(|_| {}))
            .unwrap();
        self.stranded = false;
    }

    fn sync(&mut self) {
        self.try_sync().unwrap();
    }

    fn try_sync(&mut self) -> Result<(), nezha_vlog::Error> {
        while self.writer.step()?.is_some() {}
        self.durable = self.written;
        Ok(())
    }

    /// Applies some of what is durable.
    fn apply(&mut self) {
        let from = self.applied() + 1;
        if from <= self.durable {
            let to = self.rng.random_range(from..=self.durable);
            self.apply_range(from, to).unwrap();
        }
    }

    fn apply_range(&mut self, from: u64, to: u64) -> Result<(), StoreError> {
        let heads = self
            .store
            .log()
            .heads(from..to + 1, self.profile.inline_value_max)
            .map_err(|e| StoreError::log(&self.store.data().log_dir(), e))?;
        let outcomes = self.store.apply(heads, &max_node_id)?;
        for (index, outcomes) in (from..=to).zip(&outcomes) {
            assert_eq!(
                outcomes,
                self.history.outcomes(index),
                "{} at {index}",
                self.who()
            );
        }
        Ok(())
    }

    /// Has the log purged up to some index that the index has flushed (I4).
    fn purge(&mut self) {
        let flushed = self.store.flush().unwrap().map_or(0, |id| id.index);
        let purged = self.purged();
        if flushed > purged {
            let upto = self.rng.random_range(purged + 1..=flushed);
            self.purge_to(upto);
            self.events.count("purged");
        }
    }

    fn purge_to(&mut self, upto: u64) {
        let at = self.history.log_id(upto);
        self.store.log().purge(at, Box::new(|_| {})).unwrap();
        self.sync();
    }

    fn purged(&self) -> u64 {
        self.store.log().purged().map_or(0, |id| id.index)
    }

    fn hold(&mut self) {
        if self.held.len() < 2 {
            let view = self.store.view();
            let mut places = Vec::new();
            super::visit(&view, &ScanRange::all(), &mut |key, entry| {
                places.push((key, entry))
            });
            self.held.push(Held {
                view,
                places,
                applied: self.applied(),
            });
        }
    }

    /// Reads all that a view held since long ago leads to, and lets it go.
    fn read_held(&mut self) {
        let Some(held) = self.held.pop() else { return };
        if !Arc::ptr_eq(&held.view, &self.store.view()) && !held.places.is_empty() {
            self.events.count("replaced view read");
        }
        let rows = &self.history.state(held.applied).rows;
        for (key, entry) in &held.places {
            let value = held.view.read(entry, key).unwrap();
            assert_eq!(
                value,
                rows[key].value,
                "{}: {key:?} as of {}",
                self.who(),
                held.applied
            );
        }
    }

    fn sweep(&mut self) {
        let swept = self.store.sweep().unwrap();
        self.events.add("file removed", swept.files);
    }

    /// Runs a job, perhaps until a crash cuts it short.
    fn collect(&mut self) {
        let halts = self.chance(self.profile.crashes);
        if halts {
            self.fs.halt_after(self.rng.random_range(0..HALT_MAX));
        }
        let result = self.run_job();
        if halts && !self.fs.disarm() {
            self.events.count("crash within a job");
            self.crash();
        } else {
            result.unwrap_or_else(|error| panic!("{}: {error}", self.who()));
        }
    }

    fn run_job(&mut self) -> Result<(), StoreError> {
        let flushed = self.store.flush()?.map_or(0, |id| id.index);
        let found = self.store.segment_stats(flushed)?;
        let job = match self.profile.gc {
            Gc::Planned => plan(&found.segments, found.usage, &self.limits()),
            _ => {
                let eligible = found.segments.iter().filter(|stat| stat.eligible);
                let inputs = eligible.filter(|_| self.rng.random_bool(0.4)).map(|stat| stat.id);
                let inputs = inputs.collect();
                Some(self.random_job(inputs))
            }
        };
        let Some(job) = job.filter(|job| !job.inputs.is_empty()) else {
            return Ok(());
        };
        let segments = self.store.log().segments();
        let last = segments
            .iter()
            .filter(|segment| job.inputs.contains(&segment.id))
            .filter_map(|segment| segment.last)
            .max();
        // As the collector does; without it the files wait.
        if let Some(last) = last.filter(|last| *last > self.purged() && *last <= flushed)
            && self.rng.random_range(0..4) != 0
        {
            let (at, log) = (self.history.log_id(last), self.store.log());
            let log_error = |e| StoreError::log(&self.store.data().log_dir(), e);
            log.purge(at, Box::new(|_| {})).map_err(log_error)?;
            while self.writer.step().map_err(log_error)?.is_some() {}
            self.durable = self.written;
        }
        self.events.count(match job.reason {
            _ if self.profile.gc == Gc::Random => "job at random",
            Reason::Empty => "job: no live bytes",
            Reason::SpaceBound => "job: space bound",
            Reason::Garbage => "job: garbage",
            Reason::L0Debt => "job: L0 debt",
            Reason::Overlap => "job: overlap",
        });
        let store = Arc::clone(&self.store);
        let done = store.collect(&job, found.store, &mut |_| self.within_job())?;
        self.events.add("record relocated", done.records - done.overtaken);
        self.events.add("record overtaken", done.overtaken);
        if !done.finished {
            self.events.count("job stopped");
        }
        if self.rng.random_range(0..2) == 0 {
            let swept = store.sweep()?;
            self.events.add("file removed", swept.files);
        }
        Ok(())
    }

    /// Before each record of a job: the next entry may be applied right here, or the job told to stop.
    fn within_job(&mut self) -> Pace {
        match self.rng.random_range(0..60) {
            0 => Pace::Stop,
            1..20 if self.applied() < self.durable => {
                let next = self.applied() + 1;
                match self.apply_range(next, next) {
                    Ok(()) => Pace::Go,
                    Err(_) => Pace::Stop,
                }
            }
            _ => Pace::Go,
        }
    }

    fn limits(&mut self) -> Limits {
        let limits = Limits {
            garbage_per_mille: self.rng.random_range(50..700),
            garbage_batch_per_mille: self.rng.random_range(0..30),
            l0_debt_per_mille: self.rng.random_range(0..500),
            l0_debt_bytes_min: self.rng.random_range(0..16 << 10),
            overlap_max: self.rng.random_range(1..4),
            space_amplification_max_per_mille: self.rng.random_range(1100..3000),
            space_floor_bytes: 8 * self.profile.log_segment_bytes,
            job_per_mille: self.rng.random_range(20..=500),
            job_bytes_max: self.rng.random_range(4 << 10..128 << 10),
            segment_bytes: self.profile.value_segment_bytes,
        };
        match self.rng.random_range(0..4) {
            0 => limits.thorough(),
            _ => limits,
        }
    }

    fn random_job(&mut self, inputs: Vec<nezha_vlog::SegmentId>) -> Job {
        let keys: Vec<&Bytes> = self.history.state(self.durable).rows.keys().collect();
        let count = self.rng.random_range(0..4).min(keys.len());
        let mut cuts: Vec<Bytes> = keys
            .sample(&mut self.rng, count)
            .map(|key| (*key).clone())
            .collect();
        cuts.sort();
        Job {
            reason: Reason::Garbage,
            inputs,
            output_level: self.rng.random_range(1..=2),
            keys: None,
            cuts,
            input_bytes: 0,
            copy_bytes: 0,
            freed_bytes: 0,
        }
    }

    /// Power cut or killed process: what was not synced is lost or not, and of the index what was not flushed.
    pub fn crash(&mut self) {
        self.held.clear();
        let (written, applied) = (self.written, self.applied());
        self.fs = match self.rng.random_range(0..3) {
            0 => self.fs.fork(),
            _ => self.fs.crash(self.rng.random()),
        };
        self.engine.crash();
        (self.store, self.writer) = open(&self.fs, &self.engine, &self.profile)
            .unwrap_or_else(|error| panic!("{} does not open: {error}", self.who()));
        let log = self.store.log();
        let ids = log.log_ids(self.purged() + 1..u64::MAX);
        let known = |id: &&LogId| id.index <= self.history.len() && self.history.log_id(id.index) == **id;
        let agreeing = ids.iter().take_while(known).count();
        self.stranded = ids.len() > agreeing;
        self.written = self.purged() + agreeing as u64;
        assert!(
            self.written >= self.durable,
            "{}: {} was durable, the log ends at {}",
            self.who(),
            self.durable,
            self.written
        );
        self.durable = self.written;
        self.events.count("crash");
        if self.written < written {
            self.events.count("unsynced entries lost");
        }
        if self.applied() < applied {
            self.events.count("index replayed");
        }
    }

    /// Becomes a copy of another replica, and goes on from there; a crash may come in between.
    pub fn install(&mut self, source: &Store) {
        if self.stranded {
            self.truncate();
        }
        self.sync();
        let halts = self.chance(self.profile.crashes);
        if halts {
            self.fs.halt_after(self.rng.random_range(0..HALT_MAX));
        }
        let result = receive(&self.store, source);
        if halts && !self.fs.disarm() {
            self.events.count("crash within an install");
            self.crash();
        } else {
            result.unwrap_or_else(|error| panic!("{}: {error}", self.who()));
            self.events.count("snapshot installed");
            let applied = self.applied();
            if self.chance(self.profile.crashes) {
                self.events.count("crash before the purge of an install");
                self.crash();
            } else {
                self.written = self.written.max(applied);
                self.purge_to(applied);
            }
        }
    }

    /// Lets go of everything, has all of it purged and collected, and asserts that nothing is left that nobody needs.
    pub fn clear(&mut self) {
        while !self.held.is_empty() {
            self.read_held();
        }
        self.sync();
        let applied = self.store.flush().unwrap().unwrap();
        if applied.index > self.purged() {
            self.purge_to(applied.index);
        }
        self.sweep();
        let found = self.store.segment_stats(applied.index).unwrap();
        let inputs = found.segments.iter().map(|stat| stat.id).collect();
        let job = self.random_job(inputs);
        let done = self.store.collect(&job, found.store, &mut |_| Pace::Go).unwrap();
        assert!(done.finished && done.overtaken == 0, "{}: {done:?}", self.who());
        assert_eq!(self.store.sweep().unwrap().held, 0, "{}", self.who());
        let left = self.store.segment_stats(applied.index).unwrap().segments;
        let dead: Vec<_> = left.iter().filter(|stat| stat.live_bytes == 0).collect();
        assert!(dead.is_empty(), "{}: {dead:?} are left", self.who());
        assert_eq!(self.store.log().segments().len(), 1, "{}", self.who());
    }

    /// Bounds of a part of the key space.
    pub fn range(&mut self) -> (Bound<Bytes>, Bound<Bytes>) {
        let mut bound = || {
            let key = Bytes::from(format!("key-{:02}", self.rng.random_range(0..40)));
            match self.rng.random_range(0..3) {
                0 => Bound::Unbounded,
                1 => Bound::Included(key),
                _ => Bound::Excluded(key),
            }
        };
        (bound(), bound())
    }
}

fn open(
    fs: &CrashFs,
    engine: &Arc<MapEngine>,
    profile: &Profile,
) -> Result<(Arc<Store>, Writer), StoreError> {
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    let (store, writer) = open_store(Arc::new(fs.clone()), engine, profile.options())?;
    Ok((Arc::new(store), writer))
}

/// Stages and installs what `source` holds, as a transfer does.
fn receive(store: &Store, source: &Store) -> Result<(), StoreError> {
    let view = source.view();
    let mut staging = store.stage()?;
    let mut result = Ok(());
    let mut push = |key: Bytes, entry: IndexEntry| -> Result<(), StoreError> {
        let record = nezha_vlog::encode_record(entry.mod_revision, &key, &view.read(&entry, &key)?);
        staging.push(entry.create_revision, entry.version, record)
    };
    let mut visit = |item| {
        if let crate::index::ScanItem::Row { key, entry } = item {
            result = push(key, entry);
        }
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    view.index().scan(&ScanRange::all(), &mut visit)?;
    result?;
    let state = view.index().state();
    store.install(staging.finish(SnapshotMeta {
        last_log_id: state.applied.unwrap(),
        membership_log_id: state.membership_log_id,
        membership: state.membership,
        max_node_id: state.max_node_id,
    })?)
}
