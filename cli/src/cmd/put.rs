use std::io::Read;

use clap::Args;
use nezha_api::VALUE_BYTES_CEILING;
use nezha_api::client::Condition;
use serde::Serialize;

use crate::args::{ConditionArgs, Format};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{HeaderJson, layout, print, print_json, print_line};
use crate::units::format_bytes;

const EXAMPLES: &str = "\
Examples:
  kvctl put greeting hello
  kvctl put photo @photo.jpg
  date | kvctl put now -
  kvctl put -- -key -value
  kvctl put lock me --if-absent
  kvctl put counter 2 --if-revision 17

Prints OK, or with -w json: succeeded, mod_revision, cluster_id, node_id, leader_id, term, revision.";

/// Arguments of `kvctl put`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PutArgs {
    /// Key, 1 byte to 8KiB
    key: String,
    /// Value, or @FILE for a file's bytes, or - for stdin
    value: String,
    /// Take VALUE as it is, also if it is - or begins with @
    #[arg(long)]
    literal: bool,
    #[command(flatten)]
    condition: ConditionArgs,
}

#[derive(Serialize)]
struct PutJson {
    succeeded: bool,
    mod_revision: u64,
    #[serde(flatten)]
    header: HeaderJson,
}

/// Writes one key.
pub async fn run(context: &Context, args: PutArgs) -> Result<(), Failure> {
    let key = context.key(&args.key)?;
    let value = read_value(&args)?;
    let condition = args.condition.condition();
    let answer = context.client.put(key, value, condition).await?;
    match context.plain_format() {
        Format::Json | Format::Jsonl => {
            let json = PutJson {
                succeeded: answer.succeeded,
                mod_revision: answer.mod_revision,
                header: (&answer.header).into(),
            };
            print_json(context.plain_format(), &json)?;
        }
        Format::Table => {
            let row = vec![answer.succeeded.to_string(), answer.mod_revision.to_string()];
            print(layout(Format::Table, &["SUCCEEDED", "REVISION"], vec![row]).as_bytes())?;
        }
        Format::Simple if answer.succeeded => print_line("OK")?,
        Format::Simple => {}
    }
    if answer.succeeded {
        Ok(())
    } else {
        Err(condition_lost(condition, answer.mod_revision))
    }
}

/// Says why the condition did not hold, with the current revision.
pub fn condition_lost(condition: Condition, mod_revision: u64) -> Failure {
    Failure::Condition(match (condition, mod_revision) {
        (Condition::ModRevision(_), 0) => "condition not met: the key does not exist".into(),
        (Condition::ModRevision(wanted), found) => {
            format!("condition not met: the key is at revision {found}, not {wanted}")
        }
        (_, found) => format!("condition not met: the key exists, at revision {found}"),
    })
}

fn read_value(args: &PutArgs) -> Result<Vec<u8>, Failure> {
    if args.literal {
        return Ok(args.value.clone().into_bytes());
    }
    if args.value == "-" {
        return read_bounded(std::io::stdin().lock(), "stdin");
    }
    match args.value.strip_prefix('@') {
        Some("") => Err(Failure::Usage(
            "no file name after @; --literal stores the value as it is".into(),
        )),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .open(path)
                .map_err(Failure::local(format!("open {path}")))?;
            read_bounded(file, path)
        }
        None => Ok(args.value.clone().into_bytes()),
    }
}

/// Reads all bytes, but no more than any server accepts.
fn read_bounded(source: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    source
        .take(VALUE_BYTES_CEILING as u64 + 1)
        .read_to_end(&mut value)
        .map_err(Failure::local(format!("read {name}")))?;
    if value.len() > VALUE_BYTES_CEILING {
        let ceiling = format_bytes(VALUE_BYTES_CEILING as u64);
        return Err(Failure::Usage(format!(
            "{name} has more than {ceiling}, which no server accepts as a value"
        )));
    }
    Ok(value)
}
