//! Every system stores what the log says, through crashes, and gives the log's space back.
//!
//! Method: the same history of puts, overwrites and deletes through log and apply, with values from empty to longer than
//! a batch of apply; a model beside it. A crash is a copy of the open directory: what only the process had is lost, and
//! what the disk has stays.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nezha::index::{ScanItem, ScanRange};
use nezha_vlog::{Draft, Precondition};

use super::{Baseline, Settings, Storage};
use crate::store::{NodeStore, copy_dir};

/// Small, so that a few groups fill several.
const SEGMENT_BYTES: u64 = 256 << 10;
/// Inline and separate ones of every system, and one that is longer than a batch of apply.
const LENGTHS: [usize; 7] = [0, 1, 100, 500, 5_000, 70_000, 5 << 20];
const KEYS: usize = 40;

type Model = BTreeMap<Bytes, Bytes>;

fn every() -> impl Iterator<Item = Baseline> {
    Storage::ALL.into_iter().flat_map(|storage| {
        [Settings::Paper, Settings::Tuned]
            .into_iter()
            .flat_map(move |settings| {
                [true, false]
                    .into_iter()
                    .filter_map(move |fsync| Baseline::new(storage, settings, fsync).ok())
            })
    })
}

fn open(baseline: Baseline, dir: &Path) -> NodeStore {
    let log = nezha_vlog::Options::default().with_segment_bytes(SEGMENT_BYTES);
    NodeStore::with(dir, baseline.parts(), log).unwrap()
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key{number:04}"))
}

/// Incompressible enough, and different in each round.
fn value(number: usize, round: usize, length: usize) -> Bytes {
    let seed = number * 7_919 + round * 104_729;
    (0..length)
        .map(|at| (seed.wrapping_add(at).wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

/// One round: most keys are put, each eleventh is deleted.
fn play(node: &mut NodeStore, model: &mut Model, round: usize) {
    let mut drafts = Vec::new();
    for number in 0..KEYS {
        let key = key(number);
        // Only the first key's values are as long as that.
        let lengths = if number == 0 {
            LENGTHS.len()
        } else {
            LENGTHS.len() - 1
        };
        let length = LENGTHS[(number * 3 + round * 5 + LENGTHS.len() - 1) % lengths];
        if (number + round) % 11 == 10 {
            drafts.push(Draft::delete(&key, Precondition::None));
            model.remove(&key);
        } else {
            let value = value(number, round, length);
            drafts.push(Draft::put(&key, &value, Precondition::None));
            model.insert(key, value);
        }
        if drafts.len() == 16 {
            node.write(std::mem::take(&mut drafts)).unwrap();
        }
    }
    node.write(drafts).unwrap();
}

fn check(node: &NodeStore, model: &Model, what: &str) {
    let view = node.store().view();
    for number in 0..KEYS {
        let key = key(number);
        let found = view.get(&key).unwrap();
        let outlines = view.index().outlines(std::slice::from_ref(&key)).unwrap();
        let expected = found.as_ref().map(|(entry, _)| entry.outline());
        assert_eq!(outlines, [expected], "{what}: {key:?}");
        let found = found.map(|(_, value)| value);
        assert!(
            found.as_ref() == model.get(&key),
            "{what}: {key:?} has {:?} bytes instead of {:?}",
            found.map(|value| value.len()),
            model.get(&key).map(Bytes::len)
        );
    }
    for reverse in [false, true] {
        let range = ScanRange {
            start: Bound::Excluded(key(3)),
            end: Bound::Included(key(30)),
            reverse,
        };
        let mut expected: Vec<&Bytes> = model
            .range((range.start.clone(), range.end.clone()))
            .map(|(key, _)| key)
            .collect();
        if reverse {
            expected.reverse();
        }
        let mut seen = Vec::new();
        let mut visit = |item| {
            if let ScanItem::Row { key, entry } = item {
                assert_eq!(view.read(&entry, &key).unwrap(), model[&key], "{what}: {key:?}");
                seen.push(key);
            }
            ControlFlow::Continue(())
        };
        view.index().scan(&range, &mut visit).unwrap();
        assert!(seen.iter().eq(expected), "{what}: a scan found {seen:?}");
    }
    let state = view.index().state();
    assert_eq!(state.keys, model.len() as u64, "{what}");
    assert!(
        node.store().index().flushed().map(|id| id.index) <= state.applied.map(|id| id.index),
        "{what}: I8"
    );
}

/// What a crash would leave, opened: the directory as it was at one moment, although RocksDB may be working in it.
fn crash(baseline: Baseline, from: &Path, to: &Path) -> NodeStore {
    loop {
        let before = listing(from);
        // A file that has just gone is no failure: then the listings differ.
        let copied = copy_dir(from, to);
        if listing(from) == before {
            copied.unwrap();
            return open(baseline, to);
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}

/// Files below a directory with their lengths.
fn listing(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => files.append(&mut listing(&path)),
            Ok(found) => drop(files.insert(path, found.len())),
            // It went while this looked.
            Err(_) => {}
        }
    }
    files
}

#[test]
fn every_system_keeps_what_was_written_through_crashes() {
    for baseline in every() {
        let root = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let mut node = open(baseline, &root.path().join("0"));
        for round in 0..3 {
            play(&mut node, &mut model, round);
            if round == 1 {
                node.store().flush().unwrap();
                play(&mut node, &mut model, 7);
            }
            let what = format!("{baseline}, round {round}");
            check(&node, &model, &what);
            let (from, to) = (round.to_string(), (round + 1).to_string());
            let after = crash(baseline, &root.path().join(from), &root.path().join(to));
            check(&after, &model, &format!("{what}, after a crash"));
            drop(std::mem::replace(&mut node, after));
        }
    }
}

#[test]
fn a_clean_restart_finds_everything_in_the_index() {
    for baseline in every() {
        let root = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let mut node = open(baseline, root.path());
        play(&mut node, &mut model, 0);
        let applied = node.store().flush().unwrap();
        assert_eq!(node.store().index().flushed(), applied, "{baseline}");
        drop(node);
        let node = open(baseline, root.path());
        check(&node, &model, &baseline.to_string());
    }
}

/// Nothing in the log of a classic store is live, so all of it but its last segment goes; the product keeps values there
/// or in its sorted segments.
#[test]
fn the_log_of_a_classic_store_goes() {
    for baseline in every() {
        let root = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let mut node = open(baseline, &root.path().join("0"));
        for round in 0..5 {
            play(&mut node, &mut model, round);
        }
        let before = node.store().log().segments().len();
        assert!(before > 4, "{baseline}: {before} segments are no test");
        node.purge_and_collect().unwrap();
        let after = node.store().log().segments().len();
        assert!(after <= 2, "{baseline}: {after} of {before} segments are left");
        let classic = baseline.parts().inline_value_max == u32::MAX;
        assert_eq!(
            node.store().index().live_bytes().is_empty(),
            classic,
            "{baseline}"
        );
        check(&node, &model, &baseline.to_string());
        let after = crash(baseline, &root.path().join("0"), &root.path().join("1"));
        check(&after, &model, &format!("{baseline}, after a crash"));
    }
}

#[test]
fn a_directory_of_another_kind_of_store_is_refused() {
    let kinds = [Storage::Original, Storage::Nezha]
        .map(|storage| Baseline::new(storage, Settings::Tuned, true).unwrap());
    for (own, other) in [(kinds[0], kinds[1]), (kinds[1], kinds[0])] {
        let root = tempfile::tempdir().unwrap();
        let mut node = open(own, root.path());
        play(&mut node, &mut Model::new(), 0);
        node.store().flush().unwrap();
        drop(node);
        let log = nezha_vlog::Options::default();
        let refused = NodeStore::with(root.path(), other.parts(), log).err().unwrap();
        let reason = format!("{refused:#}");
        assert!(reason.contains("format record"), "{reason}");
    }
}
