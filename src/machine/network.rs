use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use nezha_api::client::Dialer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Ports of a simulated network.
pub trait Ports: Send + Sync {
    /// Listens at `addr`.
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Accept>>>;
}

/// Takes connections of a simulated network.
pub trait Accept: Send + Unpin {
    /// The next one.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<Box<dyn Io>>>>;
}

/// A connection, and where it comes from.
pub type Accepted<S> = (S, SocketAddr);

/// Both directions of a connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects and listens: TCP, unless it is simulated. Cheap to clone.
#[derive(Clone, Default)]
pub struct Net {
    /// Connects.
    pub dialer: Dialer,
    ports: Option<Arc<dyn Ports>>,
}

impl Net {
    /// That of a simulation.
    pub fn simulated(dialer: Dialer, ports: Arc<dyn Ports>) -> Net {
        let ports = Some(ports);
        Net { dialer, ports }
    }

    /// Listens at `addr`, `host:port`.
    ///
    /// Errors: the system's.
    pub async fn bind(&self, addr: &str) -> io::Result<Listener> {
        Ok(match &self.ports {
            None => Listener::Tcp(TcpListener::bind(addr).await?),
            Some(ports) => Listener::Simulated(ports.bind(addr.to_owned()).await?),
        })
    }
}

/// A port that is listened at.
pub enum Listener {
    /// The system's.
    Tcp(TcpListener),
    /// A simulation's.
    Simulated(Box<dyn Accept>),
}

impl Listener {
    /// Address of a real one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Simulated(_) => None,
        }
    }

    /// The next connection.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<Socket>>> {
        match self {
            Listener::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, from)| (Socket::Tcp(stream), from)),
            Listener::Simulated(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, from)| (Socket::Simulated(stream), from)),
        }
    }
}

/// A connection that was accepted.
pub enum Socket {
    /// The system's.
    Tcp(TcpStream),
    /// A simulation's.
    Simulated(Box<dyn Io>),
}

impl Socket {
    /// Sends small messages at once.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_nodelay(true),
            Socket::Simulated(_) => Ok(()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Simulated(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Simulated(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Simulated(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Simulated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Simulated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Simulated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
