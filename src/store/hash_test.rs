//! Goal: the hash depends on every field of every key and on nothing else, least of all on where values lie; and it is
//! of exactly the index that was asked for, while entries are applied.
//! Method: a golden value and one change per field; the node without Raft of `store_test`, before and after a
//! collection, with another inline limit; threads that ask for indices to come.

use std::ops::Bound;
use std::sync::mpsc;
use std::time::Duration;

use nezha_gc::plan::{Job, Reason};
use nezha_vlog::fs::CrashFs;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::store_test::{Node, options};
use super::*;
use crate::index::{MapEngine, Place, ScanRange};

/// Only bounds a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(fs: &CrashFs, engine: &Arc<MapEngine>) -> Node {
    Node::open(Arc::new(fs.clone()), Arc::clone(engine) as Arc<dyn Engine>).unwrap()
}

fn order(applied_index: u64) -> HashOrder {
    HashOrder {
        range: ScanRange::all(),
        applied_index,
        wait_until: std::time::Instant::now() + PATIENCE,
        keys_only: false,
        keys_max: 0,
    }
}

fn hash(store: &Store, order: &HashOrder) -> Hashed {
    store.hash(order, &mut || true).unwrap()
}

fn entry(value: &[u8], revisions: [u64; 3]) -> IndexEntry {
    IndexEntry {
        place: Place::Inline(Bytes::copy_from_slice(value)),
        create_revision: revisions[0],
        mod_revision: revisions[1],
        version: revisions[2],
    }
}

fn of(rows: &[(&[u8], &[u8], [u64; 3])], keys_only: bool) -> String {
    let mut hash = StateHash::default();
    for (key, value, revisions) in rows {
        hash.add(key, &entry(value, *revisions), (!keys_only).then_some(value));
    }
    hash.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed by other means: Python's hashlib over struct.pack("<Q").
#[test]
fn golden_values() {
    let rows: [(&[u8], &[u8], [u64; 3]); 2] = [(b"a", b"one", [1, 2, 3]), (b"bc", b"", [4, 5, 6])];
    assert_eq!(
        of(&[], false),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(
        of(&rows, false),
        "a71a3f47ce17003553068eee0a74a984d829b1be263385bbeb49fa464a953505"
    );
    assert_eq!(
        of(&rows, true),
        "ca9adcb1dcb89db33696b7e7b7786457e976ffbb6606b9b3f37ccaad56445dc3"
    );
}

#[test]
fn every_field_counts() {
    type Rows<'a> = &'a [(&'a [u8], &'a [u8], [u64; 3])];
    let base: Rows = &[(b"a", b"one", [1, 2, 3]), (b"bc", b"two", [4, 5, 6])];
    let others: [Rows; 10] = [
        &[(b"A", b"one", [1, 2, 3]), (b"bc", b"two", [4, 5, 6])],
        &[(b"a", b"onE", [1, 2, 3]), (b"bc", b"two", [4, 5, 6])],
        &[(b"a", b"one", [0, 2, 3]), (b"bc", b"two", [4, 5, 6])],
        &[(b"a", b"one", [1, 3, 3]), (b"bc", b"two", [4, 5, 6])],
        &[(b"a", b"one", [1, 2, 4]), (b"bc", b"two", [4, 5, 6])],
        &[(b"a", b"one", [1, 2, 3])],
        &[(b"bc", b"two", [4, 5, 6])],
        &[(b"bc", b"two", [4, 5, 6]), (b"a", b"one", [1, 2, 3])],
        // What ends one field does not begin the next.
        &[(b"a", b"onetwo", [1, 2, 3]), (b"bc", b"", [4, 5, 6])],
        &[(b"ab", b"one", [1, 2, 3]), (b"c", b"two", [4, 5, 6])],
    ];
    for (at, other) in others.into_iter().enumerate() {
        assert_ne!(of(base, false), of(other, false), "change {at}");
        // Another value of the same length is the one change that keys do not show.
        assert_eq!(of(base, true) == of(other, true), at == 1, "change {at}");
    }
}

#[test]
fn the_hash_does_not_depend_on_where_values_lie() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    let mut rng = StdRng::seed_from_u64(7);
    while node.store.log().segments().len() < 5 {
        node.write(&mut rng);
    }
    node.apply();
    let last = node.last();
    let before = hash(&node.store, &order(last));
    let keys_before = hash(
        &node.store,
        &HashOrder {
            keys_only: true,
            ..order(0)
        },
    );
    let rows = node.rows();
    let bytes = rows
        .iter()
        .map(|(key, (value, _))| key.len() + value.len())
        .sum::<usize>();
    assert_eq!((before.applied_index, before.keys), (last, rows.len() as u64));
    assert_eq!((before.bytes, keys_before.bytes), (bytes as u64, bytes as u64));
    assert_eq!(&before.last_key[..], rows.keys().next_back().unwrap());
    assert_ne!(before.digest, keys_before.digest);

    // The same log on a replica that keeps no value in its index.
    let other = open(&CrashFs::new(), &Arc::new(MapEngine::default()));
    let heads = node.store.log().heads(1..last + 1, 0).unwrap();
    other.store.apply(heads, &|_| 0).unwrap();
    let of_keys = HashOrder {
        keys_only: true,
        ..order(last)
    };
    assert_eq!(hash(&other.store, &of_keys), keys_before);

    // Collected: sorted segments instead of the log.
    node.store.flush().unwrap();
    let sealed = node
        .store
        .log()
        .segments()
        .into_iter()
        .filter(|segment| segment.sealed);
    let job = Job {
        reason: Reason::Garbage,
        inputs: sealed.map(|segment| segment.id).collect(),
        output_level: 1,
        keys: None,
        cuts: Vec::new(),
        input_bytes: 0,
        copy_bytes: 0,
        freed_bytes: 0,
    };
    let number = node.store.view().number;
    let done = node.store.collect(&job, number, &mut |_| Pace::Go).unwrap();
    assert!(done.records > 0, "{done:?}");
    assert_eq!(hash(&node.store, &order(last)), before);

    // Ranges: piece by piece, and nothing.
    let mut start = Bound::Unbounded;
    let mut keys = 0;
    loop {
        let piece = HashOrder {
            range: ScanRange {
                start: start.clone(),
                ..ScanRange::all()
            },
            keys_max: 3,
            ..order(0)
        };
        let piece = hash(&node.store, &piece);
        keys += piece.keys;
        if piece.keys < 3 {
            break;
        }
        start = Bound::Excluded(piece.last_key);
    }
    assert_eq!(keys, before.keys);
}

#[test]
fn damage_ends_a_hash_and_is_named() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    node.put(b"a", &[1; 500]);
    node.put(b"b", &[2; 500]);
    node.apply();
    let entry = node.store.index().get(b"b").unwrap().unwrap();
    let Place::At(at) = entry.place else {
        panic!("{entry:?}")
    };
    let path = nezha_vlog::format::segment_path(&node.store.data().log_dir(), at.segment);
    assert!(fs.flip_bit(&path, at.offset + 300, 5));
    match node.store.hash(&order(0), &mut || true) {
        Err(HashError::Store(StoreError::Damage { file, offset, .. })) => {
            assert_eq!((file, offset), (path, at.offset));
        }
        other => panic!("{other:?}"),
    }
    let of_keys = HashOrder {
        keys_only: true,
        ..order(0)
    };
    assert_eq!(hash(&node.store, &of_keys).keys, 2);
}

/// Hashes of each index, as one node has them that applies entry by entry.
fn step_by_step(heads: &[nezha_vlog::Head]) -> Vec<[u8; 32]> {
    let node = open(&CrashFs::new(), &Arc::new(MapEngine::default()));
    let digests = heads.iter().map(|head| {
        node.store.apply(vec![head.clone()], &|_| 0).unwrap();
        let of_keys = HashOrder {
            keys_only: true,
            ..order(0)
        };
        hash(&node.store, &of_keys).digest
    });
    digests.collect()
}

#[test]
fn a_hash_is_of_exactly_the_index_that_was_asked_for() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..200 {
        node.write(&mut rng);
    }
    let heads = node
        .store
        .log()
        .heads(1..201, options().inline_value_max)
        .unwrap();
    let expected = step_by_step(&heads);
    let wanted = [1_u64, 2, 60, 60, 61, 99, 150, 200];
    let store = &node.store;
    std::thread::scope(|scope| {
        let asked = wanted.map(|index| {
            let of_keys = HashOrder {
                keys_only: true,
                ..order(index)
            };
            scope.spawn(move || hash(store, &of_keys))
        });
        // All of them wait before the first entry is applied; then there is one batch, and another one.
        while store.waiting_for_halts() < wanted.len() {
            std::thread::yield_now();
        }
        let (first, second) = heads.split_at(100);
        for heads in [first, second] {
            let outcomes = store.apply(heads.to_vec(), &|_| 0).unwrap();
            assert_eq!(outcomes.len(), heads.len());
        }
        for (index, asked) in wanted.into_iter().zip(asked) {
            let hashed = asked.join().unwrap();
            assert_eq!(hashed.applied_index, index);
            assert_eq!(hashed.digest, expected[index as usize - 1], "at index {index}");
        }
    });
    assert_eq!(store.waiting_for_halts(), 0);
    // There already, past, and not in time.
    assert_eq!(hash(store, &order(200)).applied_index, 200);
    let past = store.hash(&order(199), &mut || true);
    assert!(matches!(past, Err(HashError::Past { applied: 200 })), "{past:?}");
    let late = HashOrder {
        wait_until: std::time::Instant::now(),
        ..order(201)
    };
    let late = store.hash(&late, &mut || true);
    assert!(
        matches!(late, Err(HashError::NotReached { applied: 200 })),
        "{late:?}"
    );
    // Given up while it waits, and while it reads.
    let gone = store.hash(&order(201), &mut || false);
    assert!(matches!(gone, Err(HashError::Stopped)), "{gone:?}");
    let gone = store.hash(&order(0), &mut || false);
    assert!(matches!(gone, Err(HashError::Stopped)), "{gone:?}");
    assert_eq!(store.waiting_for_halts(), 0);
}

/// Who does not take its view in time holds nobody up for good.
#[test]
fn apply_goes_on_without_those_who_are_slow() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    node.put(b"a", b"1");
    let store = &node.store;
    let until = std::time::Instant::now() + PATIENCE;
    std::thread::scope(|scope| {
        let (done, applied) = mpsc::channel::<()>();
        let slow = scope.spawn(move || {
            let hold = store.hold_at(1, until, &mut || true).unwrap();
            applied.recv_timeout(PATIENCE).unwrap();
            drop(hold);
        });
        while store.waiting_for_halts() < 1 {
            std::thread::yield_now();
        }
        node.apply();
        done.send(()).unwrap();
        slow.join().unwrap();
    });
}
