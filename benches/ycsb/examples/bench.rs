//! `kvctl bench` on its own, without the rest of kvctl.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    /// Members, as host:port.
    #[arg(
        long,
        env = "KVCTL_ENDPOINTS",
        value_delimiter = ',',
        global = true,
        default_value = "127.0.0.1:7379"
    )]
    endpoints: Vec<String>,
    #[command(flatten)]
    bench: nezha_ycsb::BenchArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    nezha_ycsb::run(cli.bench, cli.endpoints).await
}
