//! `PipelineService`: many point operations under way on one stream, answered as they are done.
//!
//! Bytes of requests are admitted message by message, as those of calls are (see `admission`). Writes go to Raft in
//! their order with a callback for the answer: no task, no timer and no channel for each. Gets wait in `gets` for the next
//! read index. Only what has to wait for something else, another member, space or the disk, gets a task of its own.
//!
//! Memory of one stream: [`OPERATIONS_MAX`] operations, whose requests and values the budgets count, and one answer that
//! is being sent. A client that does not read its answers is given up after [`UNREAD_WAIT`]: what waits for it is dropped,
//! with the bytes that it holds in the budgets. (I12)

mod answers;
mod gets;

use std::sync::Arc;
use std::time::Duration;

use nezha_api::errors;
use nezha_api::v1::pipeline_request::Operation;
use nezha_api::v1::pipeline_response;
use nezha_api::v1::pipeline_service_server::PipelineService;
use nezha_api::v1::{DeleteResponse, GetRequest, PipelineRequest, PutResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tonic::{Request, Response, Status, Streaming};

use super::admission::PermitSlot;
use super::call::Call;
use super::context::Context;
use super::validate;
use super::write::{Checked, WriteRequest};
use answers::{Answer, AnswerStream, Answers};
use gets::Get;

/// Longest value in a message of a pipeline: longer ones would hold up those behind them.
pub const VALUE_BYTES_MAX: u64 = 1 << 20;
/// Operations under way on one stream, answers that were not read included.
const OPERATIONS_MAX: usize = 1024;
/// Open pipelines of a node.
pub const PIPELINES_MAX: usize = 1024;
/// What a client is asked to wait when there are more.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A client that reads none of the answers that wait for it, for so long and up to twice that, is gone.
const UNREAD_WAIT: Duration = Duration::from_secs(30);

/// The service.
#[derive(Clone)]
pub struct Pipelines {
    context: Arc<Context>,
}

impl Pipelines {
    /// Serves `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl PipelineService for Pipelines {
    type PipelineStream = AnswerStream;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<AnswerStream>, Status> {
        let context = &self.context;
        context.check_admission()?;
        let Ok(open) = context.pipelines.clone().try_acquire_owned() else {
            let what = format!("{PIPELINES_MAX} pipelines are open");
            return Err(errors::overloaded(&context.name, &what, RETRY_AFTER));
        };
        let call = Call::of_stream(&request);
        let permits = request.extensions().get::<PermitSlot>().cloned();
        let (answers, stream) = answers::channel(context.clone());
        let (gets, queue) = mpsc::unbounded_channel();
        tokio::spawn(gets::serve(context.clone(), answers.clone(), queue));
        let reader = Reader {
            context: context.clone(),
            call,
            permits: permits.unwrap_or_default(),
            slots: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            answers,
            gets,
            _open: open,
        };
        tokio::spawn(reader.run(request.into_inner()));
        Ok(Response::new(stream))
    }
}

/// What every operation holds until its answer was taken: one of the stream's slots.
type Slot = OwnedSemaphorePermit;

/// Takes the operations of one stream in.
struct Reader {
    context: Arc<Context>,
    /// The circumstances of the stream.
    call: Call,
    permits: PermitSlot,
    slots: Arc<Semaphore>,
    answers: Answers,
    gets: mpsc::UnboundedSender<Get>,
    _open: OwnedSemaphorePermit,
}

impl Reader {
    /// Until the client has no more operations, breaks the rules, or does not read its answers.
    async fn run(self, mut requests: Streaming<PipelineRequest>) {
        let mut watch = tokio::time::interval(UNREAD_WAIT);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                let slot = self.slots.clone().acquire_owned().await;
                // Nobody closes the semaphore.
                let slot = slot.map_err(|e| Status::internal(e.to_string()))?;
                Ok(requests.message().await?.map(|request| (request, slot)))
            };
            tokio::select! {
                biased;
                next = next => match next {
                    Ok(Some((request, slot))) => self.take(request, slot).await,
                    Ok(None) => return,
                    Err(status) => return self.answers.end(status),
                },
                _ = watch.tick() => if !self.answers.are_read() {
                    tracing::debug!("a client does not read the answers of its pipeline");
                    let what = "the answers of this stream to be read";
                    return self.answers.give_up(errors::timed_out(&self.context.name, what));
                },
            }
        }
    }

    async fn take(&self, request: PipelineRequest, slot: Slot) {
        let PipelineRequest {
            id,
            timeout_ms,
            operation,
        } = request;
        let timeout = Duration::from_millis(timeout_ms.into());
        let call = self.call.operation(timeout, self.permits.take());
        match operation {
            Some(Operation::Put(put)) => self.write(id, put, call, slot).await,
            Some(Operation::Delete(delete)) => self.write(id, delete, call, slot).await,
            Some(Operation::Get(get)) => self.get(id, get, call, slot),
            None => {
                let status = errors::invalid_request(
                    "operation",
                    "is not set, or is one that this version does not know",
                );
                self.answers.send(Answer::failed(id, status, slot));
            }
        }
    }

    async fn write<Q: Piped>(&self, id: u64, message: Q, call: Call, slot: Slot) {
        let context = self.context.clone();
        match context.check_write(message, &call) {
            Err(status) => self.answers.send(Answer::failed(id, status, slot)),
            Ok(Checked::Here(draft)) => {
                let (answers, has_space) = (self.answers.clone(), context.has_space(draft.encoded_len()));
                let proposing = context.propose(draft, call, move |written| {
                    answers.send(match written {
                        Ok(written) => {
                            let (_, answer) = Q::piped(Q::answer(None, &written));
                            Answer::done(id, written.revision, answer, slot)
                        }
                        Err(status) => Answer::failed(id, status, slot),
                    });
                });
                match has_space {
                    true => proposing.await,
                    // What follows need not wait for space as well.
                    false => drop(tokio::spawn(proposing)),
                }
            }
            Ok(Checked::There(leader, message)) => {
                let answers = self.answers.clone();
                tokio::spawn(async move {
                    let mut call = call;
                    let permit = call.permit.take();
                    let answer = context.forward_write(leader, message, &call).await;
                    drop(permit);
                    answers.send(match answer {
                        Ok(answer) => {
                            let (revision, answer) = Q::piped(answer);
                            Answer::done(id, revision, answer, slot)
                        }
                        Err(status) => Answer::failed(id, status, slot),
                    });
                });
            }
        }
    }

    fn get(&self, id: u64, request: GetRequest, call: Call, slot: Slot) {
        let context = &self.context;
        let stale = match validate::get(&request) {
            Ok(stale) => stale,
            Err(status) => return self.answers.send(Answer::failed(id, status, slot)),
        };
        let leader = context.check_admission().and_then(|()| match stale {
            true => Ok(None),
            false => context.elsewhere(&call),
        });
        let get = Get {
            id,
            request,
            stale,
            call,
            slot,
        };
        match leader {
            Err(status) => self.answers.send(Answer::failed(id, status, get.slot)),
            // It waits for as long as this stream's task does, and that holds it.
            Ok(None) => drop(self.gets.send(get)),
            Ok(Some(leader)) => {
                tokio::spawn(get.forward(context.clone(), self.answers.clone(), leader));
            }
        }
    }
}

/// A write as it is answered in a pipeline.
trait Piped: WriteRequest {
    /// The answer without its header, and the revision that stood there; 0 if there was no header.
    fn piped(answer: Self::Answer) -> (u64, pipeline_response::Answer);
}

impl Piped for nezha_api::v1::PutRequest {
    fn piped(mut answer: PutResponse) -> (u64, pipeline_response::Answer) {
        let header = answer.header.take();
        (revision(header), pipeline_response::Answer::Put(answer))
    }
}

impl Piped for nezha_api::v1::DeleteRequest {
    fn piped(mut answer: DeleteResponse) -> (u64, pipeline_response::Answer) {
        let header = answer.header.take();
        (revision(header), pipeline_response::Answer::Delete(answer))
    }
}

fn revision(header: Option<nezha_api::v1::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision)
}
