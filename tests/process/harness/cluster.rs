//! A cluster of real `kvd` processes, each with its own directory and addresses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nezha_api::v1::{Role, StatusResponse};
use nezha_jepsen::cluster::Network;
use rustix::process::Signal;
use tempfile::TempDir;

use super::addresses::{loopback_host, next_cluster};
use super::client::Conn;
use super::process::{Process, kvd, run, tail};
use super::{block_on, eventually};

/// How long a cluster may take to serve. Only bounds a failing test.
pub const SERVING_PATIENCE: Duration = Duration::from_secs(60);

/// How long one process may take to stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Election time-out of a steady cluster: a disk that stalls for a second or two does not cost it the leader.
const STEADY_ELECTION_TIMEOUT: &str = "5s";

/// A member of a steady cluster that hears nothing for so long has stood for election: its time-out, a third, and some.
pub const STEADY_CAMPAIGN: Duration = Duration::from_secs(8);

/// One member: what it is called, where it lives, and its process while it runs.
pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    pub client: String,
    pub peer: String,
    pub log: PathBuf,
    /// Arguments that say how it got into the cluster.
    pub origin: Vec<String>,
    /// Added to the command line.
    pub extra: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Put in front of the command, such as `ip netns exec NAME`.
    pub wrap: Vec<String>,
    /// The binary; the product unless a test plants a bug.
    pub program: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// The whole command line.
    pub fn command(&self) -> Vec<String> {
        let mut line = self.wrap.clone();
        line.push(self.program.display().to_string());
        let own = [
            ("--name", self.name.clone()),
            ("--data-dir", self.dir.display().to_string()),
            ("--listen-client", self.client.clone()),
            ("--listen-peer", self.peer.clone()),
        ];
        for (flag, value) in own {
            line.extend([flag.to_string(), value]);
        }
        line.extend(self.origin.iter().cloned());
        line.extend(self.extra.iter().cloned());
        line
    }

    /// Starts the process; does not wait for anything.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let line = self.command();
        self.process = Some(Process::start(
            Path::new(&line[0]),
            &line[1..],
            &self.env,
            &self.log,
        ));
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .unwrap_or_else(|| panic!("{} is not started", self.name))
    }

    /// Whether it was started and not stopped by the test.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// SIGTERM; it must end with code 0.
    pub fn stop(&mut self) {
        self.process().signal(Signal::TERM);
        let code = self.process().exit_code(STOP_PATIENCE);
        assert_eq!(
            code,
            0,
            "{} stops cleanly on SIGTERM:\n{}",
            self.name,
            tail(&self.log, 30)
        );
        self.process = None;
    }

    /// Waits until the process ends by itself; answers its exit code and its log.
    pub fn ends(&mut self) -> (i32, String) {
        let code = self.process().exit_code(STOP_PATIENCE);
        let log = self.process().log();
        self.process = None;
        (code, log)
    }

    /// A new connection to the client port.
    pub fn conn(&self) -> Conn {
        Conn::to(&self.client)
    }

    /// Runs `kvd check` on the stopped node's directory: exit code and output.
    pub fn check(&self) -> (i32, String) {
        check(&self.dir)
    }
}

/// Runs `kvd check` on a directory: exit code and output.
pub fn check(dir: &Path) -> (i32, String) {
    let dir = dir.display().to_string();
    let (code, out, err) = run(&kvd(), &["check", &dir], Duration::from_secs(120));
    (code, format!("{out}{err}"))
}

/// Lines that a node may log in one test.
const LOG_LINES_MAX: usize = 5_000;

/// Members on one machine. All processes are killed when it is dropped; on a panic their logs are shown first.
pub struct Cluster {
    pub nodes: Vec<Node>,
    number: u32,
    root: TempDir,
}

impl Cluster {
    /// Describes `count` first members n1, n2, ... on loopback addresses of their own; starts nothing.
    pub fn new(count: usize) -> Cluster {
        let number = next_cluster();
        let hosts: Vec<String> = (0..count).map(|i| loopback_host(number, i)).collect();
        Cluster::on_hosts(number, &hosts)
    }

    /// Describes first members n1, n2, ... in the namespaces of `network`; the test must be in the network too.
    pub fn on_network(network: &Network) -> Cluster {
        let mut cluster = Cluster::on_hosts(next_cluster(), &network.hosts());
        for (i, node) in cluster.nodes.iter_mut().enumerate() {
            let namespace = network.namespace(i);
            node.wrap = ["ip", "netns", "exec", &namespace].map(String::from).into();
        }
        cluster
    }

    /// Describes first members on the given hosts.
    fn on_hosts(number: u32, hosts: &[String]) -> Cluster {
        let root = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for the cluster");
        let list: Vec<String> = hosts
            .iter()
            .enumerate()
            .map(|(i, host)| format!("n{}={host}:7380/{host}:7379", i + 1))
            .collect();
        let origin = vec!["--initial-cluster".to_string(), list.join(",")];
        let nodes = hosts
            .iter()
            .enumerate()
            .map(|(i, host)| describe(root.path(), i, host, origin.clone()))
            .collect();
        Cluster { nodes, number, root }
    }

    /// The same members with an election time-out that only the death of a leader outlasts: for tests of one leader.
    pub fn steady(mut self) -> Cluster {
        for node in &mut self.nodes {
            let option = ["--election-timeout", STEADY_ELECTION_TIMEOUT];
            node.extra.extend(option.map(String::from));
        }
        self
    }

    /// Starts `count` members and waits until all serve.
    pub fn serving(count: usize) -> Cluster {
        Cluster::new(count).start_and_serve()
    }

    /// Starts `count` members as [`Cluster::steady`] ones and waits until all serve.
    pub fn serving_steadily(count: usize) -> Cluster {
        Cluster::new(count).steady().start_and_serve()
    }

    fn start_and_serve(mut self) -> Cluster {
        self.start_all();
        block_on(self.wait_serving());
        self
    }

    /// A directory that goes with the cluster.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Describes one more node, `n<count+1>`, that joins through the first three members' client ports and has the
    /// options of the first.
    pub fn describe_joiner(&mut self) -> usize {
        let at = self.nodes.len();
        let host = loopback_host(self.number, at);
        let through: Vec<String> = self.nodes.iter().take(3).map(|n| n.client.clone()).collect();
        let origin = vec!["--join".to_string(), through.join(",")];
        let mut joiner = describe(self.root.path(), at, &host, origin);
        joiner.extra = self.nodes[0].extra.clone();
        self.nodes.push(joiner);
        at
    }

    /// Starts every node that is not running.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| !n.is_started()) {
            node.start();
        }
    }

    /// kill -9 of all at once.
    pub fn kill_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.is_started()) {
            node.process().signal(Signal::KILL);
        }
        for node in self.nodes.iter_mut().filter(|n| n.is_started()) {
            node.kill();
        }
    }

    /// SIGTERM to all started, one after another.
    pub fn stop_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.is_started()) {
            node.stop();
        }
    }

    /// Connections to all nodes, started or not.
    pub fn conns(&self) -> Vec<Conn> {
        self.nodes.iter().map(Node::conn).collect()
    }

    /// The started nodes, by position.
    pub fn started(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].is_started())
            .collect()
    }

    /// Waits until every started node answers a linearizable read.
    pub async fn wait_serving(&mut self) {
        for i in self.started() {
            self.wait_node_serving(i).await;
        }
    }

    /// Waits until one node answers a linearizable read. Panics at once when its process has ended.
    pub async fn wait_node_serving(&mut self, i: usize) {
        let conn = self.nodes[i].conn().patience(Duration::from_secs(2));
        let started = std::time::Instant::now();
        loop {
            let answer = conn.get("harness/serving").await;
            let node = &mut self.nodes[i];
            let Err(status) = answer else { return };
            if let Some(exit) = node.process().exited() {
                panic!(
                    "{} has ended ({exit}) instead of serving:\n{}",
                    node.name,
                    tail(&node.log, 40)
                );
            }
            assert!(
                started.elapsed() < SERVING_PATIENCE,
                "{} does not serve within {SERVING_PATIENCE:?}: {status:?}\n{}",
                node.name,
                tail(&node.log, 40)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Position of the node that leads, as it says itself and with the highest term.
    pub async fn leader(&self) -> usize {
        eventually("one node to say that it leads", SERVING_PATIENCE, || async {
            let mut best: Option<(u64, usize)> = None;
            for i in self.started() {
                let answer = self.nodes[i]
                    .conn()
                    .patience(Duration::from_secs(1))
                    .status()
                    .await;
                if let Ok(status) = answer
                    && status.role() == Role::Leader
                {
                    let term = status.header.as_ref().map_or(0, |h| h.term);
                    best = best.max(Some((term, i)));
                }
            }
            best.map(|(_, i)| i).ok_or_else(|| "none does".to_string())
        })
        .await
    }

    /// Has `asked` hand leadership to `to`; repeated, because a voter that lacks an entry does not take it.
    pub async fn transfer_leader(&self, asked: usize, to: usize) {
        let (conn, name) = (self.nodes[asked].conn(), &self.nodes[to].name);
        let leader_id = eventually("leadership to move", SERVING_PATIENCE, || async {
            conn.transfer_leader(name).await.map_err(|s| s.to_string())
        })
        .await;
        let header = self
            .status(to)
            .await
            .header
            .expect("every answer carries a header");
        assert_eq!(leader_id, header.node_id, "the answer names the new leader");
    }

    /// Status of one node, asked until it answers.
    pub async fn status(&self, i: usize) -> StatusResponse {
        let conn = self.nodes[i].conn().patience(Duration::from_secs(2));
        eventually("a status", SERVING_PATIENCE, || async {
            conn.status().await.map_err(|s| s.to_string())
        })
        .await
    }

    /// Waits until every started node is ready and has applied all that any of them had committed; the cluster must be
    /// idle.
    pub async fn wait_caught_up(&self) {
        let started = self.started();
        let leader = self.leader().await;
        // A linearizable read makes the leader commit an entry of its own term first.
        eventually("a linearizable read", SERVING_PATIENCE, || async {
            self.nodes[leader]
                .conn()
                .get("harness/caught-up")
                .await
                .map_err(|s| s.to_string())
        })
        .await;
        let goal = self.status(leader).await.committed_index;
        for i in started {
            eventually("a node to catch up", SERVING_PATIENCE * 2, || async {
                let status = self.status(i).await;
                // One that has just started answers no stale read before it is ready.
                if status.ready && status.applied_index >= goal {
                    Ok(())
                } else {
                    let (name, applied) = (&self.nodes[i].name, status.applied_index);
                    Err(format!("{name}: {applied} of {goal}, ready: {}", status.ready))
                }
            })
            .await;
        }
    }

    /// Kills everything and runs `kvd check` on every directory; all must pass.
    pub fn kill_and_check(&mut self) {
        self.kill_all();
        for node in &self.nodes {
            let (code, output) = node.check();
            assert_eq!(code, 0, "kvd check of {} passes:\n{output}", node.name);
            // Whoever logs that much does something in a loop; once, it was calling a member that was down.
            let lines = std::fs::read_to_string(&node.log)
                .unwrap_or_default()
                .lines()
                .count();
            assert!(lines < LOG_LINES_MAX, "{} has logged {lines} lines", node.name);
        }
    }
}

fn describe(root: &Path, at: usize, host: &str, origin: Vec<String>) -> Node {
    let name = format!("n{}", at + 1);
    Node {
        dir: root.join(&name),
        log: root.join(format!("{name}.out")),
        client: format!("{host}:7379"),
        peer: format!("{host}:7380"),
        name,
        origin,
        extra: Vec::new(),
        env: Vec::new(),
        wrap: Vec::new(),
        program: kvd(),
        process: None,
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                println!(
                    "--- {} (last lines of its log)\n{}",
                    node.name,
                    tail(&node.log, 25)
                );
            }
        }
        self.kill_all();
    }
}
