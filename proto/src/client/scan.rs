use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use tonic::{Status, Streaming};

use super::call::{came_from_transport, describe, full_jitter};
use super::endpoint::Endpoint;
use super::kv::read_kind;
use super::{Client, ClientError, EndpointFailure, FailureKind, ScanPosition, rpc};
use crate::errors::{ApiError, Reason};
use crate::v1::{Consistency, ResponseHeader, Row, ScanRequest, ScanResponse};

/// A running scan: rows in key order, from one view of the store.
///
/// Rows arrive as the server sends them; HTTP/2 flow control holds the server back while nobody asks for more.
///
/// A connection that breaks before the first row is replaced without notice. Later, the scan continues on another
/// connection only if the new view has the very revision of the old one, so that all rows belong to one state; else
/// it ends with [`ClientError::ScanInterrupted`] and the key to continue from.
pub struct Scan {
    client: Client,
    request: ScanRequest,
    current: Option<Current>,
    /// Rows received and not yet taken.
    ready: VecDeque<Row>,
    position: ScanPosition,
    header: Option<ResponseHeader>,
    /// Set by the last chunk: whether more rows exist beyond the limit.
    more: Option<bool>,
    failed: bool,
    /// Breaks in a row without a new chunk.
    breaks: u32,
}

struct Current {
    endpoint: Arc<Endpoint>,
    stream: Streaming<ScanResponse>,
}

/// Breaks in a row after which a scan gives up.
const BREAKS_MAX: u32 = 5;

impl Client {
    /// Starts a scan. Nothing is sent before the first row is asked for.
    pub fn scan(&self, request: ScanRequest) -> Scan {
        Scan {
            client: self.clone(),
            request,
            current: None,
            ready: VecDeque::new(),
            position: ScanPosition::default(),
            header: None,
            more: None,
            failed: false,
            breaks: 0,
        }
    }
}

impl Scan {
    /// Returns the next row, `None` after the last.
    ///
    /// Errors: an error ends the scan; later calls return `None`.
    pub async fn next(&mut self) -> Result<Option<Row>, ClientError> {
        if self.failed {
            return Ok(None);
        }
        loop {
            if let Some(row) = self.ready.pop_front() {
                self.position.rows += 1;
                self.position.bytes += (row.key.len() + row.value.len()) as u64;
                self.position.resume_key = row.key.clone();
                return Ok(Some(row));
            }
            if self.more.is_some() {
                return Ok(None);
            }
            if let Err(error) = self.receive().await {
                self.failed = true;
                self.current = None;
                return Err(error);
            }
        }
    }

    /// Returns how many rows [`Scan::next`] can return without waiting.
    pub fn buffered(&self) -> usize {
        self.ready.len()
    }

    /// Returns how far the scan has come.
    pub fn position(&self) -> &ScanPosition {
        &self.position
    }

    /// Returns whether rows exist beyond the limit; known after the last row.
    pub fn more(&self) -> Option<bool> {
        self.more
    }

    /// Returns the header of the first chunk, once it has arrived.
    pub fn header(&self) -> Option<&ResponseHeader> {
        self.header.as_ref()
    }

    /// Turns the scan into a [`Stream`] of rows that ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Row, ClientError>> {
        futures::stream::unfold(self, |mut scan| async move {
            let item = scan.next().await.transpose()?;
            Some((item, scan))
        })
    }

    /// Receives one chunk, connecting first if need be.
    async fn receive(&mut self) -> Result<(), ClientError> {
        if self.current.is_none() {
            if self.limit_reached() {
                // All that was asked for has arrived; only the last chunk's word about further rows is lost.
                self.more = Some(true);
                return Ok(());
            }
            self.current = Some(self.open().await?);
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let patience = self.client.inner.options.timeout;
        let endpoint = current.endpoint.clone();
        let cause = match tokio::time::timeout(patience, current.stream.message()).await {
            Ok(Ok(Some(chunk))) => return self.accept(&endpoint, chunk),
            Ok(Ok(None)) => "the stream ended without its last chunk".to_owned(),
            Ok(Err(status)) => self.broke(&endpoint, &status)?,
            Err(_) => {
                self.client.inner.pool.failed(&endpoint);
                format!("no rows within {} ms", patience.as_millis())
            }
        };
        self.current = None;
        self.breaks += 1;
        if self.breaks >= BREAKS_MAX {
            return Err(self.interrupted(&endpoint, cause));
        }
        let options = &self.client.inner.options;
        tokio::time::sleep(full_jitter(
            options.backoff_base,
            options.backoff_max,
            self.breaks,
        ))
        .await;
        Ok(())
    }

    fn limit_reached(&self) -> bool {
        let reached = |limit: u64, done: u64| limit > 0 && done >= limit;
        reached(self.request.limit_rows, self.position.rows)
            || reached(self.request.limit_bytes, self.position.bytes)
    }

    /// Sends the request, continuing after the last key that was delivered.
    async fn open(&self) -> Result<Current, ClientError> {
        let mut request = self.request.clone();
        if self.position.rows > 0 {
            request.resume_key = self.position.resume_key.clone();
            if request.limit_rows > 0 {
                request.limit_rows -= self.position.rows;
            }
            if request.limit_bytes > 0 {
                request.limit_bytes -= self.position.bytes;
            }
        }
        let consistency = Consistency::try_from(request.consistency).unwrap_or_default();
        // No grpc-timeout: a scan may last; the wait for each chunk is bounded instead.
        let (endpoint, stream) = self
            .client
            .attempt(read_kind(consistency), |line, _| {
                let request = request.clone();
                async move { rpc::kv(line.channel.clone()).scan(request).await }
            })
            .await?;
        Ok(Current { endpoint, stream })
    }

    fn accept(&mut self, endpoint: &Endpoint, mut chunk: ScanResponse) -> Result<(), ClientError> {
        let header = self.client.take_header(endpoint, &mut chunk)?;
        if let Some(first) = &self.header
            && (first.revision, first.cluster_id) != (header.revision, header.cluster_id)
        {
            if self.position.rows > 0 {
                let cause = format!(
                    "the connection was lost and the store has changed since (revision {} is now {})",
                    first.revision, header.revision
                );
                return Err(self.interrupted(endpoint, cause));
            }
            self.header = None;
        }
        self.position.revision = header.revision;
        self.header.get_or_insert(header);
        self.breaks = 0;
        if chunk.done {
            self.more = Some(chunk.more);
            self.current = None;
        }
        self.ready.extend(chunk.rows);
        Ok(())
    }

    /// Decides whether a broken stream is worth another connection; returns the cause if so.
    fn broke(&self, endpoint: &Endpoint, status: &Status) -> Result<String, ClientError> {
        let error = ApiError::from_status(status);
        if came_from_transport(status) {
            self.client.inner.pool.failed(endpoint);
            return Ok(describe(status));
        }
        match error.reason {
            Some(Reason::ScanExpired) => Err(self.interrupted(endpoint, error.message)),
            Some(reason) if reason.is_transient() => {
                if let Some(leader) = &error.leader {
                    self.client
                        .inner
                        .pool
                        .learn_leader(&leader.endpoint, &self.client.inner.options);
                }
                Ok(error.message)
            }
            _ => {
                let endpoint = endpoint.address().to_owned();
                Err(ClientError::Refused {
                    endpoint,
                    error: Box::new(error),
                })
            }
        }
    }

    fn interrupted(&self, endpoint: &Endpoint, cause: String) -> ClientError {
        if self.position.rows == 0 {
            let endpoint = endpoint.address().to_owned();
            let failure = EndpointFailure {
                endpoint,
                kind: FailureKind::Broken,
                cause,
            };
            return ClientError::Unavailable {
                failures: vec![failure],
            };
        }
        ClientError::ScanInterrupted {
            endpoint: endpoint.address().to_owned(),
            cause,
            at: Box::new(self.position.clone()),
        }
    }
}
