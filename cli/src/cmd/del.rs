use clap::Args;
use serde::Serialize;

use super::put::condition_lost;
use crate::args::{ConditionArgs, Format};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{HeaderJson, layout, print, print_json, print_line};

const EXAMPLES: &str = "\
Examples:
  kvctl del greeting
  kvctl del lock --if-revision 17

Prints 1 if the key existed and 0 if it did not.
JSON keys: succeeded, deleted, mod_revision, cluster_id, node_id, leader_id, term, revision.";

/// Arguments of `kvctl del`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DelArgs {
    /// Key
    key: String,
    #[command(flatten)]
    condition: ConditionArgs,
}

#[derive(Serialize)]
struct DelJson {
    succeeded: bool,
    deleted: u64,
    mod_revision: u64,
    #[serde(flatten)]
    header: HeaderJson,
}

/// Deletes one key.
pub async fn run(context: &Context, args: DelArgs) -> Result<(), Failure> {
    let key = context.key(&args.key)?;
    let condition = args.condition.condition();
    let answer = context.client.delete(key, condition).await?;
    let deleted = u64::from(answer.deleted);
    match context.plain_format() {
        Format::Json | Format::Jsonl => {
            let json = DelJson {
                succeeded: answer.succeeded,
                deleted,
                mod_revision: answer.mod_revision,
                header: (&answer.header).into(),
            };
            print_json(context.plain_format(), &json)?;
        }
        Format::Table => {
            let row = vec![deleted.to_string(), answer.mod_revision.to_string()];
            print(layout(Format::Table, &["DELETED", "REVISION"], vec![row]).as_bytes())?;
        }
        Format::Simple => print_line(&deleted.to_string())?,
    }
    if answer.succeeded {
        Ok(())
    } else {
        Err(condition_lost(condition, answer.mod_revision))
    }
}
