//! The way back: answers of many tasks to the one stream of a client.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

const NONE_WAITED: u64 = u64::MAX;

type Queued = Result<Answer, Status>;

/// Where the answers of one stream go. The stream ends when the last clone is gone.
#[derive(Clone)]
pub struct Answers {
    queue: mpsc::UnboundedSender<Queued>,
    waiting: Arc<Waiting>,
}

/// Answers that the client has not taken yet. The stream takes them out; a client that is given up loses them.
struct Waiting {
    queue: Mutex<mpsc::UnboundedReceiver<Queued>>,
    /// Answers that were put into the queue, and taken out of it.
    sent: AtomicU64,
    taken: AtomicU64,
    /// What `taken` was when somebody last looked and answers waited; [`NONE_WAITED`] when none did.
    seen: AtomicU64,
    given_up: Mutex<Option<Status>>,
}

impl Answers {
    /// Queues an answer; the slots bound how many. Does not block.
    pub fn send(&self, answer: Answer) {
        self.waiting.sent.fetch_add(1, Ordering::Relaxed);
        // The client may be gone.
        drop(self.queue.send(Ok(answer)));
    }

    /// Ends the stream with an error, after what is queued.
    pub fn end(&self, status: Status) {
        drop(self.queue.send(Err(status)));
    }

    /// Whether the client has taken an answer since the last look, or none waited then: one that has just come says
    /// nothing about its client.
    pub fn are_read(&self) -> bool {
        let taken = self.waiting.taken.load(Ordering::Relaxed);
        let wait = self.waiting.sent.load(Ordering::Relaxed) > taken;
        let seen = if wait { taken } else { NONE_WAITED };
        self.waiting.seen.swap(seen, Ordering::Relaxed) != taken
    }

    /// Ends the stream with an error instead of what is queued and of what is still to come. The transport does not ask
    /// for more while its client does not read: nobody else would drop it.
    pub fn give_up(&self, status: Status) {
        *lock(&self.waiting.given_up) = Some(status);
        let mut queue = lock(&self.waiting.queue);
        queue.close();
        while queue.try_recv().is_ok() {}
    }
}

impl Waiting {
    fn poll(&self, cx: &mut std::task::Context<'_>) -> Poll<Option<Queued>> {
        let next = ready!(lock(&self.queue).poll_recv(cx));
        if matches!(next, Some(Ok(_))) {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(next.or_else(|| lock(&self.given_up).take().map(Err)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under it is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn queue() -> (Answers, Arc<Waiting>) {
    let (queue, answers) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting {
        queue: Mutex::new(answers),
        sent: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        seen: AtomicU64::new(NONE_WAITED),
        given_up: Mutex::default(),
    });
    let answers = Answers {
        queue,
        waiting: waiting.clone(),
    };
    (answers, waiting)
}

/// Makes both ends of one stream's answers.
pub fn channel(context: Arc<Context>) -> (Answers, AnswerStream) {
    let (sender, waiting) = queue();
    let stream = AnswerStream {
        context,
        waiting,
        header: None,
        leaving: None,
        ended: false,
    };
    (sender, stream)
}

/// The answers as they go out.
pub struct AnswerStream {
    context: Arc<Context>,
    waiting: Arc<Waiting>,
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
        let Some(next) = ready!(this.waiting.poll(cx)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(match next {
            Ok(answer) => {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use nezha_api::v1::PutResponse;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::server::admission::Budget;

    fn answer(budget: &Budget, slots: &Arc<Semaphore>) -> Answer {
        let slot = slots.clone().try_acquire_owned().unwrap();
        let done = pipeline_response::Answer::Put(PutResponse::default());
        Answer::done(1, 1, done, slot).holding(budget.try_take(100))
    }

    /// Once, a client that was given up kept what waited for it, with its bytes in the budget, until it closed.
    #[tokio::test]
    async fn a_client_that_is_given_up_holds_nothing_any_more() {
        let budget = Budget::new("answers", "n1", 1000, Duration::ZERO);
        let slots = Arc::new(Semaphore::new(8));
        let (answers, waiting) = queue();
        assert!(answers.are_read(), "there is nothing to read");
        assert!(answers.are_read(), "nor now");
        (0..3).for_each(|_| answers.send(answer(&budget, &slots)));
        assert!(answers.are_read(), "they have just come");
        drop(poll_fn(|cx| waiting.poll(cx)).await);
        assert!(answers.are_read(), "one was taken");
        assert!(!answers.are_read(), "nothing was taken since");
        assert_eq!((budget.taken(), slots.available_permits()), (200, 6));
        answers.give_up(Status::aborted("given up"));
        assert_eq!((budget.taken(), slots.available_permits()), (0, 8));
        answers.send(answer(&budget, &slots));
        assert_eq!(
            (budget.taken(), slots.available_permits()),
            (0, 8),
            "what comes late"
        );
        let end = poll_fn(|cx| waiting.poll(cx)).await;
        assert!(matches!(end, Some(Err(status)) if status.message() == "given up"));
        assert!(poll_fn(|cx| waiting.poll(cx)).await.is_none());
    }
}
