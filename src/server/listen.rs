//! The two ports: limits of connections and of HTTP/2, the same for garbage and for clients.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Length of the text that every HTTP/2 connection starts with.
const PREFACE_BYTES: usize = 24;
/// A connection that has not said that much by then is closed.
const PREFACE_WAIT: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);
/// Streams that were reset before they were looked at; more of them end the connection (rapid reset).
const RESET_STREAMS_MAX: usize = 128;
/// All headers of one request together.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Limits of one port. What a call can make this node hold unread is `stream_window_bytes`; the client port bounds the
/// calls of all connections together as well, see `front`.
#[derive(Debug, Clone, Copy)]
pub struct PortLimits {
    /// Open connections; further ones are closed at once.
    pub connections_max: usize,
    /// Calls at once on one connection.
    pub streams_max: u32,
    /// Unread bytes of one call.
    pub stream_window_bytes: u32,
    /// Unread bytes of one connection.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 frame.
    pub frame_bytes_max: u32,
}

/// The client port. A call that waits for admission leaves its message unread; all calls of a connection may do so
/// without holding up one that was admitted, because the connection's window is the sum of theirs.
pub const CLIENT_PORT: PortLimits = PortLimits {
    connections_max: 4096,
    streams_max: 512,
    stream_window_bytes: 64 << 10,
    connection_window_bytes: 512 * (64 << 10),
    frame_bytes_max: 64 << 10,
};

/// The peer port: few connections, with values of many clients on each.
pub const PEER_PORT: PortLimits = PortLimits {
    connections_max: 256,
    streams_max: 256,
    stream_window_bytes: 4 << 20,
    connection_window_bytes: 8 << 20,
    frame_bytes_max: 256 << 10,
};

/// Serves `service` on `listener` until `stop` resolves; then takes no new connections, asks clients to go elsewhere
/// and returns once the last call is answered.
///
/// Errors: none that a connection causes; those close the connection only.
pub async fn serve<S, F>(
    listener: TcpListener,
    limits: PortLimits,
    service: S,
    stop: F,
) -> Result<(), tonic::transport::Error>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<tonic::codegen::StdError> + Send + 'static,
    F: Future<Output = ()>,
{
    Server::builder()
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.frame_bytes_max)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_WAIT))
        .serve_with_incoming_shutdown(service, Incoming::new(listener, limits.connections_max), stop)
        .await
}

/// Accepts connections, counted.
struct Incoming {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl Incoming {
    fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(connections_max)),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (stream, from) = match ready!(self.listener.poll_accept(cx)) {
                Ok(accepted) => accepted,
                // Out of file descriptors, or the client was gone before it was accepted.
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let Ok(permit) = self.free.clone().try_acquire_owned() else {
                tracing::warn!(%from, "too many connections; closing a new one");
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, %from, "TCP_NODELAY was refused");
            }
            let preface = Some(Box::pin(tokio::time::sleep(PREFACE_WAIT)));
            return Poll::Ready(Some(Ok(Connection {
                stream,
                preface,
                read: 0,
                _permit: permit,
            })));
        }
    }
}

/// One connection; counted while it lives.
struct Connection {
    stream: TcpStream,
    /// Runs until the preface was read.
    preface: Option<Pin<Box<Sleep>>>,
    read: usize,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(preface) = &mut this.preface {
            this.read += buf.filled().len() - before;
            if this.read >= PREFACE_BYTES {
                this.preface = None;
            } else if polled.is_pending() && preface.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
