//! The fast path of a connection: one stream that carries the point operations of all callers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream;
use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::errors::definitely_not_processed;
use crate::v1::pipeline_request::Operation;
use crate::v1::pipeline_response::Answer;
use crate::v1::pipeline_service_client::PipelineServiceClient;
use crate::v1::{Failure, PipelineRequest, PipelineResponse, ResponseHeader};

/// Longest value that goes through a pipeline, in bytes. Longer ones would hold up those behind them.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest answer, in bytes: a value and what surrounds it.
const ANSWER_BYTES_MAX: usize = VALUE_BYTES_MAX + (64 << 10);
/// A server that took no pipeline is asked again after this time.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Operations that wait to be written to the connection; callers of further ones wait.
const QUEUE: usize = 256;

/// What became of an operation on a pipeline.
pub(crate) enum Piped {
    /// Its answer and the header that goes with it.
    Answered(ResponseHeader, Answer),
    /// Certainly not sent, or not to be answered here: this operation has to go as a call of its own.
    NotHere,
    /// As a call of its own would have failed.
    Failed(Status),
}

/// One stream to one server. Clones share it; it ends when the last one is gone and everything is answered.
#[derive(Clone)]
pub(crate) struct Pipeline {
    queue: mpsc::Sender<PipelineRequest>,
    waiting: Arc<Waiting>,
}

/// Who waits for an answer, by the id of the request.
#[derive(Default)]
struct Waiting(Mutex<Callers>);

#[derive(Default)]
struct Callers {
    slots: Slab<oneshot::Sender<Piped>>,
    /// Set once the stream has ended: nobody may begin to wait.
    ended: Option<End>,
}

/// Why a stream has ended.
#[derive(Clone)]
enum End {
    /// The server read nothing from it: it does not know pipelines (`for_good`), or takes none now.
    Refused { for_good: bool },
    /// The outcome of what was not answered is not known.
    Broken(Status),
}

impl End {
    fn told(&self) -> Piped {
        match self {
            End::Refused { .. } => Piped::NotHere,
            End::Broken(status) => Piped::Failed(status.clone()),
        }
    }
}

impl Pipeline {
    /// Opens a stream on `channel`; operations can be sent at once.
    pub(crate) fn open(channel: Channel) -> Pipeline {
        let (queue, requests) = mpsc::channel(QUEUE);
        let waiting = Arc::<Waiting>::default();
        tokio::spawn(run(channel, requests, waiting.clone()));
        Pipeline { queue, waiting }
    }

    /// Whether another stream may serve where this one does not any more.
    pub(crate) fn is_to_be_replaced(&self, opened: Instant) -> bool {
        match self.waiting.lock().ended {
            None | Some(End::Refused { for_good: true }) => false,
            Some(End::Refused { for_good: false }) => opened.elapsed() >= REFUSED_PAUSE,
            Some(End::Broken(_)) => true,
        }
    }

    /// Sends one operation, whose caller waits `within`, and waits for its answer.
    pub(crate) async fn call(&self, operation: Operation, within: Duration) -> Piped {
        // A place in the queue first: whoever gives up while waiting for it has sent nothing.
        let Ok(place) = self.queue.reserve().await else {
            // Nothing was sent: a call of its own finds out what is wrong with the connection.
            return Piped::NotHere;
        };
        let (answered, answer) = oneshot::channel();
        let id = {
            let mut callers = self.waiting.lock();
            match &callers.ended {
                None => callers.slots.insert(answered),
                Some(_) => return Piped::NotHere,
            }
        };
        place.send(PipelineRequest {
            id: id as u64,
            timeout_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1),
            operation: Some(operation),
        });
        answer
            .await
            .unwrap_or_else(|_| broken("the client is shutting down").told())
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Callers> {
        self.0.lock().expect("no panic while held")
    }

    fn answer(&self, id: u64, piped: Piped) -> Result<(), End> {
        let caller = usize::try_from(id)
            .ok()
            .and_then(|id| self.lock().slots.try_remove(id));
        match caller {
            Some(caller) => {
                // The caller may have given up.
                drop(caller.send(piped));
                Ok(())
            }
            None => Err(broken(&format!("an answer to request {id}, which is not open"))),
        }
    }

    /// Tells everyone who waits, and everyone who comes.
    fn end(&self, end: &End) {
        let mut callers = self.lock();
        callers.ended = Some(end.clone());
        for caller in std::mem::take(&mut callers.slots)
            .into_iter()
            .map(|(_, caller)| caller)
        {
            // The caller may have given up.
            drop(caller.send(end.told()));
        }
    }
}

/// Carries requests and answers until the stream ends.
async fn run(channel: Channel, requests: mpsc::Receiver<PipelineRequest>, waiting: Arc<Waiting>) {
    let requests = stream::unfold(requests, |mut requests| async move {
        let request = requests.recv().await?;
        Some((request, requests))
    });
    let mut client = PipelineServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let opened = client.pipeline(requests).await;
    let end = match opened {
        Ok(answers) => carry(answers, &waiting).await,
        Err(status) if status.code() == Code::Unimplemented => End::Refused { for_good: true },
        Err(status) if definitely_not_processed(&status) => End::Refused { for_good: false },
        Err(status) => ended(status),
    };
    waiting.end(&end);
}

/// Hands out the answers of a stream, and returns why it ended.
async fn carry(answers: Response<tonic::Streaming<PipelineResponse>>, waiting: &Waiting) -> End {
    let mut answers = answers.into_inner();
    let mut header = ResponseHeader::default();
    loop {
        let response = match answers.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return broken("the server ended the stream"),
            Err(status) => return ended(status),
        };
        if let Some(news) = response.header {
            header = news;
        }
        header.revision = response.revision;
        let piped = match response.answer {
            Some(Answer::Failure(failure)) => Piped::Failed(status_of(failure)),
            Some(answer) => Piped::Answered(header.clone(), answer),
            None => broken("an answer of a kind that this client does not know").told(),
        };
        if let Err(end) = waiting.answer(response.id, piped) {
            return end;
        }
    }
}

fn status_of(failure: Failure) -> Status {
    Status::with_details(Code::from_i32(failure.code), failure.message, failure.details)
}

/// A trouble of the stream. What the server says about the stream as a whole, such as that it proposed nothing, does not
/// hold for the operations on it: only the cause is kept.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Here(String),
    #[error("the stream ended: {}", .0.message())]
    There(#[source] Status),
}

impl Trouble {
    fn end(self) -> End {
        // Not Status::from_error: it would take a status that it finds in the chain for this one.
        let mut status = Status::unknown(self.to_string());
        status.set_source(Arc::new(self));
        End::Broken(status)
    }
}

fn broken(what: &str) -> End {
    Trouble::Here(what.to_owned()).end()
}

fn ended(status: Status) -> End {
    Trouble::There(status).end()
}
