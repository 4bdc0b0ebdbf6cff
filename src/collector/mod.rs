//! The collector: chooses jobs, runs them one at a time at a bounded rate, and removes what nobody needs any more.
//!
//! It works on this node's files only. A log segment is collected once Raft has purged it, so before such a job the
//! collector takes a snapshot (metadata only) and has the log purged up to the end of its inputs; it never asks for
//! more than [`Consensus::purgeable`] allows, so that a follower that lags finds its entries.
//!
//! Two tasks: `work` plans and runs jobs, each on a thread of its own at low priority; `watch` looks at space and at the
//! foreground many times a second, for the [`Gate`] that writes pass and for the rate of the running job.

mod gate;
mod governor;
mod pace;
mod status;
mod watch;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nezha_gc::plan::{Job, Limits, plan};
use nezha_vlog::SegmentId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::pace::UNBOUNDED;
use crate::raft::{AdminError, Consensus, Purgeable};
use crate::store::{Collected, Pace, Store, StoreError};

pub use gate::{Disk, Gate, HeldUp, Shortage, Space};
pub use status::{Level, Pin, Running, Status};

use pace::Throttle;

/// How often statistics are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is tried after a job has failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Niceness of the threads that copy: the foreground goes first where processors are short.
const NICENESS: i32 = 10;

/// Settings of the collector.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Jobs start by themselves when a limit is exceeded; otherwise only by [`Collector::run_now`], and there is no bound
    /// on space.
    pub automatic: bool,
    /// Bytes that a job copies per second at most; 0: unbounded.
    pub bytes_per_second: u64,
    /// Log that is kept for a member that lags, in bytes; less while space is short.
    pub lagging_log_bytes_max: u64,
    /// When to collect, and how much at once.
    pub limits: Limits,
}

/// Why a job ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log could not be purged: {0}")]
    Purge(#[from] AdminError),
    #[error("the thread that plans ended: {0}")]
    Plan(#[from] crate::machine::Lost),
    #[error(transparent)]
    System(#[from] std::io::Error),
    #[error("the job's thread ended: {0}")]
    Thread(#[from] oneshot::error::RecvError),
}

/// Collects garbage of one node.
pub struct Collector {
    store: Arc<Store>,
    consensus: Consensus,
    settings: Settings,
    gate: Arc<Gate>,
    /// Bytes per second that the running job may copy now; see [`governor`].
    rate: AtomicU64,
    shared: Mutex<Shared>,
    wake: Notify,
}

/// What the worker and those who ask share.
#[derive(Debug, Default)]
struct Shared {
    paused: bool,
    requested: bool,
    running: Option<Progress>,
    jobs_finished: u64,
    bytes_copied: u64,
    files_removed: u64,
    last_error: Option<String>,
}

#[derive(Debug)]
struct Progress {
    job: Job,
    copied: u64,
    started: Instant,
}

impl Collector {
    /// Starts the tasks; they run until the runtime ends. `gate`: what it keeps up to date.
    pub fn spawn(
        store: Arc<Store>,
        consensus: Consensus,
        gate: Arc<Gate>,
        settings: Settings,
    ) -> Arc<Collector> {
        let collector = Arc::new(Collector {
            store,
            consensus,
            settings,
            gate,
            rate: AtomicU64::new(UNBOUNDED),
            shared: Mutex::default(),
            wake: Notify::new(),
        });
        tokio::spawn(collector.clone().work());
        tokio::spawn(collector.clone().watch());
        collector
    }

    /// What admits writes as space allows.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Collects until nothing exceeds the limits of an ordered run ([`Limits::thorough`]). Returns at once.
    pub fn run_now(&self) {
        let mut shared = self.shared();
        shared.requested = true;
        shared.last_error = None;
        drop(shared);
        self.wake.notify_one();
    }

    /// Stops the running job after its next record, and starts none.
    pub fn pause(&self) {
        self.shared().paused = true;
    }

    /// The opposite of [`Collector::pause`].
    pub fn resume(&self) {
        self.shared().paused = false;
        self.wake.notify_one();
    }

    async fn work(self: Arc<Self>) {
        loop {
            // Whichever comes first; both mean the same.
            drop(tokio::time::timeout(INTERVAL, self.wake.notified()).await);
            self.sweep().await;
            while let Some(limits) = self.may_run() {
                match self.step(limits).await {
                    Ok(true) => self.sweep().await,
                    Ok(false) => {
                        self.shared().requested = false;
                        break;
                    }
                    // It is no input any more: others are chosen at once.
                    Err(Failure::Store(error)) if self.store.leaves_alone(&error) => {
                        tracing::warn!(%error, "a job met damage and ended; gc goes on with other files");
                        self.shared().last_error = Some(error.to_string());
                    }
                    Err(error) => {
                        tracing::error!(%error, "collecting failed; nothing is lost, the inputs stay");
                        self.failed(&error);
                        tokio::time::sleep(FAILURE_PAUSE).await;
                        break;
                    }
                }
            }
        }
    }

    fn failed(&self, error: &Failure) {
        let mut shared = self.shared();
        shared.requested = false;
        shared.last_error = Some(error.to_string());
    }

    /// The limits to plan with, when a job may start.
    fn may_run(&self) -> Option<Limits> {
        let shared = self.shared();
        match (shared.paused, shared.requested, self.settings.automatic) {
            (true, _, _) | (false, false, false) => None,
            (false, _, _) if self.gate.space().disk.low => Some(self.settings.limits.starved()),
            (false, true, _) => Some(self.settings.limits.thorough()),
            (false, false, true) => Some(self.settings.limits.clone()),
        }
    }

    /// Runs one job; false when there is none to run.
    async fn step(self: &Arc<Self>, limits: Limits) -> Result<bool, Failure> {
        let purgeable = self.purgeable().index;
        let store = self.store.clone();
        let threads = store.threads().clone();
        let planned = threads.run(move || -> Result<Option<(Job, u64)>, StoreError> {
            let found = store.segment_stats(purgeable)?;
            let job = plan(&found.segments, found.usage, &limits);
            Ok(job.map(|job| (job, found.store)))
        });
        let Some((job, number)) = planned.await?? else {
            return Ok(false);
        };
        self.shared().running = Some(Progress {
            job: job.clone(),
            copied: 0,
            started: Instant::now(),
        });
        let result = self.run_job(job, number).await;
        let progress = self.shared().running.take();
        let done = result?;
        let mut shared = self.shared();
        shared.jobs_finished += u64::from(done.finished);
        shared.bytes_copied += done.bytes;
        drop(shared);
        if let Some(Progress { job, started, .. }) = progress {
            tracing::info!(
                reason = %job.reason,
                inputs = job.inputs.len(),
                output_level = job.output_level,
                records = done.records,
                bytes = done.bytes,
                overtaken = done.overtaken,
                finished = done.finished,
                seconds = started.elapsed().as_secs_f64(),
                "collected"
            );
        }
        Ok(true)
    }

    async fn run_job(self: &Arc<Self>, job: Job, number: u64) -> Result<Collected, Failure> {
        let inputs: BTreeSet<SegmentId> = job.inputs.iter().copied().collect();
        let segments = self.store.log().segments();
        let last = segments
            .iter()
            .filter(|segment| inputs.contains(&segment.id))
            .filter_map(|segment| segment.last)
            .max();
        if let Some(last) = last.filter(|last| self.store.log().purged().is_none_or(|at| at.index < *last)) {
            self.consensus.purge(last).await?;
        }
        let (done, collected) = oneshot::channel();
        let collector = self.clone();
        // A thread for each job: niceness cannot be taken back, and is not for others.
        self.store.threads().own("gc", move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!(%error, "gc runs at the priority of the others");
            }
            // Nobody waits for it any more only when the process ends.
            drop(done.send(collector.copy(&job, number)));
        })?;
        Ok(collected.await??)
    }

    /// Runs a job at the rate of the moment. Blocking.
    fn copy(&self, job: &Job, number: u64) -> Result<Collected, StoreError> {
        let mut throttle = Throttle::new();
        let rate = || self.rate.load(Ordering::Relaxed);
        self.store.collect(job, number, &mut |bytes| {
            let sleep = |time| self.store.threads().sleep(time);
            self.store.threads().pass();
            throttle.take(bytes, rate, || self.shared().paused, sleep);
            self.copied(bytes)
        })
    }

    /// Books bytes that are about to be copied, and says whether to go on.
    fn copied(&self, bytes: u64) -> Pace {
        let mut shared = self.shared();
        if let Some(progress) = &mut shared.running {
            progress.copied += bytes;
        }
        match shared.paused {
            true => Pace::Stop,
            false => Pace::Go,
        }
    }

    /// Log index up to which the log may be purged. While space is short, a member that lags holds back a quarter of the
    /// garbage allowed at most: a snapshot costs less than refused writes.
    fn purgeable(&self) -> Purgeable {
        let space = self.gate.space();
        let allowed = space
            .pressure
            .map_or(u64::MAX, |pressure| pressure.allowed_bytes() / 4);
        let most = self.settings.lagging_log_bytes_max;
        self.consensus.purgeable(match space.is_urgent() {
            true => most.min(allowed),
            false => most,
        })
    }

    async fn sweep(&self) {
        let store = self.store.clone();
        match self.store.threads().run(move || store.sweep()).await {
            Ok(Ok(swept)) => self.shared().files_removed += swept.files,
            Ok(Err(error)) => tracing::warn!(%error, "removing what nobody needs failed; it is tried again"),
            Err(error) => tracing::warn!(%error, "sweeping ended"),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Every change of it is a few assignments.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
