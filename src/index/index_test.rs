//! Goal: both engines hold the same after the same log, live counts are exact at every moment, and what a crash of
//! RocksDB leaves is an exact prefix. Method: seeded logs of puts, deletes and preconditions against a plain model; a
//! crash is a copy of the directory while the handle is still open.

use std::collections::BTreeMap;
use std::path::Path;

use nezha_vlog::{Head, HeadPayload, OpHead, OpKind, Precondition};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Highest node id of a membership in these tests: its first byte.
fn max_node_id(membership: &Bytes) -> u64 {
    membership.first().copied().map_or(0, u64::from)
}

fn run(index: &dyn Index, heads: &[Head]) -> Vec<Vec<Outcome>> {
    Apply::run(index, heads.to_vec(), &max_node_id).unwrap()
}

fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        node: 1,
        index,
    }
}

/// A seeded log: heads as vlog would hand them over, with places in segments of a few records each.
struct LogGen {
    rng: StdRng,
    next: u64,
    inline_max: usize,
    /// mod_revision of each key as far as the generator cares to guess, to make preconditions hold now and then.
    seen: Vec<u64>,
}

impl LogGen {
    fn new(seed: u64, inline_max: usize) -> LogGen {
        LogGen {
            rng: StdRng::seed_from_u64(seed),
            next: 1,
            inline_max,
            seen: vec![0; 40],
        }
    }

    fn heads(&mut self, count: usize) -> Vec<Head> {
        (0..count).map(|_| self.head()).collect()
    }

    fn head(&mut self) -> Head {
        let log_id = LogId {
            term: 1 + self.next / 100,
            node: 1,
            index: self.next,
        };
        let payload = match self.rng.random_range(0..20) {
            0 => HeadPayload::Blank,
            1 => HeadPayload::Membership(Bytes::from(vec![self.rng.random_range(1..9)])),
            _ => {
                let ops = self.rng.random_range(1..4);
                HeadPayload::Command((0..ops).map(|at| self.op(at)).collect())
            }
        };
        self.next += 1;
        Head { log_id, payload }
    }

    fn op(&mut self, at: u64) -> OpHead {
        let number = self.rng.random_range(0..self.seen.len());
        let value: Vec<u8> = vec![self.next as u8; self.rng.random_range(0..100)];
        let kind = if self.rng.random_range(0..4) == 0 {
            OpKind::Delete
        } else {
            OpKind::Put
        };
        let precondition = match self.rng.random_range(0..6) {
            0 => Precondition::Absent,
            1 => Precondition::ModRevision(self.seen[number]),
            2 => Precondition::ModRevision(self.rng.random_range(1..self.next + 1)),
            _ => Precondition::None,
        };
        self.seen[number] = self.next;
        let value_len = if kind == OpKind::Put {
            value.len() as u32
        } else {
            0
        };
        let segment = SegmentId::new(1 + self.next / 16);
        let inline = kind == OpKind::Put && value.len() <= self.inline_max;
        OpHead {
            kind,
            precondition,
            key: Bytes::from(format!("key-{number:03}")),
            place: ValueRef {
                segment,
                offset: self.next * 1000 + at * 200,
                value_len,
            },
            inline: inline.then(|| value.into()),
        }
    }
}

/// Everything that an index holds.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Content {
    state: AppliedState,
    rows: Vec<(Bytes, IndexEntry)>,
    live: BTreeMap<SegmentId, u64>,
}

fn content(index: &dyn Index) -> Content {
    let mut state = None;
    let mut rows = Vec::new();
    index
        .scan(&ScanRange::all(), &mut |item| {
            match item {
                ScanItem::View(view) => assert!(state.replace(view).is_none() && rows.is_empty()),
                ScanItem::Row { key, entry } => rows.push((key, entry)),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let state = state.expect("a scan reports its view");
    assert_eq!(state, index.state());
    Content {
        state,
        rows,
        live: index.live_bytes(),
    }
}

/// Recounts what `content` says about itself.
fn assert_exact(content: &Content) {
    let mut live = BTreeMap::new();
    for (key, entry) in &content.rows {
        if let Place::At(at) = &entry.place {
            *live.entry(at.segment).or_insert(0) += record_len(key.len(), at.value_len as usize);
        }
    }
    assert_eq!(content.live, live);
    assert_eq!(content.state.keys, content.rows.len() as u64);
    assert_eq!(
        content.state.live_bytes,
        content
            .rows
            .iter()
            .map(|(key, entry)| entry.record_len(key))
            .sum::<u64>()
    );
}

/// The semantics again, one operation at a time over a plain map, sharing no code with [`Apply`].
#[derive(Default)]
struct Model {
    keys: BTreeMap<Bytes, (u64, u64, u64, u32)>,
}

impl Model {
    fn run(&mut self, heads: &[Head]) -> Vec<Vec<Outcome>> {
        heads
            .iter()
            .map(|head| match &head.payload {
                HeadPayload::Command(ops) => ops.iter().map(|op| self.op(head.log_id.index, op)).collect(),
                _ => Vec::new(),
            })
            .collect()
    }

    fn op(&mut self, revision: u64, op: &OpHead) -> Outcome {
        let old = self.keys.get(&op.key).copied();
        let current = old.map_or(0, |(_, modified, _, _)| modified);
        let existed = old.is_some();
        let succeeded = match op.precondition {
            Precondition::None => true,
            Precondition::Absent => !existed,
            Precondition::ModRevision(revision) => revision == current && existed,
        };
        if succeeded && op.kind == OpKind::Put {
            let (created, version) = old.map_or((revision, 0), |(created, _, version, _)| (created, version));
            self.keys.insert(
                op.key.clone(),
                (created, revision, version + 1, op.place.value_len),
            );
        } else if succeeded {
            self.keys.remove(&op.key);
        }
        let mod_revision = self.keys.get(&op.key).map_or(0, |(_, modified, _, _)| *modified);
        Outcome {
            succeeded,
            existed,
            mod_revision,
        }
    }

    fn assert_same(&self, content: &Content) {
        let rows = content.rows.iter().map(|(key, entry)| {
            let value_len = entry.value_len() as u32;
            (
                key.clone(),
                (
                    entry.create_revision,
                    entry.mod_revision,
                    entry.version,
                    value_len,
                ),
            )
        });
        assert!(rows.eq(self.keys.iter().map(|(key, row)| (key.clone(), *row))));
    }
}

fn small_rocks() -> RocksOptions {
    // Memtables fill and are written out, and tables are compacted, within one test.
    RocksOptions {
        write_buffer_bytes: 64 << 10,
        write_buffers_merged: 2,
        table_bytes: 1 << 20,
        ..RocksOptions::default()
    }
}

fn open(dir: &Path) -> RocksIndex {
    RocksIndex::open(dir, &small_rocks()).unwrap()
}

#[test]
fn both_engines_agree_with_the_model_and_count_exactly() {
    for seed in 0..20 {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let options = match seed % 2 {
            0 => small_rocks(),
            // Neither cache nor filters.
            _ => RocksOptions {
                block_cache_bytes: 0,
                bloom_bits_per_key: 0.0,
                ..small_rocks()
            },
        };
        let rocks = RocksIndex::open(dir.path(), &options).unwrap();
        let (map, mut model) = (MapIndex::new(), Model::default());
        let mut log = LogGen::new(seed, 50);
        for step in 0..60 {
            let count = log.rng.random_range(1..30);
            let heads = log.heads(count);
            let outcomes = model.run(&heads);
            assert_eq!(run(&rocks, &heads), outcomes, "step {step}");
            assert_eq!(run(&map, &heads), outcomes, "step {step}");
            if step % 10 == 9 {
                let content = content(&map);
                model.assert_same(&content);
                assert_exact(&content);
                assert_eq!(self::content(&rocks), content);
                assert_eq!(rocks.flush().unwrap(), content.state.applied);
            }
        }
    }
}

#[test]
fn neither_batching_nor_inlining_changes_what_clients_see() {
    let visible = |content: Content| {
        let rows = content.rows.into_iter().map(|(key, entry)| {
            (
                key.clone(),
                entry.create_revision,
                entry.mod_revision,
                entry.version,
                entry.record_len(&key),
            )
        });
        (content.state, rows.collect::<Vec<_>>())
    };
    for seed in 100..110 {
        println!("seed {seed}");
        let (small, large) = (MapIndex::new(), MapIndex::new());
        let (mut a, mut b) = (LogGen::new(seed, 0), LogGen::new(seed, 1000));
        let one_by_one: Vec<_> = (0..500).flat_map(|_| run(&small, &[a.head()])).collect();
        let at_once = run(&large, &b.heads(500));
        assert_eq!(one_by_one, at_once);
        assert_eq!(visible(content(&small)), visible(content(&large)));
        assert!(large.live_bytes().is_empty(), "inline values count in no segment");
    }
}

#[test]
fn a_crash_of_rocksdb_leaves_an_exact_prefix_and_replay_completes_it() {
    let mut lost = 0;
    for seed in 0..12 {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let rocks = open(&dir.path().join("live"));
        let map = MapIndex::new();
        let mut log = LogGen::new(seed, 20);
        let mut history = BTreeMap::from([(None, content(&map))]);
        let mut heads = Vec::new();
        for _ in 0..300 {
            let count = log.rng.random_range(1..20);
            let batch = log.heads(count);
            run(&rocks, &batch);
            run(&map, &batch);
            heads.extend(batch);
            let content = content(&map);
            history.insert(content.state.applied.map(|id| id.index), content);
            if log.rng.random_range(0..60) == 0 {
                rocks.flush().unwrap();
            }
        }
        let flushed = rocks.flushed();
        let crashed = dir.path().join("crashed");
        copy_dir(&dir.path().join("live"), &crashed);
        let reopened = open(&crashed);
        let found = content(&reopened);
        let applied = found.state.applied;
        assert_eq!(
            Some(&found),
            history.get(&applied.map(|id| id.index)),
            "not the state of any batch"
        );
        assert!(
            applied.map(|id| id.index) >= flushed.map(|id| id.index),
            "{applied:?} < flushed {flushed:?}"
        );
        assert_eq!(reopened.flushed(), applied);
        assert_exact(&found);
        lost += u64::from(applied != map.state().applied);
        heads.retain(|head| applied.is_none_or(|applied| head.log_id.index > applied.index));
        run(&reopened, &heads);
        assert_eq!(content(&reopened), content(&map));
        // A crash runs no destructor.
        std::mem::forget(rocks);
    }
    assert!(lost > 0, "no crash lost anything: nothing was proved");
}

/// Copies a directory that RocksDB may be working in, as it was at one moment.
fn copy_dir(from: &Path, to: &Path) {
    let listing = || {
        let files = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = files
            .map(|file| (file.file_name(), file.metadata().ok().map(|m| m.len())))
            .collect();
        files.sort();
        files
    };
    loop {
        let before = listing();
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).unwrap();
        let copied = before
            .iter()
            .all(|(name, _)| std::fs::copy(from.join(name), to.join(name)).is_ok());
        if copied && listing() == before {
            return;
        }
    }
}

#[test]
fn the_map_engine_goes_back_to_its_last_flush() {
    let map = MapIndex::new();
    let mut log = LogGen::new(1, 20);
    run(&map, &log.heads(50));
    let flushed = content(&map);
    assert_eq!(map.flush().unwrap(), Some(flushed.state.applied.unwrap()));
    run(&map, &log.heads(50));
    map.crash();
    assert_eq!(content(&map), flushed);
    assert_eq!(map.flushed(), flushed.state.applied);
}

#[test]
fn both_engines_scan_every_range_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (rocks, map) = (open(dir.path()), MapIndex::new());
    // Keys that sit around each other's bounds, the meta records' prefix bytes included.
    let keys: [&[u8]; 9] = [
        b"\x00",
        b"\x00L",
        b"\x01",
        b"a",
        b"a\x00",
        b"a\x00\x00",
        b"b",
        b"\xff",
        b"\xff\xff",
    ];
    let put = |(at, key): (usize, &&[u8])| Head {
        log_id: id(at as u64 + 1),
        payload: HeadPayload::Command(vec![OpHead {
            kind: OpKind::Put,
            precondition: Precondition::None,
            key: Bytes::copy_from_slice(key),
            place: ValueRef {
                segment: SegmentId::new(1),
                offset: at as u64,
                value_len: 7,
            },
            inline: None,
        }]),
    };
    let heads: Vec<Head> = keys.iter().enumerate().map(put).collect();
    for index in [&rocks as &dyn Index, &map] {
        run(index, &heads);
    }
    let mut bounds = vec![Bound::Unbounded];
    for key in keys {
        let key = Bytes::copy_from_slice(key);
        bounds.extend([Bound::Included(key.clone()), Bound::Excluded(key)]);
    }
    let scan = |index: &dyn Index, range: &ScanRange, limit: usize| {
        let mut items = Vec::new();
        let mut visit = |item| {
            items.push(item);
            if items.len() > limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        index.scan(range, &mut visit).unwrap();
        items
    };
    for start in &bounds {
        for end in &bounds {
            for reverse in [false, true] {
                for limit in [0, 2, 100] {
                    let range = ScanRange {
                        start: start.clone(),
                        end: end.clone(),
                        reverse,
                    };
                    assert_eq!(
                        scan(&rocks, &range, limit),
                        scan(&map, &range, limit),
                        "{range:?} limit {limit}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_scan_sees_one_view_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let mut log = LogGen::new(5, 20);
    run(&rocks, &log.heads(200));
    let before = content(&rocks);
    let mut rows = Vec::new();
    rocks
        .scan(&ScanRange::all(), &mut |item| {
            match item {
                ScanItem::View(state) => assert_eq!(state, before.state),
                ScanItem::Row { key, entry } => rows.push((key, entry)),
            }
            run(&rocks, &log.heads(10));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(rows, before.rows);
    assert_ne!(content(&rocks), before);
}

#[test]
fn membership_and_ids_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let membership = |index, bytes: &'static [u8]| Head {
        log_id: id(index),
        payload: HeadPayload::Membership(Bytes::from_static(bytes)),
    };
    run(&index, &[membership(1, &[7]), membership(2, &[3])]);
    index.flush().unwrap();
    drop(index);
    let state = open(dir.path()).state();
    assert_eq!(state.applied, Some(id(2)));
    assert_eq!(
        (state.membership_log_id, &state.membership[..]),
        (Some(id(2)), &[3][..])
    );
    assert_eq!(state.max_node_id, 7, "a node id is never forgotten");
    assert_eq!(state.next_value_segment, FIRST_VALUE_SEGMENT);
}

#[test]
fn entries_that_do_not_follow_are_refused_and_leave_nothing() {
    let map = MapIndex::new();
    let blank = |index| Head {
        log_id: id(index),
        payload: HeadPayload::Blank,
    };
    run(&map, &[blank(5)]);
    for heads in [vec![blank(5)], vec![blank(4)], vec![blank(6), blank(6)]] {
        let error = Apply::run(&map, heads, &max_node_id).unwrap_err();
        assert!(matches!(error, IndexError::OutOfOrder { .. }), "{error}");
        assert_eq!(map.state().applied, Some(id(5)));
    }
}

#[test]
fn a_read_only_index_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let mut log = LogGen::new(5, 20);
    run(&index, &log.heads(200));
    index.flush().unwrap();
    let before = content(&index);
    drop(index);
    let listing = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let files = listing();
    let index = RocksIndex::open_read_only(dir.path(), &small_rocks()).unwrap();
    assert_eq!(content(&index), before);
    let error = Apply::run(&index, log.heads(1), &max_node_id).unwrap_err();
    assert!(matches!(error, IndexError::Engine { .. }), "{error}");
    drop(index);
    assert_eq!(listing(), files);
}

#[test]
fn the_format_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let put = |key: &[u8], value: &[u8]| {
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        db.put(key, value).unwrap();
    };
    put(b"\x00F", b"NZHAIDX\0\x07\0\0\0");
    let error = RocksIndex::open(dir.path(), &small_rocks()).err().unwrap();
    assert!(
        matches!(
            error,
            IndexError::UnknownFormat {
                found: 7,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    put(b"\x00F", b"something else");
    let error = RocksIndex::open(dir.path(), &small_rocks()).err().unwrap();
    assert!(matches!(error, IndexError::Corrupt { .. }), "{error}");

    let other = tempfile::tempdir().unwrap();
    rocksdb::DB::open_default(other.path())
        .unwrap()
        .put(b"x", b"y")
        .unwrap();
    let error = RocksIndex::open(other.path(), &small_rocks()).err().unwrap();
    assert!(matches!(error, IndexError::Corrupt { .. }), "{error}");
}

#[test]
fn a_flipped_bit_in_a_table_is_named_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let mut log = LogGen::new(5, 20);
    run(&index, &log.heads(300));
    index.flush().unwrap();
    drop(index);
    let table = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let error = RocksIndex::open(dir.path(), &small_rocks()).err().or_else(|| {
        let index = RocksIndex::open(dir.path(), &small_rocks()).unwrap();
        index
            .scan(&ScanRange::all(), &mut |_| ControlFlow::Continue(()))
            .err()
    });
    match error.expect("damage goes unnoticed") {
        IndexError::Corrupt { file, .. } => assert_eq!(file, table),
        other => panic!("{other}"),
    }
}
