use clap::Args;
use indicatif::{MultiProgress, ProgressDrawTarget};
use nezha_api::client::{Client, ClientError};
use nezha_api::v1::GcStatusResponse;
use serde::Serialize;
use tokio::time::Instant;

use super::order::first;
use super::text;
use super::watch::{Ended, Progress, Watch};
use crate::args::Format;
use crate::context::{Context, TIMEOUT};
use crate::each::each;
use crate::failure::{Exit, Failure, cause};
use crate::output::{layout, print, print_json_list, print_line};
use crate::units::format_bytes;

/// Shown by `kvctl gc run --help`.
pub const EXAMPLES: &str = "\
Examples:
  kvctl gc run
  kvctl gc run --wait
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 gc run --wait --timeout 30m

Has each given endpoint collect; `kvctl gc status` shows how far it is. Interrupting the wait, or
its time-out, does not stop the collection: `kvctl gc pause` does.
Exits with 0 if every endpoint collects (with --wait: has collected), else as the first that does
not: 3, 4 or 5 if it does not answer or refuses; with --wait also 1 if it is paused, 5 if time
runs out, 6 if a job failed or the node has started anew.
JSON keys: endpoint, outcome (requested, collected, failed, paused, timed-out, restarted,
unanswered), error; with --wait also what happened meanwhile: jobs_finished, bytes_copied,
files_removed.";

/// Arguments of `kvctl gc run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Wait until it is done: without a bound, unless --timeout is given
    #[arg(long)]
    wait: bool,
}

/// What came of a run on one endpoint.
struct Outcome {
    endpoint: String,
    ended: Ended,
    /// While we waited; `None` if we did not.
    change: Option<Change>,
}

/// How counters moved.
#[derive(Clone, Copy, Serialize)]
struct Change {
    jobs_finished: u64,
    bytes_copied: u64,
    files_removed: u64,
}

#[derive(Serialize)]
struct OutcomeJson<'a> {
    endpoint: &'a str,
    outcome: &'static str,
    error: Option<String>,
    #[serde(flatten)]
    change: Option<Change>,
}

/// Asks all endpoints for a run, waits for them if told, and prints what came of it.
pub async fn run(context: &Context, args: RunArgs) -> Result<(), Failure> {
    let until = context.timeout_given.then(|| Instant::now() + context.timeout);
    let client = match args.wait {
        // A bound of the wait in hours does not mean that one question may take hours.
        true => context.client_with_timeout(context.timeout.min(TIMEOUT))?,
        false => context.client.clone(),
    };
    let bars = MultiProgress::with_draw_target(match context.stderr_is_terminal && args.wait {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    });
    let collect = |endpoint: String| {
        let progress = Progress::new(&bars, &endpoint, context.stderr_is_terminal);
        let client = client.clone();
        async move {
            match args.wait {
                true => run_and_wait(&client, endpoint, until, progress).await,
                false => request(&client, endpoint).await,
            }
        }
    };
    let outcomes = each(&context.endpoints, collect).await;
    report(context, outcomes)
}

/// Asks for a run.
async fn request(client: &Client, endpoint: String) -> Outcome {
    let ended = match client.gc_run(&endpoint).await {
        Ok(_) => Ended::Requested {
            // Only for the note that goes with it.
            paused: matches!(client.gc_status(&endpoint).await, Ok((_, status)) if status.paused),
        },
        Err(error) => Ended::Unanswered(error),
    };
    Outcome {
        endpoint,
        ended,
        change: None,
    }
}

/// Asks for a run and waits for its end.
async fn run_and_wait(
    client: &Client,
    endpoint: String,
    until: Option<Instant>,
    progress: Progress,
) -> Outcome {
    let before = async {
        let (_, before) = client.gc_status(&endpoint).await?;
        client.gc_run(&endpoint).await?;
        Ok::<_, ClientError>(before)
    };
    let before = match before.await {
        Ok(before) => before,
        Err(error) => {
            let ended = Ended::Unanswered(error);
            return Outcome {
                endpoint,
                ended,
                change: None,
            };
        }
    };
    let mut watch = Watch::new(client, &endpoint, progress);
    let ended = watch.until(until).await;
    let change = watch.last().map(|after| Change::between(&before, &after));
    Outcome {
        change,
        endpoint,
        ended,
    }
}

impl Change {
    /// Counters begin anew when a node does, so they may have gone back.
    fn between(before: &GcStatusResponse, after: &GcStatusResponse) -> Change {
        Change {
            jobs_finished: after.jobs_finished.saturating_sub(before.jobs_finished),
            bytes_copied: after.bytes_copied.saturating_sub(before.bytes_copied),
            files_removed: after.files_removed.saturating_sub(before.files_removed),
        }
    }
}

fn report(context: &Context, outcomes: Vec<Outcome>) -> Result<(), Failure> {
    let format = context.plain_format();
    match format {
        Format::Json | Format::Jsonl => {
            let items: Vec<OutcomeJson> = outcomes.iter().map(OutcomeJson::from).collect();
            print_json_list(format, &items)?;
        }
        Format::Table => {
            const HEADER: [&str; 6] = ["ENDPOINT", "OUTCOME", "JOBS", "COPIED", "REMOVED", "ERROR"];
            let rows = outcomes.iter().map(Outcome::row).collect();
            print(layout(format, &HEADER, rows).as_bytes())?;
        }
        Format::Simple => {
            for outcome in &outcomes {
                if let Some(text) = outcome.success() {
                    print_line(&format!("{}: {text}", outcome.endpoint))?;
                }
            }
        }
    }
    first(format, outcomes.into_iter().filter_map(Outcome::failure))
}

impl Outcome {
    /// Returns what to say where there is nothing to complain about.
    fn success(&self) -> Option<String> {
        match (&self.ended, self.change) {
            (Ended::Requested { paused: true }, _) => {
                Some("requested; it is paused: begins after `kvctl gc resume`".into())
            }
            (Ended::Requested { paused: false }, _) => Some("requested".into()),
            (Ended::Collected, Some(change)) => Some(format!(
                "collected: {}",
                text::done(change.jobs_finished, change.bytes_copied, change.files_removed)
            )),
            _ => None,
        }
    }

    /// Returns the outcome in a word, as in JSON.
    fn word(&self) -> &'static str {
        match self.ended {
            Ended::Requested { .. } => "requested",
            Ended::Collected => "collected",
            Ended::Failed(_) => "failed",
            Ended::Paused => "paused",
            Ended::TimedOut => "timed-out",
            Ended::Restarted => "restarted",
            Ended::Unanswered(_) => "unanswered",
        }
    }

    /// Returns what is wrong, if anything is.
    fn error(&self) -> Option<String> {
        match &self.ended {
            Ended::Requested { .. } | Ended::Collected => None,
            Ended::Failed(error) => Some(error.clone()),
            Ended::Paused => Some("goes on after `kvctl gc resume`".into()),
            Ended::TimedOut => Some("not done in time; it goes on, see `kvctl gc status`".into()),
            Ended::Restarted => Some("the node has started anew and forgotten the run; ask again".into()),
            Ended::Unanswered(error) => Some(cause(error)),
        }
    }

    fn failure(self) -> Option<Failure> {
        let text = format!("{}: {}: {}", self.endpoint, self.word(), self.error()?);
        let exit = match self.ended {
            Ended::Requested { .. } | Ended::Collected => return None,
            Ended::Unanswered(error) => return Some(Failure::from(error)),
            Ended::Failed(_) | Ended::Restarted => Exit::Unhealthy,
            Ended::Paused => Exit::Condition,
            Ended::TimedOut => Exit::Timeout,
        };
        Some(Failure::Node { exit, text })
    }

    fn row(&self) -> Vec<String> {
        let number = |shown: fn(Change) -> String| self.change.map_or_else(|| "-".into(), shown);
        vec![
            self.endpoint.clone(),
            self.word().into(),
            number(|change| change.jobs_finished.to_string()),
            number(|change| format_bytes(change.bytes_copied)),
            number(|change| change.files_removed.to_string()),
            self.error().unwrap_or_else(|| "-".into()),
        ]
    }
}

impl<'a> From<&'a Outcome> for OutcomeJson<'a> {
    fn from(outcome: &'a Outcome) -> OutcomeJson<'a> {
        OutcomeJson {
            endpoint: &outcome.endpoint,
            outcome: outcome.word(),
            error: outcome.error(),
            change: outcome.change,
        }
    }
}
