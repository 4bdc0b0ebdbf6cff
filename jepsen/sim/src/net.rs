//! The simulated network: turmoil's TCP below tonic.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use nezha::machine::{Accept, Accepted, Io, Net, Ports};
use nezha_api::client::{Dial, Dialer};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use turmoil::net::{TcpListener, TcpStream};

/// Connections that were made and not taken yet.
const BACKLOG: usize = 64;

/// Network of a node or of clients.
struct Turmoil;

/// Connects over the simulated network.
pub fn dialer() -> Dialer {
    Dialer::by(Arc::new(Turmoil))
}

/// Connects and listens on the simulated network.
pub fn net() -> Net {
    Net::simulated(dialer(), Arc::new(Turmoil))
}

async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let missing = |what| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri} has no {what}"));
    let host = uri.host().ok_or_else(|| missing("host"))?.to_owned();
    let port = uri.port_u16().ok_or_else(|| missing("port"))?;
    Ok(TokioIo::new(TcpStream::connect((host, port)).await?))
}

impl Dial for Turmoil {
    fn lazy(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(tower::service_fn(connect))
    }

    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Channel, Error>> {
        async move { endpoint.connect_with_connector(tower::service_fn(connect)).await }.boxed()
    }
}

/// What a port has accepted.
struct Accepting(mpsc::Receiver<Accepted<Box<dyn Io>>>);

impl Accept for Accepting {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<Box<dyn Io>>>> {
        let gone = || io::Error::other("nobody accepts any more");
        self.0.poll_recv(cx).map(|accepted| accepted.ok_or_else(gone))
    }
}

impl Ports for Turmoil {
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Accept>>> {
        async move {
            let listener = TcpListener::bind(addr).await?;
            let (accepted, accepting) = mpsc::channel(BACKLOG);
            tokio::spawn(async move {
                while let Ok((stream, from)) = listener.accept().await {
                    let stream: Box<dyn Io> = Box::new(stream);
                    if accepted.send((stream, from)).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Box::new(Accepting(accepting)) as Box<dyn Accept>)
        }
        .boxed()
    }
}
