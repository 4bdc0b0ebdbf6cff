//! A small store in this process that speaks the client API, and a way to run kvctl against it.

mod service;

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::v1::cluster_service_server::ClusterServiceServer;
use nezha_api::v1::kv_service_server::KvServiceServer;
use nezha_api::v1::maintenance_service_server::MaintenanceServiceServer;
use nezha_api::v1::{Member, Role, StatusResponse};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

use service::{Service, State};

/// A running fake node, with a runtime of its own.
pub struct Fake {
    pub endpoint: String,
    pub state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl Fake {
    /// Starts `count` nodes of one cluster; n1 leads.
    pub fn cluster(count: u64) -> Vec<Fake> {
        let listeners: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let members: Vec<Member> = listeners
            .iter()
            .zip(1..)
            .map(|(listener, id)| Member {
                id,
                name: format!("n{id}"),
                peer_endpoint: format!("10.0.0.{id}:7380"),
                client_endpoint: listener.local_addr().unwrap().to_string(),
                voter: true,
                leader: id == 1,
                matched_index: 100,
            })
            .collect();
        listeners
            .into_iter()
            .zip(1..)
            .map(|(listener, id)| {
                let status = StatusResponse {
                    name: format!("n{id}"),
                    version: "0.1.0".into(),
                    role: if id == 1 { Role::Leader } else { Role::Follower }.into(),
                    ready: true,
                    last_log_index: 100,
                    committed_index: 100,
                    applied_index: 101 - id,
                    flushed_index: 90,
                    keys: 12,
                    live_bytes: 3 << 20,
                    disk_bytes: 5 << 20,
                    disk_free_bytes: 7 << 30,
                    uptime_ms: 3_600_000,
                    ..StatusResponse::default()
                };
                let state = State {
                    id,
                    members: members.clone(),
                    status,
                    ..State::default()
                };
                Fake::start(listener, state)
            })
            .collect()
    }

    /// Starts one node.
    pub fn one() -> Fake {
        Fake::cluster(1).remove(0)
    }

    fn start(listener: TcpListener, state: State) -> Fake {
        let endpoint = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(state));
        let service = Service(state.clone());
        let kv = KvServiceServer::new(service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(kv)
                .add_service(ClusterServiceServer::new(service.clone()))
                .add_service(MaintenanceServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Fake {
            endpoint,
            state,
            runtime: Some(runtime),
        }
    }

    pub fn insert(&self, rows: &[(&str, &str)]) {
        let mut state = self.state.lock().unwrap();
        for (key, value) in rows {
            state.insert(key.as_bytes(), value.as_bytes());
        }
    }

    pub fn fail_with(&self, status: Status) {
        self.state.lock().unwrap().failure = Some(status);
    }

    /// Runs kvctl against this node.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, b"")
    }

    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        kvctl(&[&["--endpoints", &self.endpoint], args].concat(), &[], input)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits until the port is closed: what connects from now on is refused.
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// What kvctl printed, and its exit code.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// Asserts exit code and exact stdout, with an empty stderr where the code is 0.
    #[track_caller]
    pub fn is(&self, code: i32, stdout: &str) -> &Output {
        assert_eq!(self.text(), stdout, "{self:?}");
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(code != 0 || self.stderr.is_empty(), "{self:?}");
        self
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }

    /// Returns the lines of stdout with runs of spaces made one: column widths depend on port numbers.
    pub fn words(&self) -> Vec<String> {
        self.text()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }
}

/// Returns the command, without settings of the environment it runs in.
pub fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    command
        .args(args)
        .env_remove("KVCTL_ENDPOINTS")
        .env_remove("NO_COLOR");
    command.envs(env.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn kvctl(args: &[&str], env: &[(&str, &str)], input: &[u8]) -> Output {
    let mut child = command(args, env).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns an address on which nobody listens, of a host on which no other test's server gets its port.
pub fn closed_endpoint() -> String {
    TcpListener::bind("127.0.0.9:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// Returns a member, for lists.
pub fn member(id: u64, endpoint: &str) -> Member {
    Member {
        id,
        name: format!("n{id}"),
        client_endpoint: endpoint.into(),
        voter: true,
        ..Default::default()
    }
}
