//! Goal: collection changes no read, loses nothing at any crash, keeps what is pinned, and gives the space back (I4, I5,
//! I6). Method: the node without Raft of `store_test`; jobs over all sealed segments; stops after each record; writes that
//! race with a job, from within it. Crashes are in `steps_test`.

use std::collections::BTreeSet;

use nezha_gc::plan::{Job, Reason};
use nezha_vlog::fs::{CrashFs, FailKind, FailWith};
use nezha_vlog::{Draft, Entry, Payload, Precondition, SegmentId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::staging_test::{SNAPSHOT_AT, assert_exact, snapshot, stage};
use super::store_test::{Node, Rows, id, rows};
use super::*;
use crate::index::{MapEngine, ScanItem, ScanRange};
use crate::seed::seeds;

fn open(fs: &CrashFs, engine: &Arc<MapEngine>) -> Node {
    Node::open(Arc::new(fs.clone()), Arc::clone(engine) as Arc<dyn Engine>).unwrap()
}

fn expected(node: &Node) -> Rows {
    node.history.last_key_value().unwrap().1.clone()
}

/// Makes everything applied durable and purges the log up to there.
pub(super) fn purge(node: &mut Node) {
    let applied = node.store.flush().unwrap().unwrap();
    node.store
        .log()
        .purge(applied, Box::new(|done| done.unwrap()))
        .unwrap();
    node.step();
}

/// A node with several segments of random writes, all applied and purged.
fn filled(seed: u64) -> (CrashFs, Arc<MapEngine>, Node) {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    let mut rng = StdRng::seed_from_u64(seed);
    while node.store.log().segments().len() < 5 {
        node.write(&mut rng);
        node.apply();
    }
    purge(&mut node);
    (fs, engine, node)
}

pub(super) fn inputs(node: &Node) -> BTreeSet<SegmentId> {
    let logs = node.store.log().segments().into_iter();
    let values = node.store.view().values().segments();
    logs.filter(|segment| segment.sealed)
        .map(|segment| segment.id)
        .chain(values.iter().map(|segment| segment.summary().id))
        .collect()
}

pub(super) fn job(inputs: BTreeSet<SegmentId>, output_level: u8) -> Job {
    Job {
        reason: Reason::Garbage,
        inputs: inputs.into_iter().collect(),
        output_level,
        keys: None,
        cuts: vec![Bytes::from_static(b"key-15"), Bytes::from_static(b"key-22")],
        input_bytes: 0,
        copy_bytes: 0,
        freed_bytes: 0,
    }
}

fn collect_all(node: &Node, level: u8) -> Collected {
    node.store
        .collect(&job(inputs(node), level), node.store.view().number, &mut |_| {
            Pace::Go
        })
        .unwrap()
}

/// Live bytes are exact, and every row reads.
pub(super) fn audit(node: &Node) -> Rows {
    let view = node.store.view();
    assert_exact(&view);
    rows(&view)
}

/// Nothing is left of what nobody needs.
fn assert_swept(node: &Node) {
    assert_eq!(node.store.sweep().unwrap().held, 0);
    let live = node.store.index().live_bytes();
    for id in inputs(node) {
        assert!(live.contains_key(&id), "{id} has nothing live and is still there");
    }
}

#[test]
fn collection_changes_no_read_and_frees_the_space() {
    let (fs, engine, mut node) = filled(1);
    let before = node.store.log().segments().len();
    let done = collect_all(&node, 1);
    assert!(
        done.finished && done.records > 0 && done.overtaken == 0,
        "{done:?}"
    );
    assert_eq!(audit(&node), expected(&node));
    assert_swept(&node);
    assert_eq!(
        node.store.log().segments().len(),
        1,
        "of {before} the active one is left"
    );
    // And again, with sorted segments among the inputs.
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..200 {
        node.write(&mut rng);
    }
    node.apply();
    purge(&mut node);
    collect_all(&node, 2);
    assert_eq!(audit(&node), expected(&node));
    assert_swept(&node);
    let history = std::mem::take(&mut node.history);
    drop(node);
    let mut node = open(&fs.crash(1), &engine);
    node.history = history;
    node.apply();
    assert_eq!(audit(&node), expected(&node));
}

#[test]
fn a_job_of_another_store_does_nothing() {
    let (_fs, _engine, node) = filled(6);
    let other = node.store.view().number + 1;
    let done = node
        .store
        .collect(&job(inputs(&node), 1), other, &mut |_| Pace::Go)
        .unwrap();
    assert_eq!(done, Collected::default());
}

/// The epoch of a store: a snapshot that is installed while a job runs ends it, at whatever record.
#[test]
fn an_install_ends_a_running_job() {
    let records = collect_all(&filled(6).2, 1).records;
    let new_rows = snapshot(3, 30);
    for at in 0..records {
        let (_fs, _engine, node) = filled(6);
        let store = &node.store;
        let old_number = store.view().number;
        let mut staged = Some(stage(store, &new_rows).unwrap());
        let mut copied = 0;
        let mut pace = |_| {
            if copied == at {
                store.install(staged.take().unwrap()).unwrap();
            }
            copied += 1;
            Pace::Go
        };
        let done = store
            .collect(&job(inputs(&node), 1), old_number, &mut pace)
            .unwrap();
        assert!(!done.finished, "installed before record {at}: {done:?}");
        assert_eq!(store.index().state().applied, Some(id(SNAPSHOT_AT)));
        assert_eq!(audit(&node), new_rows, "installed before record {at}");
        // The job's outputs go with the store that they were for.
        assert_eq!(store.sweep().unwrap().held, 0);
        assert_eq!(store.data().stores().unwrap(), vec![store.view().number]);
        assert_ne!(store.view().number, old_number);
        assert_eq!(audit(&node), new_rows);
    }
    assert!(records > 10, "only {records} records");
}

#[test]
fn what_raft_has_not_purged_stays_and_goes_later() {
    let (fs, engine) = (CrashFs::new(), Arc::new(MapEngine::default()));
    let mut node = open(&fs, &engine);
    let mut rng = StdRng::seed_from_u64(3);
    while node.store.log().segments().len() < 4 {
        node.write(&mut rng);
    }
    node.apply();
    let segments = node.store.log().segments().len();
    collect_all(&node, 1);
    assert_eq!(node.store.sweep().unwrap().held, 0);
    assert_eq!(
        node.store.log().segments().len(),
        segments,
        "Raft may need them (I4)"
    );
    assert_eq!(node.store.log().entries(1..3, u64::MAX).unwrap().len(), 2);
    purge(&mut node);
    assert_swept(&node);
    assert_eq!(node.store.log().segments().len(), 1);
    assert_eq!(audit(&node), expected(&node));
}

#[test]
fn a_held_view_keeps_its_files_and_then_they_go() {
    let (_fs, _engine, node) = filled(4);
    let view = node.store.view();
    let mut places = Vec::new();
    let mut visit = |item| {
        if let ScanItem::Row { key, entry } = item {
            places.push((key, entry));
        }
        std::ops::ControlFlow::Continue(())
    };
    view.index().scan(&ScanRange::all(), &mut visit).unwrap();
    for round in 1..=2 {
        collect_all(&node, round);
        assert_eq!(
            node.store.sweep().unwrap().held,
            usize::from(round),
            "held by one reader"
        );
        for (key, entry) in &places {
            let value = view.read(entry, key).unwrap();
            assert_eq!(expected(&node)[&key[..]].0, value);
        }
    }
    drop(view);
    assert_swept(&node);
    assert_eq!(audit(&node), expected(&node));
}

/// Writes from within a job: between its look at the index and the relocation.
#[test]
fn overwrites_that_race_with_a_job_win() {
    let mut overtaken = 0;
    let seeds = seeds(40);
    for &seed in &seeds {
        let (_fs, _engine, mut node) = filled(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let (jobs, mut rows) = (job(inputs(&node), 1), expected(&node));
        let Node { store, writer, .. } = &mut node;
        let store = &*store;
        let mut pace = |_| {
            if rng.random_range(0..3) == 0 {
                let key = format!("key-{}", rng.random_range(0..30)).into_bytes();
                let index = store.log().last_log_id().unwrap().index + 1;
                let draft = Draft::put(&key, &[7; 100], Precondition::None);
                let entry = Entry {
                    log_id: id(index),
                    payload: Payload::Command(draft.seal(index)),
                };
                store.log().append(vec![entry], Box::new(|_| {})).unwrap();
                while writer.step().unwrap().is_some() {}
                store
                    .apply(store.log().heads(index..index + 1, 16).unwrap(), &|_| 0)
                    .unwrap();
                rows.insert(key, (vec![7; 100], index));
            }
            Pace::Go
        };
        overtaken += store
            .collect(&jobs, store.view().number, &mut pace)
            .unwrap()
            .overtaken;
        assert_eq!(audit(&node), rows, "seed {seed}");
        assert_swept(&node);
    }
    assert!(
        overtaken > seeds.len() as u64 / 2,
        "only {overtaken} writes overtook a job"
    );
}

/// A job that gives up after any record leaves a store that goes on, and opens again.
#[test]
fn a_job_that_stops_loses_nothing() {
    let records = collect_all(&filled(5).2, 1).records;
    for stop in 0..=records {
        let (fs, engine, mut node) = filled(5);
        let mut left = stop;
        let mut pace = |_| match left {
            0 => Pace::Stop,
            _ => {
                left -= 1;
                Pace::Go
            }
        };
        node.store
            .collect(&job(inputs(&node), 1), node.store.view().number, &mut pace)
            .unwrap();
        assert_eq!(audit(&node), expected(&node), "stopped after {stop} records");
        let history = std::mem::take(&mut node.history);
        let crashed = fs.crash(stop);
        drop(node);
        engine.crash();
        let mut node = open(&crashed, &engine);
        node.history = history;
        node.apply();
        assert_eq!(audit(&node), expected(&node), "opened after {stop} records");
        purge(&mut node);
        collect_all(&node, 2);
        assert_eq!(audit(&node), expected(&node));
        assert_swept(&node);
    }
}

/// A disk that fails once, or is full once, ends the job and nothing else; the next one does its work.
#[test]
fn a_job_that_fails_loses_nothing() {
    for with in [FailWith::Eio, FailWith::Enospc] {
        let mut failed = 0;
        for skip in 0.. {
            let (fs, engine, mut node) = filled(5);
            fs.fail(FailKind::Any, skip, with);
            let (job, number) = (job(inputs(&node), 1), node.store.view().number);
            let result = node.store.collect(&job, number, &mut |_| Pace::Go);
            let result = result.and_then(|_| node.store.sweep());
            if fs.disarm() {
                result.unwrap();
                break;
            }
            failed += u64::from(result.is_err());
            assert_eq!(audit(&node), expected(&node), "failed at operation {skip}");
            collect_all(&node, 2);
            assert_eq!(audit(&node), expected(&node), "collected again after {skip}");
            let history = std::mem::take(&mut node.history);
            drop(node);
            engine.crash();
            let mut node = open(&fs.crash(skip), &engine);
            node.history = history;
            assert_eq!(audit(&node), expected(&node), "opened after {skip}");
            assert_swept(&node);
        }
        assert!(failed > 20, "only {failed} operations failed");
    }
}
