use clap::Args;
use serde::Serialize;

use crate::args::Format;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{layout, print, print_json_list, print_line};

const EXAMPLES: &str = "\
Examples:
  kvctl purge
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 purge --index 100000

Lets each given endpoint forget the head of its Raft log; a member that is behind it then catches up from a
snapshot. Values stay where they are. Prints how far each log is purged now.
JSON keys: endpoint, purged_index.";

/// Arguments of `kvctl purge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PurgeArgs {
    /// Last log index to purge [default: all that is flushed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    index: Option<u64>,
}

#[derive(Serialize)]
struct PurgeJson {
    endpoint: String,
    purged_index: u64,
}

/// Purges one endpoint after the other; all are tried, the first failure is the result.
pub async fn run(context: &Context, args: PurgeArgs) -> Result<(), Failure> {
    let mut purged = Vec::new();
    let mut failed: Option<Failure> = None;
    for endpoint in &context.endpoints {
        match context.client.purge(endpoint, args.index.unwrap_or(0)).await {
            Ok(purged_index) => purged.push(PurgeJson {
                endpoint: endpoint.clone(),
                purged_index,
            }),
            Err(error) => {
                let failure = Failure::from(error);
                match &failed {
                    Some(_) => eprintln!("{failure}"),
                    None => failed = Some(failure),
                }
            }
        }
    }
    let format = context.plain_format();
    match format {
        Format::Json | Format::Jsonl => print_json_list(format, &purged)?,
        Format::Table => {
            let rows = purged
                .into_iter()
                .map(|item| vec![item.endpoint, item.purged_index.to_string()])
                .collect();
            print(layout(format, &["ENDPOINT", "PURGED"], rows).as_bytes())?;
        }
        Format::Simple => {
            for item in &purged {
                print_line(&format!(
                    "{}: purged through {}",
                    item.endpoint, item.purged_index
                ))?;
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
