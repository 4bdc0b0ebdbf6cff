use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dial::Dialer;
use super::line::Line;
use super::{ClientError, ClientOptions};

/// HTTP/2 ping interval, also without calls in flight: a peer that vanished is noticed without waiting for a call.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Time within which a ping must be answered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Receive window of one stream, in bytes: a few scan chunks, or thirty values of 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Receive window of one connection, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Largest HTTP/2 frame that is taken, in bytes. Each frame costs both sides something; with HTTP/2's default, 16 KiB, a
/// value of 64 KiB comes in five.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How long an endpoint that failed is tried last; doubles with each failure in a row.
const PENALTY_BASE: Duration = Duration::from_secs(1);

/// Doublings of [`PENALTY_BASE`] at most.
const PENALTY_DOUBLINGS_MAX: u32 = 4;

/// One server address with at most one connection, made on first use and dropped when it breaks.
pub(crate) struct Endpoint {
    /// `host:port`.
    address: String,
    transport: tonic::transport::Endpoint,
    dialer: Dialer,
    pipelined: bool,
    /// Connecting is a step of its own, under this lock, so that a caller always knows whether its request was sent.
    connection: Mutex<Connection>,
    penalty: std::sync::Mutex<Penalty>,
}

#[derive(Default)]
struct Penalty {
    failures_in_a_row: u32,
    until: Option<Instant>,
}

#[derive(Default)]
struct Connection {
    /// Counts connections, so that a late report about an old one does not drop a new one.
    generation: u64,
    line: Option<Arc<Line>>,
    last_failure: Option<(Instant, String)>,
}

impl Endpoint {
    /// Checks `address` (`host:port`, with or without `http://`); connects nothing.
    pub(crate) fn new(address: &str, options: &ClientOptions) -> Result<Endpoint, ClientError> {
        let invalid = |reason: &str| ClientError::InvalidEndpoint {
            endpoint: address.to_owned(),
            reason: reason.to_owned(),
        };
        let plain = normalize(address);
        if plain.starts_with("https://") {
            return Err(invalid("TLS is not supported yet"));
        }
        let Some((host, port)) = plain.rsplit_once(':') else {
            return Err(invalid("no port"));
        };
        if host.is_empty() || host.contains('/') {
            return Err(invalid("no host"));
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(invalid("the port is not a number from 1 to 65535"));
        }
        let transport = tonic::transport::Endpoint::from_shared(format!("http://{plain}"))
            .map_err(|error| invalid(&cause_of(&error)))?
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .tcp_nodelay(true);
        Ok(Endpoint {
            address: plain.to_owned(),
            transport,
            dialer: options.dialer.clone(),
            pipelined: options.pipelined,
            connection: Mutex::default(),
            penalty: std::sync::Mutex::default(),
        })
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns a connection and its generation, or why there is none.
    ///
    /// Callers that wait for the same attempt share its failure.
    pub(crate) async fn line(&self, within: Duration) -> Result<(Arc<Line>, u64), String> {
        if let Ok(connection) = self.connection.try_lock()
            && let Some(line) = &connection.line
        {
            return Ok((line.clone(), connection.generation));
        }
        let asked_at = Instant::now();
        let waiting = async {
            let mut connection = self.connection.lock().await;
            if let Some(line) = &connection.line {
                return Ok((line.clone(), connection.generation));
            }
            if let Some((at, cause)) = &connection.last_failure
                && *at >= asked_at
            {
                return Err(cause.clone());
            }
            match self.dialer.connect(self.transport.clone()).await {
                Ok(channel) => {
                    let line = Arc::new(Line::new(channel, self.pipelined));
                    connection.generation += 1;
                    connection.line = Some(line.clone());
                    connection.last_failure = None;
                    Ok((line, connection.generation))
                }
                Err(error) => {
                    let cause = cause_of(&error);
                    connection.last_failure = Some((Instant::now(), cause.clone()));
                    Err(cause)
                }
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(result) => result,
            Err(_) => Err(format!("no connection within {} ms", within.as_millis())),
        }
    }

    /// Drops the connection of this generation: the next call connects anew.
    pub(crate) async fn disconnect(&self, generation: u64) {
        let mut connection = self.connection.lock().await;
        if connection.generation == generation {
            connection.line = None;
        }
    }

    /// Tries this endpoint after the others for a while.
    pub(crate) fn penalize(&self) {
        let mut penalty = self.penalty.lock().expect("no panic while held");
        let doublings = penalty.failures_in_a_row.min(PENALTY_DOUBLINGS_MAX);
        penalty.failures_in_a_row += 1;
        penalty.until = Some(Instant::now() + PENALTY_BASE * (1 << doublings));
    }

    /// Takes the penalty back: the endpoint served a call.
    pub(crate) fn pardon(&self) {
        *self.penalty.lock().expect("no panic while held") = Penalty::default();
    }

    pub(crate) fn is_penalized(&self) -> bool {
        let until = self.penalty.lock().expect("no panic while held").until;
        until.is_some_and(|until| until > Instant::now())
    }
}

/// Strips the scheme and a trailing slash.
pub(crate) fn normalize(address: &str) -> &str {
    let address = address.trim();
    address
        .strip_prefix("http://")
        .unwrap_or(address)
        .trim_end_matches('/')
}

/// Returns the innermost cause of an error, which names the real trouble ("Connection refused").
pub(crate) fn cause_of(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}
