//! The Rust client: follows the leader, retries what may be retried, and says what it does not know.
//!
//! - Every call has a total deadline ([`ClientOptions::timeout`]); attempts within it have their own. None begins so late
//!   that it would be cut off at once: the call ends with the refusals that it has.
//! - A write is repeated only when it is certain that it was not proposed: no connection was made, or the server says
//!   `proposed=false`. Anything else after sending is [`ClientError::OutcomeUnknown`].
//! - Reads are repeated freely, at another endpoint if there is one.
//! - Errors name the cause for each endpoint.

mod call;
mod cluster;
mod dial;
mod endpoint;
mod error;
mod gc;
mod hash;
mod kv;
mod line;
mod options;
mod pipeline;
mod pool;
mod rpc;
mod scan;

use std::sync::{Arc, Mutex};

pub use cluster::MemberRef;
pub use dial::{Dial, Dialer};
pub use error::{ClientError, EndpointFailure, FailureKind, ScanPosition};
pub use kv::{Condition, Delete, Found, Get, Put};
pub use options::ClientOptions;
pub use scan::Scan;

use pool::Pool;
use tokio::time::Instant;

/// A client of one cluster. Clones share connections (one per endpoint) and what is known about the leader; callers
/// that need more connections make more clients.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    options: ClientOptions,
    /// When the member list was last asked for.
    synced_at: Mutex<Option<Instant>>,
}

impl Client {
    /// Makes a client for `endpoints` (`host:port` each). Connections are made on first use.
    ///
    /// Errors: [`ClientError::InvalidEndpoint`]; an empty list is one.
    pub fn connect<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        let endpoints: Vec<String> = endpoints
            .into_iter()
            .map(|endpoint| endpoint.as_ref().to_owned())
            .collect();
        let pool = Pool::new(&endpoints, &options)?;
        Ok(Client {
            inner: Arc::new(Inner {
                pool,
                options,
                synced_at: Mutex::default(),
            }),
        })
    }

    /// Fetches the member list in the background if the last time is long ago. Its failure costs nothing.
    fn sync_if_due(&self) {
        let Some(interval) = self.inner.options.sync_interval else {
            return;
        };
        {
            let mut synced_at = self.inner.synced_at.lock().expect("no panic while held");
            if synced_at.is_some_and(|at| at.elapsed() < interval) {
                return;
            }
            *synced_at = Some(Instant::now());
        }
        let client = self.clone();
        tokio::spawn(async move {
            // A server that cannot tell leaves the client with the endpoints it has.
            let _ = client.member_list().await;
        });
    }
}
