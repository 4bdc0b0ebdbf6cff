//! Goal: a check finds every planted fault, names file and offset, finds nothing in a sound directory, and changes
//! nothing. Method: a real directory with log, value segments and RocksDB; one fault at a time.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use nezha_vlog::{
    Draft, Entry, Head, HeadPayload, LogId, OpHead, OpKind, Payload, Precondition, SegmentId, ValueRef, Vote,
    encode_record,
};

use super::*;
use crate::index::{Apply, IndexEntry, Place, RocksEngine, WriteSet};
use crate::store::{SnapshotMeta, Store, StoreOptions};

fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        node: 1,
        index,
    }
}

fn options() -> StoreOptions {
    let log = nezha_vlog::Options::default().with_segment_bytes(4 << 10);
    StoreOptions {
        inline_value_max: 16,
        log,
        ..StoreOptions::default()
    }
}

/// A directory with a node in it: keys from a snapshot (in value segments), then keys in the log, some inline, some
/// overwritten or deleted, over several log segments.
struct Planted {
    dir: tempfile::TempDir,
}

impl Planted {
    fn new() -> Planted {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.create_identity(&Identity {
            cluster_id: 0xc,
            node_id: 2,
            incarnation: 5,
            name: "n2".to_owned(),
        })
        .unwrap();
        let engine = Arc::new(RocksEngine::new(&RocksOptions::default()));
        let (store, mut writer, _) = Store::open(Arc::new(data), engine, options()).unwrap();
        let log = store.log();
        let vote = Vote {
            term: 1,
            node: 1,
            committed: true,
        };
        log.save_vote(vote, Box::new(|done| done.unwrap())).unwrap();
        let mut staging = store.stage().unwrap();
        for number in 0..20u8 {
            let key = format!("a-{number:02}");
            staging
                .push(
                    1,
                    1,
                    encode_record(50, key.as_bytes(), &vec![number; 10 * usize::from(number)]),
                )
                .unwrap();
        }
        let meta = SnapshotMeta {
            last_log_id: id(100),
            membership_log_id: None,
            membership: Bytes::new(),
            max_node_id: 3,
        };
        store.install(staging.finish(meta).unwrap()).unwrap();
        log.purge(id(100), Box::new(|done| done.unwrap())).unwrap();
        for index in 101..140u64 {
            let key = format!("b-{:02}", index % 15);
            let draft = match index % 7 {
                0 => Draft::delete(key.as_bytes(), Precondition::None),
                _ => Draft::put(
                    key.as_bytes(),
                    &vec![index as u8; 9 * (index as usize % 40)],
                    Precondition::None,
                ),
            };
            let entry = Entry {
                log_id: id(index),
                payload: Payload::Command(draft.seal(index)),
            };
            log.append(vec![entry], Box::new(|done| done.unwrap())).unwrap();
            while writer.step().unwrap().is_some() {}
        }
        Apply::run(store.index().as_ref(), log.heads(101..140, 16).unwrap(), &|_| 0).unwrap();
        store.flush().unwrap();
        store.sweep().unwrap();
        assert!(log.segments().len() > 2);
        Planted { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn check(&self) -> CheckReport {
        check(self.path()).unwrap()
    }

    /// Changes the index behind the store's back.
    fn change(&self, change: impl FnOnce(&dyn Index) -> WriteSet) {
        let dir = self.path().join("store-2/index");
        let index = RocksIndex::open(&dir, &RocksOptions::default()).unwrap();
        let set = change(&index);
        index.commit(set).unwrap();
        index.flush().unwrap();
    }

    fn flip(&self, file: &Path, offset: u64) {
        let mut bytes = fs::read(file).unwrap();
        bytes[offset as usize] ^= 0x10;
        fs::write(file, bytes).unwrap();
    }

    /// A key whose value is in a log segment or in a value segment, and the file it is in.
    fn placed(&self, in_log: bool) -> (Bytes, IndexEntry, ValueRef, PathBuf) {
        let stopped = Stopped::open(self.path()).unwrap();
        let mut found = None;
        let mut visit = |item| {
            if let crate::index::ScanItem::Row { key, entry } = item
                && let Place::At(at) = entry.place
                && at.segment.is_log() == in_log
                && at.value_len > 50
            {
                found = Some((key, entry, at));
                return std::ops::ControlFlow::Break(());
            }
            std::ops::ControlFlow::Continue(())
        };
        stopped
            .index
            .scan(&crate::index::ScanRange::all(), &mut visit)
            .unwrap();
        let (key, entry, at) = found.unwrap();
        let file = match in_log {
            true => nezha_vlog::format::segment_path(&stopped.data.log_dir(), at.segment),
            false => stopped.values.get(at.segment).unwrap().path().to_path_buf(),
        };
        (key, entry, at, file)
    }

    fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => drop(files.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        files
    }
}

fn unchanged(index: &dyn Index) -> WriteSet {
    WriteSet {
        entries: Vec::new(),
        live_delta: BTreeMap::new(),
        state: index.state(),
    }
}

#[test]
fn a_sound_directory_passes_and_keeps_every_byte() {
    let planted = Planted::new();
    let before = planted.listing();
    let report = planted.check();
    println!("{report}");
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.node_id, report.name.as_str(), report.store), (2, "n2", 2));
    assert!(report.log.segments > 2 && report.log.records == 39, "{report}");
    assert!(
        report.values.segments == 1 && report.values.records > 10,
        "{report}"
    );
    assert!(report.index.inline > 0 && report.index.live_bytes_log > 0 && report.index.live_bytes_values > 0);
    assert!(report.to_string().ends_with("sound"));
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains("\"problems\":[]")
    );
    for format in [DumpFormat::Text, DumpFormat::JsonLines] {
        let mut out = Vec::new();
        dump(planted.path(), format, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        // 39 in the log, those of the snapshot that are not inline, and the index entries.
        assert!(text.lines().count() > 39 + 18 + 20);
        if format == DumpFormat::JsonLines {
            assert!(
                text.lines()
                    .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            );
        }
    }
    assert_eq!(planted.listing(), before);
}

#[test]
fn a_wrong_live_count_is_caught() {
    let planted = Planted::new();
    let (_, _, at, _) = planted.placed(true);
    planted.change(|index| WriteSet {
        live_delta: BTreeMap::from([(at.segment, 1)]),
        ..unchanged(index)
    });
    let report = planted.check();
    assert_eq!(report.problems_total, 1, "{report}");
    let reason = &report.problems[0].reason;
    assert!(
        reason.contains(&format!("live bytes in {}", at.segment)),
        "{reason}"
    );
}

#[test]
fn wrong_totals_are_caught() {
    let planted = Planted::new();
    planted.change(|index| {
        let mut set = unchanged(index);
        set.state.keys += 1;
        set.state.live_bytes -= 1;
        set
    });
    let report = planted.check();
    assert_eq!(report.problems_total, 2, "{report}");
}

#[test]
fn a_ref_to_a_wrong_place_is_caught() {
    for in_log in [true, false] {
        let planted = Planted::new();
        let (key, entry, at, file) = planted.placed(in_log);
        for wrong in [
            ValueRef {
                offset: at.offset + 1,
                ..at
            },
            ValueRef {
                offset: at.offset + 1_000_000,
                ..at
            },
            ValueRef { offset: 0, ..at },
        ] {
            let moved = IndexEntry {
                place: Place::At(wrong),
                ..entry.clone()
            };
            planted.change(|index| WriteSet {
                entries: vec![(key.clone(), Some(moved))],
                ..unchanged(index)
            });
            let report = planted.check();
            assert_eq!(report.problems_total, 1, "{report}");
            assert_eq!(
                (&report.problems[0].file, report.problems[0].offset),
                (&file, wrong.offset),
                "{report}"
            );
            assert!(
                report.problems[0]
                    .reason
                    .contains(&key.escape_ascii().to_string()),
                "{report}"
            );
        }
        let revised = IndexEntry {
            mod_revision: entry.mod_revision + 1,
            ..entry
        };
        planted.change(|index| WriteSet {
            entries: vec![(key, Some(revised))],
            ..unchanged(index)
        });
        assert_eq!(planted.check().problems_total, 1);
    }
}

#[test]
fn a_ref_to_a_missing_segment_is_caught() {
    let planted = Planted::new();
    let (key, entry, at, _) = planted.placed(true);
    let moved = IndexEntry {
        place: Place::At(ValueRef {
            segment: SegmentId::new(77),
            ..at
        }),
        ..entry
    };
    planted.change(|index| WriteSet {
        entries: vec![(key, Some(moved))],
        ..unchanged(index)
    });
    let report = planted.check();
    assert!(
        report
            .problems
            .iter()
            .any(|p| p.reason.contains("does not exist")),
        "{report}"
    );
}

#[test]
fn a_flipped_bit_in_a_value_is_named_by_file_and_offset() {
    for in_log in [true, false] {
        let planted = Planted::new();
        let (_, _, at, file) = planted.placed(in_log);
        planted.flip(&file, at.offset + 60);
        let report = planted.check();
        assert!(!report.is_sound());
        let named = report
            .problems
            .iter()
            .any(|p| p.file == file && p.offset == at.offset);
        assert!(named, "{} at {} not named: {report}", file.display(), at.offset);
        let mut out = Vec::new();
        dump(planted.path(), DumpFormat::Text, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("DAMAGE"));
    }
}

#[test]
fn an_index_ahead_of_its_log_is_caught() {
    let planted = Planted::new();
    planted.change(|index| {
        let mut set = unchanged(index);
        set.state.applied = Some(id(1000));
        set
    });
    let report = planted.check();
    assert_eq!(report.problems_total, 1, "{report}");
    assert!(report.problems[0].reason.contains("(I3)"), "{report}");
}

#[test]
fn a_damaged_index_table_is_named() {
    let planted = Planted::new();
    let dir = planted.path().join("store-2/index");
    let tables = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = tables
        .filter(|path| path.extension().is_some_and(|ext| ext == "sst"))
        .collect();
    for table in &tables {
        planted.flip(table, 40);
    }
    let problems = match check(planted.path()) {
        Ok(report) => report.problems,
        Err(OfflineError::Index(IndexError::Corrupt { file, offset, reason })) => {
            vec![Problem { file, offset, reason }]
        }
        Err(other) => panic!("{other}"),
    };
    assert!(
        problems.iter().any(|problem| tables.contains(&problem.file)),
        "{problems:?}"
    );
}

#[test]
fn directories_that_are_no_stopped_node_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(check(empty.path()), Err(OfflineError::NoNode { .. })));
    assert!(matches!(
        check(&empty.path().join("nowhere")),
        Err(OfflineError::Identity(IdentityError::Io { .. }))
    ));
    let planted = Planted::new();
    let running = DataDir::open(planted.path()).unwrap();
    let error = check(planted.path()).unwrap_err();
    assert!(
        matches!(error, OfflineError::Identity(IdentityError::Locked { .. })),
        "{error}"
    );
    drop(running);
    fs::remove_file(planted.path().join("CURRENT")).unwrap();
    assert!(matches!(check(planted.path()), Err(OfflineError::NoNode { .. })));
}

#[test]
fn a_torn_end_of_the_log_is_no_damage_but_a_ref_into_it_is() {
    let planted = Planted::new();
    let log = planted.path().join("log");
    let newest = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let end = fs::metadata(&newest).unwrap().len();
    let mut bytes = fs::read(&newest).unwrap();
    let record = encode_record(139, b"b-04", &[7; 60]);
    // The start of a group that was never finished, with a whole record in it.
    bytes.extend_from_slice(b"NZGR");
    bytes.extend_from_slice(&record);
    fs::write(&newest, bytes).unwrap();
    let report = planted.check();
    assert!(report.is_sound() && report.log.torn_bytes > 0, "{report}");
    let segment = nezha_vlog::format::parse_segment_name(newest.file_name().unwrap()).unwrap();
    planted.change(|index| {
        let at = ValueRef {
            segment,
            offset: end + 4,
            value_len: 60,
        };
        let head = Head {
            log_id: id(140),
            payload: HeadPayload::Command(vec![OpHead {
                kind: OpKind::Put,
                precondition: Precondition::None,
                key: Bytes::from_static(b"b-04"),
                place: at,
                inline: None,
            }]),
        };
        Apply::run(index, vec![head], &|_| 0).unwrap();
        unchanged(index)
    });
    let report = planted.check();
    assert!(
        report
            .problems
            .iter()
            .any(|p| p.reason.contains("beyond the sound bytes")),
        "{report}"
    );
    assert!(
        report.problems.iter().any(|p| p.reason.contains("(I3)")),
        "{report}"
    );
}
