//! What clients count while they run: latencies by operation, what became of each, bytes, failures.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::settings::Interval;
use crate::{
    errors::{ErrorCounts, OpError},
    histogram::Latencies,
};

/// Parts of the recorder at most; clients spread over them.
const SHARDS_MAX: usize = 16;

/// An operation of YCSB, as named in its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
    /// A check of what was read.
    Verify,
    /// The end of a client.
    Cleanup,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Read => "READ",
            Section::Update => "UPDATE",
            Section::Insert => "INSERT",
            Section::Scan => "SCAN",
            Section::ReadModifyWrite => "READ-MODIFY-WRITE",
            Section::Verify => "VERIFY",
            Section::Cleanup => "CLEANUP",
        })
    }
}

/// What became of an operation, as named in YCSB's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Return {
    Ok,
    /// It failed, or was not answered.
    Error,
    /// A record that must exist does not.
    NotFound,
    /// A read returned what was not written.
    UnexpectedState,
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Return::Ok => "OK",
            Return::Error => "ERROR",
            Return::NotFound => "NOT_FOUND",
            Return::UnexpectedState => "UNEXPECTED_STATE",
        })
    }
}

/// Which latencies are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    /// Whether they count from when operations should have begun.
    pub(crate) intended: bool,
    pub(crate) section: Section,
    pub(crate) failed: bool,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let intended = if self.intended { "Intended-" } else { "" };
        let failed = if self.failed { "-FAILED" } else { "" };
        write!(f, "{intended}{}{failed}", self.section)
    }
}

/// When an operation should have begun, and did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) intended: Instant,
    pub(crate) started: Instant,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measures {
    pub(crate) latencies: BTreeMap<Series, Latencies>,
    pub(crate) returns: BTreeMap<(Section, Return), u64>,
    /// Inserts of a load and transactions, by whether they succeeded.
    pub(crate) ops: u64,
    pub(crate) failed_ops: u64,
    /// Bytes of keys and values that were acknowledged.
    pub(crate) bytes_put: u64,
    /// Bytes of values that were read.
    pub(crate) bytes_read: u64,
    pub(crate) errors: ErrorCounts,
    /// Reads that returned what was not written, or missed what was.
    pub(crate) wrong_reads: u64,
}

impl Measures {
    /// Counts the latency of one operation that ended now, from the points that `interval` asks for.
    pub(crate) fn time(&mut self, section: Section, clock: Clock, failed: bool, interval: Interval) {
        let ended = Instant::now();
        let mut count = |intended, from| {
            let series = Series {
                intended,
                section,
                failed,
            };
            let latencies = self.latencies.entry(series).or_insert_with(Latencies::new);
            latencies.record(ended.saturating_duration_since(from));
        };
        match interval {
            Interval::Operation => count(false, clock.started),
            // Under the plain name: YCSB tells them apart only when it shows both.
            Interval::Intended => count(false, clock.intended),
            Interval::Both => {
                count(false, clock.started);
                count(true, clock.intended);
            }
        }
    }

    /// Counts what became of one operation.
    pub(crate) fn returned(&mut self, section: Section, what: Return) {
        *self.returns.entry((section, what)).or_insert(0) += 1;
    }

    /// Counts one attempt that failed.
    pub(crate) fn failed(&mut self, error: OpError) {
        self.errors.record(error);
    }

    /// Adds the counts of `other`.
    pub(crate) fn merge(&mut self, other: Measures) {
        for (series, latencies) in other.latencies {
            match self.latencies.get_mut(&series) {
                Some(own) => own.merge(&latencies),
                None => {
                    self.latencies.insert(series, latencies);
                }
            }
        }
        for (key, count) in other.returns {
            *self.returns.entry(key).or_insert(0) += count;
        }
        self.ops += other.ops;
        self.failed_ops += other.failed_ops;
        self.bytes_put += other.bytes_put;
        self.bytes_read += other.bytes_read;
        self.errors.merge(other.errors);
        self.wrong_reads += other.wrong_reads;
    }
}

/// Where clients count. In parts, so that they seldom wait for each other; emptied once a second.
#[derive(Debug)]
pub(crate) struct Recorder {
    shards: Vec<Mutex<Measures>>,
}

impl Recorder {
    /// A recorder for `clients` clients.
    pub(crate) fn new(clients: usize) -> Recorder {
        Recorder {
            shards: (0..clients.clamp(1, SHARDS_MAX))
                .map(|_| Mutex::default())
                .collect(),
        }
    }

    /// Where client number `client` counts. Nothing must be awaited while it is held.
    pub(crate) fn of(&self, client: usize) -> MutexGuard<'_, Measures> {
        lock(&self.shards[client % self.shards.len()])
    }

    /// Takes what was counted since the last time.
    pub(crate) fn take(&self) -> Measures {
        let mut all = Measures::default();
        for shard in &self.shards {
            let taken = std::mem::take(&mut *lock(shard));
            all.merge(taken);
        }
        all
    }
}

fn lock(shard: &Mutex<Measures>) -> MutexGuard<'_, Measures> {
    // Counts are whole after a panic elsewhere.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn clock(late: Duration) -> Clock {
        let started = Instant::now() - Duration::from_millis(10);
        Clock {
            intended: started - late,
            started,
        }
    }

    fn read(intended: bool) -> Series {
        Series {
            intended,
            section: Section::Read,
            failed: false,
        }
    }

    #[test]
    fn latencies_count_from_where_they_were_asked_for() {
        let late = 5_000_000..6_000_000;
        let soon = 10_000..5_000_000;
        for (interval, plain, intended) in [
            (Interval::Operation, &soon, None),
            (Interval::Intended, &late, None),
            (Interval::Both, &soon, Some(&late)),
        ] {
            let mut measures = Measures::default();
            measures.time(Section::Read, clock(Duration::from_secs(5)), false, interval);
            assert!(
                plain.contains(&measures.latencies[&read(false)].max()),
                "{interval:?}"
            );
            let both = measures.latencies.get(&read(true));
            assert_eq!(both.is_some(), intended.is_some());
            assert!(both.is_none_or(|both| late.contains(&both.max())), "{interval:?}");
        }
    }

    #[test]
    fn series_are_named_as_in_ycsb() {
        assert_eq!(read(true).to_string(), "Intended-READ");
        let failed = Series {
            intended: false,
            section: Section::ReadModifyWrite,
            failed: true,
        };
        assert_eq!(failed.to_string(), "READ-MODIFY-WRITE-FAILED");
    }

    #[test]
    fn taking_gives_everything_once() {
        let recorder = Recorder::new(40);
        for client in 0..40 {
            let mut measures = recorder.of(client);
            measures.time(Section::Read, clock(Duration::ZERO), false, Interval::Operation);
            measures.returned(Section::Read, Return::Ok);
            measures.ops += 1;
            measures.bytes_read += 7;
        }
        let all = recorder.take();
        assert_eq!((all.ops, all.bytes_read), (40, 280));
        assert_eq!(all.latencies[&read(false)].count(), 40);
        assert_eq!(all.returns[&(Section::Read, Return::Ok)], 40);
        assert_eq!(recorder.take().ops, 0);
    }
}
