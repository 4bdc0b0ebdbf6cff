//! Goal: a group waits for more entries only while it has less than its share of those in flight, and never for long.
//! Method: the writer's loop in its thread on real files. Its patience is a day, so that a wake-up that is missed fails the
//! test; and what was written together shows how long it waited.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nezha_vlog::fs::OsFs;
use nezha_vlog::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A log with its writer, and the entries that it holds.
struct Running {
    log: Log,
    /// The last submission of each group.
    groups: Receiver<Seq>,
    writer: JoinHandle<()>,
    last: u64,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(options: Options) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let (log, writer, _) = Log::open(Arc::new(OsFs), dir.path(), options).unwrap();
        let (written, groups) = channel();
        let writer = std::thread::spawn(move || {
            writer.run(|seq, _| written.send(seq).unwrap()).unwrap();
        });
        Running {
            log,
            groups,
            writer,
            last: 0,
            _dir: dir,
        }
    }

    /// Submits the next `count` entries at once, with values of so many bytes.
    fn append_of(&mut self, count: u64, bytes: usize) -> Seq {
        let entries = (self.last + 1..=self.last + count).map(|index| {
            let command = Draft::put(b"key", &vec![7; bytes], Precondition::None).seal(index);
            Entry {
                log_id: LogId::new(1, 1, index),
                payload: Payload::Command(command),
            }
        });
        self.last += count;
        self.log.append(entries.collect(), Box::new(drop)).unwrap()
    }

    fn append(&mut self, count: u64) -> Seq {
        self.append_of(count, 10)
    }

    fn commit(&self, index: u64) {
        self.log.save_committed(Some(LogId::new(1, 1, index))).unwrap();
    }

    /// Waits for the next group, which ends with `seq`.
    fn expect_group(&self, seq: Seq) {
        let ended = self.groups.recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Ok(seq), "what ended the group");
    }

    /// Thirty entries durable and not committed, and one that waits.
    fn with_one_waiting(options: Options) -> Running {
        let mut running = Running::start(options);
        let seq = running.append(30);
        running.expect_group(seq);
        running.append(1);
        running
    }
}

fn patient() -> Options {
    Options::default().with_group_wait(DAY)
}

#[test]
fn a_single_writer_never_waits() {
    let mut running = Running::start(patient());
    for index in 1..=20 {
        let seq = running.append(1);
        running.expect_group(seq);
        running.commit(index);
    }
}

#[test]
fn few_entries_do_not_wait_for_each_other() {
    let mut running = Running::start(patient());
    for _ in 1..=15 {
        let seq = running.append(1);
        running.expect_group(seq);
    }
}

#[test]
fn a_group_waits_for_half_of_what_is_in_flight() {
    let mut running = Running::with_one_waiting(patient());
    // 20 of 50 wait, 29 of 59 too, and 30 of 60 do not.
    for count in [19, 9] {
        running.append(count);
    }
    let seq = running.append(1);
    running.expect_group(seq);
    running.append(59);
    let seq = running.append(1);
    running.expect_group(seq);
}

#[test]
fn a_group_waits_no_longer_when_others_are_committed() {
    let mut running = Running::with_one_waiting(patient());
    running.append(9);
    // 10 of 30, then 10 of 20; a hint takes the place of the one before it.
    running.commit(10);
    running.commit(20);
    running.expect_group(5);
}

#[test]
fn a_group_that_can_take_no_more_does_not_wait() {
    let mut running = Running::with_one_waiting(patient().with_group_bytes(64 << 10));
    let seq = running.append_of(1, 64 << 10);
    // The one that waited is a group of its own now.
    running.expect_group(seq - 1);
    running.expect_group(seq);
}

#[test]
fn votes_barriers_truncations_and_purges_do_not_wait() {
    let submissions: [fn(&Log) -> Seq; 4] = [
        |log| log.save_vote(Vote::default(), Box::new(drop)).unwrap(),
        |log| log.append(Vec::new(), Box::new(drop)).unwrap(),
        |log| log.truncate_after(Some(30), Box::new(drop)).unwrap(),
        |log| log.purge(LogId::new(1, 1, 1), Box::new(drop)).unwrap(),
    ];
    for submit in submissions {
        let running = Running::with_one_waiting(patient());
        let seq = submit(&running.log);
        running.expect_group(seq);
    }
}

#[test]
fn a_log_that_is_closed_does_not_wait() {
    let running = Running::with_one_waiting(patient());
    running.log.close();
    running.expect_group(2);
    running.writer.join().unwrap();
}

#[test]
fn a_group_waits_only_so_long() {
    for wait in [Duration::ZERO, Duration::from_millis(1)] {
        let running = Running::with_one_waiting(Options::default().with_group_wait(wait));
        running.expect_group(2);
    }
}
