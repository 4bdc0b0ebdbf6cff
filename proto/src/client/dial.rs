use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::transport::{Channel, Endpoint, Error};

/// Another way to connect than TCP, such as the network of a simulation.
pub trait Dial: Send + Sync {
    /// A channel that connects when it is first used, and again when it has broken.
    fn lazy(&self, endpoint: Endpoint) -> Channel;
    /// A channel that is connected.
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Channel, Error>>;
}

/// Makes connections: over TCP, unless told otherwise. Cheap to clone.
#[derive(Clone, Default)]
pub struct Dialer(Option<Arc<dyn Dial>>);

impl Dialer {
    /// One that connects by `dial`.
    pub fn by(dial: Arc<dyn Dial>) -> Dialer {
        Dialer(Some(dial))
    }

    /// A channel that connects when it is first used, and again when it has broken. Never blocks.
    pub fn lazy(&self, endpoint: Endpoint) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(dial) => dial.lazy(endpoint),
        }
    }

    /// A channel that is connected.
    ///
    /// Errors: nobody answers there in time.
    pub async fn connect(&self, endpoint: Endpoint) -> Result<Channel, Error> {
        match &self.0 {
            None => endpoint.connect().await,
            Some(dial) => dial.connect(endpoint).await,
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            None => "Tcp",
            Some(_) => "Other",
        })
    }
}
