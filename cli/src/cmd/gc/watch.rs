//! Waiting for a run on one endpoint.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nezha_api::client::{Client, ClientError};
use nezha_api::v1::{GcJob, GcStatusResponse};
use tokio::time::Instant;

use super::text;

/// Pause between two looks at a collector.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// How long a node may be silent meanwhile: a collection takes hours, so a lost connection or a restart ends no wait.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// By how much less than the time since it was asked a node's uptime must be to mean that it has started anew.
const UPTIME_SLACK: Duration = Duration::from_secs(1);

/// What came of asking for a run.
pub enum Ended {
    /// Asked for; nobody waited.
    Requested {
        /// And the collector is paused.
        paused: bool,
    },
    /// Nothing exceeds its limit.
    Collected,
    /// A job failed.
    Failed(String),
    /// The collector is paused, before or during the run.
    Paused,
    /// Time ran out; the run goes on.
    TimedOut,
    /// The node has started anew and forgotten the run.
    Restarted,
    /// The node does not answer, or refuses.
    Unanswered(ClientError),
}

/// Looks at one collector, again and again.
pub struct Watch<'a> {
    client: &'a Client,
    endpoint: &'a str,
    progress: Progress,
    /// When the run was asked for: the node was up then.
    asked_at: Instant,
    last: Option<GcStatusResponse>,
    /// Since when the node is silent, and why.
    silent: Option<(Instant, ClientError)>,
}

impl<'a> Watch<'a> {
    /// Begins; the run has just been asked for.
    pub fn new(client: &'a Client, endpoint: &'a str, progress: Progress) -> Watch<'a> {
        Watch {
            client,
            endpoint,
            progress,
            asked_at: Instant::now(),
            last: None,
            silent: None,
        }
    }

    /// Waits for the end of the run, at most until `deadline`.
    pub async fn until(&mut self, deadline: Option<Instant>) -> Ended {
        let ended = match deadline {
            None => self.follow().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, self.follow()).await {
                Ok(ended) => ended,
                Err(_) => match self.silent.take() {
                    Some((_, error)) => Ended::Unanswered(error),
                    None => Ended::TimedOut,
                },
            },
        };
        self.progress.clear();
        ended
    }

    /// Returns the last state seen.
    pub fn last(self) -> Option<GcStatusResponse> {
        self.last
    }

    async fn follow(&mut self) -> Ended {
        loop {
            match self.client.gc_status(self.endpoint).await {
                Ok((_, status)) => {
                    self.silent = None;
                    self.progress.show(status.job.as_ref());
                    let ended = end_of(&status);
                    self.last = Some(status);
                    match ended {
                        Some(Ended::Collected) if self.has_restarted().await => return Ended::Restarted,
                        Some(ended) => return ended,
                        None => {}
                    }
                }
                Err(error @ ClientError::Unavailable { .. }) => {
                    let since = self
                        .silent
                        .as_ref()
                        .map_or_else(Instant::now, |(since, _)| *since);
                    if since.elapsed() >= SILENCE_MAX {
                        return Ended::Unanswered(error);
                    }
                    self.silent = Some((since, error));
                }
                Err(error) => return Ended::Unanswered(error),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the node is up for a shorter time than since it was asked: then it knows nothing of the run.
    async fn has_restarted(&self) -> bool {
        let since_asked = self.asked_at.elapsed();
        match self.client.status(self.endpoint).await {
            Ok((_, status)) => Duration::from_millis(status.uptime_ms) + UPTIME_SLACK < since_asked,
            Err(_) => false,
        }
    }
}

/// Returns whether and how a run has ended on a node with this state.
fn end_of(status: &GcStatusResponse) -> Option<Ended> {
    match (&status.job, status.requested) {
        (Some(_), _) => None,
        (None, true) => status.paused.then_some(Ended::Paused),
        // A run begins by forgetting the last error, so this one is its own.
        (None, false) if !status.last_error.is_empty() => Some(Ended::Failed(status.last_error.clone())),
        (None, false) => Some(Ended::Collected),
    }
}

/// Shows how far one collector is: a bar on a terminal, else a line for each job.
pub struct Progress {
    bar: ProgressBar,
    endpoint: String,
    terminal: bool,
    said: String,
}

impl Progress {
    /// Adds a bar below the others.
    pub fn new(bars: &MultiProgress, endpoint: &str, terminal: bool) -> Progress {
        let bar = bars.add(ProgressBar::new(1));
        if let Ok(style) = ProgressStyle::with_template("{prefix}: {bar:15} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(endpoint.to_owned());
        Progress {
            bar,
            endpoint: endpoint.to_owned(),
            terminal,
            said: String::new(),
        }
    }

    fn show(&mut self, job: Option<&GcJob>) {
        let Some(job) = job else {
            self.bar.set_position(0);
            self.bar.set_message("looks for garbage");
            return;
        };
        self.bar.set_length(job.copy_bytes.max(1));
        self.bar.set_position(job.copied_bytes.min(job.copy_bytes));
        self.bar
            .set_message(format!("{}: {}", job.reason, text::progress(job)));
        let task = text::task(job);
        if !self.terminal && self.said != task {
            eprintln!("{}: {task}", self.endpoint);
            self.said = task;
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
