//! Goal: what an option ends up as, from which layer, and what is refused. Method: layers as text, results compared.

use std::ffi::OsString;

use super::*;

fn flags(args: &[&str]) -> Options {
    Options::from_args("flags", args.iter().map(OsString::from).collect()).unwrap()
}

fn no_env(_: &str) -> Option<OsString> {
    None
}

fn base() -> Vec<&'static str> {
    vec!["--name=n1", "--data-dir=d"]
}

fn resolve(args: &[&str]) -> Result<Config, ConfigError> {
    let mut all = base();
    all.extend_from_slice(args);
    flags(&all).resolve(no_env)
}

#[test]
fn flags_win_over_environment_and_environment_over_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kvd.toml");
    std::fs::write(
        &file,
        "name = \"from-file\"\ncluster-token = \"from-file\"\nlog-level = \"from-file\"\nvalue-bytes-max = 4096\n",
    )
    .unwrap();
    let env = |name: &str| match name {
        "KVD_CONFIG" => Some(file.clone().into_os_string()),
        "KVD_NAME" | "KVD_CLUSTER_TOKEN" => Some(OsString::from("from-env")),
        _ => None,
    };
    let config = flags(&["--name=from-flag", "--data-dir=d"]).resolve(env).unwrap();
    assert_eq!(config.name, "from-flag");
    assert_eq!(config.cluster_token, "from-env");
    assert_eq!(config.log_level, "from-file");
    assert_eq!(config.value_bytes_max, 4096);
    assert_eq!(config.listen_client, "127.0.0.1:7379");
}

#[test]
fn a_join_flag_hides_an_initial_cluster_of_a_lower_layer() {
    let env = |name: &str| (name == "KVD_INITIAL_CLUSTER").then(|| OsString::from("n1=h:1"));
    let config = flags(&["--name=n1", "--data-dir=d", "--join=h:7379"])
        .resolve(env)
        .unwrap();
    assert_eq!(config.origin, Origin::Join(vec!["h:7379".to_owned()]));
}

#[test]
fn unknown_keys_of_the_file_are_refused_by_name() {
    let error = Options::from_toml("kvd.toml", "nmae = \"n1\"")
        .unwrap_err()
        .to_string();
    assert!(error.contains("kvd.toml: unknown key 'nmae'"), "{error}");
    assert!(error.contains("data-dir"), "lists the known keys: {error}");
    let error = Options::from_toml("kvd.toml", "config = \"other\"")
        .unwrap_err()
        .to_string();
    assert!(error.contains("unknown key 'config'"), "{error}");
}

#[test]
fn malformed_values_name_their_origin_and_option() {
    let error = Options::from_toml("kvd.toml", "value-bytes-max = \"16 apples\"")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("kvd.toml: ") && error.contains("value-bytes-max"),
        "{error}"
    );
    let env = |name: &str| (name == "KVD_SCANS_MAX").then(|| OsString::from("many"));
    let error = flags(&base()).resolve(env).unwrap_err().to_string();
    assert!(
        error.starts_with("environment: ") && error.contains("scans-max"),
        "{error}"
    );
    let error = Options::from_toml("kvd.toml", "name = {}")
        .unwrap_err()
        .to_string();
    assert!(error.contains("key 'name'"), "{error}");
    assert!(Options::from_toml("kvd.toml", "name").is_err());
}

#[test]
fn a_list_in_the_file_is_a_list_on_the_command_line() {
    let options = Options::from_toml("f", "join = [\"a:1\", \"b:2\"]").unwrap();
    assert_eq!(options.join.as_deref(), Some("a:1,b:2"));
}

#[test]
fn initial_cluster_is_sorted_by_name_and_checked() {
    let config = resolve(&["--initial-cluster=n2=b:2,n1=a:1/c:3"]).unwrap();
    let Origin::InitialCluster(members) = config.origin else {
        panic!("{:?}", config.origin)
    };
    assert_eq!(members[0].name, "n1");
    assert_eq!(members[0].client_addr.as_deref(), Some("c:3"));
    assert_eq!(members[1].peer_addr, "b:2");
    for (list, expected) in [
        ("n2=b:2", "this node, 'n1', is not in it"),
        ("n1=a:1,n1=b:2", "there twice"),
        ("n1=a:1,n2=a:1", "there twice"),
        ("n1", "expected NAME=PEER"),
        ("n1=a", "expected HOST:PORT"),
        ("n1=a:0", "port 0"),
        ("n1=a:99999", "not a port"),
        ("7=a:1", "look like an id"),
    ] {
        let error = resolve(&[&format!("--initial-cluster={list}")])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{list}: {error}");
    }
}

#[test]
fn values_out_of_range_name_the_range() {
    for (arg, expected) in [
        ("--value-bytes-max=65MiB", "must be 1024 to 67108864"),
        ("--proposal-bytes-max=1MiB", "must be 69206016"),
        ("--listen-client=nowhere", "expected HOST:PORT"),
        ("--listen-client=0.0.0.0:7379", "--advertise-client"),
        ("--listen-peer=127.0.0.1:7379", "a port each"),
        ("--election-timeout=100ms", "four heartbeats"),
        ("--scans-max=0", "must be 1 to"),
    ] {
        let error = resolve(&[arg]).unwrap_err().to_string();
        assert!(error.contains(expected), "{arg}: {error}");
    }
    assert_eq!(
        resolve(&["--value-bytes-max=64MiB"]).unwrap().proposal_bytes_max,
        258 * MIB
    );
}

#[test]
fn a_scan_lives_for_ten_minutes_unless_told() {
    assert_eq!(resolve(&[]).unwrap().scan_lifetime, Duration::from_secs(600));
    let told = resolve(&["--scan-lifetime=3s"]).unwrap();
    assert_eq!(told.scan_lifetime, Duration::from_secs(3));
}

#[test]
fn what_is_required_is_asked_for_with_an_example() {
    let error = flags(&["--data-dir=d"]).resolve(no_env).unwrap_err().to_string();
    assert!(
        error.contains("--name is missing") && error.contains("example: kvd --name"),
        "{error}"
    );
}

#[test]
fn units() {
    assert_eq!(parse_bytes("16MiB"), Ok(16 * MIB));
    assert_eq!(parse_bytes("4096"), Ok(4096));
    assert!(
        parse_bytes("MiB").is_err() && parse_bytes("1TB").is_err() && parse_bytes("99999999999G").is_err()
    );
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
    assert!(parse_duration("5").is_err());
}
