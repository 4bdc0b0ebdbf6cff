//! Goal: a store opens with everything that was acknowledged, or refuses by name; reads give right bytes or name file
//! and offset. Method: a node without Raft, driven inline: what is submitted becomes durable in one step and is then
//! applied; crashes on `CrashFs`, RocksDB crashes by copying its directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nezha_vlog::fs::{CrashFs, OsFs};
use nezha_vlog::{Draft, Entry, Payload, Precondition, RecoveryCase, Vote};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::index::{IndexError, MapEngine, RocksEngine, RocksIndex, RocksOptions, ScanItem, ScanRange};

/// Key to value and revision.
pub(super) type Rows = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

pub(super) fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        node: 1,
        index,
    }
}

/// Where the data directory is as `CrashFs` sees it.
pub(super) fn root() -> PathBuf {
    PathBuf::from("/data")
}

pub(super) fn options() -> StoreOptions {
    let log = nezha_vlog::Options::default()
        .with_segment_bytes(16 << 10)
        .with_cache_bytes(0);
    StoreOptions {
        inline_value_max: 16,
        value_segment_bytes: 1 << 20,
        relocate_keys: 4,
        log,
        ..StoreOptions::default()
    }
}

/// RocksDB directories below a real directory of its own, by their path in the `CrashFs`.
pub(super) struct RocksBelow(pub PathBuf);

impl RocksBelow {
    fn real(&self, dir: &Path) -> PathBuf {
        self.0.join(dir.strip_prefix("/").unwrap())
    }
}

impl Engine for RocksBelow {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Index>, IndexError> {
        std::fs::create_dir_all(self.real(dir)).unwrap();
        let options = RocksOptions {
            write_buffer_bytes: 64 << 10,
            write_buffers_merged: 1,
            ..RocksOptions::default()
        };
        Ok(Arc::new(RocksIndex::open(&self.real(dir), &options)?))
    }

    fn removed(&self, dir: &Path) {
        let _ = std::fs::remove_dir_all(self.real(dir));
    }
}

/// A node without Raft.
pub(super) struct Node {
    pub store: Store,
    pub writer: Writer,
    /// State after each log index, as far as this test wrote it.
    pub history: BTreeMap<u64, Rows>,
}

/// Opens a store, and gives a new one the vote that a log cannot be without.
pub(super) fn open_store(
    fs: Arc<dyn Fs>,
    engine: Arc<dyn Engine>,
    options: StoreOptions,
) -> Result<(Store, Writer), StoreError> {
    let data = Arc::new(DataDir::unlocked(fs, &root()).unwrap());
    let (store, mut writer, _) = Store::open(data, engine, options)?;
    if store.log().vote().is_none() {
        let vote = Vote {
            term: 1,
            node: 1,
            committed: true,
        };
        store
            .log()
            .save_vote(vote, Box::new(|done| done.unwrap()))
            .unwrap();
        while writer.step().unwrap().is_some() {}
    }
    Ok((store, writer))
}

impl Node {
    pub fn open(fs: Arc<dyn Fs>, engine: Arc<dyn Engine>) -> Result<Node, StoreError> {
        let (store, writer) = open_store(fs, engine, options())?;
        Ok(Node {
            store,
            writer,
            history: BTreeMap::from([(0, Rows::new())]),
        })
    }

    pub fn step(&mut self) {
        while self.writer.step().unwrap().is_some() {}
    }

    pub fn last(&self) -> u64 {
        self.store.log().last_log_id().map_or(0, |id| id.index)
    }

    pub fn append(&mut self, index: u64, payload: Payload) {
        let entry = Entry {
            log_id: id(index),
            payload,
        };
        self.store
            .log()
            .append(vec![entry], Box::new(|done| done.unwrap()))
            .unwrap();
        self.step();
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let index = self.last() + 1;
        self.append(
            index,
            Payload::Command(Draft::put(key, value, Precondition::None).seal(index)),
        );
        let mut rows = self.history.last_key_value().unwrap().1.clone();
        rows.insert(key.to_vec(), (value.to_vec(), index));
        self.history.insert(index, rows);
    }

    pub fn delete(&mut self, key: &[u8]) {
        let index = self.last() + 1;
        self.append(
            index,
            Payload::Command(Draft::delete(key, Precondition::None).seal(index)),
        );
        let mut rows = self.history.last_key_value().unwrap().1.clone();
        rows.remove(key);
        self.history.insert(index, rows);
    }

    /// A random write; small and large values, keys that are overwritten and deleted.
    pub fn write(&mut self, rng: &mut StdRng) {
        let key = format!("key-{}", rng.random_range(0..30)).into_bytes();
        if rng.random_range(0..5) == 0 {
            return self.delete(&key);
        }
        let len = [
            rng.random_range(0..16),
            rng.random_range(17..600),
            rng.random_range(1000..3000),
        ];
        let value = vec![rng.random(); len[rng.random_range(0..3)]];
        self.put(&key, &value);
    }

    /// Applies what the log has beyond the index.
    pub fn apply(&self) {
        let applied = self.store.index().state().applied;
        let from = applied.map_or(1, |applied| applied.index + 1);
        let heads = self
            .store
            .log()
            .heads(from..self.last() + 1, options().inline_value_max)
            .unwrap();
        self.store.apply(heads, &|_| 0).unwrap();
    }

    /// Every row of the live view, with its value read and checked.
    pub fn rows(&self) -> Rows {
        rows(&self.store.view())
    }
}

pub(super) fn rows(view: &View) -> Rows {
    let mut rows = Rows::new();
    let mut visit = |item| {
        if let ScanItem::Row { key, entry } = item {
            let value = view.read(&entry, &key).unwrap();
            if let Some(read) = view.try_read(&entry, &key).unwrap() {
                assert_eq!(read, value);
            }
            rows.insert(key.to_vec(), (value.to_vec(), entry.mod_revision));
        }
        std::ops::ControlFlow::Continue(())
    };
    view.index().scan(&ScanRange::all(), &mut visit).unwrap();
    rows
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn map_node(fs: &CrashFs, engine: &Arc<MapEngine>) -> Result<Node, StoreError> {
    Node::open(Arc::new(fs.clone()), Arc::clone(engine) as Arc<dyn Engine>)
}

fn refused(result: Result<Node, StoreError>) -> Breach {
    match result.err().expect("it was opened") {
        StoreError::Refused { breach, .. } => breach,
        other => panic!("{other}"),
    }
}

#[test]
fn a_new_directory_serves_and_comes_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(RocksEngine::new(&RocksOptions::default()));
    let data = || Arc::new(DataDir::open(dir.path()).unwrap());
    let mut rng = StdRng::seed_from_u64(1);
    let (store, writer, recovered) = Store::open(data(), Arc::clone(&engine), options()).unwrap();
    assert_eq!(recovered.case, RecoveryCase::Fresh);
    let mut node = Node {
        store,
        writer,
        history: BTreeMap::from([(0, Rows::new())]),
    };
    for _ in 0..200 {
        node.write(&mut rng);
    }
    node.apply();
    let expected = node.history.last_key_value().unwrap().1.clone();
    assert_eq!(node.rows(), expected);
    let (entry, value) = node
        .store
        .view()
        .get(expected.keys().next().unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(
        (value.to_vec(), entry.mod_revision),
        expected.values().next().unwrap().clone()
    );
    assert_eq!(node.store.flush().unwrap(), Some(id(200)));
    let bytes: u64 = expected
        .iter()
        .map(|(key, (value, _))| nezha_vlog::record_len(key.len(), value.len()))
        .sum();
    assert_eq!(node.store.index().state().live_bytes, bytes);
    assert!(node.store.disk_bytes().unwrap() > bytes);
    drop(node);
    let (store, writer, _) = Store::open(data(), engine, options()).unwrap();
    let node = Node {
        store,
        writer,
        history: BTreeMap::new(),
    };
    assert_eq!(node.rows(), expected);
    assert_eq!(node.store.index().flushed(), Some(id(200)));
}

#[test]
fn lost_log_bytes_are_refused_or_opened_right_with_real_rocksdb() {
    let (mut opened, mut ahead) = (0, 0);
    for seed in 0..40 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let real = |name: &str| dir.path().join(name);
        let fs = CrashFs::new();
        let mut node = Node::open(Arc::new(fs.clone()), Arc::new(RocksBelow(real("live")))).unwrap();
        let (before, after) = (rng.random_range(1..60), rng.random_range(0..12));
        let flush_at = rng.random_range(0..before + after);
        let mut kept = None;
        for at in 0..before + after {
            if at == before {
                kept = Some(fs.fork());
            }
            node.write(&mut rng);
            node.apply();
            if at == flush_at {
                node.store.flush().unwrap();
                copy_tree(&real("live"), &real("flushed"));
            }
        }
        // The log as it was when the last writes had not reached the disk: wholly, or only their end.
        let kept = kept.unwrap_or_else(|| fs.fork());
        lose_tail(&fs, &kept, &node, &mut rng);
        // (a) The index kept whole, flushed: at worst ahead of the log. (b) As at its last flush.
        node.store.flush().unwrap();
        copy_tree(&real("live"), &real("whole"));
        for case in ["whole", "flushed"] {
            let applied = match case {
                "whole" => before + after,
                _ => flush_at + 1,
            };
            match Node::open(Arc::new(kept.fork()), Arc::new(RocksBelow(real(case)))) {
                Ok(reopened) => {
                    opened += 1;
                    let last = reopened.last();
                    assert!(
                        applied <= last,
                        "{case}: opened with {applied} applied and {last} in the log"
                    );
                    reopened.apply();
                    assert_eq!(reopened.rows(), node.history[&last], "{case}");
                }
                Err(StoreError::Refused {
                    breach: Breach::IndexAhead { applied: found, last },
                    ..
                }) => {
                    ahead += 1;
                    assert_eq!(found, id(applied));
                    assert!(last.is_none_or(|last| last.index < applied));
                }
                Err(other) => panic!("{case}: {other}"),
            }
        }
        std::mem::forget(node);
    }
    println!("opened {opened}, refused as ahead {ahead}");
    assert!(opened >= 20 && ahead >= 20, "opened {opened}, refused {ahead}");
}

/// Gives the newest segment of `kept` a random part of the bytes that `fs` has beyond it.
fn lose_tail(fs: &CrashFs, kept: &CrashFs, node: &Node, rng: &mut StdRng) {
    let names = kept.list(&node.store.data().log_dir()).unwrap();
    let newest = node.store.data().log_dir().join(names.last().unwrap());
    let (short, long) = (kept.get(&newest).unwrap(), fs.get(&newest).unwrap());
    if rng.random() && long.len() > short.len() {
        let cut = rng.random_range(short.len()..long.len());
        kept.put(&newest, &long[..cut]);
    }
}

#[test]
fn crashes_of_log_and_index_at_any_step_lose_nothing_acknowledged() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
        let mut expected = Rows::new();
        let mut last = 0;
        for _ in 0..4 {
            let mut node = map_node(&fs, &engine).unwrap();
            assert_eq!(node.last(), last);
            node.apply();
            assert_eq!(node.rows(), expected);
            node.history = BTreeMap::from([(last, expected.clone())]);
            for _ in 0..rng.random_range(1..40) {
                node.write(&mut rng);
                if rng.random_range(0..4) == 0 {
                    node.apply();
                }
                if rng.random_range(0..10) == 0 {
                    node.store.flush().unwrap();
                }
            }
            last = node.last();
            expected = node.history[&last].clone();
            engine.crash();
            fs = fs.crash(rng.random());
        }
    }
}

#[test]
fn an_index_rolled_back_behind_the_purge_point_is_refused() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = map_node(&fs, &engine).unwrap();
    for _ in 0..10 {
        node.put(b"k", b"v");
    }
    node.apply();
    node.store.flush().unwrap();
    node.store
        .log()
        .purge(id(8), Box::new(|done| done.unwrap()))
        .unwrap();
    node.step();
    drop(node);
    map_node(&fs, &engine).unwrap();
    // The index directory was lost: an empty one takes its place.
    let breach = refused(map_node(&fs, &Arc::new(MapEngine::default())));
    assert_eq!(
        breach,
        Breach::IndexBehindPurge {
            applied: None,
            purged: id(8)
        }
    );
    assert!(breach.to_string().contains("kvctl member remove"), "{breach}");
}

#[test]
fn an_index_beside_the_log_is_refused() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = map_node(&fs, &engine).unwrap();
    for _ in 0..3 {
        node.put(b"k", b"v");
    }
    node.apply();
    node.store.flush().unwrap();
    // The log of another history: same length, another term.
    let (fs, other) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = map_node(&fs, &other).unwrap();
    for index in 1..=3 {
        let entry = Entry {
            log_id: LogId {
                term: 2,
                node: 2,
                index,
            },
            payload: Payload::Blank,
        };
        node.store
            .log()
            .append(vec![entry], Box::new(|done| done.unwrap()))
            .unwrap();
    }
    node.step();
    drop(node);
    let breach = refused(map_node(&fs, &engine));
    assert_eq!(
        breach,
        Breach::IndexDisagrees {
            applied: id(3),
            log: LogId {
                term: 2,
                node: 2,
                index: 3
            }
        }
    );
}

#[test]
fn lost_files_are_refused_by_name() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = map_node(&fs, &engine).unwrap();
    while node.store.log().segments().len() < 3 {
        node.put(format!("key-{}", node.last()).as_bytes(), &[1; 2000]);
    }
    node.apply();
    node.store.flush().unwrap();
    let data = Arc::clone(node.store.data());
    let first = nezha_vlog::format::segment_path(&data.log_dir(), node.store.log().segments()[0].id);
    drop(node);

    let lost = fs.fork();
    lost.remove(&first).unwrap();
    let error = map_node(&lost, &engine)
        .err()
        .expect("a lost log segment goes unnoticed");
    assert!(!error.to_string().is_empty());

    let lost = fs.fork();
    lost.remove(&data.current_path()).unwrap();
    let error = map_node(&lost, &engine).err().unwrap();
    assert!(
        matches!(&error, StoreError::NoStore { reason, .. } if reason.contains("CURRENT is missing")),
        "{error}"
    );

    let lost = fs.fork();
    lost.remove_dir_all(&data.store_dir(1)).unwrap();
    let error = map_node(&lost, &engine).err().unwrap();
    assert!(
        matches!(&error, StoreError::NoStore { reason, .. } if reason.contains("store-1")),
        "{error}"
    );

    // Also when the index was never flushed, so that nothing else tells that there was a log.
    let (young_fs, young_engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    drop(map_node(&young_fs, &young_engine).unwrap());
    young_fs.remove_dir_all(&data.log_dir()).unwrap();
    for attempt in 1..=2 {
        let error = map_node(&young_fs, &young_engine).err().unwrap();
        assert!(
            matches!(&error, StoreError::NoStore { reason, .. } if reason.contains("the log is missing")),
            "attempt {attempt}: {error}"
        );
    }

    let damaged = fs.fork();
    damaged.flip_bit(&data.current_path(), 3, 1);
    let error = map_node(&damaged, &engine).err().unwrap();
    assert!(error.to_string().contains("CURRENT at offset"), "{error}");
}

#[test]
fn a_flipped_bit_in_a_logged_value_is_named_and_others_are_served() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = map_node(&fs, &engine).unwrap();
    node.put(b"good", &[1; 500]);
    node.put(b"bad", &[2; 500]);
    node.apply();
    let view = node.store.view();
    let entry = view.index().get(b"bad").unwrap().unwrap();
    let crate::index::Place::At(at) = entry.place else {
        panic!("{entry:?}")
    };
    let file = nezha_vlog::format::segment_path(&node.store.data().log_dir(), at.segment);
    assert!(fs.flip_bit(&file, at.offset + 300, 5));
    match view.read(&entry, b"bad") {
        Err(StoreError::Damage {
            file: named, offset, ..
        }) => assert_eq!((named, offset), (file, at.offset)),
        other => panic!("{other:?}"),
    }
    assert_eq!(view.get(b"good").unwrap().unwrap().1, vec![1; 500]);
}

#[test]
fn a_failing_disk_at_any_step_of_the_first_open_leaves_a_directory_that_opens() {
    let mut steps = 0;
    loop {
        let fs = CrashFs::new();
        let engine = Arc::new(MapEngine::default());
        fs.halt_after(steps);
        let done = DataDir::unlocked(Arc::new(fs.clone()), &root())
            .ok()
            .is_some_and(|data| {
                Store::open(Arc::new(data), Arc::clone(&engine) as Arc<dyn Engine>, options()).is_ok()
            });
        engine.crash();
        for seed in 0..4 {
            map_node(&fs.crash(seed), &engine)
                .unwrap_or_else(|error| panic!("step {steps}, seed {seed}: {error}"));
        }
        if done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn os_and_crash_file_systems_answer_alike_about_missing_files() {
    // `find_or_create` relies on it.
    for fs in [&OsFs as &dyn Fs, &CrashFs::new()] {
        assert!(!fs.exists(Path::new("/nowhere/at-all")).unwrap());
        assert_eq!(
            fs.open(Path::new("/nowhere/at-all")).unwrap_err().kind(),
            std::io::ErrorKind::NotFound
        );
    }
}
