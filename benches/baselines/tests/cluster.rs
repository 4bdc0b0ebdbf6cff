//! Three real processes of a baseline serve, survive a kill, and say what they are.
//!
//! Method: the binary `baseline` and `kvctl bench`, which verifies what it reads, as `benches/clusters.py` uses them. One system
//! with syncs and one without; the stores themselves are tested in the library.
#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach helpers; a failed unwrap is a failed test"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const NODES: usize = 3;
const KEYS: &str = "200";

struct Cluster {
    dir: TempDir,
    /// Addresses of its own: tests run beside each other.
    hosts: Vec<String>,
    choice: Vec<String>,
    nodes: Vec<Child>,
}

impl Cluster {
    fn start(number: u32, choice: &str) -> Cluster {
        let process = std::process::id();
        let host = |node| format!("127.{}.{}.{}", 220 + number, process % 251, node + 1);
        let mut cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            hosts: (0..NODES).map(host).collect(),
            choice: choice.split(' ').map(str::to_owned).collect(),
            nodes: Vec::new(),
        };
        cluster.nodes = (0..NODES).map(|node| cluster.spawn(node)).collect();
        cluster
    }

    fn spawn(&self, node: usize) -> Child {
        let members: Vec<String> = self
            .hosts
            .iter()
            .zip(1..)
            .map(|(host, n)| format!("n{n}={host}:7380/{host}:7379"))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(node))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_baseline"))
            .args(&self.choice)
            .arg(format!("--name=n{}", node + 1))
            .arg(format!(
                "--data-dir={}",
                self.dir.path().join(format!("n{}", node + 1)).display()
            ))
            .arg(format!("--listen-client={}:7379", self.hosts[node]))
            .arg(format!("--listen-peer={}:7380", self.hosts[node]))
            .arg(format!("--initial-cluster={}", members.join(",")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("n{}.log", node + 1))
    }

    /// kill -9, and starts it again.
    fn kill_and_start(&mut self, node: usize) {
        self.nodes[node].kill().unwrap();
        self.nodes[node].wait().unwrap();
        self.nodes[node] = self.spawn(node);
    }

    /// Runs `kvctl bench` and answers its JSON line.
    fn bench(&self, arguments: &str) -> Value {
        let endpoints: Vec<String> = self.hosts.iter().map(|host| format!("{host}:7379")).collect();
        let done = Command::new(kvctl())
            .arg("bench")
            .args(arguments.split(' '))
            .env("KVCTL_ENDPOINTS", endpoints.join(","))
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert!(
            done.status.success(),
            "{arguments}: {err}{out}\n{}",
            std::fs::read_to_string(self.log(0)).unwrap()
        );
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    }

    fn wait_ready(&self) -> Value {
        self.bench("status --wait 60")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself; then the test says why it fails.
            drop(node.kill());
            drop(node.wait());
        }
    }
}

/// The command that `cargo build --workspace` puts beside the binary under test.
fn kvctl() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_baseline")).with_file_name("kvctl");
    assert!(
        path.exists(),
        "{} is missing: build the workspace",
        path.display()
    );
    path
}

fn serves_and_survives(number: u32, choice: &str, version: &str) {
    let mut cluster = Cluster::start(number, choice);
    let status = cluster.wait_ready();
    let members = status["members"].as_object().unwrap();
    assert_eq!(members.len(), NODES);
    for member in members.values() {
        let found = member["version"].as_str().unwrap();
        assert!(found.ends_with(version), "{found}");
    }
    let load = format!("--key-prefix k/ --keys {KEYS} --size 16KiB --clients 16 --warmup 0 --json");
    let put = cluster.bench(&format!("put --unique --seconds 30 {load}"));
    assert_eq!(put["ops"].as_u64(), Some(KEYS.parse().unwrap()), "{put}");
    // Each of them once, the leader among them, whatever became of it.
    for node in 0..NODES {
        cluster.kill_and_start(node);
        cluster.wait_ready();
    }
    let get = cluster.bench(&format!("get --no-load --target all --seconds 0.5 {load}"));
    assert_eq!(get["errors"], serde_json::json!({}), "{get}");
    assert!(get["ops"].as_u64().unwrap() > 0, "{get}");
}

#[test]
fn a_classic_store_serves_and_survives_kills() {
    serves_and_survives(
        0,
        "--system original --settings tuned",
        " baseline original tuned",
    );
}

#[test]
fn a_store_without_syncs_says_so_and_survives_kills() {
    serves_and_survives(
        1,
        "--system pasv --settings paper --no-fsync",
        " baseline pasv paper NO FSYNC",
    );
}

#[test]
fn a_contradiction_is_refused_by_name() {
    let refused = Command::new(env!("CARGO_BIN_EXE_baseline"))
        .args(["--system", "original-synced", "--settings", "tuned", "--no-fsync"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("--system original-synced"), "{error}");
}
