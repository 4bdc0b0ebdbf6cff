//! A cluster of the client API in this process: one shared map, real sockets, faults on demand.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use nezha_api::v1::{
    DeleteRequest, DeleteResponse, GcPauseRequest, GcPauseResponse, GcResumeRequest, GcResumeResponse,
    GcRunRequest, GcRunResponse, GcStatusRequest, GcStatusResponse, GetRequest, GetResponse, HashRequest,
    HashResponse, PurgeRequest, PurgeResponse, PutRequest, PutResponse, ResponseHeader, Row, ScanRequest,
    ScanResponse, StatusRequest, StatusResponse,
    kv_service_server::{KvService, KvServiceServer},
    maintenance_service_server::{MaintenanceService, MaintenanceServiceServer},
};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt};

/// What the next puts meet, each fault once per unit.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Puts that are applied, then answered OUTCOME_UNKNOWN.
    pub(crate) unknown: AtomicU64,
    /// Puts that are never answered.
    pub(crate) silent: AtomicU64,
}

fn take(fault: &AtomicU64) -> bool {
    fault
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

/// The cluster; its members serve until the test ends.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) rows: Mutex<BTreeMap<Bytes, Bytes>>,
    pub(crate) faults: Faults,
    /// Calls that each member answered as leader, by position.
    pub(crate) served: Vec<AtomicU64>,
    leader: usize,
    addresses: Vec<SocketAddr>,
}

impl Fake {
    /// Starts `members` members of which number `leader` leads.
    pub(crate) async fn start(members: usize, leader: usize) -> Arc<Fake> {
        let mut listeners = Vec::new();
        for _ in 0..members {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let fake = Arc::new(Fake {
            rows: Mutex::default(),
            faults: Faults::default(),
            served: (0..members).map(|_| AtomicU64::new(0)).collect(),
            leader,
            addresses: listeners.iter().map(|l| l.local_addr().unwrap()).collect(),
        });
        for (position, listener) in listeners.into_iter().enumerate() {
            let member = Member {
                fake: fake.clone(),
                position,
            };
            let kv = KvServiceServer::new(member.clone()).max_decoding_message_size(80 << 20);
            let server = Server::builder()
                .add_service(kv)
                .add_service(MaintenanceServiceServer::new(member));
            // Else each answer waits for the acknowledgement of the one before it, 40 ms.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        fake
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.addresses.iter().map(SocketAddr::to_string).collect()
    }

    fn header(&self, position: usize) -> ResponseHeader {
        ResponseHeader {
            cluster_id: 7,
            node_id: position as u64 + 1,
            term: 3,
            revision: 1,
            leader_id: self.leader as u64 + 1,
            leader_endpoint: self.addresses[self.leader].to_string(),
        }
    }
}

#[derive(Debug, Clone)]
struct Member {
    fake: Arc<Fake>,
    position: usize,
}

fn refusal(reason: &str, proposed: bool, leader: String) -> Status {
    let metadata = [
        ("proposed".to_owned(), proposed.to_string()),
        ("leader_endpoint".to_owned(), leader),
    ];
    let details = ErrorDetails::with_error_info(reason, "nezha", metadata);
    Status::with_error_details(Code::Unavailable, reason, details)
}

impl Member {
    fn must_lead(&self) -> Result<Option<ResponseHeader>, Status> {
        if self.position != self.fake.leader {
            let leader = self.fake.addresses[self.fake.leader].to_string();
            return Err(refusal("NOT_LEADER", false, leader));
        }
        self.fake.served[self.position].fetch_add(1, Ordering::SeqCst);
        Ok(Some(self.fake.header(self.position)))
    }
}

#[tonic::async_trait]
impl KvService for Member {
    type ScanStream = tokio_stream::Iter<std::vec::IntoIter<Result<ScanResponse, Status>>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let header = self.must_lead()?;
        let put = request.into_inner();
        if take(&self.fake.faults.silent) {
            std::future::pending::<()>().await;
        }
        self.fake.rows.lock().unwrap().insert(put.key, put.value);
        if take(&self.fake.faults.unknown) {
            return Err(refusal("OUTCOME_UNKNOWN", true, String::new()));
        }
        Ok(Response::new(PutResponse {
            header,
            succeeded: true,
            mod_revision: 1,
        }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let header = self.must_lead()?;
        let value = self
            .fake
            .rows
            .lock()
            .unwrap()
            .get(&request.into_inner().key)
            .cloned();
        Ok(Response::new(GetResponse {
            header,
            found: value.is_some(),
            value: value.unwrap_or_default(),
            metadata: None,
        }))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let header = self.must_lead()?;
        let scan = request.into_inner();
        let rows: Vec<Row> = self
            .fake
            .rows
            .lock()
            .unwrap()
            .range(scan.start..scan.end)
            .take(scan.limit_rows as usize)
            .map(|(key, value)| Row {
                key: key.clone(),
                value: value.clone(),
                metadata: None,
            })
            .collect();
        // Several chunks, the last of them empty.
        let chunk = |rows: &[Row], done| {
            Ok(ScanResponse {
                header: header.clone(),
                rows: rows.to_vec(),
                done,
                ..ScanResponse::default()
            })
        };
        let mut chunks: Vec<_> = rows.chunks(3).map(|rows| chunk(rows, false)).collect();
        chunks.push(chunk(&[], true));
        Ok(Response::new(tokio_stream::iter(chunks)))
    }
}

#[tonic::async_trait]
impl MaintenanceService for Member {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            header: Some(self.fake.header(self.position)),
            ready: true,
            ..StatusResponse::default()
        }))
    }

    async fn purge(&self, _: Request<PurgeRequest>) -> Result<Response<PurgeResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn gc_status(&self, _: Request<GcStatusRequest>) -> Result<Response<GcStatusResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn gc_run(&self, _: Request<GcRunRequest>) -> Result<Response<GcRunResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn gc_pause(&self, _: Request<GcPauseRequest>) -> Result<Response<GcPauseResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn gc_resume(&self, _: Request<GcResumeRequest>) -> Result<Response<GcResumeResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
