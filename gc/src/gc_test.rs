//! Goal: a segment gives back exactly what was written, or names file and offset; it exists whole or not at all.
//! Method: golden bytes; seeded records of all sizes; every truncation and every single bit flip; crashes at each file
//! operation on `CrashFs`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::fs::{CrashFs, FailKind, FailWith, Fs, OsFs};
use nezha_vlog::{Fault, SegmentId, ValueRef, encode_record};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Error, SegmentWriter, ValueSegments, format};

const LEVEL: u8 = 2;

fn os() -> Arc<dyn Fs> {
    Arc::new(OsFs)
}

/// Key, value and revision of each record.
type Rows = Vec<(Bytes, Bytes, u64)>;

fn write(fs: &Arc<dyn Fs>, dir: &Path, id: SegmentId, rows: &Rows) -> Result<Vec<ValueRef>, Error> {
    let mut writer = SegmentWriter::create(Arc::clone(fs), dir, LEVEL, id)?;
    let mut refs = Vec::new();
    for (key, value, revision) in rows {
        refs.push(writer.append(&encode_record(*revision, key, value))?);
    }
    writer.finish()?;
    Ok(refs)
}

fn small_rows() -> Rows {
    let row =
        |key: &'static str, value: &'static str, revision| (Bytes::from(key), Bytes::from(value), revision);
    vec![row("a", "one", 5), row("b", "", 9), row("ca", "three", 7)]
}

fn random_rows(rng: &mut StdRng, count: usize, value_max: usize) -> Rows {
    let mut keys: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let len = rng.random_range(1..40);
            (0..len).map(|_| rng.random()).collect()
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| {
            let mut value = vec![0; rng.random_range(0..value_max)];
            rng.fill(&mut value[..]);
            (key.into(), value.into(), rng.random_range(1..1000))
        })
        .collect()
}

/// Bytes of a file of `testdata`: hex up to a `#`, white space ignored.
fn golden(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn golden_bytes() {
    let dir = tempfile::tempdir().unwrap();
    write(&os(), dir.path(), SegmentId::sorted(0x2a), &small_rows()).unwrap();
    let written = fs::read(dir.path().join("L2-000000000000002a.val")).unwrap();
    let shown: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        written,
        golden(include_str!("../testdata/segment.hex")),
        "written: {shown}"
    );
}

#[test]
fn names_round_trip_and_others_are_no_segments() {
    let id = SegmentId::sorted(0xabc);
    let name = format::file_name(2, id);
    assert_eq!(name, Path::new("L2-0000000000000abc.val"));
    assert_eq!(format::parse_file_name(&name), Some((2, id)));
    for name in [
        "",
        "L2-abc.val",
        "L-0000000000000abc.val",
        "L300-0000000000000abc.val",
        "L2-0000000000000ABC.val",
        "L0-0000000000000abc.val",
        "L3-0000000000000abc.val",
    ] {
        assert_eq!(format::parse_file_name(Path::new(name)), None, "{name}");
    }
}

#[test]
fn every_record_is_read_back() {
    let seed = 1;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let fs = os();
    let mut all = Vec::new();
    // The second segment has several blocks and values larger than the window of a walk.
    for (number, count, value_max) in [(1, 500, 300), (2, 12, 3 << 20), (3, 1, 10)] {
        let rows = random_rows(&mut rng, count, value_max);
        let id = SegmentId::sorted(number);
        let refs = write(&fs, dir.path(), id, &rows).unwrap();
        all.push((id, rows, refs));
    }
    let segments = ValueSegments::open(&fs, dir.path()).unwrap();
    segments.verify().unwrap();
    for (id, rows, refs) in &all {
        let segment = segments.get(*id).unwrap();
        assert_eq!(segment.summary().records, rows.len() as u64);
        let on_disk = fs.len(segment.path()).unwrap();
        assert_eq!(segment.summary().file_bytes, on_disk);
        for ((key, value, revision), at) in rows.iter().zip(refs) {
            assert_eq!(segments.read_value(*at, key, *revision).unwrap(), value);
            if let Some(read) = segments.try_read_value(*at, key, *revision).unwrap() {
                assert_eq!(read, value);
            }
        }
        let mut walked = Vec::new();
        let mut places = Vec::new();
        segment
            .walk(&mut |at, record| {
                places.push(at);
                walked.push((record.key, record.value, record.revision));
            })
            .unwrap();
        assert_eq!((&walked, &places), (rows, refs));
        let table = segment.table().unwrap();
        assert_eq!(
            (&table.first_key, &table.last_key),
            (&rows[0].0, &rows[rows.len() - 1].0)
        );
    }
    assert!(
        segments
            .get(SegmentId::sorted(2))
            .unwrap()
            .table()
            .unwrap()
            .blocks
            .len()
            > 1
    );
    assert_eq!(
        segments.bytes(),
        segments
            .segments()
            .iter()
            .map(|segment| segment.summary().file_bytes)
            .sum::<u64>()
    );
}

#[test]
fn a_read_of_another_key_revision_or_place_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let refs = write(&os(), dir.path(), SegmentId::sorted(1), &small_rows()).unwrap();
    let segments = ValueSegments::open(&os(), dir.path()).unwrap();
    let offset_of = |result: Result<Bytes, Error>| match result {
        Err(Error::Damage { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(offset_of(segments.read_value(refs[0], b"x", 5)), refs[0].offset);
    assert_eq!(offset_of(segments.read_value(refs[0], b"a", 6)), refs[0].offset);
    for shift in [1, 3, 10_000, u64::MAX - 100] {
        let at = ValueRef {
            offset: refs[0].offset.saturating_add(shift),
            ..refs[0]
        };
        offset_of(segments.read_value(at, b"a", 5));
    }
    offset_of(segments.read_value(ValueRef { offset: 0, ..refs[0] }, b"a", 5));
    offset_of(segments.read_value(
        ValueRef {
            value_len: u32::MAX,
            ..refs[0]
        },
        b"a",
        5,
    ));
    let missing = ValueRef {
        segment: SegmentId::sorted(9),
        ..refs[0]
    };
    assert!(matches!(
        segments.read_value(missing, b"a", 5),
        Err(Error::NoSuchSegment(_))
    ));
}

#[test]
fn every_truncation_and_every_flip_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::sorted(1);
    let refs = write(&os(), dir.path(), id, &small_rows()).unwrap();
    let path = dir.path().join(format::file_name(LEVEL, id));
    let whole = fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: String| {
        fs::write(&path, bytes).unwrap();
        let segments = match ValueSegments::open(&os(), dir.path()) {
            Ok(segments) => segments,
            Err(Error::Damage { path: named, .. }) => return assert_eq!(named, path, "{what}"),
            Err(other) => panic!("{what}: {other}"),
        };
        match segments.verify() {
            Err(Error::Damage { path: named, .. }) => assert_eq!(named, path, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        // Undamaged records are still read, damaged ones never.
        for ((key, value, revision), at) in small_rows().iter().zip(&refs) {
            if let Ok(read) = segments.read_value(*at, key, *revision) {
                assert_eq!(read, value, "{what}");
            }
        }
    };
    for len in 0..whole.len() {
        check(&whole[..len], format!("cut to {len}"));
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(&bytes, format!("bit {bit}"));
    }
    check(&[&whole[..], &[0]].concat(), "a byte more".to_owned());
}

#[test]
fn another_format_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::sorted(1);
    write(&os(), dir.path(), id, &small_rows()).unwrap();
    let path = dir.path().join(format::file_name(LEVEL, id));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = ValueSegments::open(&os(), dir.path()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownVersion {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_segment_under_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::sorted(1);
    write(&os(), dir.path(), id, &small_rows()).unwrap();
    let path = dir.path().join(format::file_name(LEVEL, id));
    for (level, id) in [(LEVEL, SegmentId::sorted(2)), (LEVEL - 1, id)] {
        let other = tempfile::tempdir().unwrap();
        fs::copy(&path, other.path().join(format::file_name(level, id))).unwrap();
        let error = ValueSegments::open(&os(), other.path()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Damage {
                    fault: Fault::Mismatch { .. },
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn leftovers_go_at_open_and_foreign_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(os(), dir.path(), LEVEL, SegmentId::sorted(1)).unwrap();
    writer.append(&encode_record(1, b"k", b"v")).unwrap();
    drop(writer);
    let names = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        ValueSegments::open_read_only(&os(), dir.path())
            .unwrap()
            .segments()
            .len(),
        0
    );
    assert_eq!(names(), 1, "a read-only opening changes nothing");
    assert_eq!(
        ValueSegments::open(&os(), dir.path()).unwrap().segments().len(),
        0
    );
    assert_eq!(names(), 0);
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    assert!(matches!(
        ValueSegments::open(&os(), dir.path()),
        Err(Error::ForeignFile { .. })
    ));
}

#[test]
fn records_that_a_segment_must_not_hold_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(os(), dir.path(), LEVEL, SegmentId::sorted(1)).unwrap();
    assert!(writer.is_empty());
    writer.append(&encode_record(1, b"k", b"v")).unwrap();
    for key in [&b"k"[..], b"a"] {
        let error = writer.append(&encode_record(2, key, b"v")).unwrap_err();
        assert!(matches!(error, Error::OutOfOrder { records: 1, .. }), "{error}");
    }
    let mut bad = encode_record(1, b"l", b"v").to_vec();
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(writer.append(&bad.into()), Err(Error::Malformed(_))));
    let delete = nezha_vlog::Draft::delete(b"m", nezha_vlog::Precondition::None).seal(3);
    let delete = delete.ops().next().unwrap().record;
    assert!(matches!(writer.append(&delete), Err(Error::Malformed(_))));
    writer.append(&encode_record(4, b"n", b"")).unwrap();
    writer.finish().unwrap();
    ValueSegments::open(&os(), dir.path()).unwrap().verify().unwrap();
}

#[test]
fn a_crash_at_any_step_leaves_the_whole_segment_or_none() {
    let (mut whole, mut none, mut steps) = (0, 0, 0);
    let dir = Path::new("/values");
    let id = SegmentId::sorted(1);
    loop {
        let disk = CrashFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        fs.create_dir_all(dir).unwrap();
        disk.halt_after(steps);
        let written = write(&fs, dir, id, &small_rows());
        for seed in 0..8 {
            let fs: Arc<dyn Fs> = Arc::new(disk.crash(seed));
            let segments = ValueSegments::open(&fs, dir).unwrap();
            assert!(fs.list(dir).unwrap().len() <= 1, "leftovers at step {steps}");
            match segments.get(id) {
                Some(_) => {
                    whole += 1;
                    segments.verify().unwrap();
                }
                None => {
                    none += 1;
                    assert!(written.is_err(), "a finished segment is gone");
                }
            }
        }
        if written.is_ok() {
            break;
        }
        steps += 1;
    }
    println!("{steps} steps: whole {whole}, none {none}");
    assert!(
        steps >= 4 && whole > 8 && none >= 8,
        "{steps} steps: whole {whole}, none {none}"
    );
}

#[test]
fn a_full_disk_is_an_error_and_leaves_no_segment() {
    let disk = CrashFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let dir = Path::new("/values");
    fs.create_dir_all(dir).unwrap();
    disk.fail(FailKind::Write, 0, FailWith::Enospc);
    let error = write(&fs, dir, SegmentId::sorted(1), &small_rows()).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error}"
    );
    assert_eq!(ValueSegments::open(&fs, dir).unwrap().segments().len(), 0);
}
