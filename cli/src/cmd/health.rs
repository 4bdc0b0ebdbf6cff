use std::time::{Duration, Instant};

use clap::Args;
use nezha_api::client::Client;
use serde::Serialize;

use crate::args::Format;
use crate::context::Context;
use crate::each::each;
use crate::failure::{Exit, Failure, cause};
use crate::output::{print, print_json_list};

const EXAMPLES: &str = "\
Examples:
  kvctl health
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 health
  kvctl --endpoints 127.0.0.1:7379 --timeout 2s health      as a container's health check
  kvctl health --cluster

Each endpoint is asked for one linearizable read, which a member that does not lead has the leader confirm: the
answer proves that this member has caught up, that there is a leader, and that a majority follows it.
Exits with 0 if every endpoint answered, 6 if one did not; 3 if --cluster found nobody to tell the members.
JSON keys: endpoint, healthy, took_ms, error. jsonl prints one endpoint per line.";

/// What is read: it does not matter whether anybody has written it.
const KEY: &str = "health";

/// Arguments of `kvctl health`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HealthArgs {
    /// Ask all members, also those that were not given
    #[arg(long)]
    cluster: bool,
}

/// What one endpoint answered.
#[derive(Serialize)]
struct Answer {
    endpoint: String,
    healthy: bool,
    took_ms: f64,
    error: Option<String>,
}

/// Asks every endpoint and prints a line for each.
pub async fn run(context: &Context, args: HealthArgs) -> Result<(), Failure> {
    let endpoints = match args.cluster {
        true => members(context).await?,
        false => context.endpoints.clone(),
    };
    let ask = |endpoint: String| ask(context.client.clone(), endpoint);
    let answers = each(&endpoints, ask).await;
    match context.plain_format() {
        format @ (Format::Json | Format::Jsonl) => print_json_list(format, &answers)?,
        Format::Simple | Format::Table => print(text(&answers).as_bytes())?,
    }
    match answers.iter().all(|answer| answer.healthy) {
        true => Ok(()),
        false => Err(Failure::Reported(Exit::Unhealthy)),
    }
}

async fn members(context: &Context) -> Result<Vec<String>, Failure> {
    let (_, members) = context.client.member_list().await?;
    Ok(members.into_iter().map(|member| member.client_endpoint).collect())
}

async fn ask(client: Client, endpoint: String) -> Answer {
    let began = Instant::now();
    let answer = client.confirm_from(&endpoint, KEY).await;
    Answer {
        endpoint,
        healthy: answer.is_ok(),
        took_ms: millis(began.elapsed()),
        error: answer.err().map(|error| cause(&error)),
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn text(answers: &[Answer]) -> String {
    let line = |answer: &Answer| match &answer.error {
        None => format!(
            "{} is healthy: a linearizable read took {} ms\n",
            answer.endpoint, answer.took_ms
        ),
        Some(error) => format!("{} is not healthy: {error}\n", answer.endpoint),
    };
    answers.iter().map(line).collect()
}
