//! Goal: a received snapshot becomes live wholly or not at all, and readers of the old store are not disturbed.
//! Method: small snapshots on `CrashFs`, once with RocksDB on a real directory; crashes are in `steps_test`.

use std::collections::BTreeMap;

use nezha_vlog::fs::CrashFs;
use nezha_vlog::{SegmentId, encode_record};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::store_test::{Node, Rows, id, options, rows};
use super::*;
use crate::index::{MapEngine, Place, RocksEngine, RocksOptions};

/// Last log index of the snapshots here; no log of these tests gets that far by itself.
pub(super) const SNAPSHOT_AT: u64 = 1000;

pub(super) fn meta() -> SnapshotMeta {
    let membership = Bytes::from_static(b"members");
    SnapshotMeta {
        last_log_id: id(SNAPSHOT_AT),
        membership_log_id: Some(id(3)),
        membership,
        max_node_id: 4,
    }
}

pub(super) fn snapshot(seed: u64, count: u64) -> Rows {
    let mut rng = StdRng::seed_from_u64(seed);
    let row = |number: u64| {
        let len = [
            rng.random_range(0..17),
            rng.random_range(17..500),
            rng.random_range(5000..20_000),
        ];
        let value = vec![rng.random(); len[rng.random_range(0..3)]];
        (
            format!("snap-{number:05}").into_bytes(),
            (value, rng.random_range(10..900)),
        )
    };
    (0..count).map(row).collect()
}

pub(super) fn stage(store: &Store, rows: &Rows) -> Result<Staged, StoreError> {
    let mut staging = store.stage()?;
    for (key, (value, revision)) in rows {
        staging.push(revision - 5, 2, encode_record(*revision, key, value))?;
    }
    staging.finish(meta())
}

fn node(fs: &CrashFs, engine: &Arc<MapEngine>) -> Node {
    Node::open(Arc::new(fs.clone()), Arc::clone(engine) as Arc<dyn Engine>).unwrap()
}

fn old_node(fs: &CrashFs, engine: &Arc<MapEngine>) -> (Node, Rows) {
    let mut node = node(fs, engine);
    for number in 0..10 {
        node.put(format!("old-{number}").as_bytes(), &[number; 100]);
    }
    node.apply();
    node.store.flush().unwrap();
    let rows = node.rows();
    (node, rows)
}

/// Asserts that what the index says about live bytes is what its rows add up to.
pub(super) fn assert_exact(view: &View) {
    let mut live = BTreeMap::new();
    let (mut keys, mut bytes) = (0, 0);
    let mut visit = |item| {
        if let crate::index::ScanItem::Row { key, entry } = item {
            keys += 1;
            bytes += entry.record_len(&key);
            if let Place::At(at) = entry.place {
                *live.entry(at.segment).or_insert(0) += entry.record_len(&key);
            }
        }
        std::ops::ControlFlow::Continue(())
    };
    view.index()
        .scan(&crate::index::ScanRange::all(), &mut visit)
        .unwrap();
    let state = view.index().state();
    assert_eq!(
        (view.index().live_bytes(), state.keys, state.live_bytes),
        (live, keys, bytes)
    );
}

#[test]
fn with_rocksdb_the_new_store_is_live_and_the_old_one_readable_until_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(RocksEngine::new(&RocksOptions::default()));
    let open = || {
        let data = Arc::new(DataDir::open(dir.path()).unwrap());
        Store::open(data, Arc::clone(&engine), options()).unwrap()
    };
    let (store, writer, _) = open();
    let mut node = Node {
        store,
        writer,
        history: BTreeMap::from([(0, Rows::new())]),
    };
    for number in 0..10 {
        node.put(format!("old-{number}").as_bytes(), &[number; 100]);
    }
    node.apply();
    let vote = nezha_vlog::Vote {
        term: 1,
        node: 1,
        committed: true,
    };
    node.store
        .log()
        .save_vote(vote, Box::new(|done| done.unwrap()))
        .unwrap();
    node.step();
    let old_rows = node.rows();
    let old_view = node.store.view();

    // More than one batch, more than one segment.
    let new_rows = snapshot(2, 6000);
    let staged = stage(&node.store, &new_rows).unwrap();
    assert_eq!(staged.applied(), id(SNAPSHOT_AT));
    assert_eq!(node.rows(), old_rows, "a staged store is not live");
    node.store.install(staged).unwrap();
    let state = node.store.index().state();
    assert_eq!(
        (state.applied, state.installed_at),
        (Some(id(SNAPSHOT_AT)), Some(id(SNAPSHOT_AT)))
    );
    assert_eq!(
        (state.membership_log_id, &state.membership[..], state.max_node_id),
        (Some(id(3)), &b"members"[..], 4)
    );
    assert_eq!(node.rows(), new_rows);
    let view = node.store.view();
    assert_exact(&view);
    assert!(view.values().segments().len() > 1);
    assert!(
        view.index().live_bytes().keys().all(|segment| !segment.is_log()),
        "log segments hold nothing live"
    );
    view.values().verify().unwrap();
    drop(view);

    assert_eq!(
        node.store.sweep().unwrap().held,
        1,
        "somebody reads the old store"
    );
    assert_eq!(rows(&old_view), old_rows);
    drop(old_view);
    assert_eq!(node.store.sweep().unwrap().held, 0);
    assert_eq!(node.store.data().stores().unwrap(), vec![2]);

    // The log goes on behind the snapshot, also after a restart in between: the marker excuses the short log.
    drop(node);
    let (store, writer, _) = open();
    let mut node = Node {
        store,
        writer,
        history: BTreeMap::from([(0, new_rows.clone())]),
    };
    node.store
        .log()
        .purge(id(SNAPSHOT_AT), Box::new(|done| done.unwrap()))
        .unwrap();
    node.put(b"later", b"a value that is not inline");
    node.apply();
    assert_eq!(node.store.index().state().applied, Some(id(SNAPSHOT_AT + 1)));
    assert_eq!(node.rows(), node.history[&(SNAPSHOT_AT + 1)]);
    drop(node);
    let (store, ..) = open();
    assert_eq!(store.index().state().keys, new_rows.len() as u64 + 1);
}

#[test]
fn what_is_given_up_is_swept() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let (node, old_rows) = old_node(&fs, &engine);
    let staged = stage(&node.store, &snapshot(1, 10)).unwrap();
    let mut staging = node.store.stage().unwrap();
    staging.push(1, 1, encode_record(1, b"a", &[1; 100])).unwrap();
    drop(staged);
    drop(staging);
    assert_eq!(node.store.data().stores().unwrap().len(), 3);
    node.store.sweep().unwrap();
    assert_eq!(node.store.data().stores().unwrap(), vec![1]);
    assert_eq!(node.rows(), old_rows);
}

#[test]
fn small_values_go_inline_and_segment_ids_go_on() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let (node, _) = old_node(&fs, &engine);
    for round in 0..2 {
        let staged = stage(&node.store, &snapshot(round, 30)).unwrap();
        node.store.install(staged).unwrap();
        let view = node.store.view();
        let ids: Vec<_> = view
            .values()
            .segments()
            .iter()
            .map(|segment| segment.summary().id)
            .collect();
        assert_eq!(ids, vec![SegmentId::sorted(1 + round)]);
        for (key, (value, _)) in &snapshot(round, 30) {
            let entry = view.index().get(key).unwrap().unwrap();
            let inline = matches!(entry.place, Place::Inline(_));
            assert_eq!(inline, value.len() <= options().inline_value_max as usize);
            assert_eq!(
                (entry.create_revision, entry.version),
                (entry.mod_revision - 5, 2)
            );
        }
    }
}

#[test]
fn bad_snapshots_are_refused() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let (node, old_rows) = old_node(&fs, &engine);
    let refused = |items: &[(u64, u64, Bytes)]| {
        let mut staging = node.store.stage().unwrap();
        let result = items
            .iter()
            .try_for_each(|(created, version, bytes)| staging.push(*created, *version, bytes.clone()));
        assert!(
            matches!(result, Err(StoreError::BadSnapshot { .. })),
            "{result:?}"
        );
    };
    let record = |key: &[u8]| encode_record(7, key, &[1; 100]);
    let mut flipped = record(b"a").to_vec();
    flipped[60] ^= 1;
    refused(&[(7, 1, flipped.into())]);
    refused(&[(7, 1, record(b"a").slice(..50))]);
    refused(&[(7, 1, Bytes::new())]);
    refused(&[(8, 1, record(b"a"))]);
    refused(&[(7, 0, record(b"a"))]);
    refused(&[(7, 1, record(b"b")), (7, 1, record(b"a"))]);
    refused(&[(7, 1, record(b"b")), (7, 1, record(b"b"))]);
    let delete = nezha_vlog::Draft::delete(b"a", nezha_vlog::Precondition::None).seal(7);
    refused(&[(7, 1, delete.ops().next().unwrap().record)]);

    let older = SnapshotMeta {
        last_log_id: id(2),
        ..meta()
    };
    let staged = node.store.stage().unwrap().finish(older).unwrap();
    let result = node.store.install(staged);
    assert!(
        matches!(result, Err(StoreError::BadSnapshot { .. })),
        "{result:?}"
    );
    assert_eq!(node.rows(), old_rows);
}

#[test]
fn an_empty_snapshot_is_a_store_too() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let (node_before, _) = old_node(&fs, &engine);
    node_before
        .store
        .install(stage(&node_before.store, &Rows::new()).unwrap())
        .unwrap();
    assert!(node_before.rows().is_empty());
    drop(node_before);
    let node = node(&fs, &engine);
    assert!(node.rows().is_empty());
    assert_eq!(node.store.index().state().applied, Some(id(SNAPSHOT_AT)));
}

#[test]
fn a_flipped_bit_in_a_value_segment_is_named() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let (node, _) = old_node(&fs, &engine);
    let new_rows = snapshot(1, 30);
    node.store
        .install(stage(&node.store, &new_rows).unwrap())
        .unwrap();
    let view = node.store.view();
    let (key, _) = new_rows.iter().find(|(_, (value, _))| value.len() > 100).unwrap();
    let entry = view.index().get(key).unwrap().unwrap();
    let Place::At(at) = entry.place else {
        panic!("{entry:?}")
    };
    let file = view.values().get(at.segment).unwrap().path().to_path_buf();
    assert!(fs.flip_bit(&file, at.offset + 80, 3));
    match view.read(&entry, key) {
        Err(StoreError::Damage {
            file: named, offset, ..
        }) => assert_eq!((named, offset), (file, at.offset)),
        other => panic!("{other:?}"),
    }
}
