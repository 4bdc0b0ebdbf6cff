//! Arguments of `kvctl bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::{size::parse_size, ycsb::parse_assignment};

/// Measure puts, gets, scans, the raw disk, or read the status of the members.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to run.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// The benchmark commands.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Write values in a closed loop and report throughput and latency.
    Put(PutArgs),
    /// Load the keys, then read random ones; every value is verified.
    Get(GetArgs),
    /// Load the keys, then scan runs of them from random starts; every row is verified.
    Scan(ScanArgs),
    /// Load or run a core workload of YCSB; every read is verified.
    #[command(after_help = YCSB_EXAMPLES)]
    Ycsb(YcsbArgs),
    /// Append records to files with an fdatasync after each: what the disk below the store can do.
    Disk(DiskArgs),
    /// Send messages to a server that only answers: what the network below the store can do.
    Echo(EchoArgs),
    /// Print what each member answers about itself, as one JSON line; optionally wait until it is ready.
    Status(StatusArgs),
}

/// The store that is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverKind {
    /// This store, through its Rust client: operations of all callers share streams.
    Nezha,
    /// This store, through one gRPC call for each operation.
    NezhaUnary,
    /// etcd 3.
    Etcd,
}

impl DriverKind {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            DriverKind::Nezha => "nezha",
            DriverKind::NezhaUnary => "nezha-unary",
            DriverKind::Etcd => "etcd",
        }
    }
}

/// Which members the clients talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// All connections go to the leader and follow it when it changes.
    Leader,
    /// The clients spread over all endpoints.
    All,
}

/// How often each key is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// All equally often.
    Uniform,
    /// As in YCSB: the n-th most popular in proportion to 1/n^0.99; popular keys lie anywhere in key order.
    Zipfian,
}

/// What a read must reflect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Every write acknowledged before the read began.
    Linearizable,
    /// Whatever the answering member has applied.
    Stale,
}

impl Consistency {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Stale => "stale",
        }
    }
}

/// What every load has in common.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Store to drive.
    #[arg(long, value_enum, default_value = "nezha")]
    pub driver: DriverKind,
    /// Clients, each with one operation in flight.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Bytes of each value, such as 256 or 64KiB.
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = parse_value_size)]
    pub size: u64,
    /// Length of the measurement, in seconds.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_some_seconds)]
    pub seconds: f64,
    /// Seconds of the same load before the measurement.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_seconds)]
    pub warmup: f64,
    /// HTTP/2 connections per endpoint in use, shared by the clients.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Members to talk to.
    #[arg(long, value_enum, default_value = "leader")]
    pub target: Target,
    /// Start of every key; the default names the value size, so that runs of one size share their keys.
    #[arg(long, value_name = "PREFIX")]
    pub key_prefix: Option<String>,
    /// Seconds after which a client gives up on an operation.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_some_seconds)]
    pub op_timeout: f64,
    /// Print one JSON line instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Processes to account: bytes written to disk, resident memory, CPU.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
}

/// Arguments of `put`.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// What every load has in common.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Number of keys. Random ones are overwritten; with --unique each is written once and the run ends after the last.
    /// Default: 100000, or without end with --unique.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: Option<u64>,
    /// Write each key once, in hashed order.
    #[arg(long, conflicts_with = "distribution")]
    pub unique: bool,
    /// Which keys are overwritten.
    #[arg(long, value_enum, default_value = "uniform")]
    pub distribution: Distribution,
    /// Write a line for every acknowledged put to this file: when it started and ended, in microseconds since 1970.
    #[arg(long, value_name = "FILE")]
    pub ack_log: Option<PathBuf>,
}

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// What every load has in common.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Number of keys.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Do not load the keys first: `put --unique --keys N` with the same size or prefix has.
    #[arg(long)]
    pub no_load: bool,
    /// What the reads must reflect.
    #[arg(long, value_enum, default_value = "linearizable")]
    pub consistency: Consistency,
}

/// Arguments of `scan`.
#[derive(Debug, Clone, Args)]
pub struct ScanArgs {
    /// What every load has in common.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Number of keys.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub keys: u64,
    /// Do not load the keys first: `put --unique --keys N` with the same size or prefix has.
    #[arg(long)]
    pub no_load: bool,
    /// What the reads must reflect.
    #[arg(long, value_enum, default_value = "linearizable")]
    pub consistency: Consistency,
    /// Rows of each scan.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub scan_length: u64,
}

/// Shown by `kvctl bench ycsb --help`.
pub const YCSB_EXAMPLES: &str = "\
Examples (each as `kvctl bench ycsb ...` or `ycsb ...`):
  ycsb --load --workload a -p recordcount=100000 --threads 64
  ycsb --run --workload a -p recordcount=100000 -p operationcount=1000000 --threads 64
  ycsb --run --workload d -p recordcount=100000 -p maxexecutiontime=30 --warmup 5 -s
  ycsb --run -P workloads/workloadb -P my.properties --threads 64 --target 5000
  ycsb --run --workload c -p recordcount=100000 --threads 128 --json > c.json

Load once, with the recordcount, fieldcount, fieldlength, insertorder, zeropadding and table of the \
runs; D and E add records. With -p writeallfields=true an update is one write; without it, an update \
reads the record, changes one field and writes it back.";

/// Arguments of `ycsb`. Load, threads, target, `-P`, `-p` and `-s` are those of YCSB's own client.
#[derive(Debug, Clone, Args)]
pub struct YcsbArgs {
    /// Insert the records.
    #[arg(long, conflicts_with = "run")]
    pub load: bool,
    /// Run the transactions; so it is without --load, unless the property dotransactions is false.
    #[arg(long)]
    pub run: bool,
    /// A core workload with YCSB's own settings: a to f. Read before the files.
    #[arg(long, value_name = "LETTER", value_parser = ["a", "b", "c", "d", "e", "f"])]
    pub workload: Option<String>,
    /// A file of properties; may be repeated, later ones win.
    #[arg(short = 'P', value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A property; wins over all files.
    #[arg(short = 'p', value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub properties: Vec<(String, String)>,
    /// Clients, each with one operation in flight: the property threadcount [default: 1]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Operations to begin per second, whether earlier ones were answered or not: the property target.
    #[arg(long, value_name = "N")]
    pub target: Option<u64>,
    /// Seconds of the same operations before the measurement.
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = parse_seconds)]
    pub warmup: f64,
    /// Print a status line on stderr each second, also where that is no terminal: the property status.
    #[arg(short = 's', long)]
    pub status: bool,
    /// Store to drive.
    #[arg(long, value_enum, default_value = "nezha")]
    pub driver: DriverKind,
    /// What the reads must reflect.
    #[arg(long, value_enum, default_value = "linearizable")]
    pub consistency: Consistency,
    /// HTTP/2 connections per endpoint in use, shared by the clients.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Members to talk to.
    #[arg(long, value_enum, default_value = "leader")]
    pub members: Target,
    /// Seconds after which a client gives up on an operation.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_some_seconds)]
    pub op_timeout: f64,
    /// Print one JSON line instead of YCSB's report.
    #[arg(long)]
    pub json: bool,
    /// Processes to account during the measurement: bytes written to disk, resident memory, CPU.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
}

/// Arguments of `disk`.
#[derive(Debug, Clone, Args)]
pub struct DiskArgs {
    /// Directory for the files; they are removed at the end.
    #[arg(long, value_name = "D")]
    pub dir: PathBuf,
    /// Bytes of each record.
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = parse_value_size)]
    pub size: u64,
    /// Writers, each with a file of its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub writers: u32,
    /// Length of the measurement, in seconds.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_some_seconds)]
    pub seconds: f64,
    /// Overwrite blocks that were written before instead of growing the files.
    #[arg(long)]
    pub overwrite: bool,
    /// Write past the page cache: records are multiples of 4 KiB then.
    #[arg(long)]
    pub direct: bool,
    /// Bytes of each file: a growing file starts again, an overwritten one has this size (at least one record).
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_size)]
    pub file_size: u64,
    /// Print one JSON line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// How messages of an echo travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EchoMode {
    /// A call for each.
    Unary,
    /// A bidirectional stream for each connection.
    Stream,
}

impl EchoMode {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            EchoMode::Unary => "unary",
            EchoMode::Stream => "stream",
        }
    }
}

/// Arguments of `echo`.
#[derive(Debug, Clone, Args)]
pub struct EchoArgs {
    /// How messages travel.
    #[arg(long, value_enum, default_value = "unary")]
    pub mode: EchoMode,
    /// Bytes of each message.
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = parse_value_size)]
    pub size: u64,
    /// Bytes of each answer; by default it is the message. A put has a long message and a short answer.
    #[arg(long, value_name = "BYTES", value_parser = parse_value_size)]
    pub answer_size: Option<u64>,
    /// Messages in flight, spread over the connections.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// HTTP/2 connections, no more than clients.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Length of the measurement, in seconds.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_some_seconds)]
    pub seconds: f64,
    /// Seconds of the same load before the measurement.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_seconds)]
    pub warmup: f64,
    /// Print one JSON line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Store to ask.
    #[arg(long, value_enum, default_value = "nezha")]
    pub driver: DriverKind,
    /// Ask until every endpoint is ready and names a leader, for at most this many seconds.
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub wait: Option<f64>,
}

/// Largest value that the generator can derive: what the store can be configured to accept.
const VALUE_SIZE_MAX: u64 = 64 << 20;

fn parse_value_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes > VALUE_SIZE_MAX {
        return Err(format!("{text} is above the largest value, 64MiB"));
    }
    Ok(bytes)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds")),
    }
}

fn parse_some_seconds(text: &str) -> Result<f64, String> {
    let seconds = parse_seconds(text)?;
    if seconds == 0.0 {
        return Err("must be above 0".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchCommand, clap::Error> {
        Cli::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))
            .map(|cli| cli.bench.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn put_takes_what_the_scripts_pass() {
        let command = parse(
            "put --driver etcd --clients 128 --size 64KiB --seconds 2.5 --warmup 0 --connections 8 --unique --json \
             --pids 1,2,3 --target all --key-prefix a/",
        )
        .unwrap();
        let BenchCommand::Put(put) = command else {
            panic!("{command:?}")
        };
        assert_eq!(put.load.driver, DriverKind::Etcd);
        assert_eq!(put.load.clients, 128);
        assert_eq!(put.load.size, 65_536);
        assert_eq!(put.load.seconds, 2.5);
        assert_eq!(put.load.warmup, 0.0);
        assert_eq!(put.load.connections, 8);
        assert_eq!(put.load.pids, vec![1, 2, 3]);
        assert_eq!(put.load.target, Target::All);
        assert_eq!(put.load.key_prefix.as_deref(), Some("a/"));
        assert!(put.unique && put.load.json);
        assert_eq!(put.keys, None);
    }

    #[test]
    fn get_is_linearizable_unless_told() {
        let BenchCommand::Get(get) = parse("get").unwrap() else {
            panic!("not a get")
        };
        assert_eq!(get.consistency, Consistency::Linearizable);
        let BenchCommand::Get(get) = parse("get --consistency stale --no-load").unwrap() else {
            panic!("not a get")
        };
        assert_eq!(get.consistency, Consistency::Stale);
        assert!(get.no_load);
    }

    #[test]
    fn ycsb_takes_its_clients_options() {
        let line = "ycsb --load --workload a -P one -P two -p recordcount=5 -p a=b=c --threads 64 --target 100 -s \
                    --driver nezha-unary --members all --json --warmup 2";
        let BenchCommand::Ycsb(ycsb) = parse(line).unwrap() else {
            panic!("not ycsb")
        };
        assert!(ycsb.load && !ycsb.run && ycsb.status && ycsb.json);
        assert_eq!(ycsb.workload.as_deref(), Some("a"));
        assert_eq!(ycsb.files, [PathBuf::from("one"), PathBuf::from("two")]);
        assert_eq!(ycsb.properties[1], ("a".to_owned(), "b=c".to_owned()));
        assert_eq!((ycsb.threads, ycsb.target), (Some(64), Some(100)));
        assert_eq!(ycsb.driver, DriverKind::NezhaUnary);
        assert_eq!(ycsb.members, Target::All);
    }

    #[test]
    fn bad_arguments_are_refused() {
        for line in [
            "",
            "put --clients 0",
            "put --size 65MiB",
            "put --size 1.5KiB",
            "put --seconds -1",
            "put --seconds NaN",
            "put --seconds 0",
            "put --op-timeout 0",
            "disk --dir d --seconds 0",
            "put --keys 0",
            "put --connections 0",
            "put --pids a",
            "scan --scan-length 0",
            "disk",
            "disk --dir d --writers 0",
            "ycsb --load --run",
            "ycsb --workload g",
            "ycsb -p recordcount",
            "ycsb --threads x",
        ] {
            assert!(parse(line).is_err(), "{line:?} was accepted");
        }
    }
}
