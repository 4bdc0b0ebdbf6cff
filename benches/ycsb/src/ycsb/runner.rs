//! A whole run: warm-up, measurement, accounting of processes.

use std::{
    io::IsTerminal,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::JoinSet;

use super::{
    arrivals::Arrivals,
    client::{Client, Shared, Stage},
    generators::KeyChooser,
    inserts::Inserts,
    measures::Recorder,
    progress::{Display, Measured, Sampler},
    record::Records,
    rows::{Loaded, RECORDS_MAX},
    settings::{Phase, Settings},
};
use crate::{
    driver::{Driver, Job},
    process::{self, ProcessReport},
};

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measured: Measured,
    /// From the start of the measurement to the end of its last operation.
    pub(crate) elapsed: Duration,
    /// Why a load ended before its last record.
    pub(crate) stopped: Option<anyhow::Error>,
    /// Records of a load that were not begun, since the time was over.
    pub(crate) left: u64,
    /// CPU seconds of the load generator during the measurement.
    pub(crate) client_cpu_seconds: f64,
    pub(crate) processes: Vec<ProcessReport>,
}

/// A run, to be done with whatever drivers.
#[derive(Debug)]
pub(crate) struct Benchmark<'b> {
    pub(crate) settings: &'b Settings,
    pub(crate) op_timeout: Duration,
    pub(crate) pids: &'b [u32],
}

impl Job for Benchmark<'_> {
    type Output = Outcome;

    async fn run<D: Driver>(self, drivers: Vec<D>) -> anyhow::Result<Outcome> {
        let settings = self.settings;
        let workload = &settings.workload;
        let span = workload.span;
        let shared = Arc::new(self.prepare().await?);
        let sequence: Arc<AtomicU64> = Arc::default();
        let mut clients: Vec<Client<D>> = drivers
            .into_iter()
            .enumerate()
            .map(|(number, driver)| {
                let chooser = KeyChooser::new(workload.requests, span, sequence.clone());
                Client::new(number, driver, shared.clone(), chooser)
            })
            .collect();

        if !settings.warmup.is_zero() {
            let recorder = Arc::new(Recorder::new(clients.len()));
            let start = Instant::now();
            let arrivals = arrivals(start, settings)?;
            let end = Some(start + settings.warmup);
            let stage = Arc::new(Stage::new(recorder.clone(), arrivals, None, end));
            clients = work(clients, &stage).await?;
            if let Some(error) = stage.take_error() {
                return Err(error);
            }
            let warm = recorder.take();
            anyhow::ensure!(
                warm.wrong_reads == 0,
                "{} reads of the warm-up were wrong: {}",
                warm.wrong_reads,
                warm.errors.lines().join("; ")
            );
        }

        let before = sample(self.pids)?;
        let cpu_before = process::own_cpu_seconds();
        let operations = match settings.phase {
            // The clients stop at the last record.
            Phase::Load => None,
            Phase::Run => Some(workload.operation_count).filter(|count| *count > 0),
        };
        let recorder = Arc::new(Recorder::new(clients.len()));
        let sampler = Sampler::start(recorder.clone(), self.display());
        let start = Instant::now();
        let end = settings.max_execution.map(|max| start + max);
        let arrivals = arrivals(start, settings)?;
        let stage = Arc::new(Stage::new(recorder.clone(), arrivals, operations, end));
        let clients = work(clients, &stage).await?;
        let elapsed = start.elapsed();
        let client_cpu_seconds = process::own_cpu_seconds() - cpu_before;
        let after = sample(self.pids)?;
        for client in clients {
            client.clean_up(&recorder);
        }
        let measured = sampler.finish().await.context("the sampler stopped")?;
        let (bytes_put, ops) = (measured.total.bytes_put, measured.total.ops);
        let processes = self
            .pids
            .iter()
            .zip(before.into_iter().zip(after))
            .map(|(pid, (before, after))| ProcessReport::between(*pid, before, after, bytes_put, ops))
            .collect();
        Ok(Outcome {
            measured,
            elapsed,
            stopped: stage.take_error(),
            left: match settings.phase {
                Phase::Load => (span.first + span.count).saturating_sub(shared.inserts.next()),
                Phase::Run => 0,
            },
            client_cpu_seconds,
            processes,
        })
    }
}

impl Benchmark<'_> {
    /// What the clients share. Blocking work is done elsewhere.
    async fn prepare(&self) -> anyhow::Result<Shared> {
        let workload = self.settings.workload.clone();
        let (phase, interval, op_timeout) = (self.settings.phase, self.settings.interval, self.op_timeout);
        let prepared = tokio::task::spawn_blocking(move || {
            let records = Records::new(workload.layout.clone());
            let span = workload.span;
            let scans = phase == Phase::Run && workload.mix.scan > 0.0;
            let loaded = (scans && span.count <= RECORDS_MAX)
                .then(|| Loaded::new(&records, span.first..span.first + span.count));
            if scans && loaded.is_none() {
                eprintln!(
                    "note: with more than {RECORDS_MAX} records it is not checked whether scans leave some out"
                );
            }
            let first = match phase {
                Phase::Load => span.first,
                Phase::Run => workload.record_count,
            };
            Shared {
                phase,
                inserts: Inserts::new(first),
                workload,
                records,
                loaded,
                interval,
                op_timeout,
            }
        });
        prepared.await.context("the preparation stopped")
    }

    fn display(&self) -> Option<Display> {
        let settings = self.settings;
        let shown = settings.status || std::io::stderr().is_terminal();
        shown.then(|| Display {
            label: settings.label.clone(),
            interval: settings.status_interval,
            operations: match settings.phase {
                Phase::Load => Some(settings.workload.span.count),
                Phase::Run => Some(settings.workload.operation_count).filter(|count| *count > 0),
            },
        })
    }
}

fn arrivals(start: Instant, settings: &Settings) -> anyhow::Result<Arrivals> {
    Arrivals::new(start, settings.target).context("cannot start the thread of the schedule")
}

fn sample(pids: &[u32]) -> anyhow::Result<Vec<process::Sample>> {
    pids.iter().map(|pid| process::sample(*pid)).collect()
}

/// Lets all clients work to the end of the stage, and gives them back.
async fn work<D: Driver>(clients: Vec<Client<D>>, stage: &Arc<Stage>) -> anyhow::Result<Vec<Client<D>>> {
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(client.work(stage.clone()));
    }
    let mut clients = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        clients.push(joined.context("a client stopped")?);
    }
    Ok(clients)
}
