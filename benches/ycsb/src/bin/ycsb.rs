//! `kvctl bench ycsb` as a program of its own.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nezha_ycsb::{BenchArgs, BenchCommand, YCSB_EXAMPLES, YcsbArgs, exit_code, run};

/// Load or run a core workload of YCSB against Nezha or etcd; every read is verified
#[derive(Debug, Parser)]
#[command(name = "ycsb", version, after_help = YCSB_EXAMPLES, max_term_width = 110)]
struct Cli {
    /// Members, as host:port
    #[arg(
        long,
        env = "KVCTL_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    #[arg(default_value = "127.0.0.1:7379")]
    endpoints: Vec<String>,
    #[command(flatten)]
    ycsb: YcsbArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let args = BenchArgs {
        command: BenchCommand::Ycsb(cli.ycsb),
    };
    match run(args, cli.endpoints).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
