//! `kvctl gc`: the garbage collection of each given endpoint.

mod order;
mod run;
mod status;
mod text;
mod watch;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;
use order::Order;

/// `kvctl gc ...`
#[derive(Debug, Subcommand)]
pub enum GcCommand {
    /// Show garbage, the running job, and which files cannot go
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Collect until nothing exceeds its limit
    #[command(after_help = run::EXAMPLES)]
    Run(run::RunArgs),
    /// Stop collecting, a running job included
    #[command(after_help = order::PAUSE_EXAMPLES)]
    Pause,
    /// Go on collecting
    #[command(after_help = order::RESUME_EXAMPLES)]
    Resume,
}

impl GcCommand {
    /// Whether it changes what a node does.
    pub fn writes(&self) -> bool {
        !matches!(self, GcCommand::Status)
    }
}

/// Runs one of the commands.
pub async fn run(context: &Context, command: GcCommand) -> Result<(), Failure> {
    match command {
        GcCommand::Status => status::run(context).await,
        GcCommand::Run(args) => run::run(context, args).await,
        GcCommand::Pause => order::run(context, Order::Pause).await,
        GcCommand::Resume => order::run(context, Order::Resume).await,
    }
}
