//! The line on the terminal while a load runs, and the counters behind it.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::acks::AckLog;

/// Counted by all clients as they go.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) ops: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// How often recorded acknowledgements become visible to readers of the log.
const ACK_FLUSH_PERIOD: Duration = Duration::from_millis(200);

/// Shows progress until it is dropped; also keeps the acknowledgement log flushed.
#[derive(Debug)]
pub(crate) struct Progress {
    task: JoinHandle<()>,
    shown: bool,
}

impl Progress {
    /// Starts a line named `what` on stderr, if that is a terminal.
    pub(crate) fn start(what: &'static str, counters: Arc<Counters>, acks: Option<Arc<AckLog>>) -> Progress {
        let shown = std::io::stderr().is_terminal();
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let mut ticks = tokio::time::interval(ACK_FLUSH_PERIOD);
            let mut last = (began, 0, 0);
            loop {
                ticks.tick().await;
                if let Some(acks) = &acks
                    && let Err(error) = acks.flush()
                {
                    eprintln!("cannot write the log of acknowledgements: {error}");
                }
                let now = Instant::now();
                let passed = (now - last.0).as_secs_f64();
                if shown && passed >= 1.0 {
                    let ops = counters.ops.load(Ordering::Relaxed);
                    let bytes = counters.bytes.load(Ordering::Relaxed);
                    let errors = counters.errors.load(Ordering::Relaxed);
                    let line = progress_line(
                        (now - began).as_secs(),
                        (ops - last.1) as f64 / passed,
                        (bytes - last.2) as f64 / passed,
                        errors,
                    );
                    let _closed = write!(std::io::stderr(), "\r{what} {line}\x1b[K");
                    last = (now, ops, bytes);
                }
            }
        });
        Progress { task, shown }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if self.shown {
            let _closed = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn progress_line(second: u64, ops: f64, bytes: f64, errors: u64) -> String {
    let mut line = format!("{second} s   {ops:.0} ops/s   {:.1} MB/s", bytes / 1e6);
    if errors > 0 {
        line += &format!("   {errors} errors");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::progress_line;

    #[test]
    fn errors_are_shown_once_there_are_some() {
        assert_eq!(
            progress_line(3, 1_234.4, 2_500_000.0, 0),
            "3 s   1234 ops/s   2.5 MB/s"
        );
        assert!(progress_line(3, 0.0, 0.0, 7).ends_with("7 errors"));
    }
}
