use crate::context::Context;
use crate::failure::Failure;

/// Shown by `kvctl bench --help`.
pub const EXAMPLES: &str = "\
Examples:
  kvctl bench put --clients 32 --size 16KiB --seconds 10
  kvctl bench get --clients 128 --size 1KiB --keys 100000
  kvctl bench scan --size 4KiB --scan-length 100
  kvctl bench ycsb --load --workload a -p recordcount=100000 --threads 64
  kvctl bench ycsb --run --workload a -p recordcount=100000 -p maxexecutiontime=10 --threads 64
  kvctl bench disk --dir /var/lib/nezha";

/// Runs the load generator.
pub async fn run(context: &Context, args: nezha_ycsb::BenchArgs) -> Result<(), Failure> {
    nezha_ycsb::run(args, context.endpoints.clone())
        .await
        .map_err(Failure::Bench)
}
