//! Goal: whatever meets damage marks the file; a job ends there and copies nothing of it; later ones leave the file alone
//! and collect the others; it goes when nothing in it is live.
//! Method: the node without Raft of `store_test`; bits flipped in sealed log segments and in sorted segments.

use nezha_gc::plan::{Job, LEVEL_LOG, Reason, SegmentStat};
use nezha_vlog::SegmentId;
use nezha_vlog::fs::CrashFs;

use super::store_test::Node;
use super::*;
use crate::index::{MapEngine, Place};

const VALUE_BYTES: usize = 1500;

fn key(n: usize) -> Vec<u8> {
    format!("key-{n:03}").into_bytes()
}

/// A node with 60 keys in several sealed log segments, purged.
fn filled(fs: &CrashFs) -> Node {
    let engine = Arc::new(MapEngine::default());
    let mut node = Node::open(Arc::new(fs.clone()), engine).unwrap();
    for n in 0..60 {
        node.put(&key(n), &[n as u8; VALUE_BYTES]);
    }
    purge(&mut node);
    node
}

fn purge(node: &mut Node) {
    node.apply();
    let applied = node.store.flush().unwrap().unwrap();
    let log = node.store.log();
    log.purge(applied, Box::new(|done| done.unwrap())).unwrap();
    node.step();
}

/// Flips a bit in the value of a key; returns its segment and file.
fn flip(fs: &CrashFs, node: &Node, key: &[u8]) -> (SegmentId, PathBuf, u64) {
    let view = node.store.view();
    let Place::At(at) = view.index().get(key).unwrap().unwrap().place else {
        panic!("it is inline")
    };
    let path = match at.segment.is_log() {
        true => nezha_vlog::format::segment_path(&node.store.data().log_dir(), at.segment),
        false => view.values().get(at.segment).unwrap().path().to_path_buf(),
    };
    assert!(fs.flip_bit(&path, at.offset + 700, 3));
    (at.segment, path, at.offset)
}

fn stats(node: &Node) -> Vec<SegmentStat> {
    node.store.segment_stats(u64::MAX).unwrap().segments
}

fn stat(node: &Node, id: SegmentId) -> SegmentStat {
    let found = stats(node).into_iter().find(|stat| stat.id == id);
    found.expect("the file is there")
}

/// Collects the eligible files of a level.
fn collect(node: &Node, level: u8) -> Result<Collected, StoreError> {
    let inputs = stats(node)
        .into_iter()
        .filter(|stat| stat.eligible && stat.level == level);
    let job = Job {
        reason: Reason::Garbage,
        inputs: inputs.map(|stat| stat.id).collect(),
        output_level: level + 1,
        keys: None,
        cuts: Vec::new(),
        input_bytes: 0,
        copy_bytes: 0,
        freed_bytes: 0,
    };
    let number = node.store.view().number;
    node.store.collect(&job, number, &mut |_| Pace::Go)
}

/// All keys but those are served, and those are refused by the name of their file.
fn assert_serves_all_but(node: &Node, damaged: &[(Vec<u8>, PathBuf)]) {
    for n in 0..60 {
        let got = node.store.view().get(&key(n));
        match damaged.iter().find(|(damaged, _)| *damaged == key(n)) {
            None => assert_eq!(got.unwrap().unwrap().1, vec![n as u8; VALUE_BYTES]),
            Some((_, path)) => match got {
                Err(StoreError::Damage { file, .. }) => assert_eq!(file, *path),
                other => panic!("{other:?}"),
            },
        }
    }
}

#[test]
fn a_job_that_meets_damage_marks_it_and_the_next_one_leaves_it_alone() {
    let fs = CrashFs::new();
    let mut node = filled(&fs);
    let (segment, path, offset) = flip(&fs, &node, &key(10));
    assert!(stat(&node, segment).eligible, "nobody has met it yet");
    let error = collect(&node, LEVEL_LOG).unwrap_err();
    assert!(node.store.leaves_alone(&error), "{error}");
    let found = node.store.damaged_files();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].file, found[0].segment), (&path, Some(segment)));
    assert_eq!((found[0].offset, found[0].count), (offset, 1));
    assert!(found[0].first_seen_ms > 0);

    // The others are collected; the damaged one stays, with all that is intact in it.
    assert!(!stat(&node, segment).eligible);
    let done = collect(&node, LEVEL_LOG).unwrap();
    assert!(done.finished && done.records > 0, "{done:?}");
    node.store.sweep().unwrap();
    let logs: Vec<_> = stats(&node)
        .into_iter()
        .filter(|stat| stat.level == LEVEL_LOG)
        .collect();
    assert_eq!(logs.iter().map(|stat| stat.id).collect::<Vec<_>>(), [segment]);
    assert_serves_all_but(&node, &[(key(10), path)]);
    // Nothing damaged is in what was written.
    node.store.view().values().verify().unwrap();
    assert_eq!(node.store.damaged_files()[0].count, 2, "met again by the read");

    // Overwritten: the rest of it could be copied, but one bad record shows a bad file; it goes when all of it is dead.
    for n in 0..60 {
        node.put(&key(n), &[n as u8; VALUE_BYTES]);
    }
    purge(&mut node);
    let last = stat(&node, segment);
    assert_eq!((last.live_bytes, last.eligible), (0, true));
    collect(&node, LEVEL_LOG).unwrap();
    node.store.sweep().unwrap();
    assert!(stats(&node).iter().all(|stat| stat.id != segment));
    assert_serves_all_but(&node, &[]);
}

#[test]
fn reads_mark_sorted_segments_too() {
    let fs = CrashFs::new();
    let node = filled(&fs);
    collect(&node, LEVEL_LOG).unwrap();
    let (segment, path, _) = flip(&fs, &node, &key(20));
    // Also the read that does not wait for the disk.
    let entry = node.store.index().get(&key(20)).unwrap().unwrap();
    let met = node.store.view().try_read(&entry, &key(20));
    assert!(
        matches!(met, Ok(None) | Err(StoreError::Damage { .. })),
        "{met:?}"
    );
    assert_serves_all_but(&node, &[(key(20), path)]);
    assert_eq!(
        node.store.damaged_segments().into_iter().collect::<Vec<_>>(),
        [segment]
    );
    assert!(!stat(&node, segment).eligible);
    assert_eq!(collect(&node, 1).unwrap().records, 0);
    node.store.view().values().verify().unwrap_err();
}

#[test]
fn a_damaged_table_keeps_nobody_from_planning() {
    let fs = CrashFs::new();
    let node = filled(&fs);
    collect(&node, LEVEL_LOG).unwrap();
    // Opened anew, as after a start: the table was not read yet.
    let view = node.store.view();
    let segment = view.values().segments()[0].clone();
    let summary = segment.summary();
    let table = nezha_gc::format::HEADER_BYTES as u64 + summary.record_bytes + 6;
    assert!(fs.flip_bit(segment.path(), table, 1));
    let table_damage = segment.key_range();
    assert!(
        table_damage.is_err(),
        "the flip has missed the table: {table_damage:?}"
    );
    let found = stat(&node, summary.id);
    assert!(!found.eligible);
    assert_eq!(node.store.damaged_files()[0].segment, Some(summary.id));
    assert_serves_all_but(&node, &[]);
}

#[test]
fn damage_of_the_index_is_remembered_without_a_segment() {
    let node = filled(&CrashFs::new());
    let error = StoreError::Damage {
        file: PathBuf::from("/data/store-1/index/000012.sst"),
        offset: 4096,
        reason: "block checksum".to_owned(),
    };
    node.store.note_damage(&error);
    node.store.note_damage(&error);
    assert!(!node.store.leaves_alone(&error), "gc must not go on at once");
    assert_eq!(node.store.damaged_files()[0].count, 2);
    assert!(node.store.damaged_segments().is_empty());
}
