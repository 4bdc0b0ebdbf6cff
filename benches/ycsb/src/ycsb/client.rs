//! One client of a run: begins operations when they are due, checks what it reads, counts what happened.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{
    arrivals::Arrivals,
    generators::{KeyChooser, Operation},
    inserts::Inserts,
    measures::{Clock, Recorder, Return, Section},
    record::Records,
    rows::{Loaded, check_rows},
    settings::{Interval, Phase},
    workload::Workload,
};
use crate::{
    driver::Driver,
    errors::{OpError, error_of_run},
};

/// Times that an operation goes on to the leader that a refusal named. More would be a leader that changes meanwhile.
const REDIRECTS_MAX: u32 = 3;
/// Pause of a client after a failure, in milliseconds: short beside an election, long beside a refusal.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 2..=8;

/// What all clients share for the whole of a run.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) phase: Phase,
    pub(crate) workload: Workload,
    pub(crate) records: Records,
    pub(crate) inserts: Inserts,
    /// For scans: what must be among their rows.
    pub(crate) loaded: Option<Loaded>,
    pub(crate) interval: Interval,
    pub(crate) op_timeout: Duration,
}

/// What all clients share for a stretch of a run: its warm-up, or its measurement.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) recorder: Arc<Recorder>,
    arrivals: Arrivals,
    begun: AtomicU64,
    /// Operations to begin; 0 once the stage was stopped.
    operations: AtomicU64,
    end: Option<Instant>,
    /// Why the stage was stopped before its end.
    stopped: Mutex<Option<anyhow::Error>>,
}

impl Stage {
    /// A stage of at most `operations` operations (above 0), none of which begins after `end`.
    pub(crate) fn new(
        recorder: Arc<Recorder>,
        arrivals: Arrivals,
        operations: Option<u64>,
        end: Option<Instant>,
    ) -> Stage {
        Stage {
            recorder,
            arrivals,
            begun: AtomicU64::new(0),
            operations: AtomicU64::new(operations.unwrap_or(u64::MAX)),
            end,
            stopped: Mutex::new(None),
        }
    }

    /// Waits until an operation is due; returns when it should have begun, or `None` when the stage is over.
    async fn next(&self) -> Option<Instant> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if number >= self.operations.load(Ordering::Relaxed) {
            return None;
        }
        let intended = match self.end {
            None => self.arrivals.next().await,
            Some(end) => tokio::time::timeout_at(end.into(), self.arrivals.next())
                .await
                .ok()
                .flatten(),
        };
        // Of what was due but not begun at the end, nothing is known.
        intended.filter(|_| self.end.is_none_or(|end| Instant::now() < end))
    }

    /// Lets no further operation begin.
    fn stop(&self, why: anyhow::Error) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(why);
        self.arrivals.close();
        self.operations.store(0, Ordering::Relaxed);
    }

    /// Whether it was stopped.
    fn is_stopped(&self) -> bool {
        self.operations.load(Ordering::Relaxed) == 0
    }

    /// Why the stage was stopped, once.
    pub(crate) fn take_error(&self) -> Option<anyhow::Error> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A request to the store.
#[derive(Debug)]
enum Request {
    Get { number: u64, key: Bytes },
    Put { key: Bytes, value: Bytes },
    Scan { number: u64, limit: u64 },
}

/// Why a request did not do what it should.
#[derive(Debug)]
struct Fault {
    what: Return,
    /// Whether the store is at fault: it answered, and not with what was written.
    wrong: bool,
    error: OpError,
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Fault {
        Fault {
            what: Return::Error,
            wrong: false,
            error,
        }
    }
}

impl Fault {
    /// A read that returned something else than was written.
    fn wrong(what: Return, message: String) -> Fault {
        Fault {
            what,
            wrong: true,
            error: read_error("wrong read", message),
        }
    }
}

fn read_error(kind: &str, message: String) -> OpError {
    OpError {
        kind: kind.to_owned(),
        unknown: false,
        leader: None,
        message,
    }
}

/// One client, with its driver.
pub(crate) struct Client<D> {
    number: usize,
    driver: D,
    shared: Arc<Shared>,
    chooser: KeyChooser,
    random: Xoshiro256PlusPlus,
    /// Of the next write. Begins anywhere, so that no other process draws the same ones.
    stamp: u64,
}

impl<D: Driver> Client<D> {
    /// Client `number`. Its choices follow from the number; its stamps do not.
    pub(crate) fn new(number: usize, driver: D, shared: Arc<Shared>, chooser: KeyChooser) -> Client<D> {
        Client {
            number,
            driver,
            shared,
            chooser,
            random: Xoshiro256PlusPlus::seed_from_u64(number as u64),
            stamp: rand::random(),
        }
    }

    /// Works until the stage is over.
    pub(crate) async fn work(mut self, stage: Arc<Stage>) -> Client<D> {
        while let Some(intended) = stage.next().await {
            let clock = Clock {
                intended,
                started: Instant::now(),
            };
            let succeeded = match self.shared.phase {
                Phase::Load => match self.load_next(&stage, clock).await {
                    Some(succeeded) => succeeded,
                    None => break,
                },
                Phase::Run => self.transact(&stage, clock).await,
            };
            {
                let mut measures = stage.recorder.of(self.number);
                measures.ops += u64::from(succeeded);
                measures.failed_ops += u64::from(!succeeded);
            }
            if !succeeded {
                let pause = self.random.random_range(PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        self
    }

    /// Ends the client; its connection is counted as `CLEANUP`.
    pub(crate) fn clean_up(self, recorder: &Recorder) {
        let now = Instant::now();
        let clock = Clock {
            intended: now,
            started: now,
        };
        drop(self.driver);
        let mut measures = recorder.of(self.number);
        measures.time(Section::Cleanup, clock, false, self.shared.interval);
    }

    /// Inserts the next record of the load, and says whether that succeeded; `None` when none is left.
    async fn load_next(&mut self, stage: &Stage, clock: Clock) -> Option<bool> {
        let span = self.shared.workload.span;
        let retries = self.shared.workload.retries;
        let number = self.shared.inserts.begin();
        if number >= span.first + span.count {
            return None;
        }
        let stamp = self.next_stamp();
        let key = self.shared.records.key(number);
        let value = self.shared.records.new_record(&key, stamp);
        let mut attempts = 1;
        loop {
            let request = Request::Put {
                key: key.clone(),
                value: value.clone(),
            };
            let result = self.request(stage, &request).await;
            let Err(fault) = &result else {
                return Some(self.finish(stage, Section::Insert, clock, &result));
            };
            if attempts > retries.limit || stage.is_stopped() {
                if !retries.keep_going {
                    let OpError { kind, message, .. } = &fault.error;
                    stage.stop(error_of_run(
                        [kind.as_str()],
                        format!(
                            "the load stopped: key {key:?} could not be inserted in {attempts} attempts: {kind}: \
                             {message}; the property core_workload_insertion_retry_limit allows for more"
                        ),
                    ));
                }
                return Some(self.finish(stage, Section::Insert, clock, &result));
            }
            stage.recorder.of(self.number).failed(fault.error.clone());
            attempts += 1;
            let share = self.random.random_range(0.8..1.2);
            tokio::time::sleep(retries.interval.mul_f64(share)).await;
        }
    }

    /// Runs one transaction, and says whether it succeeded.
    async fn transact(&mut self, stage: &Stage, clock: Clock) -> bool {
        match self.shared.workload.mix.choose(&mut self.random) {
            Operation::Read => {
                let number = self.choose();
                let result = self.get(stage, number).await;
                self.finish(stage, Section::Read, clock, &result)
            }
            Operation::Update => {
                let number = self.choose();
                let result = self.update(stage, number).await;
                self.finish(stage, Section::Update, clock, &result)
            }
            Operation::Insert => {
                let number = self.shared.inserts.begin();
                let stamp = self.next_stamp();
                let key = self.shared.records.key(number);
                let value = self.shared.records.new_record(&key, stamp);
                let result = self.request(stage, &Request::Put { key, value }).await;
                self.shared.inserts.finish(number, result.is_ok());
                self.finish(stage, Section::Insert, clock, &result)
            }
            Operation::Scan => {
                let number = self.choose();
                let limit = self.shared.workload.scan_length.choose(&mut self.random);
                let result = self.request(stage, &Request::Scan { number, limit }).await;
                self.finish(stage, Section::Scan, clock, &result)
            }
            Operation::ReadModifyWrite => self.read_modify_write(stage, clock).await,
        }
    }

    /// Writes a record anew, or one field of it; then it has to be read first, since a value is written as a whole.
    async fn update(&mut self, stage: &Stage, number: u64) -> Result<Bytes, Fault> {
        let old = match self.shared.workload.write_all_fields {
            true => Bytes::new(),
            false => self.get(stage, number).await?,
        };
        self.write_back(stage, number, &old).await
    }

    /// As in YCSB: counted as a read, an update, and both together.
    async fn read_modify_write(&mut self, stage: &Stage, clock: Clock) -> bool {
        let number = self.choose();
        let old = self.get(stage, number).await;
        let mut succeeded = self.finish(stage, Section::Read, clock, &old);
        if let Ok(old) = old {
            let write = Clock {
                intended: clock.intended,
                started: Instant::now(),
            };
            let result = self.write_back(stage, number, &old).await;
            succeeded = self.finish(stage, Section::Update, write, &result);
        }
        let mut measures = stage.recorder.of(self.number);
        measures.time(Section::ReadModifyWrite, clock, !succeeded, self.shared.interval);
        succeeded
    }

    async fn get(&mut self, stage: &Stage, number: u64) -> Result<Bytes, Fault> {
        let key = self.shared.records.key(number);
        self.request(stage, &Request::Get { number, key }).await
    }

    /// Writes the record whose value was `old` with one field new, or all.
    async fn write_back(&mut self, stage: &Stage, number: u64, old: &Bytes) -> Result<Bytes, Fault> {
        let stamp = self.next_stamp();
        let records = &self.shared.records;
        let key = records.key(number);
        let value = if self.shared.workload.write_all_fields {
            records.new_record(&key, stamp)
        } else {
            let field = self.random.random_range(0..records.layout().field_count);
            records.with_new_field(&key, old, field, stamp)
        };
        self.request(stage, &Request::Put { key, value }).await
    }

    /// Makes a request, and follows refusals that name another leader; returns the record that a get read.
    async fn request(&mut self, stage: &Stage, request: &Request) -> Result<Bytes, Fault> {
        let deadline = tokio::time::Instant::now() + self.shared.op_timeout;
        let mut redirects = 0;
        loop {
            let attempt = tokio::time::timeout_at(deadline, self.attempt(stage, request)).await;
            let fault = match attempt {
                Ok(Ok(record)) => return Ok(record),
                Ok(Err(fault)) => fault,
                Err(_) => self.gave_up(request).into(),
            };
            if fault.what == Return::Error {
                self.driver.failed(&fault.error);
            }
            if fault.error.leader.is_some() && !fault.error.unknown && redirects < REDIRECTS_MAX {
                redirects += 1;
                continue;
            }
            return Err(fault);
        }
    }

    async fn attempt(&mut self, stage: &Stage, request: &Request) -> Result<Bytes, Fault> {
        match request {
            Request::Get { number, key } => {
                let value = self.driver.get(key.clone()).await?;
                self.check_value(stage, *number, key, value)
            }
            Request::Put { key, value } => {
                self.driver.put(key.clone(), value.clone()).await?;
                let mut measures = stage.recorder.of(self.number);
                measures.bytes_put += (key.len() + value.len()) as u64;
                Ok(Bytes::new())
            }
            Request::Scan { number, limit } => self.scan(stage, *number, *limit).await,
        }
    }

    fn check_value(
        &self,
        stage: &Stage,
        number: u64,
        key: &Bytes,
        value: Option<Bytes>,
    ) -> Result<Bytes, Fault> {
        let started = Instant::now();
        let checked = match value {
            Some(value) => self
                .shared
                .records
                .check(key, &value)
                .map(|()| value)
                .map_err(|why| {
                    Fault::wrong(Return::UnexpectedState, format!("the value of key {key:?} {why}"))
                }),
            None => Err(self.missing(number, key)),
        };
        let mut measures = stage.recorder.of(self.number);
        if let Ok(value) = &checked {
            measures.bytes_read += value.len() as u64;
        }
        if self.shared.workload.data_integrity {
            let clock = Clock {
                intended: started,
                started,
            };
            measures.time(Section::Verify, clock, false, Interval::Operation);
            measures.returned(Section::Verify, return_of(&checked));
        }
        checked
    }

    fn missing(&self, number: u64, key: &Bytes) -> Fault {
        if self.shared.inserts.may_be_missing(number) {
            let message = format!("key {key:?} does not exist; its insert was not acknowledged");
            return Fault {
                what: Return::NotFound,
                wrong: false,
                error: read_error("insert had failed", message),
            };
        }
        Fault::wrong(
            Return::NotFound,
            format!(
                "key {key:?} does not exist; if it was never loaded, run --load with the same recordcount, \
                 insertorder, zeropadding and table"
            ),
        )
    }

    async fn scan(&mut self, stage: &Stage, number: u64, limit: u64) -> Result<Bytes, Fault> {
        let shared = self.shared.clone();
        let records = &shared.records;
        let start = records.key(number);
        let rows = self.driver.scan(start.clone(), records.end(), limit).await?;
        if rows.first().is_none_or(|(first, _)| *first != start) {
            return Err(self.missing(number, &start));
        }
        let mut checked = check_rows(records, &start, limit, &rows);
        if let Some(loaded) = &shared.loaded {
            checked = checked.and_then(|()| loaded.check(records, records.name(number), limit, &rows));
        }
        checked.map_err(|why| Fault::wrong(Return::UnexpectedState, why))?;
        let bytes: usize = rows.iter().map(|(_, value)| value.len()).sum();
        stage.recorder.of(self.number).bytes_read += bytes as u64;
        Ok(Bytes::new())
    }

    /// Counts an operation that ended now, and says whether it succeeded.
    fn finish(&self, stage: &Stage, section: Section, clock: Clock, result: &Result<Bytes, Fault>) -> bool {
        let mut measures = stage.recorder.of(self.number);
        measures.time(section, clock, result.is_err(), self.shared.interval);
        measures.returned(section, return_of(result));
        if let Err(fault) = result {
            measures.wrong_reads += u64::from(fault.wrong);
            measures.failed(fault.error.clone());
        }
        result.is_ok()
    }

    fn gave_up(&self, request: &Request) -> OpError {
        OpError {
            kind: "gave up".to_owned(),
            unknown: matches!(request, Request::Put { .. }),
            leader: None,
            message: format!("no answer within {:?}", self.shared.op_timeout),
        }
    }

    fn choose(&mut self) -> u64 {
        let existing = self.shared.inserts.existing();
        self.chooser.choose(existing, &mut self.random)
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }
}

fn return_of(result: &Result<Bytes, Fault>) -> Return {
    match result {
        Ok(_) => Return::Ok,
        Err(fault) => fault.what,
    }
}
