//! kvctl: the command line client of Nezha.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod context;
mod each;
mod encoding;
mod failure;
mod output;
mod units;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::{Cli, Command};
use context::Context;
use failure::{Exit, Failure};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let endpoints_from = match matches.value_source("endpoints") {
        Some(ValueSource::CommandLine) => "--endpoints",
        Some(ValueSource::EnvVariable) => "KVCTL_ENDPOINTS",
        _ => "the default",
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let writes = match &cli.command {
        Command::Put(_) | Command::Del(_) | Command::Member(_) | Command::Leader(_) | Command::Purge(_) => {
            true
        }
        Command::Gc(command) => command.writes(),
        Command::Get(_)
        | Command::Scan(_)
        | Command::Health(_)
        | Command::Status(_)
        | Command::Check(_)
        | Command::Bench(_) => false,
    };
    // Before anything is printed or sent. Without it an interrupt ends the process, too, with the signal's own code.
    if let Ok(interrupt) = signal(SignalKind::interrupt()) {
        tokio::spawn(exit_when_interrupted(interrupt, writes));
    }
    match run(cli, endpoints_from).await {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(failure) if failure.is_broken_pipe() => ExitCode::from(Exit::Ok as u8),
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            ExitCode::from(failure.exit() as u8)
        }
    }
}

async fn run(cli: Cli, endpoints_from: &str) -> Result<(), Failure> {
    let context = Context::new(&cli.global, endpoints_from)?;
    match cli.command {
        Command::Put(args) => cmd::put::run(&context, args).await,
        Command::Get(args) => cmd::get::run(&context, args).await,
        Command::Del(args) => cmd::del::run(&context, args).await,
        Command::Scan(args) => cmd::scan::run(&context, args).await,
        Command::Health(args) => cmd::health::run(&context, args).await,
        Command::Status(args) => cmd::status::run(&context, args).await,
        Command::Member(command) => cmd::member::run(&context, command).await,
        Command::Leader(command) => cmd::leader::run(&context, command).await,
        Command::Purge(args) => cmd::purge::run(&context, args).await,
        Command::Gc(command) => cmd::gc::run(&context, command).await,
        Command::Check(command) => cmd::check::run(&context, command).await,
        Command::Bench(args) => cmd::bench::run(&context, args).await,
    }
}

/// Ends the process at Ctrl-C, also while the command waits for a full pipe.
async fn exit_when_interrupted(mut interrupt: Signal, writes: bool) {
    if interrupt.recv().await.is_some() {
        let note = if writes {
            "; a change that was sent may still take effect"
        } else {
            ""
        };
        eprintln!("\ninterrupted{note}");
        std::process::exit(Exit::Interrupted as i32);
    }
}
