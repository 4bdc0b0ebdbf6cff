use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nezha_api::client::Condition;
use nezha_api::v1::{KeyMetadata, ScanRequest};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::connection::{Connection, Failed, Written};
use super::{Recorder, classify, value};
use crate::history::{Answer, Call, Expected, Found, Outcome, Row, Stamp};

/// Pause after an operation without a good answer, at most: an outage is not a flood of refusals.
const REFUSED_PAUSE_MAX: Duration = Duration::from_millis(120);

/// Between two messages of a scan that is read slowly.
const SLOW_PAUSE: Duration = Duration::from_millis(100);

/// One client: does one operation at a time and writes down each.
pub struct Client {
    /// Draws from the seed of the run.
    pub rng: StdRng,
    recorder: Arc<Recorder>,
    connection: Connection,
    /// Name of the member it is pinned to; empty if none.
    endpoint: String,
    process: u64,
    /// Begins the names of its values.
    label: String,
    values: u64,
    pace: Pace,
    stop: Arc<AtomicBool>,
    collect: Collector,
}

/// Orders collections from members, for workloads that want gc to run beside them.
#[derive(Clone)]
pub struct Collector {
    /// Knows how.
    pub client: nezha_api::Client,
    /// Of all members.
    pub endpoints: Arc<Vec<String>>,
}

/// Spreads the operations of a client over time.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    next: Instant,
}

/// What makes a client.
pub struct Parts {
    /// Where it writes down what it does.
    pub recorder: Arc<Recorder>,
    /// Its way to the cluster.
    pub connection: Connection,
    /// Name of the member it is pinned to; empty if none.
    pub endpoint: String,
    /// Its own generator.
    pub rng: StdRng,
    /// Unique in the run.
    pub label: String,
    /// Mean time from one operation to the next.
    pub interval: Duration,
    /// Ends it.
    pub stop: Arc<AtomicBool>,
    /// For workloads that want gc to run.
    pub collect: Collector,
}

impl Client {
    /// Puts a client together.
    pub fn new(parts: Parts) -> Client {
        let process = parts.recorder.new_process();
        Client {
            rng: parts.rng,
            recorder: parts.recorder,
            connection: parts.connection,
            endpoint: parts.endpoint,
            process,
            label: parts.label,
            values: 0,
            pace: Pace {
                interval: parts.interval,
                next: Instant::now(),
            },
            stop: parts.stop,
            collect: parts.collect,
        }
    }

    /// Waits until it is time for the next operation; false when the client is to end.
    pub async fn turn(&mut self) -> bool {
        let interval = self.pace.interval.mul_f64(self.rng.random_range(0.5..1.5));
        // Time that was lost to a slow answer is not made up for by a burst.
        self.pace.next = (self.pace.next + interval).max(Instant::now());
        let next = self.pace.next;
        while !self.stop.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
        false
    }

    /// Draws true once in `n` times.
    pub fn once_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    /// The name of a new value, of at least `len` bytes.
    pub fn new_value(&mut self, len: usize) -> String {
        self.values += 1;
        value::name(&format!("{}.{}", self.label, self.values), len)
    }

    /// A number that this client never had before, for names of keys.
    pub fn new_number(&mut self) -> String {
        self.values += 1;
        format!("{}.{:06}", self.label, self.values)
    }

    /// Reads a key.
    pub async fn read(&mut self, key: &str) -> Outcome {
        let call = Call::Read { key: key.to_owned() };
        let begun = self.recorder.begin(self.process, &self.endpoint, call);
        let outcome = match self.connection.get(key).await {
            Ok((header, found)) => Outcome::Ok {
                answer: Answer::Read {
                    found: found.map(|(bytes, metadata)| Found {
                        value: value::identify(&bytes),
                        stamp: Some(stamp(&metadata)),
                    }),
                    at: Some(header.revision),
                },
            },
            Err(failed) => classify::read(failed.why),
        };
        self.done(begun, outcome).await
    }

    /// Writes a key, whatever it holds.
    pub async fn write(&mut self, key: &str, value: String) -> Outcome {
        let bytes = value::bytes(&value);
        let call = Call::Write {
            key: key.to_owned(),
            value,
        };
        let begun = self.recorder.begin(self.process, &self.endpoint, call);
        let answer = self.connection.put(key, bytes, Condition::None).await;
        let outcome = told(answer, |written| Answer::Written {
            revision: Some(written.header.revision),
        });
        self.done(begun, outcome).await
    }

    /// Writes a key if it was last written at `revision`; 0: if it does not exist.
    pub async fn cas(&mut self, key: &str, revision: u64, value: String) -> Outcome {
        let (expected, condition) = expected(revision);
        let bytes = value::bytes(&value);
        let call = Call::Cas {
            key: key.to_owned(),
            expected,
            value,
        };
        let begun = self.recorder.begin(self.process, &self.endpoint, call);
        let answer = self.connection.put(key, bytes, condition).await;
        let outcome = told(answer, |written| Answer::Written {
            revision: Some(written.header.revision),
        });
        self.done(begun, outcome).await
    }

    /// Deletes a key; with a revision, only if it was last written then.
    pub async fn delete(&mut self, key: &str, revision: Option<u64>) -> Outcome {
        let (expected, condition) = match revision.filter(|revision| *revision > 0) {
            None => (None, Condition::None),
            Some(revision) => {
                let (expected, condition) = expected(revision);
                (Some(expected), condition)
            }
        };
        let call = Call::Delete {
            key: key.to_owned(),
            expected,
        };
        let begun = self.recorder.begin(self.process, &self.endpoint, call);
        let answer = self.connection.delete(key, condition).await;
        let outcome = told(answer, |written| Answer::Deleted {
            existed: written.existed,
            revision: Some(written.header.revision),
        });
        self.done(begun, outcome).await
    }

    /// Reads `[start, end)`; a limit of 0 is none.
    pub async fn scan(&mut self, start: &str, end: &str, reverse: bool, limit: u64) -> Outcome {
        self.scan_with_pauses(start, end, reverse, limit, Duration::ZERO)
            .await
    }

    /// Reads `[start, end)` as a program does that has work to do between two messages of rows.
    pub async fn scan_slowly(&mut self, start: &str, end: &str, reverse: bool) -> Outcome {
        self.scan_with_pauses(start, end, reverse, 0, SLOW_PAUSE).await
    }

    async fn scan_with_pauses(
        &mut self,
        start: &str,
        end: &str,
        reverse: bool,
        limit: u64,
        pause: Duration,
    ) -> Outcome {
        let call = Call::Scan {
            start: start.to_owned(),
            end: end.to_owned(),
            reverse,
            limit,
        };
        let begun = self.recorder.begin(self.process, &self.endpoint, call);
        let request = ScanRequest {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
            reverse,
            limit_rows: limit,
            ..ScanRequest::default()
        };
        let outcome = match self.connection.scan(request, pause).await {
            Ok(scanned) => Outcome::Ok {
                answer: Answer::Rows {
                    rows: scanned.rows.iter().map(row).collect(),
                    at: Some(scanned.revision),
                    more: scanned.more,
                },
            },
            Err(failed) => classify::read(failed.why),
        };
        self.done(begun, outcome).await
    }

    /// Has some member collect its garbage; whether it does so is not this client's business.
    pub async fn collect(&mut self) {
        let Collector { client, endpoints } = &self.collect;
        let endpoint = &endpoints[self.rng.random_range(0..endpoints.len())];
        // A member that is down or cut off does not collect.
        let _ = client.gc_run(endpoint).await;
    }

    async fn done(&mut self, begun: super::recorder::Begun, outcome: Outcome) -> Outcome {
        self.recorder.end(begun, outcome.clone());
        if matches!(outcome, Outcome::Unknown { .. }) {
            self.process = self.recorder.new_process();
        }
        if !matches!(outcome, Outcome::Ok { .. }) {
            let pause = REFUSED_PAUSE_MAX.mul_f64(self.rng.random_range(0.2..1.0));
            tokio::time::sleep(pause).await;
        }
        outcome
    }
}

/// The outcome of a write, from what came back.
fn told(answer: Result<Written, Failed>, succeeded: impl FnOnce(&Written) -> Answer) -> Outcome {
    match answer {
        Ok(written) if written.succeeded => Outcome::Ok {
            answer: succeeded(&written),
        },
        Ok(written) => Outcome::Ok {
            answer: Answer::Refused {
                current: Some(written.current),
                revision: Some(written.header.revision),
            },
        },
        Err(failed) => classify::write(failed.proof, failed.why),
    }
}

fn expected(revision: u64) -> (Expected, Condition) {
    match revision {
        0 => (Expected::Absent, Condition::Absent),
        revision => (Expected::Revision(revision), Condition::ModRevision(revision)),
    }
}

fn stamp(metadata: &KeyMetadata) -> Stamp {
    Stamp {
        created: metadata.create_revision,
        revision: metadata.mod_revision,
        version: metadata.version,
    }
}

fn row(row: &nezha_api::v1::Row) -> Row {
    Row {
        key: String::from_utf8_lossy(&row.key).into_owned(),
        value: value::identify(&row.value),
        stamp: row.metadata.as_ref().map(stamp),
    }
}

/// The revision of a key that a read found; 0 if it does not exist, `None` if the read failed.
pub fn revision_read(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok {
            answer: Answer::Read { found, .. },
        } => {
            let stamp = found.as_ref().and_then(|found| found.stamp);
            Some(stamp.map_or(0, |stamp| stamp.revision))
        }
        _ => None,
    }
}

/// The revision that a key has after an operation on it, as far as its answer says.
pub fn revision_after(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok { answer } => match answer {
            Answer::Written { revision } => *revision,
            Answer::Refused { current, .. } => *current,
            Answer::Deleted { .. } => Some(0),
            Answer::Read { .. } => revision_read(outcome),
            Answer::Rows { .. } => None,
        },
        _ => None,
    }
}
