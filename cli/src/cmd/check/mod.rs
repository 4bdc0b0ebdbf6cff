//! `kvctl check`: whether what the members hold is what they should.

mod compare;
mod narrow;
mod replicas;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

/// `kvctl check ...`
#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// Compare what all members hold, also while they are written to
    #[command(after_help = replicas::EXAMPLES)]
    Replicas(replicas::ReplicasArgs),
}

/// Runs one of the commands.
pub async fn run(context: &Context, command: CheckCommand) -> Result<(), Failure> {
    match command {
        CheckCommand::Replicas(args) => replicas::run(context, args).await,
    }
}
