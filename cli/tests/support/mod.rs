//! A small store in this process that speaks the client API, and a way to run kvctl against it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::ops::Bound;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use nezha_api::errors;
use nezha_api::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use nezha_api::v1::kv_service_server::{KvService, KvServiceServer};
use nezha_api::v1::maintenance_service_server::{MaintenanceService, MaintenanceServiceServer};
use nezha_api::v1::*;
use nezha_api::{MESSAGE_BYTES_MAX, v1};
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What a fake node answers.
#[derive(Default)]
pub struct State {
    pub rows: BTreeMap<Vec<u8>, (Vec<u8>, KeyMetadata)>,
    pub revision: u64,
    /// Member that this node is, 1.. .
    pub id: u64,
    pub members: Vec<Member>,
    /// Fails every call of the KV service.
    pub failure: Option<Status>,
    /// Never answers calls of the KV service.
    pub hang: bool,
    pub status: StatusResponse,
}

impl State {
    fn header(&self) -> Option<ResponseHeader> {
        let leader = self.members.iter().find(|member| member.leader);
        Some(ResponseHeader {
            cluster_id: 0xabc,
            node_id: self.id,
            term: 3,
            revision: self.revision,
            leader_id: leader.map_or(0, |leader| leader.id),
            leader_endpoint: leader.map_or_else(String::new, |leader| leader.client_endpoint.clone()),
        })
    }

    fn mod_revision(&self, key: &[u8]) -> u64 {
        self.rows
            .get(key)
            .map_or(0, |(_, metadata)| metadata.mod_revision)
    }

    fn holds(&self, key: &[u8], precondition: Option<Precondition>) -> bool {
        let found = self.mod_revision(key);
        match precondition.and_then(|precondition| precondition.condition) {
            None => true,
            Some(precondition::Condition::Absent(_)) => found == 0,
            Some(precondition::Condition::ModRevision(wanted)) => found == wanted,
        }
    }

    /// Stores a row directly.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.revision += 1;
        let old = self.rows.get(key).map(|(_, metadata)| *metadata);
        let metadata = KeyMetadata {
            create_revision: old.map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: old.map_or(1, |old| old.version + 1),
        };
        self.rows.insert(key.to_vec(), (value.to_vec(), metadata));
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    async fn enter(&self) -> Result<(), Status> {
        let (failure, hang) = {
            let state = self.0.lock().unwrap();
            (state.failure.clone(), state.hang)
        };
        if hang {
            std::future::pending::<()>().await;
        }
        failure.map_or(Ok(()), Err)
    }
}

#[tonic::async_trait]
impl KvService for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if request.key.is_empty() {
            return Err(errors::key_empty());
        }
        let succeeded = state.holds(&request.key, request.precondition);
        if succeeded {
            state.insert(&request.key, &request.value);
        }
        let mod_revision = state.mod_revision(&request.key);
        Ok(Response::new(PutResponse {
            header: state.header(),
            succeeded,
            mod_revision,
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let succeeded = state.holds(&request.key, request.precondition);
        let deleted = succeeded && state.rows.remove(&request.key[..]).is_some();
        state.revision += 1;
        let mod_revision = state.mod_revision(&request.key);
        Ok(Response::new(DeleteResponse {
            header: state.header(),
            succeeded,
            deleted,
            mod_revision,
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let row = state.rows.get(&request.key[..]);
        Ok(Response::new(GetResponse {
            header: state.header(),
            found: row.is_some(),
            value: row.map(|row| row.0.clone().into()).unwrap_or_default(),
            metadata: row.map(|row| row.1),
        }))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<ScanResponse, Status>> + Send>>;

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let end = match request.end.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(request.end.to_vec()),
        };
        let mut rows: Vec<Row> = state
            .rows
            .range((Bound::Included(request.start.to_vec()), end))
            .filter(|(key, _)| key.starts_with(&request.prefix))
            .map(|(key, (value, metadata))| Row {
                key: key.clone().into(),
                value: if request.keys_only {
                    Default::default()
                } else {
                    value.clone().into()
                },
                metadata: Some(*metadata),
            })
            .collect();
        if request.reverse {
            rows.reverse();
        }
        let limit = if request.limit_rows == 0 {
            rows.len()
        } else {
            request.limit_rows as usize
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        let mut chunks: Vec<Result<ScanResponse, Status>> = rows
            .chunks(2)
            .map(|rows| {
                let resume_key = rows[rows.len() - 1].key.clone();
                let rows = rows.to_vec();
                Ok(ScanResponse {
                    header: state.header(),
                    rows,
                    resume_key,
                    ..Default::default()
                })
            })
            .collect();
        chunks.push(Ok(ScanResponse {
            header: state.header(),
            done: true,
            more,
            ..Default::default()
        }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

#[tonic::async_trait]
impl ClusterService for Service {
    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let state = self.0.lock().unwrap();
        Ok(Response::new(MemberListResponse {
            header: state.header(),
            members: state.members.clone(),
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if state.members.iter().any(|member| member.name == request.name) {
            return Err(errors::member_exists(&request.name, "choose another name"));
        }
        let member = Member {
            id: state.members.len() as u64 + 1,
            name: request.name,
            peer_endpoint: request.peer_endpoint,
            client_endpoint: request.client_endpoint,
            // Has caught up at once.
            matched_index: state.status.last_log_index,
            ..Member::default()
        };
        state.members.push(member.clone());
        Ok(Response::new(MemberAddResponse {
            header: state.header(),
            member: Some(member),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        let mut state = self.0.lock().unwrap();
        let member = state.members.iter_mut().find(|member| member.id == id).unwrap();
        if member.voter {
            return Err(errors::member_state(&member.name, "is a voter already", Some(0)));
        }
        member.voter = true;
        Ok(Response::new(MemberPromoteResponse {
            header: state.header(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        let mut state = self.0.lock().unwrap();
        state.members.retain(|member| member.id != id);
        Ok(Response::new(MemberRemoveResponse {
            header: state.header(),
        }))
    }

    async fn leader_transfer(
        &self,
        request: Request<LeaderTransferRequest>,
    ) -> Result<Response<LeaderTransferResponse>, Status> {
        let state = self.0.lock().unwrap();
        let leader_id = if request.get_ref().id == 0 {
            2
        } else {
            request.get_ref().id
        };
        Ok(Response::new(LeaderTransferResponse {
            header: state.header(),
            leader_id,
        }))
    }
}

#[tonic::async_trait]
impl MaintenanceService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let state = self.0.lock().unwrap();
        Ok(Response::new(StatusResponse {
            header: state.header(),
            ..state.status.clone()
        }))
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Result<Response<PurgeResponse>, Status> {
        let state = self.0.lock().unwrap();
        let asked = request.get_ref().log_index;
        let purged_index = if asked == 0 {
            state.status.flushed_index
        } else {
            asked
        };
        Ok(Response::new(PurgeResponse {
            header: state.header(),
            purged_index,
        }))
    }
}

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
            runtime.shutdown_background();
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

/// Returns an address on which nobody listens.
pub fn closed_endpoint() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// Returns a member, for lists.
pub fn member(id: u64, endpoint: &str) -> v1::Member {
    v1::Member {
        id,
        name: format!("n{id}"),
        client_endpoint: endpoint.into(),
        voter: true,
        ..Default::default()
    }
}
