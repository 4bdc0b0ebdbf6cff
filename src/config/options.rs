//! The layers: what each may set, how it is read, and which wins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser};

use super::{Config, ConfigError, GcMode, LogFormat};

/// Options of one layer; what is not set is taken from the next layer.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Options {
    /// Name of this node, unique in the cluster
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Directory of this node's data; created when missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve clients on [default: 127.0.0.1:7379]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_client: Option<String>,
    /// Address to serve the other members on [default: 127.0.0.1:7380]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_peer: Option<String>,
    /// Address that clients are told to use [default: --listen-client]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_client: Option<String>,
    /// Address that the other members are told to use [default: --listen-peer]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// Members of a new cluster: NAME=PEER[/CLIENT],... ; the same list on each of them
    #[arg(long, value_name = "LIST")]
    pub initial_cluster: Option<String>,
    /// Client endpoints of a running cluster that this node was added to: HOST:PORT,...
    #[arg(long, value_name = "LIST", conflicts_with = "initial_cluster")]
    pub join: Option<String>,
    /// Makes the id of a new cluster differ from that of others with the same member list
    #[arg(long, value_name = "TOKEN")]
    pub cluster_token: Option<String>,
    /// Longest value that is accepted, at most 64MiB [default: 16MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub value_bytes_max: Option<u64>,
    /// Bytes of client requests that may be in flight at once [default: 64MiB, at least four values]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub proposal_bytes_max: Option<u64>,
    /// Bytes of values in answers that wait for their readers [default: 64MiB, at least four values]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub read_bytes_max: Option<u64>,
    /// How long a request waits for admission before it is refused [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub admission_wait: Option<Duration>,
    /// Scans that may be open at once [default: 64]
    #[arg(long, value_name = "N")]
    pub scans_max: Option<usize>,
    /// How long one scan may stay open [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub scan_lifetime: Option<Duration>,
    /// Size at which a log segment is sealed [default: 128MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub log_segment_bytes: Option<u64>,
    /// Memory for the newest log entries, shared by replication and reads [default: 32MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub log_cache_bytes: Option<u64>,
    /// When garbage is collected [default: auto]
    #[arg(long, value_name = "MODE")]
    pub gc: Option<GcMode>,
    /// Bytes of log and values per live byte that this node takes at most; writes are slowed, then refused, before it is
    /// broken. With --gc auto only [default: 2.0]
    #[arg(long, value_name = "RATIO")]
    pub space_amplification_max: Option<f64>,
    /// Garbage that is allowed whatever the ratio says [default: 1GiB, or eight log segments if that is more]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub space_floor_bytes: Option<u64>,
    /// Free disk that writes leave to gc; below it they are refused [default: a twentieth of the disk, at most
    /// 512MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub disk_reserve_bytes: Option<u64>,
    /// Bytes that a collection copies per second at most, 0 for no bound; it is slower by itself while clients would
    /// notice it [default: 0]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub gc_bytes_per_second: Option<u64>,
    /// Log that is kept for a member that lags; one that lacks more gets a snapshot [default: 4GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub lagging_log_bytes_max: Option<u64>,
    /// Bytes that this node sends in snapshots per second at most, 0 for no bound [default: 0]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub snapshot_bytes_per_second: Option<u64>,
    /// Interval of the leader's heartbeats [default: 200ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub heartbeat: Option<Duration>,
    /// Silence after which a follower stands for election; up to a third more, by chance [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub election_timeout: Option<Duration>,
    /// How long a stop waits for requests in flight and for the next leader [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub stop_wait: Option<Duration>,
    /// Form of log lines, on stderr [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or target=level,... [default: info, of openraft warn or less]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// TOML file with any of these options, named without the leading dashes
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Parses one layer in its argument form.
#[derive(Parser)]
#[command(
    name = "kvd",
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct Layer {
    #[command(flatten)]
    options: Options,
}

impl Options {
    /// Reads the layer of environment variables: `KVD_NAME`, `KVD_DATA_DIR` and so on.
    ///
    /// Errors: `Malformed` when a value does not parse. Variables that name no option are ignored, because
    /// orchestrators set such for services of the same name.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let args = option_names().into_iter().filter_map(|name| {
            let value = get(&format!("KVD_{}", name.replace('-', "_").to_uppercase()))?;
            let mut arg = OsString::from(format!("--{name}="));
            arg.push(value);
            Some(arg)
        });
        Self::from_args("environment", args.collect())
    }

    /// Reads the layer of a TOML file, whose keys are the names of the options.
    ///
    /// Errors: `Unreadable`; `Malformed` when it is not TOML or a value does not parse; `UnknownKey`.
    pub fn from_file(file: &Path) -> Result<Self, ConfigError> {
        let origin = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: origin.clone(),
            source,
        })?;
        Self::from_toml(&origin, &text)
    }

    pub(super) fn from_toml(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed {
            origin: origin.to_owned(),
            reason: reason.trim().to_owned(),
        };
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| malformed(e.to_string()))?;
        let known: Vec<String> = option_names()
            .into_iter()
            .filter(|name| name != "config")
            .collect();
        let mut args = Vec::new();
        for (key, value) in &table {
            if !known.contains(key) {
                return Err(ConfigError::UnknownKey {
                    file: origin.to_owned(),
                    key: key.clone(),
                    known: known.join(", "),
                });
            }
            let text = plain_text(value).ok_or_else(|| {
                malformed(format!(
                    "key '{key}': expected a string, a number or a list of strings"
                ))
            })?;
            args.push(OsString::from(format!("--{key}={text}")));
        }
        Self::from_args(origin, args)
    }

    pub(super) fn from_args(origin: &str, args: Vec<OsString>) -> Result<Self, ConfigError> {
        let layer = Layer::try_parse_from(args).map_err(|e| {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            ConfigError::Malformed {
                origin: origin.to_owned(),
                reason: first.trim_start_matches("error: ").to_owned(),
            }
        })?;
        Ok(layer.options)
    }

    /// Fills what this layer leaves open from `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        // How a node gets its identity is one decision: a flag `--join` hides an `initial-cluster` of a lower layer.
        let origin_is_set = self.initial_cluster.is_some() || self.join.is_some();
        let (lower_initial, lower_join) = if origin_is_set {
            (None, None)
        } else {
            (lower.initial_cluster, lower.join)
        };
        Self {
            name: self.name.or(lower.name),
            data_dir: self.data_dir.or(lower.data_dir),
            listen_client: self.listen_client.or(lower.listen_client),
            listen_peer: self.listen_peer.or(lower.listen_peer),
            advertise_client: self.advertise_client.or(lower.advertise_client),
            advertise_peer: self.advertise_peer.or(lower.advertise_peer),
            initial_cluster: self.initial_cluster.or(lower_initial),
            join: self.join.or(lower_join),
            cluster_token: self.cluster_token.or(lower.cluster_token),
            value_bytes_max: self.value_bytes_max.or(lower.value_bytes_max),
            proposal_bytes_max: self.proposal_bytes_max.or(lower.proposal_bytes_max),
            read_bytes_max: self.read_bytes_max.or(lower.read_bytes_max),
            admission_wait: self.admission_wait.or(lower.admission_wait),
            scans_max: self.scans_max.or(lower.scans_max),
            scan_lifetime: self.scan_lifetime.or(lower.scan_lifetime),
            log_segment_bytes: self.log_segment_bytes.or(lower.log_segment_bytes),
            log_cache_bytes: self.log_cache_bytes.or(lower.log_cache_bytes),
            gc: self.gc.or(lower.gc),
            space_amplification_max: self.space_amplification_max.or(lower.space_amplification_max),
            space_floor_bytes: self.space_floor_bytes.or(lower.space_floor_bytes),
            disk_reserve_bytes: self.disk_reserve_bytes.or(lower.disk_reserve_bytes),
            gc_bytes_per_second: self.gc_bytes_per_second.or(lower.gc_bytes_per_second),
            lagging_log_bytes_max: self.lagging_log_bytes_max.or(lower.lagging_log_bytes_max),
            snapshot_bytes_per_second: self.snapshot_bytes_per_second.or(lower.snapshot_bytes_per_second),
            heartbeat: self.heartbeat.or(lower.heartbeat),
            election_timeout: self.election_timeout.or(lower.election_timeout),
            stop_wait: self.stop_wait.or(lower.stop_wait),
            log_format: self.log_format.or(lower.log_format),
            log_level: self.log_level.or(lower.log_level),
            config: self.config.or(lower.config),
        }
    }

    /// Puts the three layers together and checks the result.
    ///
    /// Errors: those of the layers, and `Missing` and `Invalid` for the result.
    pub fn resolve(self, env: impl Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        let upper = self.over(Self::from_env(env)?);
        let file = match &upper.config {
            Some(file) => Self::from_file(file)?,
            None => Self::default(),
        };
        upper.over(file).check()
    }
}

fn option_names() -> Vec<String> {
    Layer::command()
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

fn plain_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

/// Parses a number of bytes: `4096`, `64KiB`, `16MiB`, `2GiB` (and `K`, `M`, `G` for the same).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err(format!("unknown unit '{}'; use KiB, MiB or GiB", unit.trim())),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number of bytes, such as 16MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Parses a duration: `250ms`, `5s`, `10m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number and ms, s, m or h, such as 5s".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a duration, such as 5s".to_owned())?;
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".to_owned())
}
