//! Driver for this store through its Rust client: point operations on pipelines, scans as calls.

use std::sync::Arc;

use bytes::Bytes;
use nezha_api::client::{ClientOptions, Condition, FailureKind};
use nezha_api::v1;
use nezha_api::{Client, ClientError};

use super::nezha::{Connections as Calls, Nezha};
use super::{Driver, Routes, Row};
use crate::{
    args::Consistency,
    errors::{NOT_CONNECTED, OpError},
};

/// Clients of their own, each with one connection per endpoint in use.
#[derive(Clone)]
pub(crate) struct Connections {
    clients: Vec<Client>,
    calls: Arc<Calls>,
}

impl Connections {
    /// Prepares `connections` clients; nothing is sent yet.
    pub(crate) fn new(routes: Arc<Routes>, connections: usize) -> anyhow::Result<Connections> {
        let clients = (0..connections)
            .map(|_| Client::connect(routes.endpoints(), ClientOptions::default()))
            .collect::<Result<_, _>>()?;
        Ok(Connections {
            clients,
            calls: Arc::new(Calls::new(routes, connections)?),
        })
    }

    /// The driver of client number `client`.
    pub(crate) fn client(&self, client: usize, consistency: Consistency) -> Pipelined {
        Pipelined {
            client: self.clients[client % self.clients.len()].clone(),
            calls: self.calls.client(client, consistency),
            consistency: match consistency {
                Consistency::Linearizable => v1::Consistency::Linearizable,
                Consistency::Stale => v1::Consistency::Stale,
            },
        }
    }
}

/// One client of this store.
pub(crate) struct Pipelined {
    client: Client,
    /// For scans.
    calls: Nezha,
    consistency: v1::Consistency,
}

impl Driver for Pipelined {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OpError> {
        let put = self.client.put(key, value, Condition::None).await;
        match put.map_err(|error| error_of_client(&error))?.succeeded {
            true => Ok(()),
            false => Err(super::nezha::not_succeeded()),
        }
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, OpError> {
        let get = self.client.get(key, self.consistency).await;
        let get = get.map_err(|error| error_of_client(&error))?;
        Ok(get.found.map(|found| found.value))
    }

    async fn scan(&mut self, start: Bytes, end: Bytes, limit: u64) -> Result<Vec<Row>, OpError> {
        self.calls.scan(start, end, limit).await
    }

    fn failed(&mut self, error: &OpError) {
        // The client finds its way by itself.
        self.calls.failed(error);
    }
}

/// Why an operation failed, from what the client says.
fn error_of_client(error: &ClientError) -> OpError {
    let kind = match error {
        ClientError::Refused { error, .. } => match error.reason {
            Some(reason) => reason.as_str().to_owned(),
            None => format!("{:?}", error.code),
        },
        ClientError::OutcomeUnknown { .. } => "OUTCOME_UNKNOWN".to_owned(),
        ClientError::Unavailable { failures } => {
            let connected = |kind| kind != FailureKind::Unreachable;
            match failures.iter().find(|failure| connected(failure.kind)) {
                Some(failure) if failure.kind == FailureKind::NoLeader => "NO_LEADER".to_owned(),
                Some(failure) => format!("{:?}", failure.kind),
                None => NOT_CONNECTED.to_owned(),
            }
        }
        other => format!("{other:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    OpError {
        kind,
        unknown: matches!(error, ClientError::OutcomeUnknown { .. }),
        leader: None,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use nezha_api::client::EndpointFailure;

    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let unavailable = |kinds: &[FailureKind]| {
            let failures = kinds.iter().map(|kind| EndpointFailure {
                endpoint: "h:1".into(),
                kind: *kind,
                cause: "c".into(),
            });
            error_of_client(&ClientError::Unavailable {
                failures: failures.collect(),
            })
        };
        assert_eq!(unavailable(&[FailureKind::Unreachable]).kind, NOT_CONNECTED);
        let led = unavailable(&[FailureKind::Unreachable, FailureKind::NoLeader]);
        assert_eq!((led.kind.as_str(), led.unknown), ("NO_LEADER", false));
        let unknown = error_of_client(&ClientError::OutcomeUnknown {
            endpoint: "h:1".into(),
            cause: "c".into(),
        });
        assert!(
            unknown.unknown && unknown.kind == "OUTCOME_UNKNOWN",
            "{unknown:?}"
        );
        let malformed = error_of_client(&ClientError::Malformed {
            endpoint: "h:1".into(),
            what: "w".into(),
        });
        assert_eq!((malformed.kind.as_str(), malformed.unknown), ("Malformed", false));
    }
}
