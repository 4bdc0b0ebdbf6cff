//! The thread that owns the log's file: takes everything queued, writes it once, syncs it once, then tells who waits.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nezha_vlog::{Error, Log, Seq, Writer};
use tokio::sync::watch;

use crate::machine::Threads;

/// Exit code of the process after a failed write or sync of the log (I7).
pub const EXIT_LOG_FAILED: i32 = 11;

/// How long the groups of the log took: what the foreground waits for. Counts from the start of the process.
#[derive(Debug, Default)]
pub struct GroupTimes {
    groups: AtomicU64,
    nanos: AtomicU64,
}

impl GroupTimes {
    fn note(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of groups, and the sum of their times in nanoseconds. The two may be of moments a group apart.
    pub fn sums(&self) -> (u64, u64) {
        (
            self.groups.load(Ordering::Relaxed),
            self.nanos.load(Ordering::Relaxed),
        )
    }
}

/// Handle of the log-writer thread.
pub struct LogWriter {
    durable: watch::Receiver<Seq>,
    times: Arc<GroupTimes>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// After a failed write or sync the log is poisoned and the process stops at once with [`EXIT_LOG_FAILED`]: nothing
    /// that was not synced may be acknowledged, and RocksDB's destructor, which would flush, must not run (I7).
    pub fn spawn(log: &Log, writer: Writer, threads: &Threads) -> io::Result<Self> {
        let (tx, durable) = watch::channel(log.durable_seq());
        let times = Arc::new(GroupTimes::default());
        let (noted, stepped) = (times.clone(), times.clone());
        let (whole_tx, failing, stopping) = (tx.clone(), threads.clone(), threads.clone());
        let whole = move |writer: Writer| {
            let result = writer.run(|seq, took| {
                noted.note(took);
                whole_tx.send_replace(seq);
            });
            if let Err(error) = result {
                failed(&failing, &error);
            }
        };
        let step = move |writer: &mut Writer| {
            let begun = Instant::now();
            match writer.step() {
                Ok(Some(seq)) => {
                    stepped.note(begun.elapsed());
                    tx.send_replace(seq);
                }
                Ok(None) => {}
                Err(error) => {
                    failed(&stopping, &error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let thread = threads.own_loop("log-writer", writer, whole, step)?;
        Ok(Self {
            durable,
            times,
            thread,
        })
    }

    /// Watches the highest submission sequence that is durable.
    pub fn durable(&self) -> watch::Receiver<Seq> {
        self.durable.clone()
    }

    /// How long its groups take.
    pub fn times(&self) -> Arc<GroupTimes> {
        self.times.clone()
    }

    /// Waits for the thread after [`Log::close`]. Blocking: until everything queued is durable.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log-writer thread panicked");
        }
    }
}

fn failed(threads: &Threads, error: &Error) {
    tracing::error!(%error, "writing the log failed; stopping the process");
    eprintln!("kvd: writing the log failed: {error}. The disk may be full or broken; see the log above.");
    threads.exit(EXIT_LOG_FAILED);
}

/// The log's error as openraft wants it.
pub(crate) fn to_io(error: Error) -> io::Error {
    io::Error::other(error)
}
