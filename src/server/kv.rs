//! `KvService`: checks, then local or forwarded.

use std::pin::Pin;
use std::sync::Arc;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::errors::LeaderHint;
use nezha_api::v1::kv_service_client::KvServiceClient;
use nezha_api::v1::kv_service_server::KvService;
use nezha_api::v1::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, PutRequest, PutResponse, ScanRequest,
    ScanResponse,
};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::admission::AnswerPermit;
use super::call::Call;
use super::context::Context;
use super::forward::Effect;
use super::read::UNCOUNTED_BYTES_MAX;
use super::validate;
use super::write::{Checked, WriteRequest};

/// The service behind point operations and scans.
#[derive(Clone)]
pub struct Kv {
    context: Arc<Context>,
}

/// A client of another member.
pub fn client(channel: Channel) -> KvServiceClient<Channel> {
    KvServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Kv {
    /// Serves `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Writes here, or passes the call on.
    async fn write<Q: WriteRequest>(&self, request: Request<Q>) -> Result<Response<Q::Answer>, Status> {
        let (call, context) = (Call::of(&request), &self.context);
        let answer = match context.check_write(request.into_inner(), &call)? {
            Checked::There(leader, message) => context.forward_write(leader, message, &call).await?,
            Checked::Here(draft) => {
                let written = context.write(draft, call).await?;
                Q::answer(Some(context.header(written.revision)), &written)
            }
        };
        Ok(Response::new(answer))
    }
}

/// Rows of a scan as they go out.
pub type ScanStream = Pin<Box<dyn Stream<Item = Result<ScanResponse, Status>> + Send>>;

#[tonic::async_trait]
impl KvService for Kv {
    type ScanStream = ScanStream;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.write(request).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.write(request).await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (call, context) = (Call::of(&request), &self.context);
        let message = request.into_inner();
        let stale = validate::get(&message)?;
        context.check_admission()?;
        let leader = if stale { None } else { context.elsewhere(&call)? };
        let counted = match leader {
            Some(leader) => context.forward_get(leader, &call, message).await?,
            None => {
                let revision = context.read_point(stale, call.deadline).await?;
                let mut counted = context
                    .read(message, revision, UNCOUNTED_BYTES_MAX, &call)
                    .await?;
                counted.answer.header = Some(context.header(counted.revision));
                counted
            }
        };
        let mut response = Response::new(counted.answer);
        if let Some(permit) = counted.permit {
            response.extensions_mut().insert(AnswerPermit::new(permit));
        }
        Ok(response)
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
        self.context.read_point(stale, call.deadline).await?;
        super::scan::open(&self.context, range, &message, &call).await
    }
}

impl Kv {
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
