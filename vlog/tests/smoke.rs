//! Goal: the log works as its documentation says, in the plain order of things.
//! Method: one log on CrashFs or on real files; no faults.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nezha_vlog::fs::{CrashFs, Fs, OsFs};
use nezha_vlog::*;

fn entry(term: u64, index: u64, value: &[u8]) -> Entry {
    let key = format!("key-{index}");
    let command = Draft::put(key.as_bytes(), value, Precondition::None).seal(index);
    Entry {
        log_id: LogId::new(term, 1, index),
        payload: Payload::Command(command),
    }
}

fn nobody() -> Done {
    Box::new(|result| result.unwrap())
}

fn drain(writer: &mut Writer) {
    while writer.step().unwrap().is_some() {}
}

fn check_reads(log: &Log, range: std::ops::Range<u64>, value: impl Fn(u64) -> Vec<u8>) {
    let entries = log.entries(range.clone(), u64::MAX).unwrap();
    assert_eq!(entries.len() as u64, range.end - range.start);
    let heads = log.heads(range.clone(), 8).unwrap();
    assert_eq!(heads.len(), entries.len());
    for ((entry, head), index) in entries.iter().zip(&heads).zip(range) {
        assert_eq!(entry.log_id.index, index);
        assert_eq!(head.log_id, entry.log_id);
        let HeadPayload::Command(ops) = &head.payload else {
            panic!("a command")
        };
        let value = value(index);
        let read = log.read_value(ops[0].place, &ops[0].key, index).unwrap();
        assert_eq!(read, value);
        assert_eq!(
            ops[0].inline.as_ref().map(|v| v.to_vec()),
            Some(value).filter(|v| v.len() <= 8)
        );
    }
}

fn write_read_reopen(fs: Arc<dyn Fs>, dir: &Path) {
    let value = |index: u64| vec![index as u8; (index * 37 % 3000) as usize];
    let options = Options::default()
        .with_segment_bytes(16 << 10)
        .with_cache_bytes(4 << 10);
    let (log, mut writer, recovered) = Log::open(fs.clone(), dir, options.clone()).unwrap();
    assert_eq!(recovered.case, RecoveryCase::Fresh);
    let count = Arc::new(AtomicU64::new(0));
    for index in 1..=200 {
        let counted = count.clone();
        let done = Box::new(move |result: Result<(), Error>| {
            result.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        });
        log.append(vec![entry(1, index, &value(index))], done).unwrap();
        assert!(log.heads(index..index + 1, 0).is_err(), "not durable yet");
        assert_eq!(
            log.entries(index..index + 1, 0).unwrap().len(),
            1,
            "readable at once"
        );
        if index % 5 == 0 {
            writer.step().unwrap();
            assert_eq!(count.load(Ordering::SeqCst), index);
            assert_eq!(log.durable_log_id(), Some(LogId::new(1, 1, index)));
        }
    }
    assert!(log.segments().len() > 3);
    check_reads(&log, 1..201, value);
    let vote = Vote {
        term: 7,
        node: 2,
        committed: true,
    };
    log.save_vote(vote, nobody()).unwrap();
    log.truncate_after(Some(100), nobody()).unwrap();
    assert_eq!(log.last_log_id(), Some(LogId::new(1, 1, 100)));
    assert!(log.entries(101..300, u64::MAX).unwrap().is_empty());
    log.append((101..=120).map(|i| entry(7, i, &value(i))).collect(), nobody())
        .unwrap();
    log.save_committed(Some(LogId::new(7, 1, 120))).unwrap();
    log.purge(LogId::new(1, 1, 10), nobody()).unwrap();
    drain(&mut writer);
    check_reads(&log, 11..121, value);
    let ids = log.key_log_ids();
    assert_eq!(
        ids,
        [LogId::new(1, 1, 11), LogId::new(7, 1, 101), LogId::new(7, 1, 120)]
    );
    drop((log, writer));

    let (log, mut writer, recovered) = Log::open(fs.clone(), dir, options).unwrap();
    assert_eq!(recovered.case, RecoveryCase::CleanEnd);
    assert_eq!(recovered.cut, None);
    assert_eq!(
        (log.vote(), log.purged()),
        (Some(vote), Some(LogId::new(1, 1, 10)))
    );
    assert_eq!(
        (log.last_log_id(), log.committed()),
        (Some(LogId::new(7, 1, 120)), Some(LogId::new(7, 1, 120)))
    );
    assert_eq!(log.first_index(), 11);
    assert_eq!(log.key_log_ids(), ids);
    check_reads(&log, 11..121, value);
    assert!(log.bytes_since(10) > log.bytes_since(100));
    assert_eq!(log.bytes_since(120), 0);
    log.purge(LogId::new(8, 3, 500), nobody()).unwrap();
    log.append(vec![entry(8, 501, b"after")], nobody()).unwrap();
    drain(&mut writer);
    check_reads(&log, 501..502, |_| b"after".to_vec());
    assert!(matches!(
        log.append(vec![entry(8, 503, b"")], nobody()),
        Err(Error::Hole {
            expected: 502,
            got: 503
        })
    ));
}

#[test]
fn write_read_reopen_in_memory() {
    write_read_reopen(Arc::new(CrashFs::new()), Path::new("/data/log"));
}

#[test]
fn write_read_reopen_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    write_read_reopen(Arc::new(OsFs), &dir.path().join("log"));
}

#[test]
fn heads_with_long_values_come_a_few_at_a_time() {
    // From the cache, and from the disk.
    for cache_bytes in [64 << 20, 0] {
        let value = |index: u64| vec![index as u8; 3 << 19];
        let options = Options::default().with_cache_bytes(cache_bytes);
        let (log, mut writer, _) =
            Log::open(Arc::new(CrashFs::new()), Path::new("/data/log"), options).unwrap();
        for index in 1..9 {
            log.append(vec![entry(1, index, &value(index))], nobody())
                .unwrap();
        }
        drain(&mut writer);
        assert_eq!(log.heads(1..9, 8).unwrap().len(), 8, "no value came along");
        let (mut answers, mut next) = (Vec::new(), 1);
        while next < 9 {
            let heads = log.heads(next..9, u32::MAX).unwrap();
            for (head, index) in heads.iter().zip(next..) {
                assert_eq!(head.log_id.index, index);
                let HeadPayload::Command(ops) = &head.payload else {
                    panic!("a command")
                };
                assert_eq!(ops[0].inline.as_ref().map(|v| v.to_vec()), Some(value(index)));
                assert_eq!(head.inline_bytes(), 3 << 19);
            }
            answers.push(heads.len());
            next += heads.len() as u64;
        }
        assert_eq!(answers, [3, 3, 2]);
    }
}
