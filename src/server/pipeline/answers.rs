//! The way back: answers of many tasks to the one stream of a client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use nezha_api::v1::{Failure, PipelineResponse, ResponseHeader, pipeline_response};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::Slot;
use crate::server::admission::Permit;
use crate::server::context::Context;

/// The answer to one operation.
pub struct Answer {
    id: u64,
    revision: u64,
    answer: pipeline_response::Answer,
    /// Bytes of the value.
    permit: Option<Permit>,
    slot: Slot,
}

impl Answer {
    /// An operation that was done.
    pub fn done(id: u64, revision: u64, answer: pipeline_response::Answer, slot: Slot) -> Answer {
        Answer {
            id,
            revision,
            answer,
            permit: None,
            slot,
        }
    }

    /// An operation that was refused or failed.
    pub fn failed(id: u64, status: Status, slot: Slot) -> Answer {
        let failure = Failure {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: status.details().to_vec().into(),
        };
        Answer::done(id, 0, pipeline_response::Answer::Failure(failure), slot)
    }

    /// The same answer, which holds `permit` until it has left.
    pub fn holding(self, permit: Option<Permit>) -> Answer {
        Answer { permit, ..self }
    }
}

/// Where the answers of one stream go. The stream ends when the last clone is gone.
#[derive(Clone)]
pub struct Answers {
    queue: mpsc::UnboundedSender<Result<Answer, Status>>,
    counts: Arc<Counts>,
}

/// Answers that were put into the queue and taken out of it.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    taken: AtomicU64,
    /// What `taken` was when somebody last looked.
    seen: AtomicU64,
}

impl Answers {
    /// Queues an answer; the slots bound how many. Does not block.
    pub fn send(&self, answer: Answer) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        // The client may be gone.
        drop(self.queue.send(Ok(answer)));
    }

    /// Ends the stream with an error, after what is queued.
    pub fn end(&self, status: Status) {
        drop(self.queue.send(Err(status)));
    }

    /// Whether the client has taken an answer since the last time, or none was there to be taken.
    pub fn are_read(&self) -> bool {
        let taken = self.counts.taken.load(Ordering::Relaxed);
        let seen = self.counts.seen.swap(taken, Ordering::Relaxed);
        taken != seen || taken == self.counts.sent.load(Ordering::Relaxed)
    }
}

/// Makes both ends of one stream's answers.
pub fn channel(context: Arc<Context>) -> (Answers, AnswerStream) {
    let (queue, answers) = mpsc::unbounded_channel();
    let counts = Arc::<Counts>::default();
    let sender = Answers {
        queue,
        counts: counts.clone(),
    };
    let stream = AnswerStream {
        context,
        answers,
        counts,
        header: None,
        leaving: None,
        ended: false,
    };
    (sender, stream)
}

/// The answers as they go out.
pub struct AnswerStream {
    context: Arc<Context>,
    answers: mpsc::UnboundedReceiver<Result<Answer, Status>>,
    counts: Arc<Counts>,
    /// The header that was sent last.
    header: Option<ResponseHeader>,
    /// What the last answer holds, until the next one is asked for.
    leaving: Option<(Option<Permit>, Slot)>,
    ended: bool,
}

impl AnswerStream {
    /// The header, where the client does not know it yet.
    fn news(&mut self, revision: u64) -> Option<ResponseHeader> {
        let outlook = self.context.outlook();
        let known = self.header.as_ref().is_some_and(|header| {
            let leader = outlook.leader.as_ref();
            header.term == outlook.term && header.leader_id == leader.map_or(0, |leader| leader.id)
        });
        if known {
            return None;
        }
        let header = self.context.header(revision);
        self.header = Some(header.clone());
        Some(header)
    }
}

impl Stream for AnswerStream {
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<PipelineResponse, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.leaving = None;
        let Some(next) = ready!(this.answers.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(match next {
            Ok(answer) => {
                this.counts.taken.fetch_add(1, Ordering::Relaxed);
                let header = this.news(answer.revision);
                this.leaving = Some((answer.permit, answer.slot));
                Ok(PipelineResponse {
                    id: answer.id,
                    header,
                    revision: answer.revision,
                    answer: Some(answer.answer),
                })
            }
            Err(status) => {
                this.ended = true;
                Err(status)
            }
        }))
    }
}
