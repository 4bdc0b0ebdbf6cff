use serde::Serialize;

use crate::args::Format;
use crate::context::Context;
use crate::each::each;
use crate::failure::{Failure, cause};
use crate::output::{layout, print, print_json_list, print_line};

/// Shown by `kvctl gc pause --help`.
pub const PAUSE_EXAMPLES: &str = "\
Examples:
  kvctl gc pause
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 gc pause

Stops the collector of each given endpoint, a running job included: what it has copied stays,
the rest is done after `kvctl gc resume`. A node that starts anew is not paused.
Exits with 0 if every endpoint has obeyed, else as the first that has not: 3, 4 or 5.
JSON keys: endpoint, paused (null if not known), error.";

/// Shown by `kvctl gc resume --help`.
pub const RESUME_EXAMPLES: &str = "\
Examples:
  kvctl gc resume
  kvctl gc resume && kvctl gc run --wait

Undoes `kvctl gc pause` on each given endpoint; a run that was asked for meanwhile begins.
Exits with 0 if every endpoint has obeyed, else as the first that has not: 3, 4 or 5.
JSON keys: endpoint, paused (null if not known), error.";

/// What a collector is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop.
    Pause,
    /// Go on.
    Resume,
}

#[derive(Serialize)]
struct OrderJson {
    endpoint: String,
    paused: Option<bool>,
    error: Option<String>,
}

/// Tells all endpoints; the first failure is the result.
pub async fn run(context: &Context, order: Order) -> Result<(), Failure> {
    let tell = |endpoint: String| {
        let client = context.client.clone();
        async move {
            let result = match order {
                Order::Pause => client.gc_pause(&endpoint).await,
                Order::Resume => client.gc_resume(&endpoint).await,
            };
            (endpoint, result)
        }
    };
    let answers = each(&context.endpoints, tell).await;
    let items: Vec<OrderJson> = answers
        .iter()
        .map(|(endpoint, result)| OrderJson {
            endpoint: endpoint.clone(),
            paused: result.is_ok().then_some(order == Order::Pause),
            error: result.as_ref().err().map(cause),
        })
        .collect();
    let state = match order {
        Order::Pause => "paused",
        Order::Resume => "resumed",
    };
    let format = context.plain_format();
    match format {
        Format::Json | Format::Jsonl => print_json_list(format, &items)?,
        Format::Table => {
            let row = |item: OrderJson| {
                let state = item.error.as_ref().map_or(state, |_| "?");
                vec![
                    item.endpoint,
                    state.into(),
                    item.error.unwrap_or_else(|| "-".into()),
                ]
            };
            let rows = items.into_iter().map(row).collect();
            print(layout(format, &["ENDPOINT", "STATE", "ERROR"], rows).as_bytes())?;
        }
        Format::Simple => {
            for item in items.iter().filter(|item| item.error.is_none()) {
                print_line(&format!("{}: {state}", item.endpoint))?;
            }
        }
    }
    let failures = answers
        .into_iter()
        .filter_map(|(_, result)| result.err())
        .map(Failure::from);
    first(format, failures)
}

/// Makes the first failure the result. In plain text the others are said here; tables and JSON hold all of them.
pub fn first(format: Format, failures: impl Iterator<Item = Failure>) -> Result<(), Failure> {
    let mut result = Ok(());
    for failure in failures {
        match (&result, format) {
            (Ok(()), Format::Simple) => result = Err(failure),
            (Ok(()), _) => result = Err(Failure::Reported(failure.exit())),
            (Err(_), Format::Simple) => eprintln!("{failure}"),
            (Err(_), _) => {}
        }
    }
    result
}
