//! Scans: one blocking thread each, over one view of the index, with back-pressure from the client's window.
//!
//! Values are read ahead by a [`Reader`], but none that the client's limits leave out; a scan of keys only has no reader.
//!
//! Memory of one scan: what its reader holds (the entries of the rows of some 4 MiB, and records of 256 KiB), the chunk
//! that is built, [`QUEUE_CHUNKS`] that wait, and one that is being sent. A chunk holds about as many bytes as
//! [`super::context::Limits`] say, and keeps up to half as much again that was read along; or it holds one row whose value
//! is larger: such a value is counted in the node's budget of answers, and never read ahead.

#[cfg(feature = "planted-bugs")]
mod planted;

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use nezha_api::errors;
use nezha_api::v1::{ResponseHeader, Row, ScanRequest, ScanResponse};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Response, Status};

use super::admission::Permit;
use super::call::Call;
use super::context::Context;
use super::kv::ScanStream;
use super::read::metadata;
use crate::index::{IndexEntry, IndexError, ScanItem, ScanRange};
use crate::store::{ReadRow, Reader, StoreError, View};

/// Counted for a row beside its key and value.
const ROW_OVERHEAD_BYTES: u64 = 64;
/// Chunks that wait for the client.
const QUEUE_CHUNKS: usize = 1;

/// How long a scan stands in the queue for room in the budget of answers. Then it lets those behind it pass, who may
/// need less, looks whether its client is still there, and queues again.
const QUEUE_WAIT: Duration = Duration::from_secs(1);
/// What a client is asked to wait when no slot is free.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A chunk on its way, with the bytes that large values in it hold.
struct Chunk {
    message: ScanResponse,
    permits: Vec<Permit>,
}

/// Why a scan ends before its range does.
enum Stop {
    /// The client is gone.
    Gone,
    /// The client gets this error.
    Failed(Box<Status>),
    /// A limit was reached; more rows exist.
    More,
}

/// Starts a scan on this node; the caller has made sure that it may be answered here.
///
/// Errors: RESOURCE_EXHAUSTED when too many scans are open.
pub async fn open(
    context: &Arc<Context>,
    range: ScanRange,
    request: &ScanRequest,
    call: &Call,
) -> Result<Response<ScanStream>, Status> {
    let wait = call.deadline.min(Instant::now() + context.limits.admission_wait);
    let slot = tokio::time::timeout_at(wait, context.scans.clone().acquire_owned()).await;
    let Ok(Ok(slot)) = slot else {
        let what = format!("{} scans are open", context.limits.scans_max);
        return Err(errors::overloaded(&context.name, &what, RETRY_AFTER));
    };
    let life = Instant::now() + context.limits.scan_lifetime;
    let deadline = if call.deadline_stated {
        life.min(call.deadline)
    } else {
        life
    };
    let (queue, chunks) = mpsc::channel(QUEUE_CHUNKS);
    let end = Arc::new(Mutex::new(None));
    let view = context.store.view();
    let scan = Scan {
        context: context.clone(),
        reader: (!request.keys_only).then(|| Reader::new(view.clone())),
        queue,
        deadline,
        rows_left: limit(request.limit_rows),
        bytes_left: limit(request.limit_bytes),
        header: ResponseHeader::default(),
        last_key: request.resume_key.clone(),
        sent_key: request.resume_key.clone(),
        rows: Vec::new(),
        row_bytes: 0,
        permits: Vec::new(),
    };
    let failed = end.clone();
    context
        .store
        .threads()
        .start(move || scan.run(&view, &range, slot, &failed));
    Ok(Response::new(Box::pin(rows(ReceiverStream::new(chunks), end))))
}

/// Zero means no limit.
fn limit(stated: u64) -> u64 {
    if stated == 0 { u64::MAX } else { stated }
}

/// What the client gets: the chunks, then the error, if there is one.
///
/// The permits of a chunk are held until the next one is asked for: the connection asks once the last byte has left.
fn rows(
    mut chunks: ReceiverStream<Chunk>,
    end: Arc<Mutex<Option<Status>>>,
) -> impl Stream<Item = Result<ScanResponse, Status>> {
    let mut sending: Vec<Permit> = Vec::new();
    let mut over = false;
    futures::stream::poll_fn(move |cx| {
        if over {
            return Poll::Ready(None);
        }
        sending.clear();
        match ready!(Pin::new(&mut chunks).poll_next(cx)) {
            Some(chunk) => {
                sending = chunk.permits;
                Poll::Ready(Some(Ok(chunk.message)))
            }
            None => {
                over = true;
                let status = end.lock().unwrap_or_else(PoisonError::into_inner).take();
                Poll::Ready(status.map(Err))
            }
        }
    })
}

/// A scan as its thread sees it.
struct Scan {
    context: Arc<Context>,
    /// Reads the values; `None` if the client wants the keys only.
    reader: Option<Reader>,
    queue: mpsc::Sender<Chunk>,
    deadline: Instant,
    rows_left: u64,
    bytes_left: u64,
    header: ResponseHeader,
    /// Last key that was collected, and last one that was sent; the stated resume key before that.
    last_key: Bytes,
    sent_key: Bytes,
    rows: Vec<Row>,
    row_bytes: u64,
    permits: Vec<Permit>,
}

impl Scan {
    /// Visits the range. Blocking, as long as the client reads.
    fn run(
        mut self,
        view: &View,
        range: &ScanRange,
        slot: OwnedSemaphorePermit,
        failed: &Mutex<Option<Status>>,
    ) {
        let end = match self.visit_all(view, range) {
            (Err(error), _) => Err(self.failed(&error.into())),
            (Ok(()), Some(Stop::More)) => self.send_rest(true),
            (Ok(()), None) => self.send_rest(false),
            (Ok(()), Some(why)) => Err(why),
        };
        if let Err(Stop::Failed(status)) = end {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(*status);
        }
        drop(slot);
    }

    /// Visits the range in one view of the index, until its end or a reason to stop.
    fn visit_all(&mut self, view: &View, range: &ScanRange) -> (Result<(), IndexError>, Option<Stop>) {
        #[cfg(feature = "planted-bugs")]
        if planted::scan_two_revisions() {
            return self.visit_by_chunks(range);
        }
        let mut stop = None;
        let visited = view
            .index()
            .scan(range, &mut |item| match self.visit(view, item) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    stop = Some(why);
                    ControlFlow::Break(())
                }
            });
        (visited, stop)
    }

    fn visit(&mut self, view: &View, item: ScanItem) -> Result<(), Stop> {
        let (key, entry) = match item {
            ScanItem::View(state) => {
                self.header = self.context.header(state.applied.map_or(0, |id| id.index));
                return Ok(());
            }
            ScanItem::Row { key, entry } => (key, entry),
        };
        if self.rows_left == 0 || self.bytes_left == 0 {
            return Err(Stop::More);
        }
        self.check_life()?;
        let value_bytes = match self.reader {
            Some(_) => entry.value_len() as u64,
            None => 0,
        };
        self.rows_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(key.len() as u64 + value_bytes);
        if value_bytes > self.context.limits.scan_chunk_bytes {
            // What comes before it goes first: its permit belongs to its own chunk.
            self.take_rest()?;
            self.send_if_full(key.len() as u64 + value_bytes)?;
            let permit = self.room(value_bytes)?;
            self.permits.push(permit);
            let value = view.read(&entry, &key).map_err(|error| self.failed(&error))?;
            return self.row(key, &entry, value);
        }
        match &mut self.reader {
            Some(reader) => reader.push(key, entry),
            None => return self.row(key, &entry, Bytes::new()),
        }
        self.take_due()
    }

    /// Adds the rows whose values are read.
    fn take_due(&mut self) -> Result<(), Stop> {
        while let Some(reader) = &mut self.reader {
            match reader.pop() {
                Ok(Some(row)) => {
                    let value = row.value();
                    let ReadRow { key, entry, .. } = row;
                    self.row(key, &entry, value)?;
                }
                Ok(None) => break,
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// Adds all rows that were visited.
    fn take_rest(&mut self) -> Result<(), Stop> {
        if let Some(reader) = &mut self.reader {
            reader.hurry();
        }
        self.take_due()
    }

    fn row(&mut self, key: Bytes, entry: &IndexEntry, value: Bytes) -> Result<(), Stop> {
        let bytes = (key.len() + value.len()) as u64;
        self.send_if_full(bytes)?;
        self.row_bytes += bytes + ROW_OVERHEAD_BYTES;
        self.last_key = key.clone();
        self.rows.push(Row {
            key,
            value,
            metadata: Some(metadata(entry)),
        });
        Ok(())
    }

    /// Sends what was collected if a row of this many bytes does not fit.
    fn send_if_full(&mut self, bytes: u64) -> Result<(), Stop> {
        let grown = self.row_bytes + bytes + ROW_OVERHEAD_BYTES;
        match !self.rows.is_empty() && grown > self.context.limits.scan_chunk_bytes {
            true => self.send(false, false),
            false => Ok(()),
        }
    }

    /// Sends the last rows; `more` exist beyond a limit.
    fn send_rest(&mut self, more: bool) -> Result<(), Stop> {
        self.take_rest()?;
        self.send(true, more)
    }

    fn failed(&self, error: &StoreError) -> Stop {
        Stop::Failed(Box::new(self.context.store_error(error)))
    }

    /// Waits for room for a large value, but not beyond the end of the scan's life: a scan that has sent rows cannot be
    /// refused as one that has not begun.
    fn room(&self, bytes: u64) -> Result<Permit, Stop> {
        loop {
            let until = self.deadline.min(Instant::now() + QUEUE_WAIT);
            let context = self.context.clone();
            let taken = self.wait(async move { context.answers.take_by(bytes, until).await });
            if let Some(permit) = taken {
                return Ok(permit);
            }
            self.check_life()?;
        }
    }

    /// Sends what was collected; waits for the client, but not beyond the end of the scan's life.
    fn send(&mut self, done: bool, more: bool) -> Result<(), Stop> {
        let message = ScanResponse {
            header: Some(self.header.clone()),
            rows: std::mem::take(&mut self.rows),
            done,
            more,
            resume_key: self.last_key.clone(),
        };
        let chunk = Chunk {
            message,
            permits: std::mem::take(&mut self.permits),
        };
        self.row_bytes = 0;
        let (queue, deadline) = (self.queue.clone(), self.deadline);
        let sent = self.wait(async move { tokio::time::timeout_at(deadline, queue.send(chunk)).await });
        match sent {
            Ok(Ok(())) => {
                self.sent_key = self.last_key.clone();
                Ok(())
            }
            Ok(Err(_)) => Err(Stop::Gone),
            Err(_) => Err(self.expired()),
        }
    }

    fn wait<T: Send + 'static>(&self, until: impl Future<Output = T> + Send + 'static) -> T {
        self.context.store.threads().wait(until)
    }

    fn check_life(&self) -> Result<(), Stop> {
        if self.queue.is_closed() {
            return Err(Stop::Gone);
        }
        if Instant::now() >= self.deadline {
            Err(self.expired())
        } else {
            Ok(())
        }
    }

    /// Rows that were collected but not sent are lost with this scan: another one resumes before them.
    fn expired(&self) -> Stop {
        Stop::Failed(Box::new(errors::scan_expired(&self.context.name, &self.sent_key)))
    }
}
