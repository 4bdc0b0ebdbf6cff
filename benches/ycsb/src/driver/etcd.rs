//! Driver for etcd 3, through the crate etcd-client.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Error, GetOptions, KvClient};

use super::{Driver, Route, Routes, Row, error_of_status};
use crate::{args::Consistency, errors::OpError};

/// A scan of 100 values of 1 MiB, and more, in the one message that etcd answers with.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Connections to every endpoint, shared by the clients.
pub(crate) struct Connections {
    routes: Arc<Routes>,
    /// By endpoint, then by slot.
    clients: Vec<Vec<KvClient>>,
}

impl Connections {
    /// Prepares `connections` connections per endpoint, and finds the leader among the endpoints.
    pub(crate) async fn new(routes: Arc<Routes>, connections: usize) -> anyhow::Result<Connections> {
        let mut clients = Vec::new();
        for endpoint in routes.endpoints() {
            let mut slots = Vec::new();
            for slot in 0..connections {
                let mut client = connect(endpoint).await?;
                // An endpoint that does not answer now may do so later; the load will tell.
                if slot == 0
                    && let Ok(status) = client.status().await
                    && status.header().map(etcd_client::ResponseHeader::member_id) == Some(status.leader())
                {
                    routes.set_leader(endpoint);
                }
                slots.push(client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX));
            }
            clients.push(slots);
        }
        Ok(Connections { routes, clients })
    }

    /// The driver of client number `client`.
    pub(crate) fn client(&self, client: usize, consistency: Consistency) -> Etcd {
        let spread = client / self.clients.len() + client % self.clients.len();
        let stubs = self
            .clients
            .iter()
            .map(|slots| slots[spread % slots.len()].clone())
            .collect();
        Etcd {
            route: Route::new(self.routes.clone(), client),
            stubs,
            consistency,
        }
    }
}

/// A client of the one endpoint, `host:port`. Requests to a dead one fail after at most two seconds.
pub(crate) async fn connect(endpoint: &str) -> Result<Client, Error> {
    let options = ConnectOptions::new().with_connect_timeout(std::time::Duration::from_secs(2));
    Client::connect([endpoint], Some(options)).await
}

/// One client of etcd.
pub(crate) struct Etcd {
    route: Route,
    /// One stub per endpoint.
    stubs: Vec<KvClient>,
    consistency: Consistency,
}

impl Etcd {
    fn stub(&mut self) -> &mut KvClient {
        let at = self.route.next();
        &mut self.stubs[at]
    }

    fn options(&self) -> GetOptions {
        match self.consistency {
            Consistency::Linearizable => GetOptions::new(),
            Consistency::Stale => GetOptions::new().with_serializable(),
        }
    }
}

fn error_of(error: &Error, write: bool) -> OpError {
    match error {
        Error::GRpcStatus(status) => error_of_status(status, write),
        other => OpError {
            kind: "client".to_owned(),
            unknown: write,
            leader: None,
            message: other.to_string(),
        },
    }
}

impl Driver for Etcd {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OpError> {
        let answer = self.stub().put(key, value, None).await;
        answer.map(|_| ()).map_err(|error| error_of(&error, true))
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, OpError> {
        let options = self.options();
        let answer = self.stub().get(key, Some(options)).await;
        let mut rows = answer.map_err(|error| error_of(&error, false))?.take_kvs();
        Ok(rows.pop().map(|row| Bytes::from(row.into_key_value().1)))
    }

    async fn scan(&mut self, start: Bytes, end: Bytes, limit: u64) -> Result<Vec<Row>, OpError> {
        // etcd writes "to the end of the key space" as a single zero byte.
        let end = if end.is_empty() { vec![0] } else { end.to_vec() };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = self.options().with_range(end).with_limit(limit);
        let answer = self.stub().get(start, Some(options)).await;
        let rows = answer.map_err(|error| error_of(&error, false))?.take_kvs();
        Ok(rows
            .into_iter()
            .map(|row| {
                let (key, value) = row.into_key_value();
                (Bytes::from(key), Bytes::from(value))
            })
            .collect())
    }

    fn failed(&mut self, error: &OpError) {
        self.route.failed(error.leader.as_deref());
    }
}
