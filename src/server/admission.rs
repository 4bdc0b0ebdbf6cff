//! Admission by bytes: what clients may have in flight on this node, counted before a request is read.
//!
//! A gRPC server reads a whole message before it calls the handler, so a limit inside the handler bounds nothing: a
//! hundred connections that send 16 MiB each would be in memory already. Here the first five bytes of a request body,
//! which state the length of the message, are looked at first; the rest is read only once the budget has room for it.
//! Until then it stays in the sender's window. The answer to a get that was passed on to the leader is admitted in the
//! same way. Large answers are handed to the connection piece by piece, and give their bytes back when the last piece
//! has left. (I12)

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use nezha_api::errors;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

/// Messages that wait for room in a budget, their bytes unread in the windows of their calls; further ones are refused at
/// once. With the window of a call this bounds what is held unread: 256 MiB, and as much again for as many pipelines.
pub(super) const UNREAD_MAX: usize = 1024;
/// Counted beside a message: headers, tasks, the index entry.
const MESSAGE_OVERHEAD_BYTES: u64 = 1 << 10;
/// A message that was admitted must arrive, and its stream end, within this time and that for its length at the slowest
/// rate; or others wait for a sender that sleeps.
const ARRIVAL_WAIT: Duration = Duration::from_secs(5);
const ARRIVAL_BYTES_PER_SECOND: u64 = 1 << 20;
/// Answers are handed to the connection in pieces of this many bytes.
const PIECE_BYTES: usize = 128 << 10;
/// Compression flag and length of a gRPC message.
const PREFIX_BYTES: usize = 5;
/// What a client is asked to wait when the budget has no room.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A number of bytes that many tasks share.
///
/// Invariant: the sum of all permits and of what is free is `total`.
#[derive(Debug, Clone)]
pub struct Budget {
    name: &'static str,
    node: Arc<str>,
    total: u32,
    wait: Duration,
    free: Arc<Semaphore>,
    /// Places for messages that wait unread.
    unread: Arc<Semaphore>,
}

/// Part of a [`Budget`]; gives its bytes back when dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    /// Makes a budget of `total` bytes that is called `name` in refusals. A request waits for room at most `wait`.
    pub fn new(name: &'static str, node: &str, total: u64, wait: Duration) -> Self {
        // The semaphore counts permits in u32; the configuration keeps budgets below half of that.
        let total = u32::try_from(total).unwrap_or(u32::MAX / 2);
        Self {
            name,
            node: node.into(),
            total,
            wait,
            free: Arc::new(Semaphore::new(total as usize)),
            unread: Arc::new(Semaphore::new(UNREAD_MAX)),
        }
    }

    /// Takes `bytes`, at most the whole budget, if there is room now and nobody waits.
    pub fn try_take(&self, bytes: u64) -> Option<Permit> {
        let free = self.free.clone();
        free.try_acquire_many_owned(self.clamp(bytes)).ok().map(Permit)
    }

    /// Takes `bytes`, at most the whole budget; waits in order of arrival, until the budget's wait or `until` is over.
    ///
    /// Errors: RESOURCE_EXHAUSTED with a delay to retry after; nothing was proposed.
    pub async fn take(&self, bytes: u64, until: Instant) -> Result<Permit, Status> {
        let until = until.min(Instant::now() + self.wait);
        self.take_by(bytes, until).await.ok_or_else(|| {
            let what = format!(
                "{} bytes of {} in flight, {} asked for",
                self.total, self.name, bytes
            );
            errors::overloaded(&self.node, &what, RETRY_AFTER)
        })
    }

    /// As [`Budget::take`], for a message that is not read meanwhile: refused at once when [`UNREAD_MAX`] wait like that.
    async fn take_unread(&self, bytes: u64, until: Instant) -> Result<Permit, Status> {
        let Ok(_place) = self.unread.try_acquire() else {
            let what = format!("{UNREAD_MAX} messages wait for room among the {}", self.name);
            return Err(errors::overloaded(&self.node, &what, RETRY_AFTER));
        };
        self.take(bytes, until).await
    }

    /// Takes `bytes`, at most the whole budget; waits in order of arrival, until `until`.
    pub async fn take_by(&self, bytes: u64, until: Instant) -> Option<Permit> {
        if let Some(permit) = self.try_take(bytes) {
            return Some(permit);
        }
        let taken = tokio::time::timeout_at(until, self.free.clone().acquire_many_owned(self.clamp(bytes)));
        taken.await.ok()?.ok().map(Permit)
    }

    /// Takes `bytes`, at most the whole budget; waits in order of arrival for as long as it takes.
    pub async fn take_in_turn(&self, bytes: u64) -> Option<Permit> {
        let taken = self.free.clone().acquire_many_owned(self.clamp(bytes));
        taken.await.ok().map(Permit)
    }

    /// Waits until nothing is taken. True if that happened within `limit`.
    pub async fn drained(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.free.acquire_many(self.total))
            .await
            .is_ok()
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> u64 {
        u64::from(self.total).saturating_sub(self.free.available_permits() as u64)
    }

    fn clamp(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).map_or(self.total, |bytes| bytes.min(self.total))
    }
}

/// Carries the permits of messages from their body to whoever reads it: a request's handler finds it in the extensions.
#[derive(Debug, Clone, Default)]
pub struct PermitSlot(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    /// One per message that was counted, in order.
    permits: VecDeque<Permit>,
    taken: bool,
}

impl PermitSlot {
    /// Takes the permit of the next message; the caller holds it for as long as the message's bytes may be in memory.
    pub fn take(&self) -> Option<Permit> {
        let mut slot = self.lock();
        slot.taken = true;
        slot.permits.pop_front()
    }

    /// Whether a handler has asked for the permit, and so has got the request.
    pub fn was_taken(&self) -> bool {
        self.lock().taken
    }

    fn fill(&self, permit: Permit) {
        self.lock().permits.push_back(permit);
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries an answer's permit from its handler to its body, in the response's extensions.
#[derive(Debug, Clone)]
pub struct AnswerPermit(#[expect(dead_code, reason = "held for its drop")] Arc<Permit>);

impl AnswerPermit {
    /// Wraps the permit of an answer.
    pub fn new(permit: Permit) -> Self {
        Self(Arc::new(permit))
    }
}

/// How long the rest of a message may take, when `bytes` of it are missing.
fn arrival_wait(bytes: u64) -> Duration {
    ARRIVAL_WAIT + Duration::from_millis(bytes.saturating_mul(1000) / ARRIVAL_BYTES_PER_SECOND)
}

type Acquire = Pin<Box<dyn Future<Output = Result<Option<Permit>, Status>> + Send>>;

enum State {
    /// The length is not known yet.
    Prefix,
    /// The length is known and the budget has no room.
    Waiting(Acquire),
    /// Admitted; this many bytes may still come.
    Open(u64),
}

/// How many messages a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// One: bytes behind it are refused, and it is refused when there is no room for it in time.
    One,
    /// Any number: each waits for room as long as it takes, and between them the sender may be silent.
    Many,
}

/// What the messages of a body may hold and where their bytes are counted.
#[derive(Debug, Clone)]
pub struct MessageLimit {
    /// How many messages there are.
    pub messages: Messages,
    /// Longest message in bytes.
    pub message_bytes_max: u64,
    /// Answers a longer one; given its length.
    pub too_large: fn(actual: u64, limit: u64) -> Status,
    /// Whether a sender that takes too long is given up here. Where not, the reader's own deadline ends that.
    pub must_arrive: bool,
    /// A message up to this many bytes is not counted, if it is the only one: limits of calls and streams bound those.
    pub uncounted_bytes_max: u64,
    /// Counts the bytes of longer ones.
    pub budget: Budget,
}

/// The body of a request, or of the answer to a call that was passed on: each message is admitted by its stated length
/// before it is read.
pub struct AdmittedBody {
    inner: Body,
    limit: MessageLimit,
    slot: PermitSlot,
    /// What came and was not handed on yet.
    held: Bytes,
    state: State,
    until: Instant,
    /// When the sender is given up. The timer for it runs once the sender was waited for.
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl AdmittedBody {
    /// Wraps `inner`; the permits will be found in `slot`. The caller stops waiting at `until`.
    pub fn new(inner: Body, limit: MessageLimit, slot: PermitSlot, until: Instant) -> Self {
        Self {
            inner,
            limit,
            slot,
            held: Bytes::new(),
            state: State::Prefix,
            until,
            due: until,
            timer: None,
        }
    }

    /// Reads the stated length of the message once its prefix has come.
    fn message_bytes(&self) -> Option<u64> {
        let mut prefix = self.held.get(..PREFIX_BYTES)?;
        prefix.advance(1);
        Some(u64::from(prefix.get_u32()))
    }

    fn open(&mut self, permit: Option<Permit>) {
        let message = self.message_bytes().unwrap_or(0) + PREFIX_BYTES as u64;
        self.state = State::Open(message);
        if let Some(permit) = permit {
            self.slot.fill(permit);
            let missing = message.saturating_sub(self.held.len() as u64);
            self.due = self.until.min(Instant::now() + arrival_wait(missing));
            self.timer = None;
        }
    }

    /// The sender's next frame, or an error once it is overdue. The decoder reads to the end of the stream, so a whole
    /// message whose stream stays open is overdue as well.
    fn poll_sender(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_ready() || !self.limit.must_arrive {
            return polled;
        }
        if self.limit.messages == Messages::Many && matches!(self.state, State::Prefix) {
            return Poll::Pending;
        }
        let due = self.due;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        ready!(timer.as_mut().poll(cx));
        let node = &self.limit.budget.node;
        Poll::Ready(Some(Err(errors::timed_out(
            node,
            "the request's message to arrive",
        ))))
    }

    /// Decides what happens to a message of `bytes`.
    fn admit(&mut self, bytes: u64) -> Result<(), Status> {
        if bytes > self.limit.message_bytes_max {
            return Err((self.limit.too_large)(bytes, self.limit.message_bytes_max));
        }
        // Of many messages each has a permit: whoever reads them takes one for each.
        if self.limit.messages == Messages::One && bytes <= self.limit.uncounted_bytes_max {
            self.open(None);
            return Ok(());
        }
        let (budget, bytes) = (self.limit.budget.clone(), bytes + MESSAGE_OVERHEAD_BYTES);
        match budget.try_take(bytes) {
            Some(permit) => self.open(Some(permit)),
            None => {
                let until = self.until;
                let messages = self.limit.messages;
                self.state = State::Waiting(Box::pin(async move {
                    match messages {
                        Messages::One => budget.take_unread(bytes, until).await.map(Some),
                        Messages::Many => Ok(budget.take_in_turn(bytes).await),
                    }
                }));
            }
        }
        Ok(())
    }

    /// Hands on what is held of the message that is open, whose `left` bytes may still come.
    fn deliver(&mut self, left: u64) -> Result<Frame<Bytes>, Status> {
        let held = self.held.len() as u64;
        if held > left && self.limit.messages == Messages::One {
            return Err(errors::invalid_request(
                "message",
                "more bytes than the message's length states",
            ));
        }
        let bytes = held.min(left);
        let data = self.held.split_to(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.state = match self.limit.messages {
            Messages::Many if bytes == left => State::Prefix,
            _ => State::Open(left - bytes),
        };
        Ok(Frame::data(data))
    }

    /// Takes in the sender's next frame.
    fn hold(&mut self, data: Bytes) {
        self.held = match self.held.is_empty() {
            true => data,
            false => [&self.held[..], &data[..]].concat().into(),
        };
    }
}

impl HttpBody for AdmittedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Waiting(acquire) => match ready!(acquire.as_mut().poll(cx)) {
                    Ok(permit) => this.open(permit),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                State::Open(left) if !this.held.is_empty() => {
                    let left = *left;
                    return Poll::Ready(Some(this.deliver(left)));
                }
                State::Prefix if this.held.len() >= PREFIX_BYTES => {
                    let bytes = this.message_bytes().unwrap_or(0);
                    if let Err(status) = this.admit(bytes) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                State::Prefix | State::Open(_) => match ready!(this.poll_sender(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => this.hold(data),
                        // Trailers before five bytes of body: the decoder has the right words for that.
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    other => return Poll::Ready(other),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }
}

/// The body of a large answer: leaves in pieces, and holds its permit until the last one has left.
///
/// The connection takes a frame whole, whatever its size, as soon as the window has room for one byte. Pieces keep what
/// is buffered there near the window.
pub struct PiecedBody {
    inner: Body,
    rest: Bytes,
    _permit: Option<AnswerPermit>,
}

impl PiecedBody {
    /// Wraps `inner`.
    pub fn new(inner: Body, permit: Option<AnswerPermit>) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            _permit: permit,
        }
    }
}

impl HttpBody for PiecedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
#[path = "admission_test.rs"]
mod tests;
