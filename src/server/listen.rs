//! The two ports: limits of connections and of HTTP/2, the same for garbage and for clients.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::machine::{Listener, Socket};

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
/// Descriptors that connections leave to everything else: log segments, index, calls to other members.
const FILES_RESERVED: u64 = 1024;
/// How long nothing is accepted after accepting failed. Without descriptors it would fail again at once, in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same trouble is reported at most this often.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

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
/// without holding up one that was admitted, because the connection's window is the sum of theirs. A call's window is
/// what a pipeline has on its way: one that holds few values makes its client wait for the server at each of them.
pub const CLIENT_PORT: PortLimits = PortLimits {
    connections_max: 4096,
    streams_max: 512,
    stream_window_bytes: 256 << 10,
    connection_window_bytes: 512 * (256 << 10),
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

/// Raises this process's limit of open files to the highest that it may set itself, and returns the limit.
///
/// Errors: none; where the system refuses, the limit stays as it is.
pub fn raise_open_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    };
    current.unwrap_or(u64::MAX)
}

/// The limits of the client port and of the peer port in a process that may have `open_files` descriptors.
///
/// Connections leave 1024 of them to files, or half when there are few: a refused connection comes back, a log that
/// cannot open its next segment ends the node.
pub fn port_limits(open_files: u64) -> (PortLimits, PortLimits) {
    let (clients, members) = connections(open_files);
    if clients < CLIENT_PORT.connections_max || members < PEER_PORT.connections_max {
        tracing::warn!(
            open_files,
            clients,
            members,
            "the limit of open files leaves room for few connections; raise it (ulimit -n)"
        );
    }
    let limited = |port: PortLimits, connections_max: usize| PortLimits {
        connections_max,
        ..port
    };
    (limited(CLIENT_PORT, clients), limited(PEER_PORT, members))
}

/// How many connections of clients and of members fit beside the files.
fn connections(open_files: u64) -> (usize, usize) {
    let room = open_files - FILES_RESERVED.min(open_files / 2);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    // Members need few, but those they need: without them there is no majority.
    let members = PEER_PORT.connections_max.min(room / 4);
    (CLIENT_PORT.connections_max.min(room - members), members)
}

/// Serves `service` on `listener` until `stop` resolves; then takes no new connections, asks clients to go elsewhere
/// and returns once the last call is answered.
///
/// Errors: none that a connection causes; those close the connection only.
pub async fn serve<S, F>(
    listener: Listener,
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

/// Warnings about one kind of trouble, at most one per [`WARN_INTERVAL`].
#[derive(Default)]
struct Warnings {
    last: Option<Instant>,
    silent: u64,
}

impl Warnings {
    /// Whether trouble at `now` is to be reported: how often it was not since the last report.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + WARN_INTERVAL) {
            self.silent += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

/// Accepts connections, counted.
struct Incoming {
    listener: Listener,
    free: Arc<Semaphore>,
    /// Runs after accepting failed.
    pause: Option<Pin<Box<Sleep>>>,
    failed: Warnings,
    full: Warnings,
}

impl Incoming {
    fn new(listener: Listener, connections_max: usize) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(connections_max)),
            pause: None,
            failed: Warnings::default(),
            full: Warnings::default(),
        }
    }

    /// What to do about a failed accept, beside going on.
    fn accept_failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        // The client was gone before it was accepted: the next one is not concerned.
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset
        ) {
            return;
        }
        if let Some(silent) = self.failed.due(Instant::now()) {
            tracing::warn!(%error, silent, "accepting a connection failed; trying again");
        }
        self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
    }
}

impl Stream for Incoming {
    /// Never an error: tonic would ask again at once.
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let (stream, from) = match ready!(this.listener.poll_accept(cx)) {
                Ok(accepted) => accepted,
                Err(error) => {
                    this.accept_failed(&error);
                    continue;
                }
            };
            let Ok(permit) = this.free.clone().try_acquire_owned() else {
                if let Some(silent) = this.full.due(Instant::now()) {
                    tracing::warn!(%from, silent, "too many connections; closing a new one");
                }
                continue;
            };
            if let Err(error) = stream.set_nodelay() {
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
    stream: Socket,
    /// Runs until the preface was read.
    preface: Option<Pin<Box<Sleep>>>,
    read: usize,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::machine::Net;

    #[test]
    fn connections_leave_descriptors_to_files() {
        assert_eq!(connections(0), (0, 0));
        assert_eq!(connections(256), (96, 32));
        assert_eq!(connections(1024), (384, 128));
        assert_eq!(connections(4096), (2816, 256));
        let all = (CLIENT_PORT.connections_max, PEER_PORT.connections_max);
        assert_eq!(connections(1 << 20), all);
        assert_eq!(connections(u64::MAX), all);
        for open_files in 0..10_000 {
            let (clients, members) = connections(open_files);
            let left = open_files - (clients + members) as u64;
            assert!(left >= FILES_RESERVED.min(open_files / 2), "{open_files}");
        }
    }

    #[test]
    fn the_same_trouble_is_reported_once_in_a_while() {
        let (mut warnings, start) = (Warnings::default(), Instant::now());
        assert_eq!(warnings.due(start), Some(0));
        assert_eq!(warnings.due(start + WARN_INTERVAL / 3), None);
        assert_eq!(warnings.due(start + WARN_INTERVAL / 2), None);
        assert_eq!(warnings.due(start + WARN_INTERVAL), Some(2));
    }

    /// Out of descriptors, accepting fails at once and for long: it must neither end the port nor spin.
    #[tokio::test]
    async fn accepting_pauses_after_a_failure_and_goes_on() {
        let listener = Net::default().bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, 1);
        incoming.accept_failed(&io::ErrorKind::ConnectionAborted.into());
        assert!(incoming.pause.is_none());
        let before = Instant::now();
        incoming.accept_failed(&io::Error::other("too many open files"));
        let _client = TcpStream::connect(addr).await.unwrap();
        let accepted = std::future::poll_fn(|cx| Pin::new(&mut incoming).poll_next(cx)).await;
        assert!(accepted.unwrap().is_ok());
        assert!(before.elapsed() >= ACCEPT_PAUSE);
    }
}
