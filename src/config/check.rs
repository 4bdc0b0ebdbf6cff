//! What the options of all layers must add up to.

use std::time::Duration;

use super::{
    Config, ConfigError, GcMode, InitialMember, LOG_LEVEL, LogFormat, MIB, Options, Origin,
    VALUE_BYTES_CEILING,
};

const EXAMPLE: &str = "kvd --name n1 --data-dir n1 --initial-cluster n1=127.0.0.1:7380";

impl Options {
    /// Fills what no layer sets, and checks the whole.
    pub(super) fn check(self) -> Result<Config, ConfigError> {
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
            // Raft may put all of them into one append, and the log takes 1 GiB at a time.
            512 * MIB,
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
        check_range("log-segment-bytes", log_segment_bytes, MIB, 2048 * MIB)?;
        let log_cache_bytes = self.log_cache_bytes.unwrap_or(32 * MIB);
        check_range("log-cache-bytes", log_cache_bytes, MIB, 64 * 1024 * MIB)?;
        let eight_segments = 8 * log_segment_bytes;
        let space_floor_bytes = self.space_floor_bytes.unwrap_or((1024 * MIB).max(eight_segments));
        // Below that the active segment alone could hold up writes.
        check_range("space-floor-bytes", space_floor_bytes, eight_segments, 1 << 50)?;
        let lagging_log_bytes_max = self.lagging_log_bytes_max.unwrap_or(4096 * MIB);
        check_range("lagging-log-bytes-max", lagging_log_bytes_max, MIB, u64::MAX)?;
        let heartbeat = self.heartbeat.unwrap_or(Duration::from_millis(200));
        let election_timeout = self
            .election_timeout
            .unwrap_or((heartbeat * 5).max(Duration::from_secs(1)));
        if heartbeat < Duration::from_millis(20) || election_timeout < heartbeat * 4 {
            return Err(ConfigError::Invalid {
                option: "election-timeout",
                value: format!("{}ms", election_timeout.as_millis()),
                reason: format!(
                    "must be at least four heartbeats, and a heartbeat ({}ms) at least 20ms",
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
            scan_chunk_bytes: 1 << 20,
            scan_lifetime: self.scan_lifetime.unwrap_or(Duration::from_secs(600)),
            log_segment_bytes,
            log_cache_bytes,
            gc: self.gc.unwrap_or(GcMode::Auto),
            space_amplification_max_per_mille: per_mille(self.space_amplification_max.unwrap_or(2.0))?,
            space_floor_bytes,
            disk_reserve_bytes: self.disk_reserve_bytes,
            gc_bytes_per_second: self.gc_bytes_per_second.unwrap_or(0),
            lagging_log_bytes_max,
            snapshot_bytes_per_second: self.snapshot_bytes_per_second.unwrap_or(0),
            heartbeat,
            election_timeout,
            stop_wait: self.stop_wait.unwrap_or(Duration::from_secs(10)),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            log_level: self.log_level.unwrap_or_else(|| LOG_LEVEL.to_owned()),
        })
    }
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

/// The bound on space in thousandths.
fn per_mille(space_amplification_max: f64) -> Result<u32, ConfigError> {
    // Not a number is in no range.
    if (1.1..=100.0).contains(&space_amplification_max) {
        return Ok((space_amplification_max * 1000.0).round() as u32);
    }
    Err(ConfigError::Invalid {
        option: "space-amplification-max",
        value: space_amplification_max.to_string(),
        reason: "must be 1.1 to 100; below 1.6 gc writes each byte more than twice again".to_owned(),
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
