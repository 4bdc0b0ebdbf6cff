//! Options of `kvd serve`: one definition, three layers (flags over environment over TOML file), one resolved result.
//!
//! Each layer is brought to the form of command-line arguments and goes through the same parser, so that a value means
//! the same wherever it stands, and an unknown or malformed one is refused the same way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};
use thiserror::Error;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: u64 = 8 << 10;
/// Longest value that may be configured, in bytes.
pub const VALUE_BYTES_CEILING: u64 = 64 * MIB;

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

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
    /// Memory for the newest log entries, shared by replication and reads [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub log_cache_bytes: Option<u64>,
    /// Interval of the leader's heartbeats [default: 200ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub heartbeat: Option<Duration>,
    /// Shortest silence after which a follower stands for election; the longest is twice that [default: 800ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub election_timeout: Option<Duration>,
    /// How long a stop waits for requests in flight and for the next leader [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub stop_wait: Option<Duration>,
    /// Form of log lines, on stderr [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or target=level,... [default: info,openraft=warn]
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

/// Why the options do not make a configuration. Exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A layer holds what the parser refuses.
    #[error("{origin}: {reason}")]
    Malformed {
        /// "environment", or the file.
        origin: String,
        /// The parser's words.
        reason: String,
    },
    /// The TOML file names an option that does not exist.
    #[error("{file}: unknown key '{key}'; known keys: {known}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The key as written.
        key: String,
        /// All keys, comma separated.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A required option is missing.
    #[error("--{option} is missing; example: {example}")]
    Missing {
        /// Name of the option.
        option: &'static str,
        /// A command that would do.
        example: &'static str,
    },
    /// An option has a value that makes no sense, alone or with others.
    #[error("--{option} {value}: {reason}")]
    Invalid {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// One line of `--initial-cluster`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitialMember {
    /// Name of the member.
    pub name: String,
    /// Its peer address.
    pub peer_addr: String,
    /// Its client address, when given; otherwise it is learned from the member.
    pub client_addr: Option<String>,
}

/// How a node without an identity gets one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It has one already, or starting is refused.
    Unstated,
    /// It is one of the first members of a new cluster; sorted by name.
    InitialCluster(Vec<InitialMember>),
    /// It was added to a running cluster, reached by these client endpoints.
    Join(Vec<String>),
}

/// The resolved configuration of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the node; 1 to 64 bytes of letters, digits, '-', '_' and '.'.
    pub name: String,
    /// Directory of the node's data.
    pub data_dir: PathBuf,
    /// `host:port` bound for clients; default 127.0.0.1:7379.
    pub listen_client: String,
    /// `host:port` bound for members; default 127.0.0.1:7380.
    pub listen_peer: String,
    /// `host:port` that clients are told; default: as bound.
    pub advertise_client: String,
    /// `host:port` that members are told; default: as bound.
    pub advertise_peer: String,
    /// How the node gets its identity.
    pub origin: Origin,
    /// Mixed into the id of a new cluster; default empty.
    pub cluster_token: String,
    /// Longest value, bytes; default 16 MiB, range 1 KiB to 64 MiB.
    pub value_bytes_max: u64,
    /// Request bytes in flight, bytes; default 64 MiB, at least four values.
    pub proposal_bytes_max: u64,
    /// Answer bytes in flight, bytes; default 64 MiB, at least four values.
    pub read_bytes_max: u64,
    /// Longest wait for admission; default 5 s.
    pub admission_wait: Duration,
    /// Open scans; default 64, at least 1.
    pub scans_max: usize,
    /// Life of one scan; default 10 min.
    pub scan_lifetime: Duration,
    /// Size of a log segment, bytes; default 128 MiB, at least 1 MiB.
    pub log_segment_bytes: u64,
    /// Tail cache of the log, bytes; default 32 MiB.
    pub log_cache_bytes: u64,
    /// Heartbeat interval; default 200 ms, at least 20 ms.
    pub heartbeat: Duration,
    /// Shortest election time-out; default 800 ms, at least three heartbeats.
    pub election_timeout: Duration,
    /// Deadline of the drain and of the leader transfer at a stop; default 10 s.
    pub stop_wait: Duration,
    /// Form of log lines; default text.
    pub log_format: LogFormat,
    /// Filter of log lines; default info, of openraft warn.
    pub log_level: String,
}

const EXAMPLE: &str = "kvd --name n1 --data-dir n1 --initial-cluster n1=127.0.0.1:7380";

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

    fn from_toml(origin: &str, text: &str) -> Result<Self, ConfigError> {
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

    fn from_args(origin: &str, args: Vec<OsString>) -> Result<Self, ConfigError> {
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

    fn check(self) -> Result<Config, ConfigError> {
        let missing = |option| ConfigError::Missing {
            option,
            example: EXAMPLE,
        };
        let name = self.name.ok_or_else(|| missing("name"))?;
        check_name("name", &name)?;
        let data_dir = self.data_dir.ok_or_else(|| missing("data-dir"))?;
        let listen_client = self.listen_client.unwrap_or_else(|| "127.0.0.1:7379".to_owned());
        let listen_peer = self.listen_peer.unwrap_or_else(|| "127.0.0.1:7380".to_owned());
        check_addr("listen-client", &listen_client, true)?;
        check_addr("listen-peer", &listen_peer, true)?;
        if listen_client == listen_peer {
            return Err(ConfigError::Invalid {
                option: "listen-peer",
                value: listen_peer,
                reason: "is also --listen-client; clients and members need a port each".to_owned(),
            });
        }
        let advertise_client = advertised("advertise-client", self.advertise_client, &listen_client)?;
        let advertise_peer = advertised("advertise-peer", self.advertise_peer, &listen_peer)?;
        let origin = match (self.initial_cluster, self.join) {
            (Some(list), _) => Origin::InitialCluster(parse_initial_cluster(&list, &name)?),
            (None, Some(list)) => Origin::Join(parse_endpoints(&list)?),
            (None, None) => Origin::Unstated,
        };
        let value_bytes_max = self.value_bytes_max.unwrap_or(16 * MIB);
        check_range("value-bytes-max", value_bytes_max, 1 << 10, VALUE_BYTES_CEILING)?;
        // Four values: one that arrives, one in the log's queue, and two more so that those two never wait for each other.
        let four_values = 4 * (value_bytes_max + MIB / 2);
        let proposal_bytes_max = self.proposal_bytes_max.unwrap_or((64 * MIB).max(four_values));
        check_range(
            "proposal-bytes-max",
            proposal_bytes_max,
            four_values,
            u64::from(u32::MAX) / 2,
        )?;
        let read_bytes_max = self.read_bytes_max.unwrap_or((64 * MIB).max(four_values));
        check_range(
            "read-bytes-max",
            read_bytes_max,
            four_values,
            u64::from(u32::MAX) / 2,
        )?;
        let scans_max = self.scans_max.unwrap_or(64);
        check_range("scans-max", scans_max as u64, 1, 10_000)?;
        let log_segment_bytes = self.log_segment_bytes.unwrap_or(128 * MIB);
        check_range("log-segment-bytes", log_segment_bytes, MIB, 4096 * MIB)?;
        let log_cache_bytes = self.log_cache_bytes.unwrap_or(32 * MIB);
        check_range("log-cache-bytes", log_cache_bytes, MIB, 64 * 1024 * MIB)?;
        let heartbeat = self.heartbeat.unwrap_or(Duration::from_millis(200));
        let election_timeout = self
            .election_timeout
            .unwrap_or((heartbeat * 4).max(Duration::from_millis(800)));
        if heartbeat < Duration::from_millis(20) || election_timeout < heartbeat * 3 {
            return Err(ConfigError::Invalid {
                option: "election-timeout",
                value: format!("{}ms", election_timeout.as_millis()),
                reason: format!(
                    "must be at least three heartbeats, and a heartbeat ({}ms) at least 20ms",
                    heartbeat.as_millis()
                ),
            });
        }
        Ok(Config {
            name,
            data_dir,
            listen_client,
            listen_peer,
            advertise_client,
            advertise_peer,
            origin,
            cluster_token: self.cluster_token.unwrap_or_default(),
            value_bytes_max,
            proposal_bytes_max,
            read_bytes_max,
            admission_wait: self.admission_wait.unwrap_or(Duration::from_secs(5)),
            scans_max,
            scan_lifetime: self.scan_lifetime.unwrap_or(Duration::from_secs(600)),
            log_segment_bytes,
            log_cache_bytes,
            heartbeat,
            election_timeout,
            stop_wait: self.stop_wait.unwrap_or(Duration::from_secs(10)),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            log_level: self.log_level.unwrap_or_else(|| "info,openraft=warn".to_owned()),
        })
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

/// Checks a member's name: 1 to 64 bytes of letters, digits, '-', '_' and '.', so that it can name a directory and
/// stand in a list. Returns what is wrong with it.
pub fn name_problem(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) || name.starts_with('.') {
        return Some(
            "a name has 1 to 64 letters, digits, '-', '_' or '.', and does not start with '.'".to_owned(),
        );
    }
    // "kvctl member remove 3" must not be ambiguous.
    name.chars()
        .all(|c| c.is_ascii_digit())
        .then(|| "a name of digits only would look like an id".to_owned())
}

/// Checks `host:port`. Returns what is wrong with it. Port 0 (chosen by the system) only where one listens.
pub fn addr_problem(addr: &str, port_zero: bool) -> Option<String> {
    let Some((host, port)) = addr.rsplit_once(':') else {
        return Some("expected HOST:PORT".to_owned());
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(['/', ' ', ',', '=']) {
        return Some("expected HOST:PORT (an IPv6 address in brackets)".to_owned());
    }
    match port.parse::<u16>() {
        Ok(0) if !port_zero => Some("port 0 cannot be connected to".to_owned()),
        Ok(_) => None,
        Err(_) => Some(format!("'{port}' is not a port; expected 1 to 65535")),
    }
}

fn check_name(option: &'static str, name: &str) -> Result<(), ConfigError> {
    match name_problem(name) {
        Some(reason) => Err(ConfigError::Invalid {
            option,
            value: name.to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

fn check_addr(option: &'static str, addr: &str, port_zero: bool) -> Result<(), ConfigError> {
    match addr_problem(addr, port_zero) {
        Some(reason) => Err(ConfigError::Invalid {
            option,
            value: addr.to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

fn check_range(option: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        option,
        value: value.to_string(),
        reason: format!("must be {min} to {max}"),
    })
}

fn advertised(option: &'static str, given: Option<String>, listen: &str) -> Result<String, ConfigError> {
    let addr = given.unwrap_or_else(|| listen.to_owned());
    let host = addr.rsplit_once(':').map_or("", |(host, _)| host);
    if matches!(host, "0.0.0.0" | "[::]") {
        return Err(ConfigError::Invalid {
            option,
            value: addr,
            reason: format!(
                "others cannot connect to it; state the address that they reach this node by with --{option}"
            ),
        });
    }
    check_addr(option, &addr, false)?;
    Ok(addr)
}

fn parse_initial_cluster(list: &str, name: &str) -> Result<Vec<InitialMember>, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid {
        option: "initial-cluster",
        value: list.to_owned(),
        reason,
    };
    let mut members = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (member, addrs) = item
            .split_once('=')
            .ok_or_else(|| invalid(format!("'{item}': expected NAME=PEER[/CLIENT]")))?;
        let (peer, client) = match addrs.split_once('/') {
            Some((peer, client)) => (peer, Some(client)),
            None => (addrs, None),
        };
        let problem = name_problem(member)
            .or_else(|| addr_problem(peer, false))
            .or_else(|| client.and_then(|client| addr_problem(client, false)));
        if let Some(reason) = problem {
            return Err(invalid(format!("'{item}': {reason}")));
        }
        members.push(InitialMember {
            name: member.to_owned(),
            peer_addr: peer.to_owned(),
            client_addr: client.map(str::to_owned),
        });
    }
    members.sort();
    for pair in members.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(invalid(format!("'{}' is there twice", a.name)));
        }
    }
    let mut addrs: Vec<&str> = members.iter().map(|m| m.peer_addr.as_str()).collect();
    addrs.sort_unstable();
    if let Some([addr, _]) = addrs.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(invalid(format!("peer address {addr} is there twice")));
    }
    if !members.iter().any(|m| m.name == name) {
        return Err(invalid(format!("this node, '{name}', is not in it")));
    }
    Ok(members)
}

fn parse_endpoints(list: &str) -> Result<Vec<String>, ConfigError> {
    let endpoints: Vec<String> = list
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
        .map(|e| e.trim_start_matches("http://").to_owned())
        .collect();
    if endpoints.is_empty() {
        return Err(ConfigError::Invalid {
            option: "join",
            value: list.to_owned(),
            reason: "expected at least one HOST:PORT".to_owned(),
        });
    }
    for endpoint in &endpoints {
        check_addr("join", endpoint, false)?;
    }
    Ok(endpoints)
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
