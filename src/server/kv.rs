//! `KvService`: checks, then local or forwarded.

use std::pin::Pin;
use std::sync::Arc;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::errors::{self, LeaderHint};
use nezha_api::v1::kv_service_client::KvServiceClient;
use nezha_api::v1::kv_service_server::KvService;
use nezha_api::v1::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, PutRequest, PutResponse, ScanRequest,
    ScanResponse,
};
use nezha_vlog::Draft;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tower::util::MapResponse;

use super::admission::{AdmittedBody, AnswerPermit, MessageLimit, PermitSlot};
use super::call::Call;
use super::context::Context;
use super::forward::Effect;
use super::read::UNCOUNTED_BYTES_MAX;
use super::validate;
use crate::raft::{WriteError, Written};

/// The service behind point operations and scans.
#[derive(Clone)]
pub struct Kv {
    context: Arc<Context>,
}

fn client(channel: Channel) -> KvServiceClient<Channel> {
    KvServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Kv {
    /// Serves `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Proposes `draft`, once there is space for it, and waits for its outcome until the call's deadline.
    ///
    /// The write goes on when the caller is gone, in a task of its own that holds the bytes' permit: what is in flight
    /// stays counted until its outcome is known. (I12)
    async fn write(&self, draft: Draft, mut call: Call) -> Result<Written, Status> {
        let context = &self.context;
        context.space_for(draft.encoded_len(), &call).await?;
        let (permit, consensus) = (call.permit.take(), context.consensus.clone());
        let task = tokio::spawn(async move {
            let _permit = permit;
            consensus.write(draft).await
        });
        let Ok(joined) = tokio::time::timeout_at(call.deadline, task).await else {
            return Err(errors::outcome_unknown(
                &context.name,
                "the deadline passed after the write was proposed",
            ));
        };
        let result = joined
            .map_err(|e| errors::internal(&context.name, &format!("the write's task ended: {e}"), true))?;
        result.map_err(|error| match error {
            WriteError::NotLeader { leader } => context.led_by(leader),
            WriteError::Unknown { reason } => errors::outcome_unknown(&context.name, &reason),
        })
    }
}

/// No value that a leader takes is that large, so no answer is.
fn answer_too_large(actual: u64, limit: u64) -> Status {
    Status::out_of_range(format!("the answer has {actual} bytes, more than {limit}"))
}

/// Rows of a scan as they go out.
pub type ScanStream = Pin<Box<dyn Stream<Item = Result<ScanResponse, Status>> + Send>>;

#[tonic::async_trait]
impl KvService for Kv {
    type ScanStream = ScanStream;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        validate::key(&message.key)?;
        validate::value(&message.value, self.context.limits.value_bytes_max)?;
        let precondition = validate::precondition(message.precondition.as_ref())?;
        self.context.check_admission()?;
        if let Some(leader) = self.context.elsewhere(&call)? {
            let send = async |channel, request| client(channel).put(request).await;
            return self
                .context
                .forward(leader, &call, Effect::Write, message, send)
                .await;
        }
        let draft = Draft::put(&message.key, &message.value, precondition);
        // The draft holds its own copy; two copies of a large value would not fit the budget.
        drop(message);
        let written = self.write(draft, call).await?;
        Ok(Response::new(PutResponse {
            header: Some(self.context.header(written.revision)),
            succeeded: written.outcome.succeeded,
            mod_revision: written.outcome.mod_revision,
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        validate::key(&message.key)?;
        let precondition = validate::precondition(message.precondition.as_ref())?;
        self.context.check_admission()?;
        if let Some(leader) = self.context.elsewhere(&call)? {
            let send = async |channel, request| client(channel).delete(request).await;
            return self
                .context
                .forward(leader, &call, Effect::Write, message, send)
                .await;
        }
        let written = self
            .write(Draft::delete(&message.key, precondition), call)
            .await?;
        Ok(Response::new(DeleteResponse {
            header: Some(self.context.header(written.revision)),
            succeeded: written.outcome.succeeded,
            deleted: written.outcome.succeeded && written.outcome.existed,
            mod_revision: written.outcome.mod_revision,
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let stale = validate::get(&message)?;
        self.context.check_admission()?;
        if !stale && let Some(leader) = self.context.elsewhere(&call)? {
            return self.forward_get(leader, &call, message).await;
        }
        let revision = self.context.read_point(stale, &call).await?;
        self.context.read(message, revision, &call).await
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanStream>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let range = validate::range(&message)?;
        let stale = validate::is_stale(message.consistency)?;
        self.context.check_admission()?;
        if !stale && let Some(leader) = self.context.elsewhere(&call)? {
            return self.forward_scan(leader, &call, message).await;
        }
        self.context.read_point(stale, &call).await?;
        super::scan::open(&self.context, range, &message, &call).await
    }
}

impl Kv {
    /// Has the leader answer. The answer is counted here too, before it is read: the leader counts what is in its own
    /// memory, and a client that reads slowly leaves the value in this node's.
    async fn forward_get(
        &self,
        leader: LeaderHint,
        call: &Call,
        message: GetRequest,
    ) -> Result<Response<GetResponse>, Status> {
        let limit = MessageLimit {
            message_bytes_max: MESSAGE_BYTES_MAX as u64,
            too_large: answer_too_large,
            must_arrive: false,
            uncounted_bytes_max: UNCOUNTED_BYTES_MAX,
            budget: self.context.answers.clone(),
        };
        let (slot, until) = (PermitSlot::default(), call.deadline);
        let filled = slot.clone();
        let send = move |channel: Channel, request: Request<GetRequest>| async move {
            let counted = MapResponse::new(channel, move |answer: http::Response<Body>| {
                answer.map(|body| Body::new(AdmittedBody::new(body, limit, filled, until)))
            });
            let mut client = KvServiceClient::new(counted).max_decoding_message_size(MESSAGE_BYTES_MAX);
            client.get(request).await
        };
        let mut answer = self
            .context
            .forward(leader, call, Effect::Read, message, send)
            .await?;
        if let Some(permit) = slot.take() {
            answer.extensions_mut().insert(AnswerPermit::new(permit));
        }
        Ok(answer)
    }

    async fn forward_scan(
        &self,
        leader: LeaderHint,
        call: &Call,
        message: ScanRequest,
    ) -> Result<Response<ScanStream>, Status> {
        let send = async |channel, request| client(channel).scan(request).await;
        let answer = self
            .context
            .forward(leader.clone(), call, Effect::Read, message, send)
            .await?;
        let context = self.context.clone();
        let rows = answer
            .into_inner()
            .map(move |item| item.map_err(|status| context.passed_on(&leader, Effect::Read, status)));
        Ok(Response::new(Box::pin(rows)))
    }
}
