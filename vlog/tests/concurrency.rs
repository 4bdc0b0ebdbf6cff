//! Goal: readers and the writer do not disturb each other.
//! Method: the writer's loop in its thread on real files, one thread that submits (with truncations), three that read.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nezha_vlog::fs::OsFs;
use nezha_vlog::*;

const ENTRIES: u64 = 6000;

fn entry(term: u64, index: u64) -> Entry {
    let value = vec![term as u8; (index * 7 % 900) as usize];
    let command = Draft::put(&index.to_le_bytes(), &value, Precondition::None).seal(index);
    Entry {
        log_id: LogId::new(term, 1, index),
        payload: Payload::Command(command),
    }
}

/// Reads as replication and apply do; everything read is what was written under that log id.
fn read(log: &Log, start: u64) {
    for entry_read in log.entries(start..start + 50, 8000).unwrap() {
        assert_eq!(entry_read, entry(entry_read.log_id.term, entry_read.log_id.index));
    }
    let end = log
        .durable_log_id()
        .map_or(0, |last| last.index + 1)
        .min(start + 50);
    let heads = match log.heads(start..end, 16) {
        Ok(heads) => heads,
        // Truncated and submitted again since: the new entry is not durable yet.
        Err(Error::NotDurable { .. }) => return,
        Err(e) => panic!("{e}"),
    };
    for head in heads {
        let HeadPayload::Command(ops) = &head.payload else {
            panic!("a command")
        };
        let value = log
            .read_value(ops[0].place, &ops[0].key, head.log_id.index)
            .unwrap();
        assert!(value.iter().all(|byte| u64::from(*byte) == head.log_id.term));
    }
}

#[test]
fn readers_run_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default()
        .with_segment_bytes(256 << 10)
        .with_cache_bytes(64 << 10)
        .with_open_files(4);
    let (log, writer, _) = Log::open(Arc::new(OsFs), dir.path(), options.clone()).unwrap();
    let finished = AtomicBool::new(false);
    let acknowledged = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| writer.run(|_, _| ()));
        for reader in 0..3 {
            let (log, finished) = (log.clone(), &finished);
            scope.spawn(move || {
                let mut start = reader * 31;
                while !finished.load(Ordering::Acquire) {
                    let last = log.last_log_id().map_or(1, |last| last.index);
                    start = (start + 37) % (last + 1);
                    read(&log, start);
                    read(&log, last.saturating_sub(60));
                }
            });
        }
        let mut term = 1;
        let mut index = 0;
        while index < ENTRIES {
            let batch: Vec<Entry> = (index + 1..=index + 1 + index % 7)
                .map(|index| entry(term, index))
                .collect();
            index += batch.len() as u64;
            let acknowledged = acknowledged.clone();
            let done = Box::new(move |result: Result<(), Error>| {
                result.unwrap();
                acknowledged.fetch_add(1, Ordering::Relaxed);
            });
            let seq = log.append(batch, done).unwrap();
            if index % 11 == 0 {
                term += 1;
                index -= index % 5;
                log.truncate_after(Some(index), Box::new(|result| result.unwrap()))
                    .unwrap();
            }
            // Bounded, as admission bounds it.
            while seq > log.durable_seq() + 40 {
                std::thread::yield_now();
            }
        }
        finished.store(true, Ordering::Release);
        log.close();
        running.join().unwrap().unwrap();
        assert!(matches!(log.append(vec![], Box::new(|_| ())), Err(Error::Closed)));
    });
    let last = log.last_log_id();
    assert_eq!(log.durable_log_id(), last);
    assert!(acknowledged.load(Ordering::Relaxed) > 0);
    drop(log);
    let (log, _writer, recovered) = Log::open(Arc::new(OsFs), dir.path(), options).unwrap();
    assert_eq!((recovered.case, recovered.last), (RecoveryCase::CleanEnd, last));
    assert!(recovered.segments.len() > 3);
    for start in (0..=ENTRIES).step_by(50) {
        read(&log, start);
    }
}

#[test]
fn the_loop_ends_when_the_last_front_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (log, writer, _) = Log::open(Arc::new(OsFs), dir.path(), Options::default()).unwrap();
    let running = std::thread::spawn(move || writer.run(|_, _| ()));
    log.save_committed(Some(LogId::new(1, 1, 1))).unwrap();
    let other = log.clone();
    drop(log);
    other
        .append(vec![entry(1, 1)], Box::new(|result| result.unwrap()))
        .unwrap();
    drop(other);
    running.join().unwrap().unwrap();
    let (log, _, _) = Log::open(Arc::new(OsFs), dir.path(), Options::default()).unwrap();
    assert_eq!(log.last_log_id(), Some(LogId::new(1, 1, 1)));
}

#[test]
fn a_dropped_writer_fails_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (log, writer, _) = Log::open(Arc::new(OsFs), dir.path(), Options::default()).unwrap();
    let failed = Arc::new(AtomicBool::new(false));
    let told = failed.clone();
    let done = Box::new(move |result: Result<(), Error>| told.store(result.is_err(), Ordering::Release));
    log.append(vec![entry(1, 1)], done).unwrap();
    drop(writer);
    assert!(failed.load(Ordering::Acquire));
    assert!(matches!(log.save_committed(None), Err(Error::Closed)));
}
