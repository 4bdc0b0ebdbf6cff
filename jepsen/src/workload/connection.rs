//! How one operation is sent: pipelined, unary, or pinned to one member.

use std::time::Duration;

use bytes::Bytes;
use nezha_api::client::{Condition, Dialer};
use nezha_api::v1::kv_service_client::KvServiceClient;
use nezha_api::v1::{
    Consistency, DeleteRequest, GetRequest, KeyMetadata, PutRequest, ResponseHeader, Row, ScanRequest,
};
use nezha_api::{ClientError, ClientOptions, MESSAGE_BYTES_MAX};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::classify::{Proof, of_error, of_status};

/// How much longer than the deadline that is sent along an answer is waited for: the server's own word comes first.
const GRACE: Duration = Duration::from_millis(500);

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The Rust client as it is by default: follows the leader, one stream for all callers.
    Pipelined,
    /// The Rust client with a call of its own for each operation.
    Unary,
    /// One member, every operation sent once and never again.
    Pinned,
}

/// A way to the cluster.
#[derive(Clone)]
pub enum Connection {
    /// The Rust client. Its retries are part of the operation: see [`super::classify`].
    Client(nezha_api::Client),
    /// Plain calls to one member.
    Pinned {
        /// To the member.
        channel: Channel,
        /// Longest wait for an answer.
        patience: Duration,
    },
}

/// Why an operation has no answer.
#[derive(Debug)]
pub struct Failed {
    /// In words.
    pub why: String,
    /// What that proves about a write.
    pub proof: Proof,
}

/// Answer to a put or a delete.
#[derive(Debug)]
pub struct Written {
    /// Who answered, and the revision.
    pub header: ResponseHeader,
    /// Whether the condition held.
    pub succeeded: bool,
    /// Of a delete: whether the key existed.
    pub existed: bool,
    /// `mod_revision` of the key afterwards.
    pub current: u64,
}

/// Answer to a scan.
#[derive(Debug)]
pub struct Scanned {
    /// In the order of arrival.
    pub rows: Vec<Row>,
    /// Of the view.
    pub revision: u64,
    /// Whether the limit ended it.
    pub more: bool,
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Failed {
        Failed {
            proof: of_error(&error),
            why: error.to_string(),
        }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        let text = match status.message() {
            "" => format!("{:?}", status.code()),
            message => format!("{:?}: {message}", status.code()),
        };
        Failed {
            proof: of_status(&status),
            why: text,
        }
    }
}

impl Connection {
    /// The Rust client for `endpoints`.
    pub fn client(
        endpoints: &[String],
        pipelined: bool,
        patience: Duration,
        dialer: &Dialer,
    ) -> Result<Connection, ClientError> {
        let options = ClientOptions {
            timeout: patience,
            attempt_timeout: patience / 3,
            connect_timeout: Duration::from_millis(700),
            backoff_max: Duration::from_millis(300),
            // Members come and go.
            sync_interval: Some(Duration::from_secs(3)),
            pipelined,
            dialer: dialer.clone(),
            ..ClientOptions::default()
        };
        nezha_api::Client::connect(endpoints, options).map(Connection::Client)
    }

    /// Plain calls to the member at `endpoint`.
    pub fn pinned(
        endpoint: &str,
        patience: Duration,
        dialer: &Dialer,
    ) -> Result<Connection, tonic::transport::Error> {
        let to = Endpoint::from_shared(format!("http://{endpoint}"))?
            .connect_timeout(Duration::from_millis(700))
            .tcp_nodelay(true);
        let channel = dialer.lazy(to);
        Ok(Connection::Pinned { channel, patience })
    }

    /// Reads a key.
    pub async fn get(&self, key: &str) -> Result<(ResponseHeader, Option<(Bytes, KeyMetadata)>), Failed> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self {
            Connection::Client(client) => {
                let got = client.get(key, Consistency::Linearizable).await?;
                Ok((got.header, got.found.map(|found| (found.value, found.metadata))))
            }
            Connection::Pinned { channel, patience } => {
                let request = timed(
                    GetRequest {
                        key,
                        consistency: Consistency::Linearizable.into(),
                        keys_only: false,
                    },
                    *patience,
                );
                let got = bounded(*patience, kv(channel).get(request)).await?;
                let found = got.found.then(|| (got.value, got.metadata.unwrap_or_default()));
                Ok((headed(got.header)?, found))
            }
        }
    }

    /// Writes a key.
    pub async fn put(&self, key: &str, value: Vec<u8>, condition: Condition) -> Result<Written, Failed> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self {
            Connection::Client(client) => {
                let put = client.put(key, value, condition).await?;
                Ok(Written {
                    header: put.header,
                    succeeded: put.succeeded,
                    existed: false,
                    current: put.mod_revision,
                })
            }
            Connection::Pinned { channel, patience } => {
                let request = timed(
                    PutRequest {
                        key,
                        value: value.into(),
                        precondition: condition.to_proto(),
                    },
                    *patience,
                );
                let put = bounded(*patience, kv(channel).put(request)).await?;
                Ok(Written {
                    header: headed(put.header)?,
                    succeeded: put.succeeded,
                    existed: false,
                    current: put.mod_revision,
                })
            }
        }
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str, condition: Condition) -> Result<Written, Failed> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self {
            Connection::Client(client) => {
                let deleted = client.delete(key, condition).await?;
                Ok(Written {
                    header: deleted.header,
                    succeeded: deleted.succeeded,
                    existed: deleted.deleted,
                    current: deleted.mod_revision,
                })
            }
            Connection::Pinned { channel, patience } => {
                let request = timed(
                    DeleteRequest {
                        key,
                        precondition: condition.to_proto(),
                    },
                    *patience,
                );
                let deleted = bounded(*patience, kv(channel).delete(request)).await?;
                Ok(Written {
                    header: headed(deleted.header)?,
                    succeeded: deleted.succeeded,
                    existed: deleted.deleted,
                    current: deleted.mod_revision,
                })
            }
        }
    }

    /// Reads a range from one view, with a pause between its messages.
    pub async fn scan(&self, request: ScanRequest, pause: Duration) -> Result<Scanned, Failed> {
        match self {
            Connection::Client(client) => {
                let mut scan = client.scan(request);
                let mut rows = Vec::new();
                while let Some(row) = scan.next().await? {
                    rows.push(row);
                    if scan.buffered() == 0 {
                        tokio::time::sleep(pause).await;
                    }
                }
                Ok(Scanned {
                    rows,
                    revision: scan.position().revision,
                    more: scan.more().unwrap_or(false),
                })
            }
            Connection::Pinned { channel, patience } => {
                let mut stream = bounded(*patience, kv(channel).scan(Request::new(request))).await?;
                let mut rows = Vec::new();
                let mut revision = None;
                loop {
                    let next = tokio::time::timeout(*patience, stream.message()).await;
                    let next = next.map_err(|_| Status::deadline_exceeded("no rows in time"))??;
                    let Some(mut chunk) = next else {
                        return Err(Status::unknown("the scan ended without its last chunk").into());
                    };
                    rows.append(&mut chunk.rows);
                    let header = headed(chunk.header)?;
                    if *revision.get_or_insert(header.revision) != header.revision {
                        // Told as rows of a revision that nobody wrote at, so that the checkers see it.
                        revision = Some(0);
                    }
                    tokio::time::sleep(pause).await;
                    if chunk.done {
                        let (revision, more) = (revision.unwrap_or(0), chunk.more);
                        return Ok(Scanned { rows, revision, more });
                    }
                }
            }
        }
    }
}

fn kv(channel: &Channel) -> KvServiceClient<Channel> {
    KvServiceClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn timed<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

async fn bounded<T>(
    patience: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(patience + GRACE, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn headed(header: Option<ResponseHeader>) -> Result<ResponseHeader, Status> {
    header.ok_or_else(|| Status::unknown("the answer has no header"))
}
