//! YCSB's client with its core workloads: property files, loads and transactions, checks of all that is read, reports.
//!
//! Names, defaults and semantics are those of YCSB (<https://github.com/brianfrankcooper/YCSB>), whose core a reader may
//! compare. Where a store of plain keys and values asks for a decision: a record is one value ([`record`]), and an
//! update of one field reads the record and writes it back ([`client`]).

use std::time::Duration;

use anyhow::ensure;

use crate::{
    args::YcsbArgs,
    driver::{Access, with_drivers},
    errors::{BenchError, error_of_run},
};

mod arrivals;
mod client;
mod generators;
mod inserts;
mod measures;
mod progress;
mod properties;
mod record;
mod report;
mod rows;
mod runner;
mod settings;
mod workload;

pub(crate) use properties::parse_assignment;
use runner::{Benchmark, Outcome};
use settings::Settings;

/// Loads or runs a workload as `args` say, and prints its report on stdout; notes and status go to stderr.
///
/// Errors: bad arguments or properties, a record that cannot be loaded, a wrong or missing record, no operation
/// succeeded.
pub(crate) async fn run(args: &YcsbArgs, endpoints: &[String]) -> anyhow::Result<()> {
    let (settings, notes) = Settings::resolve(args)?;
    for note in notes {
        eprintln!("note: {note}");
    }
    let mut outcome = measure(args, &settings, endpoints).await?;
    if args.json {
        let line = report::Json::new(args, &settings, &outcome);
        println!("{}", serde_json::to_string(&line)?);
    } else {
        print!("{}", report::text(&settings, &outcome));
    }
    for line in outcome.measured.total.errors.lines() {
        eprintln!("{line}");
    }
    verdict(&settings, &mut outcome)
}

async fn measure(args: &YcsbArgs, settings: &Settings, endpoints: &[String]) -> anyhow::Result<Outcome> {
    let access = Access {
        driver: args.driver,
        target: args.members,
        connections: args.connections,
        clients: settings.threads,
        consistency: args.consistency,
    };
    let benchmark = Benchmark {
        settings,
        op_timeout: Duration::from_secs_f64(args.op_timeout),
        pids: &args.pids,
    };
    with_drivers(access, endpoints, benchmark).await
}

/// Whether the run was a success.
fn verdict(settings: &Settings, outcome: &mut Outcome) -> anyhow::Result<()> {
    let total = &outcome.measured.total;
    ensure!(
        total.wrong_reads == 0,
        "{} reads found no value or a wrong one",
        total.wrong_reads
    );
    if let Some(error) = outcome.stopped.take() {
        return Err(error);
    }
    if outcome.left > 0 {
        eprintln!(
            "note: maxexecutiontime ended the load; {} of {} records were not inserted",
            outcome.left, settings.workload.span.count
        );
    }
    if total.ops == 0 {
        ensure!(
            total.failed_ops > 0,
            BenchError::Usage("nothing was left to measure after the warm-up; use --warmup 0".to_owned())
        );
        let kinds = total.errors.by_kind();
        let text = "no operation succeeded within the measurement".to_owned();
        return Err(error_of_run(kinds.keys().map(String::as_str), text));
    }
    Ok(())
}

#[cfg(test)]
mod ycsb_test;
