//! One seeded history.

mod crash;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nezha_vlog::fs::CrashFs;
use nezha_vlog::{Done, Draft, Entry, Error, Log, LogId, Options, Payload, Precondition, Seq, Vote, Writer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Tally;
use super::check::check_head;
use super::damage::check_damage;
use super::model::{Model, Submission};

/// Operations of a history, at least.
const OPERATIONS_MIN: u64 = 200;
/// Segments of a history, at least.
const SEGMENTS_MIN: u64 = 3;

/// Callbacks that ran: submission and whether it is durable, in the order they ran.
type Acks = Arc<Mutex<Vec<(Seq, bool)>>>;

/// A log under test and what is known about it.
pub struct History {
    pub rng: StdRng,
    pub tally: Tally,
    pub fs: CrashFs,
    pub dir: PathBuf,
    pub options: Options,
    log: Option<(Log, Writer)>,
    acks: Acks,
    /// The log after everything acknowledged.
    pub acked: Model,
    /// Submitted and not acknowledged, in order.
    pending: Vec<(Seq, Submission)>,
    /// The log after everything submitted.
    pub submitted: Model,
    term: u64,
    written: u64,
    operations: u64,
    largest_segment: u64,
    /// Whether some crash happened while something was unsynced.
    torn: bool,
}

/// Runs the history of `seed`; panics where the log is wrong.
pub fn run_history(seed: u64) -> Tally {
    let mut history = History::start(seed);
    while history.operations < OPERATIONS_MIN || history.largest_segment < SEGMENTS_MIN || !history.torn {
        history.live();
        if history.rng.random_bool(0.35) {
            history.kill();
        } else {
            history.power_cut();
        }
        history.reopen();
    }
    check_damage(&mut history);
    history.tally.count("histories");
    history.tally
}

impl History {
    fn start(seed: u64) -> History {
        let mut rng = StdRng::seed_from_u64(seed);
        let options = Options::default()
            .with_segment_bytes(rng.random_range(4 << 10..24 << 10))
            .with_cache_bytes([0, 2 << 10, 1 << 20][rng.random_range(0..3)])
            .with_group_bytes([1, 2 << 10, 64 << 10][rng.random_range(0..3)])
            .with_table_bytes([0, 1 << 20][rng.random_range(0..2)])
            .with_open_files(4);
        let mut history = History {
            rng,
            tally: Tally::default(),
            fs: CrashFs::new(),
            dir: PathBuf::from("/node/log"),
            options,
            log: None,
            acks: Arc::default(),
            acked: Model::default(),
            pending: Vec::new(),
            submitted: Model::default(),
            term: 1,
            written: 0,
            operations: 0,
            largest_segment: 0,
            torn: false,
        };
        history.reopen();
        history
    }

    fn log(&self) -> &Log {
        &self.log.as_ref().expect("open").0
    }

    /// Operations on an open log, without faults.
    fn live(&mut self) {
        for _ in 0..self.rng.random_range(4..50) {
            self.operation();
        }
    }

    fn operation(&mut self) {
        self.operations += 1;
        self.tally.count("operations");
        match self.rng.random_range(0..100) {
            0..50 => self.append(),
            50..58 => self.vote(),
            58..66 => self.committed(),
            66..71 => self.truncate(),
            71..74 => self.purge(),
            74..90 => {
                self.step().expect("no fault is planned");
            }
            _ => self.read(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.rng.random_range(0..1000) {
            0..2 => self.rng.random_range(64 << 10..=1 << 20),
            2..60 => self.rng.random_range(3000..20000),
            60..500 => self.rng.random_range(200..1500),
            _ => self.rng.random_range(1..200),
        };
        let mut value = vec![self.written as u8; len];
        let stamp = self.written.to_le_bytes();
        let n = len.min(8);
        value[..n].copy_from_slice(&stamp[..n]);
        value
    }

    fn append(&mut self) {
        let first = match self.submitted.next_index() {
            Some(next) => next,
            // Any index may follow an empty log; a real one goes on after the purge point.
            None => self
                .submitted
                .purged
                .map_or(self.rng.random_range(0..3), |purged| purged.index + 1),
        };
        let mut entries = Vec::new();
        for index in first..first + self.rng.random_range(1..4) {
            self.written += 1;
            let payload = match self.rng.random_range(0..20) {
                0 => Payload::Blank,
                1 => Payload::Membership(Bytes::from(format!("members {}", self.written))),
                2 => Payload::Command(Draft::delete(b"gone", Precondition::Absent).seal(index)),
                _ => {
                    let key = format!("key-{}", self.rng.random_range(0..50));
                    let precondition = Precondition::ModRevision(self.written);
                    Payload::Command(Draft::put(key.as_bytes(), &self.value(), precondition).seal(index))
                }
            };
            entries.push(Entry {
                log_id: LogId::new(self.term, 1 + self.term % 3, index),
                payload,
            });
        }
        self.submit(Submission::Append(entries));
    }

    fn vote(&mut self) {
        self.term += 1;
        let vote = Vote {
            term: self.term,
            node: self.rng.random_range(1..4),
            committed: self.rng.random_bool(0.5),
        };
        self.submit(Submission::Vote(vote));
        if self.rng.random_bool(0.7) {
            // What a follower does: a vote, and then entries of that leader.
            self.append();
        }
    }

    fn committed(&mut self) {
        let hint = self.submitted.last.map(|last| LogId {
            index: last.index + self.rng.random_range(0..3),
            ..last
        });
        self.submit(Submission::Committed(hint));
    }

    fn truncate(&mut self) {
        let Some(last) = self.submitted.last else { return };
        // Raft never writes another entry under the same log id.
        self.term += 1;
        let back = if self.rng.random_bool(0.3) {
            self.rng.random_range(0..60)
        } else {
            self.rng.random_range(0..6)
        };
        let index = last
            .index
            .checked_sub(back)
            .filter(|_| !self.rng.random_bool(0.02));
        let kept = index.max(self.submitted.purged.map(|purged| purged.index));
        let submission = Submission::TruncateAfter(kept);
        let done = self.done(self.next_seq());
        let seq = self.log().truncate_after(index, done).expect("open");
        self.submitted.apply(&submission);
        self.pending.push((seq, submission));
        self.check_memory();
    }

    fn purge(&mut self) {
        let Some(last) = self.submitted.last else { return };
        let upto = if self.rng.random_bool(0.1) {
            LogId::new(self.term, 9, last.index + self.rng.random_range(0..5))
        } else {
            let back = self.rng.random_range(0..40);
            let first = self
                .submitted
                .entries
                .first_key_value()
                .map_or(last.index, |(first, _)| *first);
            let index = last.index.saturating_sub(back).max(first);
            self.submitted
                .entries
                .get(&index)
                .map_or(last, |entry| entry.log_id)
        };
        self.submit(Submission::Purge(upto));
    }

    /// The seq that the next submission will get: they are consecutive.
    fn next_seq(&self) -> Seq {
        self.pending
            .last()
            .map_or(self.log().durable_seq().max(self.last_acked()), |(seq, _)| *seq)
            + 1
    }

    fn last_acked(&self) -> Seq {
        self.acks.lock().unwrap().last().map_or(0, |(seq, _)| *seq)
    }

    fn done(&self, seq: Seq) -> Done {
        let acks = self.acks.clone();
        Box::new(move |result| acks.lock().unwrap().push((seq, result.is_ok())))
    }

    fn submit(&mut self, submission: Submission) {
        let expected = self.next_seq();
        let done = self.done(expected);
        let log = self.log();
        let seq = match submission.clone() {
            Submission::Append(entries) => log.append(entries, done),
            Submission::Vote(vote) => log.save_vote(vote, done),
            Submission::Committed(committed) => log.save_committed(committed),
            Submission::TruncateAfter(index) => log.truncate_after(index, done),
            Submission::Purge(upto) => log.purge(upto, done),
        };
        let seq = seq.expect("open");
        assert_eq!(seq, expected, "submissions are numbered one by one");
        self.submitted.apply(&submission);
        self.pending.push((seq, submission));
        self.check_memory();
    }

    /// What was submitted is visible at once.
    fn check_memory(&self) {
        let (log, model) = (self.log(), &self.submitted);
        assert_eq!(log.last_log_id(), model.last);
        assert_eq!(
            (log.vote(), log.purged(), log.committed()),
            (model.vote, model.purged, model.committed)
        );
    }

    fn step(&mut self) -> Result<Option<Seq>, Error> {
        let (log, writer) = self.log.as_mut().expect("open");
        let result = writer.step();
        if let Ok(Some(seq)) = result {
            assert_eq!(log.durable_seq(), seq);
        }
        self.settle_acks();
        let newest = self.log().segments().last().map_or(0, |segment| segment.id.get());
        self.largest_segment = self.largest_segment.max(newest);
        result
    }

    /// Moves what was acknowledged from pending to acknowledged.
    fn settle_acks(&mut self) {
        let acks = std::mem::take(&mut *self.acks.lock().unwrap());
        assert!(
            acks.is_sorted_by(|a, b| a.0 < b.0),
            "callbacks run once and in submission order (I1): {acks:?}"
        );
        let Some(upto) = acks
            .iter()
            .filter(|(_, durable)| *durable)
            .map(|(seq, _)| *seq)
            .max()
        else {
            return;
        };
        let count = self.pending.partition_point(|(seq, _)| *seq <= upto);
        for (_, submission) in self.pending.drain(..count) {
            self.acked.apply(&submission);
        }
    }

    fn read(&mut self) {
        let (log, model) = (self.log.as_ref().expect("open").0.clone(), &self.submitted);
        let start = self
            .rng
            .random_range(0..=model.last.map_or(1, |last| last.index + 1));
        let range = start..start + self.rng.random_range(1..40);
        let expected: Vec<&Entry> = model
            .entries
            .range(range.clone())
            .map(|(_, entry)| entry)
            .collect();
        let max_bytes = [0, 5000, u64::MAX][self.rng.random_range(0..3)];
        let read = log.entries(range.clone(), max_bytes).expect("no damage");
        assert!(read.len() <= expected.len() && read.is_empty() == expected.is_empty());
        assert!(
            read.iter().zip(&expected).all(|(a, b)| a == *b),
            "entries {range:?}"
        );
        assert!(max_bytes < u64::MAX || read.len() == expected.len());
        assert_eq!(
            log.log_ids(range.clone()),
            expected.iter().map(|entry| entry.log_id).collect::<Vec<_>>()
        );
        let all_durable = log.seq_of(range.clone()).unwrap() <= log.durable_seq();
        match log.heads(range.clone(), 100) {
            Ok(heads) => {
                assert!(all_durable);
                assert_eq!(heads.len(), expected.len());
                for (head, entry) in heads.iter().zip(expected) {
                    check_head(&log, head, entry);
                }
            }
            Err(Error::NotDurable { .. }) => assert!(!all_durable),
            Err(e) => panic!("no damage: {e}"),
        }
    }

    /// Writes out everything and closes.
    pub fn settle(&mut self) {
        self.append();
        while self.step().expect("no fault is planned").is_some() {}
        self.log = None;
    }
}
