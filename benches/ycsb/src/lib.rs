//! Load generator with drivers for Nezha and etcd, YCSB's core workloads, a raw-disk probe, and a status probe.
//!
//! `kvctl bench` parses [`BenchArgs`] and calls [`run`]. The load is a closed loop: each client has one operation in
//! flight and starts the next when it is answered; YCSB's workloads can also run by a schedule. Every read is verified.
#![forbid(unsafe_code)]

mod acks;
mod args;
mod disk;
mod driver;
mod echo;
mod errors;
mod histogram;
mod load;
mod process;
mod progress;
mod report;
mod size;
mod status;
mod values;
mod workload;
mod ycsb;

pub use args::{
    BenchArgs, BenchCommand, Consistency, DiskArgs, DriverKind, EchoArgs, EchoMode, GetArgs, LoadArgs,
    PutArgs, ScanArgs, StatusArgs, Target, YCSB_EXAMPLES, YcsbArgs,
};
pub use errors::{BenchError, exit_code};
pub use size::{ParseSizeError, parse_size};

use anyhow::Context;

/// Runs one benchmark command against `endpoints` (`host:port`, or with `http://`) and prints its report on stdout.
///
/// Errors: bad arguments, no operation succeeded, or a value that was read differs from the one written for its key.
/// In some of them `downcast_ref` finds a [`BenchError`], or the [`std::io::Error`] of a local file.
/// Blocking: no; the disk probe runs on threads of its own.
pub async fn run(args: BenchArgs, endpoints: Vec<String>) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Put(put) => load::run(workload::Workload::put(&put)?, &put.load, &endpoints)
            .await
            .context("cannot run the put benchmark"),
        BenchCommand::Get(get) => load::run(workload::Workload::get(&get)?, &get.load, &endpoints)
            .await
            .context("cannot run the get benchmark"),
        BenchCommand::Scan(scan) => load::run(workload::Workload::scan(&scan)?, &scan.load, &endpoints)
            .await
            .context("cannot run the scan benchmark"),
        BenchCommand::Ycsb(args) => ycsb::run(&args, &endpoints)
            .await
            .context("cannot run the YCSB workload"),
        BenchCommand::Disk(disk) => tokio::task::spawn_blocking(move || disk::run(&disk))
            .await
            .context("the disk probe stopped")?
            .context("cannot run the disk probe"),
        BenchCommand::Echo(echo) => echo::run(&echo).await.context("cannot run the echo probe"),
        BenchCommand::Status(status) => status::run(&status, &endpoints)
            .await
            .context("cannot read the status"),
    }
}
