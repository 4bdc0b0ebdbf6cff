//! The closed loop: every client has one operation in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::Zipf;
use tokio::task::JoinSet;

use crate::{
    acks::AckLog,
    args::{Distribution, LoadArgs},
    driver::{Access, Driver, Job, with_drivers},
    errors::{BenchError, OpError, error_of_run},
    process::{self, ProcessReport},
    progress::{Counters, Progress},
    report::{LoadReport, Tally},
    values::{Keys, Values},
    workload::{Operation, Workload},
};

/// A client that fails for this long while loading keys gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Exponent of YCSB's zipfian distribution.
const ZIPFIAN_EXPONENT: f64 = 0.99;
/// Pause of a client after a failure, in milliseconds: short beside an election, long beside a refusal.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 2..=8;

/// Runs `workload` and prints its report.
///
/// Errors: bad endpoints, a key that cannot be loaded, no operation succeeded, a wrong read.
pub(crate) async fn run(workload: Workload, args: &LoadArgs, endpoints: &[String]) -> anyhow::Result<()> {
    let report = measure(&workload, args, endpoints).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.table());
    }
    ensure!(
        report.wrong_reads == 0,
        "{} reads found no value or a wrong one",
        report.wrong_reads
    );
    if report.ops == 0 {
        let text = "no operation succeeded within the measurement".to_owned();
        return Err(error_of_run(report.errors.keys().map(String::as_str), text));
    }
    Ok(())
}

/// Runs `workload` with the driver that `args` name.
async fn measure(workload: &Workload, args: &LoadArgs, endpoints: &[String]) -> anyhow::Result<LoadReport> {
    let access = Access {
        driver: args.driver,
        target: args.target,
        connections: args.connections,
        clients: args.clients,
        consistency: workload.consistency,
    };
    with_drivers(access, endpoints, Load { workload, args }).await
}

/// A load, to be driven by whatever drivers.
struct Load<'l> {
    workload: &'l Workload,
    args: &'l LoadArgs,
}

impl Job for Load<'_> {
    type Output = LoadReport;

    async fn run<D: Driver>(self, drivers: Vec<D>) -> anyhow::Result<LoadReport> {
        drive(self.workload, self.args, drivers).await
    }
}

/// Loads the keys, runs the clients, and takes stock.
async fn drive<D: Driver>(
    workload: &Workload,
    args: &LoadArgs,
    mut drivers: Vec<D>,
) -> anyhow::Result<LoadReport> {
    let keys = Keys::new(workload.key_prefix.clone());
    let size = usize::try_from(args.size).context("--size does not fit this machine")?;
    let values = Values::new(size);
    let op_timeout = Duration::from_secs_f64(args.op_timeout);
    let acks = match &workload.ack_log {
        Some(path) => Some(Arc::new(AckLog::create(path)?)),
        None => None,
    };

    if workload.load_keys > 0 {
        let phase = Phase {
            operation: Operation::PutNext {
                keys: Some(workload.load_keys),
            },
            keys: keys.clone(),
            values: values.clone(),
            hashes: Vec::new(),
            next: AtomicU64::new(0),
            measure_from: Instant::now(),
            end: None,
            op_timeout,
            counters: Arc::default(),
            acks: None,
        };
        (drivers, _) = run_phase("load", phase, drivers)
            .await
            .context("cannot load the keys")?;
    }

    let before = args
        .pids
        .iter()
        .map(|pid| process::sample(*pid))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let client_cpu_before = process::own_cpu_seconds();
    let measure_from = Instant::now() + Duration::from_secs_f64(args.warmup);
    let end = measure_from + Duration::from_secs_f64(args.seconds);
    let phase = Phase {
        operation: workload.operation,
        keys,
        values,
        hashes: match workload.operation {
            Operation::Scan { keys, .. } => Keys::hashes_in_order(keys),
            _ => Vec::new(),
        },
        next: AtomicU64::new(0),
        measure_from,
        end: Some(end),
        op_timeout,
        counters: Arc::default(),
        acks: acks.clone(),
    };
    let (_, tally) = run_phase(workload.operation.name(), phase, drivers).await?;
    let seconds = Instant::now()
        .min(end)
        .saturating_duration_since(measure_from)
        .as_secs_f64();
    if let Some(acks) = acks {
        acks.flush().context("cannot write the log of acknowledgements")?;
    }
    ensure!(
        seconds > 0.0,
        BenchError::Usage("the keys were written before the warm-up ended; use --warmup 0".to_owned())
    );

    let mut processes = Vec::new();
    for (pid, before) in args.pids.iter().zip(before) {
        let after = process::sample(*pid)?;
        processes.push(ProcessReport::between(
            *pid,
            before,
            after,
            tally.run_logical_bytes_put,
            tally.run_ops,
        ));
    }
    let ops = tally.latencies.count();
    Ok(LoadReport {
        driver: args.driver.name(),
        operation: workload.operation.name(),
        unique: matches!(workload.operation, Operation::PutNext { .. }),
        consistency: (!workload.operation.is_put()).then(|| workload.consistency.name()),
        clients: args.clients,
        connections: args.connections,
        size: args.size,
        keys: workload.operation.keys(),
        scan_length: match workload.operation {
            Operation::Scan { length, .. } => Some(length),
            _ => None,
        },
        seconds,
        ops,
        ops_per_second: ops as f64 / seconds,
        mb_per_second: tally.value_bytes as f64 / 1e6 / seconds,
        latency_us: tally.latencies.summary(),
        errors: tally.errors.by_kind(),
        unknown: tally.errors.unknown(),
        wrong_reads: tally.wrong_reads,
        run_ops: tally.run_ops,
        run_logical_bytes_put: tally.run_logical_bytes_put,
        client_cpu_seconds: process::own_cpu_seconds() - client_cpu_before,
        processes,
        error_lines: tally.errors.lines(),
    })
}

/// One stretch of work that all clients share.
#[derive(Debug)]
struct Phase {
    operation: Operation,
    keys: Keys,
    values: Values,
    /// For scans: the hashes of all keys in order.
    hashes: Vec<u64>,
    /// For unique puts: the next key.
    next: AtomicU64,
    measure_from: Instant,
    /// `None`: until the keys end.
    end: Option<Instant>,
    op_timeout: Duration,
    counters: Arc<Counters>,
    acks: Option<Arc<AckLog>>,
}

/// Runs all clients to the end of the phase; gives the drivers back, and what they counted together.
async fn run_phase<D: Driver>(
    what: &'static str,
    phase: Phase,
    drivers: Vec<D>,
) -> anyhow::Result<(Vec<D>, Tally)> {
    let phase = Arc::new(phase);
    let _progress = Progress::start(what, phase.counters.clone(), phase.acks.clone());
    let mut tasks = JoinSet::new();
    for (number, driver) in drivers.into_iter().enumerate() {
        let client = Client {
            driver,
            phase: phase.clone(),
            random: Xoshiro256PlusPlus::seed_from_u64(number as u64),
            tally: Tally::new(),
        };
        tasks.spawn(client.run());
    }
    let mut drivers = Vec::new();
    let mut total = Tally::new();
    while let Some(joined) = tasks.join_next().await {
        let (driver, tally) = joined.context("a client stopped")??;
        drivers.push(driver);
        total.merge(tally);
    }
    Ok((drivers, total))
}

/// What one successful operation moved.
#[derive(Debug, Clone, Copy)]
struct Moved {
    value_bytes: u64,
    logical_bytes_put: u64,
}

/// Why one operation did not count.
#[derive(Debug)]
enum Failure {
    Failed(OpError),
    /// The store answered, and the answer is not what was written.
    Wrong(String),
}

impl From<OpError> for Failure {
    fn from(error: OpError) -> Failure {
        Failure::Failed(error)
    }
}

struct Client<D> {
    driver: D,
    phase: Arc<Phase>,
    random: Xoshiro256PlusPlus,
    tally: Tally,
}

impl<D: Driver> Client<D> {
    async fn run(mut self) -> anyhow::Result<(D, Tally)> {
        let mut repeat = None;
        let mut failing_since = None;
        while let Some(number) = repeat.take().or_else(|| self.choose()) {
            let started = Instant::now();
            if self.phase.end.is_some_and(|end| started >= end) {
                break;
            }
            let attempt = tokio::time::timeout(self.phase.op_timeout, self.attempt(number)).await;
            let ended = Instant::now();
            match attempt.unwrap_or_else(|_| Err(Failure::Failed(self.gave_up()))) {
                Ok(moved) => {
                    failing_since = None;
                    self.succeeded(started, ended, moved)?;
                }
                Err(Failure::Wrong(what)) => {
                    self.tally.wrong_reads += 1;
                    self.tally.errors.record(OpError {
                        kind: "wrong read".to_owned(),
                        unknown: false,
                        leader: None,
                        message: what,
                    });
                    self.phase.counters.errors.fetch_add(1, Ordering::Relaxed);
                }
                Err(Failure::Failed(error)) => {
                    let since = *failing_since.get_or_insert(started);
                    if self.phase.end.is_none() && ended - since > GIVE_UP_AFTER {
                        let text = format!("{}: {}", error.kind, error.message);
                        return Err(error_of_run([error.kind.as_str()], text));
                    }
                    if matches!(self.phase.operation, Operation::PutNext { .. }) {
                        // Every key is to be written. Repeating is safe: the key has only this one value.
                        repeat = Some(number);
                    }
                    self.driver.failed(&error);
                    self.tally.errors.record(error);
                    self.phase.counters.errors.fetch_add(1, Ordering::Relaxed);
                    let pause = self.random.random_range(PAUSE_MS);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
        Ok((self.driver, self.tally))
    }

    /// The key number of the next operation (for scans its position in key order); `None` when none is left.
    fn choose(&mut self) -> Option<u64> {
        match self.phase.operation {
            Operation::PutNext { keys } => {
                let number = self.phase.next.fetch_add(1, Ordering::Relaxed);
                keys.is_none_or(|keys| number < keys).then_some(number)
            }
            Operation::Overwrite {
                keys,
                distribution: Distribution::Zipfian,
            } => Some(zipfian(keys, &mut self.random)),
            Operation::Overwrite { keys, .. } | Operation::Get { keys } => {
                Some(self.random.random_range(0..keys))
            }
            Operation::Scan { keys, length } => Some(self.random.random_range(0..=keys - length)),
        }
    }

    async fn attempt(&mut self, number: u64) -> Result<Moved, Failure> {
        let values = &self.phase.values;
        match self.phase.operation {
            Operation::PutNext { .. } | Operation::Overwrite { .. } => {
                let key = self.phase.keys.key(number);
                let value = values.value(&key);
                let value_bytes = value.len() as u64;
                let logical_bytes_put = key.len() as u64 + value_bytes;
                self.driver.put(key, value).await?;
                Ok(Moved {
                    value_bytes,
                    logical_bytes_put,
                })
            }
            Operation::Get { .. } => {
                let key = self.phase.keys.key(number);
                let Some(value) = self.driver.get(key.clone()).await? else {
                    return Err(Failure::Wrong(format!("key {key:?} does not exist")));
                };
                if !values.matches(&key, &value) {
                    return Err(Failure::Wrong(format!(
                        "key {key:?} has another value, of {} bytes",
                        value.len()
                    )));
                }
                Ok(Moved {
                    value_bytes: value.len() as u64,
                    logical_bytes_put: 0,
                })
            }
            Operation::Scan { length, .. } => self.scan(number, length).await,
        }
    }

    async fn scan(&mut self, position: u64, length: u64) -> Result<Moved, Failure> {
        let phase = &self.phase;
        // In range: `choose` picks a position with `length` keys behind it.
        let expected = &phase.hashes[position as usize..(position + length) as usize];
        let start = phase.keys.key_of_hash(expected[0]);
        let rows = self.driver.scan(start, phase.keys.end(), length).await?;
        if rows.len() != expected.len() {
            return Err(Failure::Wrong(format!(
                "a scan of {length} rows returned {}",
                rows.len()
            )));
        }
        let mut value_bytes = 0;
        for ((key, value), hash) in rows.iter().zip(expected) {
            let expected_key = phase.keys.key_of_hash(*hash);
            if *key != expected_key {
                return Err(Failure::Wrong(format!(
                    "a scan returned key {key:?} instead of {expected_key:?}"
                )));
            }
            if !phase.values.matches(key, value) {
                return Err(Failure::Wrong(format!(
                    "a scan returned another value of key {key:?}, of {} bytes",
                    value.len()
                )));
            }
            value_bytes += value.len() as u64;
        }
        Ok(Moved {
            value_bytes,
            logical_bytes_put: 0,
        })
    }

    fn succeeded(&mut self, started: Instant, ended: Instant, moved: Moved) -> anyhow::Result<()> {
        let phase = &self.phase;
        self.tally.run_ops += 1;
        self.tally.run_logical_bytes_put += moved.logical_bytes_put;
        if ended >= phase.measure_from && phase.end.is_none_or(|end| ended <= end) {
            self.tally.latencies.record(ended - started);
            self.tally.value_bytes += moved.value_bytes;
        }
        phase.counters.ops.fetch_add(1, Ordering::Relaxed);
        phase
            .counters
            .bytes
            .fetch_add(moved.value_bytes, Ordering::Relaxed);
        if let Some(acks) = &phase.acks {
            acks.record(started, ended)
                .context("cannot write the log of acknowledgements")?;
        }
        Ok(())
    }

    fn gave_up(&self) -> OpError {
        OpError {
            kind: "gave up".to_owned(),
            unknown: self.phase.operation.is_put(),
            leader: None,
            message: format!("no answer within {:?}", self.phase.op_timeout),
        }
    }
}

/// A key number below `keys`, the lowest most often. Names of keys are hashes of their numbers: popular ones lie anywhere.
fn zipfian(keys: u64, random: &mut Xoshiro256PlusPlus) -> u64 {
    // Rejection sampling: nothing is precomputed, so that it can be made for each key.
    let distribution =
        Zipf::new(keys as f64, ZIPFIAN_EXPONENT).expect("there is a key, and the exponent is positive");
    (random.sample(distribution) as u64).clamp(1, keys) - 1
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod load_test;
