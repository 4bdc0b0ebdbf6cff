//! A server in this process whose answers each test chooses.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::v1::kv_service_server::{KvService, KvServiceServer};
use nezha_api::v1::pipeline_service_server::{PipelineService, PipelineServiceServer};
use nezha_api::v1::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, PipelineRequest, PipelineResponse, PutRequest,
    PutResponse, ResponseHeader, ScanRequest, ScanResponse,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;
pub type Chunks = Pin<Box<dyn Stream<Item = Result<ScanResponse, Status>> + Send>>;

/// Gets the number of the call, from 1, and the request.
pub type Handler<Q, A> = Box<dyn Fn(u32, Q) -> Answer<A> + Send + Sync>;

/// What a server answers. The default answers that the call is not expected.
pub struct Script {
    pub put: Handler<PutRequest, PutResponse>,
    pub get: Handler<GetRequest, GetResponse>,
    pub scan: Handler<ScanRequest, Chunks>,
    /// What happens on a pipeline with the nth request on it; `None`: the server does not know pipelines.
    pub pipeline: Option<Piper>,
}

/// Gets the number of the request on all pipelines, from 1, and the request.
pub type Piper = Arc<dyn Fn(u32, PipelineRequest) -> Step + Send + Sync>;

/// What a server does about a request on a pipeline.
pub enum Step {
    /// Answers these, in this order.
    Answer(Vec<PipelineResponse>),
    /// Ends the stream.
    End(Status),
}

impl Default for Script {
    fn default() -> Script {
        Script {
            put: unexpected(),
            get: unexpected(),
            scan: unexpected(),
            pipeline: None,
        }
    }
}

fn unexpected<Q, A: 'static>() -> Handler<Q, A> {
    Box::new(|_, _| Box::pin(async { Err(Status::invalid_argument("not expected by this test")) }))
}

/// A handler without waiting.
pub fn answer<Q, A: Send + 'static>(
    make: impl Fn(u32, Q) -> Result<A, Status> + Send + Sync + 'static,
) -> Handler<Q, A> {
    Box::new(move |nth, request| {
        let answer = make(nth, request);
        Box::pin(async move { answer })
    })
}

/// A handler that never answers.
pub fn hang<Q, A: 'static>() -> Handler<Q, A> {
    Box::new(|_, _| Box::pin(std::future::pending()))
}

pub fn header(leader_endpoint: &str) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 7,
        node_id: 1,
        term: 2,
        revision: 10,
        leader_id: 1,
        leader_endpoint: leader_endpoint.to_owned(),
    })
}

pub fn written(leader_endpoint: &str) -> PutResponse {
    PutResponse {
        header: header(leader_endpoint),
        succeeded: true,
        mod_revision: 10,
    }
}

#[derive(Default)]
pub struct Counts {
    pub puts: AtomicU32,
    pub gets: AtomicU32,
    pub scans: AtomicU32,
    /// Pipelines that were opened.
    pub pipelines: AtomicU32,
    /// Requests on all of them.
    pub piped: AtomicU32,
    /// How long the caller of each put said that it waits.
    pub put_timeouts: Mutex<Vec<Duration>>,
}

fn stated_timeout<T>(request: &Request<T>) -> Duration {
    let text = request.metadata().get("grpc-timeout").unwrap();
    let text = text.to_str().unwrap();
    let (number, unit) = text.split_at(text.len() - 1);
    let number = number.parse().unwrap();
    match unit {
        "n" => Duration::from_nanos(number),
        "u" => Duration::from_micros(number),
        _ => panic!("a time-out of {text}"),
    }
}

struct Service {
    script: Script,
    counts: Arc<Counts>,
}

#[tonic::async_trait]
impl KvService for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let nth = self.counts.puts.fetch_add(1, Ordering::SeqCst) + 1;
        let timeout = stated_timeout(&request);
        self.counts.put_timeouts.lock().unwrap().push(timeout);
        (self.script.put)(nth, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::invalid_argument("not expected by this test"))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let nth = self.counts.gets.fetch_add(1, Ordering::SeqCst) + 1;
        (self.script.get)(nth, request.into_inner())
            .await
            .map(Response::new)
    }

    type ScanStream = Chunks;

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Chunks>, Status> {
        let nth = self.counts.scans.fetch_add(1, Ordering::SeqCst) + 1;
        (self.script.scan)(nth, request.into_inner())
            .await
            .map(Response::new)
    }
}

struct Pipelines {
    piper: Piper,
    counts: Arc<Counts>,
}

#[tonic::async_trait]
impl PipelineService for Pipelines {
    type PipelineStream = Pin<Box<dyn Stream<Item = Result<PipelineResponse, Status>> + Send>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        self.counts.pipelines.fetch_add(1, Ordering::SeqCst);
        let (piper, counts) = (self.piper.clone(), self.counts.clone());
        let mut requests = request.into_inner();
        let (send, answers) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let nth = counts.piped.fetch_add(1, Ordering::SeqCst) + 1;
                match piper(nth, request) {
                    Step::Answer(answers) => {
                        for answer in answers {
                            send.send(Ok(answer)).await.unwrap();
                        }
                    }
                    Step::End(status) => return drop(send.send(Err(status)).await),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// A running server, with a runtime of its own: dropped, it closes its port and all connections, as a process does.
pub struct Server {
    pub endpoint: String,
    pub counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

impl Server {
    pub async fn start(script: Script) -> Server {
        Server::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub fn start_on(listener: TcpListener, script: Script) -> Server {
        let endpoint = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts::default());
        let pipelines = script.pipeline.clone().map(|piper| {
            let counts = counts.clone();
            PipelineServiceServer::new(Pipelines { piper, counts })
        });
        let service = KvServiceServer::new(Service {
            script,
            counts: counts.clone(),
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let listener = listener.into_std().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(service)
                .add_optional_service(pipelines)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Server {
            endpoint,
            counts,
            runtime: Some(runtime),
        }
    }

    pub fn puts(&self) -> u32 {
        self.counts.puts.load(Ordering::SeqCst)
    }

    pub fn gets(&self) -> u32 {
        self.counts.gets.load(Ordering::SeqCst)
    }

    pub fn pipelines(&self) -> u32 {
        self.counts.pipelines.load(Ordering::SeqCst)
    }

    pub fn scans(&self) -> u32 {
        self.counts.scans.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Listens on a host of its own: while a test does not hold its port, no server of another test gets it.
pub async fn listen_apart() -> TcpListener {
    TcpListener::bind("127.0.0.9:0").await.unwrap()
}

/// Returns an address on which nobody listens.
pub async fn closed_endpoint() -> String {
    listen_apart().await.local_addr().unwrap().to_string()
}
