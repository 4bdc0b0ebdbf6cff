//! Driver for this store: unary calls and streamed scans of `nezha.v1.KvService`.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use nezha_api::v1::{
    self, GetRequest, PutRequest, ResponseHeader, ScanRequest, kv_service_client::KvServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use super::{Driver, Route, Routes, Row, error_of_status};
use crate::{args::Consistency, errors::OpError};

/// Above the largest value that a server can be configured to accept, and its header.
const MESSAGE_BYTES_MAX: usize = 80 << 20;

/// Connections to every endpoint, made when first used and shared by the clients.
#[derive(Debug)]
pub(crate) struct Connections {
    routes: Arc<Routes>,
    /// By endpoint, then by slot.
    channels: Vec<Vec<Channel>>,
}

impl Connections {
    /// Prepares `connections` connections per endpoint; nothing is sent yet.
    pub(crate) fn new(routes: Arc<Routes>, connections: usize) -> anyhow::Result<Connections> {
        let channels = routes
            .endpoints()
            .iter()
            .map(|endpoint| {
                let connector = connector(endpoint)?;
                Ok((0..connections).map(|_| connector.connect_lazy()).collect())
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Connections { routes, channels })
    }

    /// The driver of client number `client`.
    pub(crate) fn client(&self, client: usize, consistency: Consistency) -> Nezha {
        // Clients that share an endpoint under Target::All must still spread over its connections.
        let spread = client / self.channels.len() + client % self.channels.len();
        let stubs = self
            .channels
            .iter()
            .map(|slots| {
                KvServiceClient::new(slots[spread % slots.len()].clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
            })
            .collect();
        Nezha {
            route: Route::new(self.routes.clone(), client),
            stubs,
            consistency: match consistency {
                Consistency::Linearizable => v1::Consistency::Linearizable,
                Consistency::Stale => v1::Consistency::Stale,
            },
        }
    }
}

/// How connections to `endpoint` (`host:port`) are made.
pub(crate) fn connector(endpoint: &str) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .with_context(|| format!("{endpoint:?} is not an endpoint; write host:port"))?;
    Ok(endpoint
        .connect_timeout(std::time::Duration::from_secs(2))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(256 << 10))
}

/// One client of this store.
#[derive(Debug)]
pub(crate) struct Nezha {
    route: Route,
    /// One stub per endpoint.
    stubs: Vec<KvServiceClient<Channel>>,
    consistency: v1::Consistency,
}

impl Nezha {
    fn stub(&mut self) -> &mut KvServiceClient<Channel> {
        let at = self.route.next();
        &mut self.stubs[at]
    }

    fn learn(&self, header: Option<&ResponseHeader>) {
        if let Some(header) = header {
            self.route.answered(&header.leader_endpoint);
        }
    }
}

/// A put without precondition whose answer says that its precondition did not hold.
pub(crate) fn not_succeeded() -> OpError {
    OpError {
        kind: "not succeeded".to_owned(),
        unknown: false,
        leader: None,
        message: "a put without precondition answered succeeded = false".to_owned(),
    }
}

impl Driver for Nezha {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OpError> {
        let request = PutRequest {
            key,
            value,
            precondition: None,
        };
        let answer = self.stub().put(request).await;
        let response = answer
            .map_err(|status| error_of_status(&status, true))?
            .into_inner();
        self.learn(response.header.as_ref());
        if !response.succeeded {
            return Err(not_succeeded());
        }
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, OpError> {
        let request = GetRequest {
            key,
            consistency: self.consistency.into(),
            keys_only: false,
        };
        let answer = self.stub().get(request).await;
        let response = answer
            .map_err(|status| error_of_status(&status, false))?
            .into_inner();
        self.learn(response.header.as_ref());
        Ok(response.found.then_some(response.value))
    }

    async fn scan(&mut self, start: Bytes, end: Bytes, limit: u64) -> Result<Vec<Row>, OpError> {
        let request = ScanRequest {
            start,
            end,
            limit_rows: limit,
            consistency: self.consistency.into(),
            ..ScanRequest::default()
        };
        let answer = self.stub().scan(request).await;
        let mut stream = answer
            .map_err(|status| error_of_status(&status, false))?
            .into_inner();
        let mut rows = Vec::new();
        let mut done = false;
        while let Some(chunk) = stream
            .message()
            .await
            .map_err(|status| error_of_status(&status, false))?
        {
            self.learn(chunk.header.as_ref());
            done = chunk.done;
            rows.extend(chunk.rows.into_iter().map(|row| (row.key, row.value)));
        }
        if !done {
            return Err(OpError {
                kind: "scan cut short".to_owned(),
                unknown: false,
                leader: None,
                message: "the stream ended without a chunk that says done".to_owned(),
            });
        }
        Ok(rows)
    }

    fn failed(&mut self, error: &OpError) {
        self.route.failed(error.leader.as_deref());
    }
}
