//! The port between the load and a store, and what its two drivers share.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::bail;
use bytes::Bytes;

use crate::{
    args::{Consistency, DriverKind, Target},
    errors::{NOT_CONNECTED, OpError},
};

pub(crate) mod etcd;
pub(crate) mod nezha;
pub(crate) mod pipelined;

/// A key and its value.
pub(crate) type Row = (Bytes, Bytes);

/// One client of a store. Operations are attempted once: repeating a failed one is the caller's decision.
pub(crate) trait Driver: Send + 'static {
    /// Writes one key; answers when the store acknowledged it.
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Reads one key; `None` when it does not exist.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<Option<Bytes>, OpError>> + Send;

    /// Reads up to `limit` rows of `[start, end)` in key order. An empty `end` means the end of the key space.
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<Row>, OpError>> + Send;

    /// Called after a failed attempt or one that was given up: the next one may go elsewhere.
    fn failed(&mut self, error: &OpError);
}

/// How the clients of a load reach a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) driver: DriverKind,
    pub(crate) target: Target,
    /// HTTP/2 connections per endpoint in use.
    pub(crate) connections: u32,
    pub(crate) clients: u32,
    pub(crate) consistency: Consistency,
}

/// What is done with the drivers of all clients, whatever their kind.
pub(crate) trait Job {
    type Output;

    /// Does it; `drivers` holds one for each client.
    fn run<D: Driver>(self, drivers: Vec<D>) -> impl Future<Output = anyhow::Result<Self::Output>>;
}

/// Does `job` with drivers of the kind that `access` names.
///
/// Errors: bad endpoints, and those of the job.
pub(crate) async fn with_drivers<J: Job>(
    access: Access,
    endpoints: &[String],
    job: J,
) -> anyhow::Result<J::Output> {
    let routes = Arc::new(Routes::new(endpoints, access.target)?);
    let connections = access.connections as usize;
    let clients = 0..access.clients as usize;
    let consistency = access.consistency;
    match access.driver {
        DriverKind::Nezha => {
            let pool = pipelined::Connections::new(routes, connections)?;
            job.run(clients.map(|n| pool.client(n, consistency)).collect())
                .await
        }
        DriverKind::NezhaUnary => {
            let pool = nezha::Connections::new(routes, connections)?;
            job.run(clients.map(|n| pool.client(n, consistency)).collect())
                .await
        }
        DriverKind::Etcd => {
            let pool = etcd::Connections::new(routes, connections).await?;
            job.run(clients.map(|n| pool.client(n, consistency)).collect())
                .await
        }
    }
}

/// Which endpoint the clients of a driver use. Shared by all clients, so one that learns of a new leader tells all.
#[derive(Debug)]
pub(crate) struct Routes {
    endpoints: Vec<String>,
    target: Target,
    leader: AtomicUsize,
}

impl Routes {
    /// Routes over `endpoints` (`host:port`, `http://` allowed); the first is taken for the leader until known better.
    pub(crate) fn new(endpoints: &[String], target: Target) -> anyhow::Result<Routes> {
        let endpoints: Vec<String> = endpoints.iter().map(|e| host_port(e).to_owned()).collect();
        if endpoints.is_empty() {
            bail!("no endpoints given");
        }
        Ok(Routes {
            endpoints,
            target,
            leader: AtomicUsize::new(0),
        })
    }

    /// The endpoints as `host:port`.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Notes that `endpoint` leads. Unknown addresses are ignored.
    pub(crate) fn set_leader(&self, endpoint: &str) {
        if let Some(at) = self.position(endpoint)
            && self.leader.load(Ordering::Relaxed) != at
        {
            self.leader.store(at, Ordering::Relaxed);
        }
    }

    fn position(&self, endpoint: &str) -> Option<usize> {
        self.endpoints
            .iter()
            .position(|known| known == host_port(endpoint))
    }
}

/// The view of one client on [`Routes`].
#[derive(Debug, Clone)]
pub(crate) struct Route {
    routes: Arc<Routes>,
    own: usize,
    used: usize,
}

impl Route {
    /// The route of client number `client`.
    pub(crate) fn new(routes: Arc<Routes>, client: usize) -> Route {
        let own = client % routes.endpoints.len();
        Route {
            routes,
            own,
            used: own,
        }
    }

    /// Position of the endpoint for the next attempt.
    pub(crate) fn next(&mut self) -> usize {
        self.used = match self.routes.target {
            Target::Leader => self.routes.leader.load(Ordering::Relaxed),
            Target::All => self.own,
        };
        self.used
    }

    /// The last attempt was answered, and the answer named `leader` (empty: nobody).
    pub(crate) fn answered(&self, leader: &str) {
        if !leader.is_empty() && self.routes.endpoints[self.used] != leader {
            self.routes.set_leader(leader);
        }
    }

    /// The last attempt failed: go to the leader it named, else to the next endpoint, unless another client moved on.
    pub(crate) fn failed(&mut self, leader: Option<&str>) {
        let next = (self.used + 1) % self.routes.endpoints.len();
        self.own = next;
        let named = leader.and_then(|endpoint| self.routes.position(endpoint));
        let to = named.filter(|at| *at != self.used).unwrap_or(next);
        let _moved_by_another =
            self.routes
                .leader
                .compare_exchange(self.used, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn host_port(endpoint: &str) -> &str {
    let endpoint = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    endpoint.strip_suffix('/').unwrap_or(endpoint)
}

/// Why an attempt failed, from a gRPC status; `write` says whether it could have changed something.
///
/// A write's failure is definite when the server says that it was not proposed, when the request was refused for what
/// it is, or when the connection was never made. Everything else leaves the outcome unknown.
pub(crate) fn error_of_status(status: &tonic::Status, write: bool) -> OpError {
    use tonic::Code;
    use tonic_types::StatusExt;

    let info = status.get_details_error_info();
    let fact = |name: &str| info.as_ref().and_then(|info| info.metadata.get(name));
    let not_connected = std::iter::successors(std::error::Error::source(status), |e| e.source())
        .any(|e| e.is::<tonic::ConnectError>());
    let definite = not_connected
        || fact("proposed").is_some_and(|proposed| proposed == "false")
        || matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::ResourceExhausted
        );
    let kind = match &info {
        Some(info) if !info.reason.is_empty() => info.reason.clone(),
        _ if not_connected => NOT_CONNECTED.to_owned(),
        _ => format!("{:?}", status.code()),
    };
    OpError {
        kind,
        unknown: write && !definite,
        leader: fact("leader_endpoint").filter(|e| !e.is_empty()).cloned(),
        message: status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn routes(target: Target) -> Arc<Routes> {
        let endpoints = ["http://a:1/", "b:2", "c:3"].map(str::to_owned);
        Arc::new(Routes::new(&endpoints, target).unwrap())
    }

    #[test]
    fn clients_follow_the_leader_together() {
        let routes = routes(Target::Leader);
        let mut one = Route::new(routes.clone(), 0);
        let mut two = Route::new(routes, 1);
        assert_eq!((one.next(), two.next()), (0, 0));
        one.answered("c:3");
        assert_eq!((one.next(), two.next()), (2, 2));
        one.answered("http://unknown:9");
        assert_eq!(one.next(), 2);
        one.failed(Some("b:2"));
        // The second client failed at the endpoint that was left already: it must not move the others on.
        two.failed(None);
        assert_eq!((one.next(), two.next()), (1, 1));
        one.failed(Some("b:2"));
        assert_eq!(one.next(), 2, "an endpoint that names itself is left");
    }

    #[test]
    fn clients_spread_over_all_endpoints() {
        let routes = routes(Target::All);
        let mut all: Vec<Route> = (0..5).map(|n| Route::new(routes.clone(), n)).collect();
        let used: Vec<usize> = all.iter_mut().map(Route::next).collect();
        assert_eq!(used, [0, 1, 2, 0, 1]);
        all[2].failed(None);
        assert_eq!(all[2].next(), 0);
    }

    #[test]
    fn no_endpoints_are_refused() {
        assert!(Routes::new(&[], Target::Leader).is_err());
    }

    #[test]
    fn only_definite_refusals_of_writes_are_known() {
        let with = |reason: &str, proposed: &str| {
            let metadata = HashMap::from([
                ("proposed".to_owned(), proposed.to_owned()),
                ("leader_endpoint".to_owned(), "b:2".to_owned()),
            ]);
            let details = ErrorDetails::with_error_info(reason, "nezha", metadata);
            Status::with_error_details(Code::Unavailable, "no", details)
        };
        let refused = error_of_status(&with("NOT_LEADER", "false"), true);
        assert_eq!(refused.kind, "NOT_LEADER");
        assert_eq!(refused.leader.as_deref(), Some("b:2"));
        assert!(!refused.unknown);
        assert!(error_of_status(&with("OUTCOME_UNKNOWN", "true"), true).unknown);
        for (status, unknown) in [
            (Status::unavailable("connection reset"), true),
            (Status::deadline_exceeded("late"), true),
            (Status::cancelled("timeout"), true),
            (Status::internal("h2"), true),
            (Status::invalid_argument("empty key"), false),
            (Status::resource_exhausted("busy"), false),
        ] {
            assert_eq!(error_of_status(&status, true).unknown, unknown, "{status}");
            assert!(!error_of_status(&status, false).unknown);
        }
    }
}
