//! Goal: no bytes make a decoder or the log panic, or take memory beyond their length.
//! Method: seeded garbage, and valid bytes with garbage in them, given to every decoder and to `Log::open`.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::format::{FrameHead, GroupHeader, SegmentHeader, Summary, segment_path};
use nezha_vlog::fs::{CrashFs, Fs};
use nezha_vlog::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const SEGMENT: SegmentId = SegmentId::new(1);

fn decode_all(bytes: &[u8]) {
    let _ = Command::from_bytes(Bytes::copy_from_slice(bytes)).map(|command| command.ops().count());
    let _ = decode_record(Bytes::copy_from_slice(bytes));
    let _ = SegmentHeader::decode(bytes, SEGMENT);
    let _ = GroupHeader::decode(bytes, SEGMENT, 160);
    let _ = FrameHead::decode(bytes, SEGMENT, 208).map(|(_, check)| check.verify());
    if let Ok(summary) = Summary::decode(bytes, SEGMENT, bytes.len() as u64) {
        let _ = summary.decode_table(bytes);
        let _ = summary.decode_runs(bytes);
    }
}

/// A file of a log, with a bit of everything.
fn valid() -> Vec<u8> {
    let fs = CrashFs::new();
    let (log, mut writer, _) =
        Log::open(Arc::new(fs.clone()), Path::new("/log"), Options::default()).unwrap();
    for index in 1..20 {
        let command = Draft::put(b"key", &[1; 50], Precondition::None).seal(index);
        let entry = Entry {
            log_id: LogId::new(1, 1, index),
            payload: Payload::Command(command),
        };
        log.append(vec![entry], Box::new(|result| result.unwrap()))
            .unwrap();
        writer.step().unwrap();
    }
    fs.get(&segment_path(Path::new("/log"), SEGMENT)).unwrap()
}

#[test]
fn garbage_is_refused() {
    let mut rng = StdRng::seed_from_u64(7);
    let valid = valid();
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 {
            let mut bytes = vec![0; rng.random_range(0..400)];
            rng.fill_bytes(&mut bytes);
            bytes
        } else {
            let start = rng.random_range(0..valid.len());
            valid[start..valid.len().min(start + 400)].to_vec()
        };
        if let Some(last) = bytes.len().checked_sub(1) {
            for _ in 0..rng.random_range(0..4) {
                bytes[rng.random_range(0..=last)] = [0, 1, 0xff][rng.random_range(0..3)];
            }
        }
        decode_all(&bytes);
    }
}

#[test]
fn a_directory_with_garbage_opens_or_is_refused() {
    let mut rng = StdRng::seed_from_u64(8);
    let valid = valid();
    for _ in 0..3_000 {
        let fs = CrashFs::new();
        fs.create_dir_all(Path::new("/log")).unwrap();
        let mut bytes = valid.clone();
        for _ in 0..rng.random_range(1..4) {
            let start = rng.random_range(0..bytes.len());
            let end = bytes.len().min(start + rng.random_range(1..300));
            rng.fill_bytes(&mut bytes[start..end]);
        }
        bytes.truncate(rng.random_range(0..=valid.len()));
        let tail = rng.random_range(0..3) * 200;
        bytes.resize(bytes.len() + tail, rng.random_range(0..2));
        fs.put(&segment_path(Path::new("/log"), SEGMENT), &bytes);
        match Log::open(Arc::new(fs), Path::new("/log"), Options::default()) {
            Ok((log, ..)) => {
                let _ = log.entries(0..u64::MAX, u64::MAX);
                let _ = log.heads(0..u64::MAX, 16);
            }
            Err(e) => assert!(e.is_damage(), "{e}"),
        }
    }
}

#[test]
fn an_index_that_has_no_successor_is_refused() {
    let (log, ..) = Log::open(Arc::new(CrashFs::new()), Path::new("/log"), Options::default()).unwrap();
    let last = LogId::new(1, 1, u64::MAX);
    let entry = Entry {
        log_id: last,
        payload: Payload::Blank,
    };
    assert!(matches!(
        log.append(vec![entry], Box::new(|_| ())),
        Err(Error::Malformed(_))
    ));
    assert!(matches!(
        log.purge(last, Box::new(|_| ())),
        Err(Error::Malformed(_))
    ));
    assert!(matches!(log.save_committed(Some(last)), Err(Error::Malformed(_))));
}
