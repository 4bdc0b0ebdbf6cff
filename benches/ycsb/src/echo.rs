//! The raw network: messages sent over tonic to a server that answers at once and stores nothing.
//!
//! What a store with the same transport cannot exceed on this machine. Client and server are two runtimes of one process
//! and share nothing but loopback connections; messages are bytes without a format of their own. No server that replicates
//! is faster than a unary echo through unary calls, nor than a streamed echo through streams.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context as TaskContext, Poll};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use bytes::{Buf, BufMut, Bytes};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::args::{EchoArgs, EchoMode};
use crate::histogram::{Latencies, LatencySummary};
use crate::size::format_size;
use crate::values::Values;

/// Windows of streams and connections in both directions: never what is waited for.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Largest HTTP/2 frame in both directions: the largest that the product takes.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Beyond the largest value.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Streams that one connection may have open: one for each client.
const STREAMS_MAX: u32 = 200_000;

const UNARY: &str = "/nezha.bench.Echo/Unary";
const STREAMED: &str = "/nezha.bench.Echo/Streamed";

/// The result of a probe. Field names are those of the JSON line.
#[derive(Debug, Clone, Serialize)]
struct EchoReport {
    operation: &'static str,
    mode: &'static str,
    clients: u32,
    connections: u32,
    size: u64,
    answer_size: u64,
    seconds: f64,
    ops: u64,
    ops_per_second: f64,
    /// One way: of the messages sent.
    mb_per_second: f64,
    latency_us: LatencySummary,
}

/// Runs the probe and prints its report.
///
/// Errors: no loopback port or thread, a call that failed, or no answer within the measurement.
pub(crate) async fn run(args: &EchoArgs) -> anyhow::Result<()> {
    let report = probe(args).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "echo over tonic, {}: {} in flight on {} connections, messages of {}, answers of {}, {:.1} s; one process, a \
             runtime each for client and server\n{:.0} ops/s   {:.2} MB/s one way\n{}",
            report.mode,
            report.clients,
            report.connections,
            format_size(report.size),
            format_size(report.answer_size),
            report.seconds,
            report.ops_per_second,
            report.mb_per_second,
            report.latency_us.line()
        );
    }
    Ok(())
}

async fn probe(args: &EchoArgs) -> anyhow::Result<EchoReport> {
    let answer_size = args.answer_size.unwrap_or(args.size);
    let server = EchoServer::start(Echo {
        answer: (answer_size != args.size).then(|| value(answer_size)),
    })?;
    let connections = args.connections.min(args.clients);
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.addr))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX);
        let channel = endpoint
            .connect()
            .await
            .context("cannot connect to the echo server")?;
        channels.push(channel);
    }
    let started = Instant::now();
    let measured = Measured {
        from: started + Duration::from_secs_f64(args.warmup),
        to: started + Duration::from_secs_f64(args.warmup + args.seconds),
    };
    let message = value(args.size);
    let mut tasks = JoinSet::new();
    match args.mode {
        EchoMode::Unary => {
            for at in 0..args.clients {
                let channel = channels[(at % connections) as usize].clone();
                tasks.spawn(call(channel, message.clone(), measured));
            }
        }
        EchoMode::Stream => {
            for (channel, at) in channels.into_iter().zip(0..) {
                // The clients of a connection, as evenly as they divide.
                let window = args.clients / connections + u32::from(at < args.clients % connections);
                tasks.spawn(stream(channel, message.clone(), window as usize, measured));
            }
        }
    }
    let mut latencies = Latencies::new();
    while let Some(counted) = tasks.join_next().await {
        latencies.merge(&counted.context("an echo client ended")??);
    }
    let ops = latencies.count();
    ensure!(ops > 0, "no answer came within {} s", args.seconds);
    Ok(EchoReport {
        operation: "echo",
        mode: args.mode.name(),
        clients: args.clients,
        connections,
        size: args.size,
        answer_size,
        seconds: args.seconds,
        ops,
        ops_per_second: ops as f64 / args.seconds,
        mb_per_second: (ops * args.size) as f64 / 1e6 / args.seconds,
        latency_us: latencies.summary(),
    })
}

fn value(size: u64) -> Bytes {
    let size = usize::try_from(size).expect("a size fits this machine: it is at most 64 MiB");
    Values::new(size).value(b"echo")
}

/// What counts: answers that come within it.
#[derive(Debug, Clone, Copy)]
struct Measured {
    from: Instant,
    to: Instant,
}

impl Measured {
    /// Counts an answer. False: the end has come.
    fn count(&self, sent: Instant, latencies: &mut Latencies) -> bool {
        let now = Instant::now();
        if now >= self.from && now < self.to {
            latencies.record(now - sent);
        }
        now < self.to
    }
}

fn grpc(channel: Channel) -> client::Grpc<Channel> {
    client::Grpc::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// One client of unary calls.
async fn call(channel: Channel, message: Bytes, measured: Measured) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut grpc = grpc(channel);
    loop {
        let sent = Instant::now();
        grpc.ready().await.context("the echo server is gone")?;
        let request = Request::new(message.clone());
        grpc.unary(request, PathAndQuery::from_static(UNARY), Raw)
            .await
            .context("an echo failed")?;
        if !measured.count(sent, &mut latencies) {
            return Ok(latencies);
        }
    }
}

/// The clients of one stream: `window` messages in flight, answered in order.
async fn stream(
    channel: Channel,
    message: Bytes,
    window: usize,
    measured: Measured,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    let (messages, outgoing) = tokio::sync::mpsc::channel(window);
    let mut sent = VecDeque::with_capacity(window);
    for _ in 0..window {
        sent.push_back(Instant::now());
        // There is room: the channel is as large as the window.
        messages.send(message.clone()).await?;
    }
    let mut grpc = grpc(channel);
    grpc.ready().await.context("the echo server is gone")?;
    let request = Request::new(ReceiverStream::new(outgoing));
    let answers = grpc.streaming(request, PathAndQuery::from_static(STREAMED), Raw);
    let mut answers: Streaming<Bytes> = answers.await.context("a stream of echoes failed")?.into_inner();
    while answers
        .message()
        .await
        .context("a stream of echoes broke")?
        .is_some()
    {
        let oldest = sent
            .pop_front()
            .ok_or_else(|| anyhow!("an answer without a message"))?;
        if !measured.count(oldest, &mut latencies) {
            return Ok(latencies);
        }
        sent.push_back(Instant::now());
        messages.send(message.clone()).await?;
    }
    Err(anyhow!("the echo server ended a stream"))
}

/// The server, on threads of its own. Stopped when dropped.
struct EchoServer {
    addr: SocketAddr,
    /// Its runtime ends when this goes.
    _stop: oneshot::Sender<Infallible>,
}

impl EchoServer {
    fn start(echo: Echo) -> anyhow::Result<EchoServer> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("echo")
            .enable_all()
            .build()
            .context("cannot start threads for the echo server")?;
        let (stop, stopped) = oneshot::channel();
        let (tell_addr, addr) = mpsc::channel();
        thread::Builder::new()
            .name("echo-server".to_owned())
            .spawn(move || runtime.block_on(serve(echo, &tell_addr, stopped)))
            .context("cannot start a thread for the echo server")?;
        let addr = addr.recv().context("the echo server ended")??;
        Ok(EchoServer { addr, _stop: stop })
    }
}

async fn serve(
    echo: Echo,
    tell_addr: &mpsc::Sender<anyhow::Result<SocketAddr>>,
    stopped: oneshot::Receiver<Infallible>,
) {
    let bound = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())
        .and_then(|incoming| Ok((incoming.local_addr()?, incoming)))
        .context("cannot listen on 127.0.0.1");
    let incoming = match bound {
        Ok((addr, incoming)) => {
            // Whoever started it waits for this.
            drop(tell_addr.send(Ok(addr)));
            incoming.with_nodelay(Some(true))
        }
        Err(error) => {
            drop(tell_addr.send(Err(error)));
            return;
        }
    };
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .add_service(echo)
        .serve_with_incoming(incoming);
    tokio::select! {
        ended = serving => if let Err(error) = ended {
            eprintln!("the echo server ended: {error}");
        },
        _ = stopped => {}
    }
}

/// The service.
#[derive(Debug, Clone)]
struct Echo {
    /// What is answered; `None`: what came.
    answer: Option<Bytes>,
}

impl Echo {
    fn answer(&self, message: Bytes) -> Bytes {
        self.answer.clone().unwrap_or(message)
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "nezha.bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let limit = Some(MESSAGE_BYTES_MAX);
            let mut grpc = Grpc::new(Raw).apply_max_message_size_config(limit, limit);
            Ok(match request.uri().path() {
                UNARY => grpc.unary(OneByOne(echo), request).await,
                STREAMED => grpc.streaming(InAStream(echo), request).await,
                other => Status::unimplemented(format!("no method {other}")).into_http(),
            })
        })
    }
}

struct OneByOne(Echo);

impl UnaryService<Bytes> for OneByOne {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.answer(request.into_inner()))))
    }
}

struct InAStream(Echo);

impl StreamingService<Bytes> for InAStream {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let echo = self.0.clone();
        let answers = request
            .into_inner()
            .map(move |message| message.map(|message| echo.answer(message)));
        std::future::ready(Ok(Response::new(Box::pin(answers))))
    }
}

/// Messages are bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(mode: EchoMode, size: u64, answer_size: Option<u64>) -> EchoArgs {
        EchoArgs {
            mode,
            size,
            answer_size,
            clients: 5,
            connections: 2,
            seconds: 0.2,
            warmup: 0.05,
            json: true,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn echoes_are_counted_in_both_modes() {
        for mode in [EchoMode::Unary, EchoMode::Stream] {
            for (size, answer_size) in [(1000, None), (100_000, Some(10)), (0, None)] {
                let report = probe(&args(mode, size, answer_size)).await.unwrap();
                assert_eq!((report.clients, report.connections), (5, 2));
                assert_eq!(report.answer_size, answer_size.unwrap_or(size));
                assert!(report.ops > 0 && report.latency_us.p50 > 0, "{report:?}");
                let expected = report.ops_per_second * size as f64 / 1e6;
                assert!((report.mb_per_second - expected).abs() < 1e-6, "{report:?}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_server_answers_what_came_or_what_was_asked_for() {
        for answer in [None, Some(Bytes::from_static(b"answer"))] {
            let expected = answer.clone().unwrap_or(Bytes::from_static(b"message"));
            let server = EchoServer::start(Echo { answer }).unwrap();
            let channel = Endpoint::from_shared(format!("http://{}", server.addr))
                .unwrap()
                .connect()
                .await
                .unwrap();
            let mut grpc = grpc(channel);
            grpc.ready().await.unwrap();
            let message = || Bytes::from_static(b"message");
            let path = PathAndQuery::from_static(UNARY);
            let answered: Response<Bytes> = grpc.unary(Request::new(message()), path, Raw).await.unwrap();
            assert_eq!(answered.into_inner(), expected);
            let messages = tokio_stream::iter([message(), message()]);
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static(STREAMED);
            let answers = grpc.streaming(Request::new(messages), path, Raw).await.unwrap();
            let answers: Vec<Bytes> = answers.into_inner().map(Result::unwrap).collect().await;
            assert_eq!(answers, [expected.clone(), expected]);
        }
    }
}
