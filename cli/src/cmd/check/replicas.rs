use std::time::Duration;

use clap::Args;
use nezha_api::client::ClientError;
use nezha_api::v1::{HashRequest, HashResponse};
use serde::Serialize;
use tonic::Code;

use super::compare::{Answer, Comparer, Replica, Verdict, judge, members};
use super::narrow::{Difference, first_difference};
use crate::args::Format;
use crate::context::Context;
use crate::failure::{Exit, Failure, cause};
use crate::output::{layout, print, print_json, print_json_list};
use crate::units::{format_bytes, format_duration};

/// Shown by `kvctl check replicas --help`.
pub const EXAMPLES: &str = "\
Examples:
  kvctl check replicas
  kvctl check replicas --prefix user/ --keys-only
  kvctl check replicas -w json

Asks all members, also those that were not given, for the hash of what they hold after one and the
same log index, which is a little ahead while they are written to; each reads and verifies all its
values. If replicas differ, the first key that differs is looked for.
It takes as long as reading everything, unless --timeout bounds it; --keys-only is quick, and does
not see another value of the same revision and length.
Exits with 0 if all members hold the same, 9 if two differ, 8 if values of a member are damaged and
the others do not differ, 10 if a member does not answer or no common index was found, 3, 4 or 5 if
nobody tells who the members are.
VERDICT: equal; majority or differs; damaged; unanswered.
JSON keys: verdict (equal, different, undecided), text, keys_only, replicas (id, name, endpoint,
verdict, applied_index, keys, bytes, hash, error), first_difference (null, or key, key_encoding,
have, lack). jsonl prints one replica per line.";

/// Longest wait for one answer that needs no reading.
const QUICK_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a hash: what a server allows.
const HASH_TIMEOUT: Duration = Duration::from_secs(3600);
/// Hexadecimal digits of a hash that are shown for people; JSON has all of them.
const HASH_DIGITS: usize = 16;

/// Arguments of `kvctl check replicas`.
#[derive(Debug, Args)]
pub struct ReplicasArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only keys, revisions and lengths; values are not read
    #[arg(long)]
    keys_only: bool,
}

/// Compares, and prints verdict and table.
pub async fn run(context: &Context, args: ReplicasArgs) -> Result<(), Failure> {
    let range = HashRequest {
        prefix: context.key(args.prefix.as_deref().unwrap_or_default())?.into(),
        keys_only: args.keys_only,
        ..HashRequest::default()
    };
    let bound = match context.timeout_given {
        true => context.timeout,
        false => HASH_TIMEOUT,
    };
    let compared = tokio::time::timeout(bound, compare(context, &range, bound)).await;
    let report = compared.map_err(|_| Failure::Node {
        exit: Exit::Timeout,
        text: format!(
            "the replicas were not compared within {}; --timeout waits longer",
            format_duration(bound)
        ),
    })??;
    let format = context.table_format();
    match format {
        Format::Json => print_json(format, &report.json(context))?,
        Format::Jsonl => print_json_list(format, &report.json(context).replicas)?,
        Format::Simple | Format::Table => print(report.text(context, format).as_bytes())?,
    }
    match report.exit() {
        Exit::Ok => Ok(()),
        exit => Err(Failure::Reported(exit)),
    }
}

async fn compare(context: &Context, range: &HashRequest, bound: Duration) -> Result<Report, Failure> {
    let quick = context.client_with_timeout(context.timeout.min(QUICK_TIMEOUT))?;
    let replicas = members(&quick, &context.endpoints).await?;
    let mut comparer = Comparer {
        client: context.client_with_timeout(bound)?,
        quick,
        replicas: replicas.clone(),
    };
    let answers = comparer.hashes(range).await;
    let verdict = judge(&answers);
    let mut difference = None;
    if verdict == Verdict::Different {
        let asked = replicas.iter().zip(&answers);
        comparer.replicas = asked
            .filter(|(_, answer)| answer.is_ok())
            .map(|(r, _)| r.clone())
            .collect();
        let keys = answers.iter().flatten().map(|answer| answer.keys).max();
        difference = first_difference(&comparer, range, keys.unwrap_or(0)).await;
    }
    Ok(Report {
        replicas: replicas.into_iter().zip(answers).collect(),
        keys_only: range.keys_only,
        verdict,
        difference,
    })
}

/// What a comparison found.
struct Report {
    replicas: Vec<(Replica, Answer)>,
    keys_only: bool,
    verdict: Verdict,
    difference: Option<Difference>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    verdict: &'static str,
    text: String,
    keys_only: bool,
    replicas: Vec<ReplicaJson<'a>>,
    first_difference: Option<DifferenceJson<'a>>,
}

#[derive(Serialize)]
struct ReplicaJson<'a> {
    id: u64,
    name: &'a str,
    endpoint: &'a str,
    verdict: &'static str,
    applied_index: Option<u64>,
    keys: Option<u64>,
    bytes: Option<u64>,
    hash: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct DifferenceJson<'a> {
    key: String,
    key_encoding: &'static str,
    have: &'a [String],
    lack: &'a [String],
}

impl Report {
    fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Equal => Exit::Ok,
            Verdict::Different => Exit::Differs,
            Verdict::Undecided if self.replicas.iter().any(|(_, answer)| is_damage(answer)) => Exit::Damage,
            Verdict::Undecided => Exit::Undecided,
        }
    }

    /// The hash that more than half of those who answered have.
    fn majority(&self) -> Option<&[u8]> {
        let hashes: Vec<&[u8]> = self.hashed().map(|answer| &answer.hash[..]).collect();
        let count = |hash: &[u8]| hashes.iter().filter(|other| **other == hash).count();
        hashes.iter().copied().find(|hash| count(hash) * 2 > hashes.len())
    }

    fn hashed(&self) -> impl Iterator<Item = &HashResponse> {
        self.replicas
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
    }

    fn verdict_of(&self, answer: &Answer) -> &'static str {
        match answer {
            Ok(_) if self.verdict != Verdict::Different => "equal",
            Ok(answer) if self.majority() == Some(&answer.hash) => "majority",
            Ok(_) => "differs",
            Err(_) if is_damage(answer) => "damaged",
            Err(_) => "unanswered",
        }
    }

    /// Names of the members whose answer is as wanted.
    fn names(&self, wanted: impl Fn(&Answer) -> bool) -> String {
        let named = self.replicas.iter().filter(|(_, answer)| wanted(answer));
        let names: Vec<&str> = named.map(|(replica, _)| replica.name.as_str()).collect();
        names.join(", ")
    }

    /// The verdict in one sentence.
    fn sentence(&self) -> String {
        let Some(first) = self.hashed().next() else {
            return "The replicas could not be compared: no member has answered.".into();
        };
        let what = if self.keys_only { "keys" } else { "keys and values" };
        let at = format!(
            "{what} at log index {}: {} keys, {}",
            first.applied_index,
            first.keys,
            format_bytes(first.bytes)
        );
        match self.verdict {
            Verdict::Equal => format!("All {} replicas hold the same {at}.", self.replicas.len()),
            Verdict::Undecided => format!(
                "The replicas could not all be compared: no answer from {}. Equal so far: {} ({at}).",
                self.names(Result::is_err),
                self.names(Result::is_ok)
            ),
            Verdict::Different => format!("The replicas differ in their {what}{}.", self.parted()),
        }
    }

    /// Who stands apart, if that can be told.
    fn parted(&self) -> String {
        match self.majority() {
            Some(most) => {
                let apart = self.names(|answer| answer.as_ref().is_ok_and(|answer| answer.hash != most));
                format!(": {apart} from the others")
            }
            None => String::new(),
        }
    }

    fn text(&self, context: &Context, format: Format) -> String {
        const HEADER: [&str; 8] = [
            "NODE", "ENDPOINT", "APPLIED", "KEYS", "BYTES", "HASH", "VERDICT", "ERROR",
        ];
        let row = |(replica, answer): &(Replica, Answer)| {
            let mut row = vec![replica.name.clone(), replica.endpoint.clone()];
            row.extend(match answer {
                Ok(answer) => [
                    answer.applied_index.to_string(),
                    answer.keys.to_string(),
                    format_bytes(answer.bytes),
                    hex(answer).chars().take(HASH_DIGITS).collect(),
                ],
                Err(_) => ["-"; 4].map(String::from),
            });
            row.push(self.verdict_of(answer).into());
            row.push(answer.as_ref().err().map_or_else(|| "-".into(), cause));
            row
        };
        let rows = self.replicas.iter().map(row).collect();
        let mut text = format!("{}\n{}", self.sentence(), layout(format, &HEADER, rows));
        if let Some(Difference { key, have, lack }) = &self.difference {
            let how = match lack.is_empty() {
                true => "all have it, not alike".into(),
                false => format!("on {}, not on {}", have.join(", "), lack.join(", ")),
            };
            let key = context.encoding.line(key);
            text.push_str(&format!("First key that differs: {key} ({how})\n"));
        } else if self.verdict == Verdict::Different {
            text.push_str("The first key that differs was not found: the members have changed meanwhile.\n");
        }
        text
    }

    fn json(&self, context: &Context) -> ReportJson<'_> {
        let replicas = self.replicas.iter().map(|(replica, answer)| {
            let hashed = answer.as_ref().ok();
            ReplicaJson {
                id: replica.id,
                name: &replica.name,
                endpoint: &replica.endpoint,
                verdict: self.verdict_of(answer),
                applied_index: hashed.map(|hashed| hashed.applied_index),
                keys: hashed.map(|hashed| hashed.keys),
                bytes: hashed.map(|hashed| hashed.bytes),
                hash: hashed.map(hex),
                error: answer.as_ref().err().map(cause),
            }
        });
        ReportJson {
            verdict: match self.verdict {
                Verdict::Equal => "equal",
                Verdict::Different => "different",
                Verdict::Undecided => "undecided",
            },
            text: self.sentence(),
            keys_only: self.keys_only,
            replicas: replicas.collect(),
            first_difference: self.difference.as_ref().map(|found| {
                let (key, key_encoding) = context.encoding.json(&found.key);
                DifferenceJson {
                    key,
                    key_encoding,
                    have: &found.have,
                    lack: &found.lack,
                }
            }),
        }
    }
}

fn hex(answer: &HashResponse) -> String {
    answer.hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_damage(answer: &Answer) -> bool {
    let refused = answer.as_ref().err().and_then(ClientError::api_error);
    refused.is_some_and(|error| error.code == Code::DataLoss)
}
