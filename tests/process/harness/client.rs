//! Plain gRPC calls to one node: what is sent is what the test says, without the Rust client's retries.

use std::time::Duration;

use bytes::Bytes;
use nezha_api::errors::ApiError;
use nezha_api::v1::cluster_service_client::ClusterServiceClient;
use nezha_api::v1::kv_service_client::KvServiceClient;
use nezha_api::v1::maintenance_service_client::MaintenanceServiceClient;
use nezha_api::v1::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Deadline of every call; generous, it only bounds a failing test.
pub const CALL_PATIENCE: Duration = Duration::from_secs(20);

/// A lazy connection to one node.
#[derive(Clone)]
pub struct Conn {
    channel: Channel,
    patience: Duration,
}

/// What a test knows about a write after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with its revision.
    Acknowledged(u64),
    /// Certainly without effect: refused before it was proposed.
    Failed,
    /// May or may not take effect.
    Unknown,
}

impl Conn {
    /// Does not connect yet, and reconnects by itself.
    pub fn to(address: &str) -> Conn {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address makes an endpoint")
            .connect_timeout(Duration::from_secs(2))
            .connect_lazy();
        Conn {
            channel,
            patience: CALL_PATIENCE,
        }
    }

    /// The same connection with another deadline per call.
    pub fn patience(&self, patience: Duration) -> Conn {
        Conn {
            channel: self.channel.clone(),
            patience,
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.patience);
        request
    }

    /// The connection itself, for calls that no stub makes.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Key-value calls.
    pub fn kv(&self) -> KvServiceClient<Channel> {
        KvServiceClient::new(self.channel.clone())
            .max_decoding_message_size(nezha_api::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(nezha_api::MESSAGE_BYTES_MAX)
    }

    fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceServiceClient<Channel> {
        MaintenanceServiceClient::new(self.channel.clone())
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        // A little later than the deadline sent along, so that the server's own answer comes first.
        match tokio::time::timeout(self.patience + Duration::from_secs(1), call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("the test's own deadline passed")),
        }
    }

    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<PutResponse, Status> {
        self.put_if(key, value, None).await
    }

    /// Puts until it is acknowledged; for tests that are not about one attempt.
    pub async fn put_surely(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) {
        let value = value.into();
        super::eventually("an acknowledged write", CALL_PATIENCE * 3, || async {
            self.put(&key, value.clone())
                .await
                .map(|_| ())
                .map_err(|s| s.to_string())
        })
        .await;
    }

    pub async fn put_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        condition: Option<precondition::Condition>,
    ) -> Result<PutResponse, Status> {
        let request = self.request(PutRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: value.into(),
            precondition: condition.map(|condition| Precondition {
                condition: Some(condition),
            }),
        });
        self.bounded(self.kv().put(request)).await
    }

    pub async fn delete_if(
        &self,
        key: impl AsRef<[u8]>,
        condition: Option<precondition::Condition>,
    ) -> Result<DeleteResponse, Status> {
        let request = self.request(DeleteRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            precondition: condition.map(|condition| Precondition {
                condition: Some(condition),
            }),
        });
        self.bounded(self.kv().delete(request)).await
    }

    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<DeleteResponse, Status> {
        self.delete_if(key, None).await
    }

    /// Linearizable.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<GetResponse, Status> {
        self.get_with(key, Consistency::Linearizable).await
    }

    /// What this node itself has applied.
    pub async fn get_stale(&self, key: impl AsRef<[u8]>) -> Result<GetResponse, Status> {
        self.get_with(key, Consistency::Stale).await
    }

    async fn get_with(&self, key: impl AsRef<[u8]>, consistency: Consistency) -> Result<GetResponse, Status> {
        let request = self.request(GetRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            consistency: consistency as i32,
            keys_only: false,
        });
        self.bounded(self.kv().get(request)).await
    }

    /// Collects a whole scan: its rows and its last chunk.
    pub async fn scan(&self, request: ScanRequest) -> Result<(Vec<Row>, ScanResponse), Status> {
        let mut stream = self.bounded(self.kv().scan(Request::new(request))).await?;
        let mut rows = Vec::new();
        loop {
            let next = tokio::time::timeout(self.patience, stream.message())
                .await
                .map_err(|_| Status::deadline_exceeded("no chunk within the test's deadline"))??;
            let Some(mut chunk) = next else {
                return Err(Status::internal("the scan ended without a last chunk"));
            };
            rows.append(&mut chunk.rows);
            if chunk.done {
                return Ok((rows, chunk));
            }
        }
    }

    pub async fn status(&self) -> Result<StatusResponse, Status> {
        let request = self.request(StatusRequest {});
        self.bounded(self.maintenance().status(request)).await
    }

    pub async fn gc_status(&self) -> Result<GcStatusResponse, Status> {
        let request = self.request(GcStatusRequest {});
        self.bounded(self.maintenance().gc_status(request)).await
    }

    pub async fn gc_run(&self) -> Result<(), Status> {
        let request = self.request(GcRunRequest {});
        self.bounded(self.maintenance().gc_run(request)).await.map(drop)
    }

    pub async fn gc_pause(&self) -> Result<(), Status> {
        let request = self.request(GcPauseRequest {});
        self.bounded(self.maintenance().gc_pause(request)).await.map(drop)
    }

    pub async fn gc_resume(&self) -> Result<(), Status> {
        let request = self.request(GcResumeRequest {});
        self.bounded(self.maintenance().gc_resume(request))
            .await
            .map(drop)
    }

    pub async fn purge(&self, log_index: u64) -> Result<PurgeResponse, Status> {
        let request = self.request(PurgeRequest { log_index });
        self.bounded(self.maintenance().purge(request)).await
    }

    pub async fn members(&self) -> Result<MemberListResponse, Status> {
        let request = self.request(MemberListRequest::default());
        self.bounded(self.cluster().member_list(request)).await
    }

    pub async fn add_member(&self, name: &str, peer: &str, client: &str) -> Result<Member, Status> {
        let request = self.request(MemberAddRequest {
            name: name.into(),
            peer_endpoint: peer.into(),
            client_endpoint: client.into(),
        });
        let answer = self.bounded(self.cluster().member_add(request)).await?;
        Ok(answer.member.expect("an added member is described"))
    }

    pub async fn promote(&self, name: &str) -> Result<MemberPromoteResponse, Status> {
        let request = self.request(MemberPromoteRequest {
            id: 0,
            name: name.into(),
        });
        self.bounded(self.cluster().member_promote(request)).await
    }

    pub async fn remove_member(&self, name: &str) -> Result<MemberRemoveResponse, Status> {
        let request = self.request(MemberRemoveRequest {
            id: 0,
            name: name.into(),
        });
        self.bounded(self.cluster().member_remove(request)).await
    }

    pub async fn transfer_leader(&self, name: &str) -> Result<u64, Status> {
        let request = self.request(LeaderTransferRequest {
            id: 0,
            name: name.into(),
        });
        Ok(self
            .bounded(self.cluster().leader_transfer(request))
            .await?
            .leader_id)
    }
}

/// Sorts the answer to an unconditional write into what it proves.
pub fn outcome(answer: &Result<PutResponse, Status>) -> Outcome {
    match answer {
        Ok(response) => {
            let header = response.header.as_ref().expect("every answer carries a header");
            Outcome::Acknowledged(header.revision)
        }
        Err(status) if nezha_api::errors::definitely_not_processed(status) => Outcome::Failed,
        Err(status) if matches!(status.code(), Code::InvalidArgument) => Outcome::Failed,
        Err(_) => Outcome::Unknown,
    }
}

/// Asserts code and reason of a refusal, and that its text says something.
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> ApiError {
    let status = answer.expect_err("the call is refused");
    let error = ApiError::from_status(&status);
    let named = error.reason.map(|r| r.to_string()).unwrap_or_default();
    assert_eq!((status.code(), named.as_str()), (code, reason), "{status:?}");
    assert!(!error.message.is_empty());
    error
}
