//! The client port's HTTP side: which service a call belongs to, what its body may hold, how its answer leaves.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use nezha_api::errors;
use nezha_api::v1::cluster_service_server::ClusterServiceServer;
use nezha_api::v1::kv_service_server::KvServiceServer;
use nezha_api::v1::maintenance_service_server::MaintenanceServiceServer;
use nezha_api::v1::pipeline_service_server::PipelineServiceServer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::{Code, Status};

use super::admission::{AdmittedBody, AnswerPermit, MessageLimit, Messages, PermitSlot, PiecedBody};
use super::call::{Arrival, TIMEOUT, deadline};
use super::cluster::Cluster;
use super::context::Context;
use super::kv::Kv;
use super::maintenance::Maintenance;
use super::pipeline::{self, Pipelines};
use crate::config::KEY_BYTES_MAX;

/// A message may be this much longer than its value: key, precondition, field headers. Values a little above their
/// limit get through to the check that states exact numbers.
pub const ENVELOPE_BYTES: u64 = 512 << 10;
/// Calls at once, on all connections. Those that wait for admission, with their bytes unread in their windows, are fewer:
/// see [`super::admission::UNREAD_MAX`].
const CALLS_MAX: usize = 4096;
/// What a client is asked to wait when there are more.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// A stream of messages has no deadline of its own; each message has.
const STREAM_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Longest message of a call that carries no value: three bounds of the longest key, and room.
const SMALL_MESSAGE_BYTES_MAX: u64 = 8 * KEY_BYTES_MAX;

/// All services of the client port; answers NOT_READY until they are there.
#[derive(Clone)]
pub struct Front {
    name: Arc<str>,
    calls: Arc<Semaphore>,
    services: Arc<OnceLock<Services>>,
}

#[derive(Clone)]
struct Services {
    kv: KvServiceServer<Kv>,
    pipeline: PipelineServiceServer<Pipelines>,
    cluster: ClusterServiceServer<Cluster>,
    maintenance: MaintenanceServiceServer<Maintenance>,
    value_request: MessageLimit,
    piped_request: MessageLimit,
    small_request: MessageLimit,
}

impl Front {
    /// Makes the front of the node called `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            services: Arc::default(),
        }
    }

    /// Serves `context` from now on. Later calls change nothing.
    pub fn open(&self, context: &Arc<Context>) {
        let message_bytes_max = context.limits.value_bytes_max + ENVELOPE_BYTES;
        let kv = KvServiceServer::new(Kv::new(context.clone()))
            .max_decoding_message_size(usize::try_from(message_bytes_max).unwrap_or(usize::MAX));
        let piped_bytes_max = pipeline::VALUE_BYTES_MAX + ENVELOPE_BYTES;
        let pipeline = PipelineServiceServer::new(Pipelines::new(context.clone()))
            .max_decoding_message_size(usize::try_from(piped_bytes_max).unwrap_or(usize::MAX));
        let services = Services {
            kv,
            pipeline,
            cluster: ClusterServiceServer::new(Cluster::new(context.clone())),
            maintenance: MaintenanceServiceServer::new(Maintenance::new(context.clone())),
            value_request: MessageLimit {
                messages: Messages::One,
                message_bytes_max,
                too_large: value_request_too_large,
                must_arrive: true,
                uncounted_bytes_max: 0,
                budget: context.requests.clone(),
            },
            piped_request: MessageLimit {
                messages: Messages::Many,
                message_bytes_max: piped_bytes_max,
                too_large: piped_request_too_large,
                must_arrive: true,
                uncounted_bytes_max: 0,
                budget: context.requests.clone(),
            },
            small_request: MessageLimit {
                messages: Messages::One,
                message_bytes_max: SMALL_MESSAGE_BYTES_MAX,
                too_large: small_request_too_large,
                must_arrive: true,
                uncounted_bytes_max: SMALL_MESSAGE_BYTES_MAX,
                budget: context.requests.clone(),
            },
        };
        // A node opens its front once; a second set would be refused and the first one stays.
        drop(self.services.set(services));
    }
}

fn value_request_too_large(actual: u64, limit: u64) -> Status {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    errors::value_too_large(size(actual), size(limit.saturating_sub(ENVELOPE_BYTES)))
}

fn piped_request_too_large(actual: u64, limit: u64) -> Status {
    errors::invalid_request(
        "message",
        &format!("has {actual} bytes; a pipeline takes at most {limit}: use KvService for larger values"),
    )
}

fn small_request_too_large(actual: u64, limit: u64) -> Status {
    errors::invalid_request(
        "message",
        &format!("has {actual} bytes; a call of this kind has at most {limit}"),
    )
}

type Answer = BoxFuture<Response<Body>, Infallible>;

fn refuse(status: Status) -> Answer {
    Box::pin(async move { Ok(status.into_http()) })
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let Some(services) = self.services.get() else {
            return refuse(errors::not_ready(
                &self.name,
                "it opens its files and looks for the other members",
            ));
        };
        let Ok(slot) = self.calls.clone().try_acquire_owned() else {
            return refuse(errors::overloaded(
                &self.name,
                &format!("{CALLS_MAX} calls are in flight"),
                RETRY_AFTER,
            ));
        };
        let path = request.uri().path().to_owned();
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return refuse(Status::unimplemented(format!("no such method: {path}")));
        };
        match service {
            "nezha.v1.KvService" => {
                let limit = match method {
                    "Put" | "Delete" => &services.value_request,
                    _ => &services.small_request,
                };
                let (request, permit) = admitted(request, limit);
                let answer = services.kv.clone().call(request);
                respond(answer, slot, permit, method == "Scan")
            }
            "nezha.v1.PipelineService" => {
                let (request, permit) = admitted(request, &services.piped_request);
                respond(services.pipeline.clone().call(request), slot, permit, true)
            }
            "nezha.v1.ClusterService" => {
                let (request, permit) = admitted(request, &services.small_request);
                respond(services.cluster.clone().call(request), slot, permit, false)
            }
            "nezha.v1.MaintenanceService" => {
                let (request, permit) = admitted(request, &services.small_request);
                respond(services.maintenance.clone().call(request), slot, permit, false)
            }
            _ => refuse(Status::unimplemented(format!("no such service: {service}"))),
        }
    }
}

/// The request with its body behind `limit`, and the slot in which its handler will find the permit.
fn admitted(request: Request<Body>, limit: &MessageLimit) -> (Request<Body>, PermitSlot) {
    let (permit, arrived) = (PermitSlot::default(), Instant::now());
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(permit.clone());
    parts.extensions.insert(Arrival(arrived));
    let stated = parts.headers.get(TIMEOUT).and_then(|value| value.to_str().ok());
    let until = match limit.messages {
        Messages::One => deadline(stated, arrived),
        Messages::Many => arrived + STREAM_LIFE,
    };
    let body = AdmittedBody::new(body, limit.clone(), permit.clone(), until);
    (Request::from_parts(parts, Body::new(body)), permit)
}

/// Answers; the call's slot is free once the answer is there. Scans have slots of their own.
fn respond(answer: Answer, slot: OwnedSemaphorePermit, permit: PermitSlot, pieced: bool) -> Answer {
    Box::pin(async move {
        let mut response = answer.await?;
        drop(slot);
        if let Some(status) = unreadable(&response, &permit) {
            return Ok(status.into_http());
        }
        let permit = response.extensions_mut().remove::<AnswerPermit>();
        if permit.is_none() && !pieced {
            return Ok(response);
        }
        Ok(response.map(|body| Body::new(PiecedBody::new(body, permit))))
    })
}

/// What the client is told instead of tonic's bare INTERNAL about bytes that are not the message; `None` if `response`
/// is anything else.
///
/// Our own INTERNAL has details. And no handler may have had the request: the refusal says that nothing was proposed.
fn unreadable(response: &Response<Body>, permit: &PermitSlot) -> Option<Status> {
    let status = Status::from_header_map(response.headers())?;
    let bare = status.code() == Code::Internal && status.details().is_empty();
    (bare && !permit.was_taken()).then(|| errors::invalid_request("message", status.message()))
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use nezha_api::errors::{ApiError, Reason};
    use nezha_api::v1::{PutRequest, PutResponse};
    use tonic::server::{Grpc, UnaryService};
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::server::admission::Budget;
    use crate::server::call::Call;

    /// A handler as ours are, but for an error without details.
    struct Handler;

    impl UnaryService<PutRequest> for Handler {
        type Response = PutResponse;
        type Future = Ready<Result<tonic::Response<PutResponse>, Status>>;

        fn call(&mut self, request: tonic::Request<PutRequest>) -> Self::Future {
            drop(Call::of(&request));
            ready(Err(Status::internal("a handler's")))
        }
    }

    async fn put(body: &'static str) -> Option<Status> {
        let limit = MessageLimit {
            messages: Messages::One,
            message_bytes_max: SMALL_MESSAGE_BYTES_MAX,
            too_large: small_request_too_large,
            must_arrive: true,
            uncounted_bytes_max: 0,
            budget: Budget::new("requests", "n1", 1 << 20, Duration::from_secs(1)),
        };
        let (request, permit) = admitted(Request::new(Body::new(body.to_owned())), &limit);
        let mut grpc = Grpc::new(ProstCodec::<PutResponse, PutRequest>::default());
        unreadable(&grpc.unary(Handler, request).await, &permit)
    }

    /// Goal: what tonic says about a request that it cannot read becomes a refusal with a reason; and only that.
    #[tokio::test]
    async fn bytes_that_are_not_the_message_are_refused_with_a_reason() {
        // Field 1 as a number instead of bytes; nothing; half a message; a compressed one, without saying how.
        for body in [
            "\0\0\0\0\x02\x08\x05",
            "",
            "\0\0\0\0\x05\x0a",
            "\x01\0\0\0\x02\x0a\0",
        ] {
            let status = put(body).await.unwrap_or_else(|| panic!("{body:?} is refused"));
            let error = ApiError::from_status(&status);
            assert_eq!(error.reason, Some(Reason::InvalidRequest), "{status}");
            assert_eq!((error.code, error.proposed), (Code::InvalidArgument, Some(false)));
            assert_eq!(error.violations[0].0, "message");
        }
        // An empty message is one: what the handler says about it is not touched.
        assert!(put("\0\0\0\0\0").await.is_none());
        let long = put("\0\x7f\0\0\0").await;
        assert!(long.is_none(), "the body's own refusal has details: {long:?}");
    }
}
