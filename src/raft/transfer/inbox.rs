//! The receiving side: one transfer at a time, over as many connections as it takes.
//!
//! A task of its own owns what is staged. Connections come to it through the [`Inbox`], the newest one replaces those
//! before; it outlives them all, until the transfer is installed, replaced by another one, or idle for too long.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use nezha_api::peer;
use nezha_api::peer::snapshot_answer::Answer;
use nezha_api::peer::snapshot_part::Part;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::intake::{Intake, Rejected};
use super::{Patience, answer};
use crate::machine::Lost;
use crate::raft::convert::{check_sequence, log_id_from_peer, vote_from_peer, vote_to_peer};
use crate::raft::drop_on_blocking::DropOnBlocking;
use crate::raft::snapshot::{Snapshot, SnapshotData};
use crate::raft::types::{NodeId, Vote};
use crate::store::Store;

/// Parts as they arrive on one connection.
pub(in crate::raft) type Parts = Pin<Box<dyn Stream<Item = Result<peer::SnapshotPart, Status>> + Send>>;
/// Answers to one connection.
pub(in crate::raft) type Answers = Pin<Box<dyn Stream<Item = Result<peer::SnapshotAnswer, Status>> + Send>>;

/// Where received snapshots go: Raft, which installs them.
pub(in crate::raft) trait Target: Send + Sync + 'static {
    /// Highest vote seen so far.
    fn vote(&self) -> Vote;
    /// Installs a staged snapshot of the leader that `vote` is for, and answers the vote afterwards.
    fn install(&self, vote: Vote, snapshot: Snapshot) -> BoxFuture<'static, Result<Vote, Status>>;
}

/// Takes snapshots that other members send. Cheap to clone.
#[derive(Clone)]
pub(in crate::raft) struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    target: Arc<dyn Target>,
    patience: Patience,
    open: Mutex<Option<Open>>,
}

/// The transfer under way. Its task ends when this is dropped.
struct Open {
    from: NodeId,
    transfer_id: u64,
    vote: Vote,
    connections: mpsc::Sender<Connection>,
}

struct Connection {
    parts: Parts,
    /// The last answer only: they are cumulative, so a sender that does not read costs no memory.
    answers: watch::Sender<Result<peer::SnapshotAnswer, Status>>,
}

impl Inbox {
    pub(in crate::raft) fn new(store: Arc<Store>, target: Arc<dyn Target>, patience: Patience) -> Inbox {
        let shared = Shared {
            store,
            target,
            patience,
            open: Mutex::default(),
        };
        Inbox {
            shared: Arc::new(shared),
        }
    }

    /// Takes a connection from member `from`: begins a transfer, or goes on with the one that its header names.
    ///
    /// Errors: `InvalidArgument` for a header that makes no sense; `Aborted` when the sender counts on chunks that are
    /// not here; `Unavailable` when several connections come at once.
    pub(in crate::raft) async fn accept(&self, from: NodeId, mut parts: Parts) -> Result<Answers, Status> {
        let first = timeout(self.shared.patience.stall, parts.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no snapshot header came"))?;
        let Some(Some(Part::Header(header))) = first.transpose()?.map(|part| part.part) else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let malformed = |error: std::io::Error| Status::invalid_argument(error.to_string());
        let vote = vote_from_peer(header.vote).map_err(malformed)?;
        let last = header.last_log_id.map(log_id_from_peer);
        check_sequence(&vote, last.as_ref(), &[]).map_err(malformed)?;
        let (answers, stream) = watch::channel(Ok(peer::SnapshotAnswer::default()));
        let stream = WatchStream::from_changes(stream);
        let connection = Connection { parts, answers };
        let ours = self.shared.target.vote();
        if ours > vote {
            say(&connection, Answer::Done(vote_to_peer(&ours)));
        } else {
            self.attach(from, vote, header, connection)?;
        }
        Ok(Box::pin(stream))
    }

    fn attach(
        &self,
        from: NodeId,
        vote: Vote,
        header: peer::SnapshotHeader,
        mut connection: Connection,
    ) -> Result<(), Status> {
        let mut open = self.shared.open();
        if let Some(open) = open.as_ref().filter(|open| !open.connections.is_closed()) {
            if (open.from, open.transfer_id) == (from, header.transfer_id) {
                connection = match open.connections.try_send(connection) {
                    Ok(()) => return Ok(()),
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        return Err(Status::unavailable("another connection has just come"));
                    }
                    Err(mpsc::error::TrySendError::Closed(connection)) => connection,
                };
            } else if open.vote > vote {
                // Raft here may not have seen it yet: the vote comes with the snapshot.
                say(&connection, Answer::Done(vote_to_peer(&open.vote)));
                return Ok(());
            }
        }
        if header.acknowledged > 0 {
            return Err(Status::aborted(format!(
                "transfer {:016x} is not known here: this member was restarted, or has given it up; begin anew",
                header.transfer_id
            )));
        }
        let (connections, arriving) = mpsc::channel(1);
        let transfer_id = header.transfer_id;
        let receiver = Receiver {
            from,
            transfer_id,
            vote,
            shared: self.shared.clone(),
            connections: arriving,
            current: Some(connection),
            answer: Answer::Staged(0),
            heard: Instant::now(),
            resumes: 0,
        };
        *open = Some(Open {
            from,
            transfer_id,
            vote,
            connections,
        });
        drop(open);
        tokio::spawn(receiver.run(header));
        Ok(())
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        // Every change of it is one assignment.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(connection: &Connection, said: Answer) {
    drop(connection.answers.send_replace(Ok(answer(said))));
}

fn joined<T>(done: Result<Result<T, Rejected>, Lost>) -> Result<T, Status> {
    // The sender's next attempt would meet the same disk; it pauses first.
    let failed = |e: &dyn std::fmt::Display| Status::failed_precondition(e.to_string());
    done.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
}

async fn arriving(current: &mut Option<Connection>) -> Option<Result<peer::SnapshotPart, Status>> {
    match current {
        Some(connection) => connection.parts.next().await,
        None => std::future::pending().await,
    }
}

/// Removes what was staged.
async fn sweep(store: Arc<Store>) {
    let threads = store.threads().clone();
    let swept = threads.run(move || store.sweep()).await;
    if !matches!(swept, Ok(Ok(_))) {
        tracing::warn!(?swept, "what was staged could not be removed; it is tried again");
    }
}

/// The task of one transfer.
struct Receiver {
    from: NodeId,
    transfer_id: u64,
    vote: Vote,
    shared: Arc<Shared>,
    connections: mpsc::Receiver<Connection>,
    current: Option<Connection>,
    /// What was said last, and is said first on a new connection.
    answer: Answer,
    /// When the sender was last heard, or what it had sent was worked on.
    heard: Instant,
    resumes: u64,
}

impl Receiver {
    async fn run(mut self, header: peer::SnapshotHeader) {
        tracing::info!(
            from = self.from,
            transfer_id = self.transfer_id,
            "receiving a snapshot"
        );
        match self.receive(header).await {
            Ok(vote) => self.stay(vote).await,
            Err(status) => {
                tracing::warn!(
                    from = self.from,
                    transfer_id = self.transfer_id,
                    reason = status.message(),
                    "gave up receiving a snapshot; what was staged is removed"
                );
                self.hang_up(status);
                sweep(self.shared.store.clone()).await;
            }
        }
    }

    /// Receives, stages and installs. Errors: why the transfer was given up; what was staged is closed by then.
    async fn receive(&mut self, header: peer::SnapshotHeader) -> Result<Vote, Status> {
        let started = Instant::now();
        let store = self.shared.store.clone();
        let threads = store.threads().clone();
        let opening = threads.run(move || Intake::open(&store, header));
        let mut intake = DropOnBlocking::new(&threads, joined(self.working(opening).await)?);
        self.say(Answer::Staged(0));
        let end = loop {
            let part = match self.next_part().await {
                Ok(part) => part,
                Err(status) => {
                    intake.close().await;
                    return Err(status);
                }
            };
            match part {
                Some(Part::Chunk(chunk)) => {
                    let mut taking = intake.into_inner();
                    let after = threads.clone();
                    let taken = threads.run(move || {
                        let result = taking.take(chunk);
                        (DropOnBlocking::new(&after, taking), result)
                    });
                    let (back, result) = joined(self.working(taken).await.map(Ok))?;
                    intake = back;
                    match result {
                        Ok(()) => self.say(Answer::Staged(intake.chunks())),
                        Err(error @ Rejected::Damaged { .. }) => {
                            tracing::warn!(from = self.from, %error, "asking for a chunk again");
                            self.hang_up(Status::data_loss(error.to_string()));
                        }
                        Err(error @ Rejected::OutOfOrder { .. }) => {
                            self.hang_up(Status::invalid_argument(error.to_string()));
                        }
                        Err(error @ Rejected::Unusable(_)) => {
                            intake.close().await;
                            return joined(Ok(Err(error)));
                        }
                    }
                }
                Some(Part::Alive(_)) => self.say(self.answer),
                Some(Part::End(end)) => break end,
                Some(Part::Header(_)) | None => self.hang_up(Status::invalid_argument(
                    "snapshot parts are header, chunks, end, in this order",
                )),
            }
        };
        self.say(Answer::Installing(peer::SnapshotAlive {}));
        let (records, bytes) = intake.records();
        let staged_seconds = started.elapsed().as_secs_f64();
        let finishing = threads.run(move || intake.into_inner().finish(&end));
        let snapshot = joined(self.working(finishing).await)?;
        if self.connections.is_closed() {
            if let SnapshotData::Staged(staged) = snapshot.snapshot {
                staged.close().await;
            }
            return Err(Status::cancelled("another transfer has begun"));
        }
        tracing::info!(
            from = self.from,
            transfer_id = self.transfer_id,
            records,
            bytes,
            staged_seconds,
            seconds = started.elapsed().as_secs_f64(),
            resumes = self.resumes,
            "received a snapshot; installing it"
        );
        let installing = self.shared.target.install(self.vote, snapshot);
        self.working(installing).await
    }

    /// Answers connections that ask what became of it: the last answer may not have arrived.
    async fn stay(mut self, vote: Vote) {
        let done = Answer::Done(vote_to_peer(&vote));
        self.say(done);
        self.current = None;
        while let Ok(Some(connection)) = timeout(self.shared.patience.idle, self.connections.recv()).await {
            say(&connection, done);
        }
    }

    /// The next part that arrives on any connection. Errors: the transfer is given up.
    async fn next_part(&mut self) -> Result<Option<Part>, Status> {
        loop {
            let patience = self.shared.patience;
            let idle_at = self.heard + patience.idle;
            tokio::select! {
                biased;
                connection = self.connections.recv() => match connection {
                    Some(connection) => self.resume(connection),
                    None => return Err(Status::cancelled("another transfer has begun")),
                },
                arrived = arriving(&mut self.current) => match arrived {
                    Some(Ok(part)) => {
                        self.heard = Instant::now();
                        return Ok(part.part);
                    }
                    Some(Err(status)) => {
                        tracing::info!(from = self.from, %status, "the connection of a snapshot transfer broke");
                        self.current = None;
                    }
                    None => self.current = None,
                },
                () = sleep_until(idle_at) => {
                    return Err(Status::deadline_exceeded(format!("nothing came for {:?}", patience.idle)));
                }
            }
        }
    }

    /// Waits for `work`, says meanwhile that it goes on, and takes new connections.
    async fn working<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut alive = interval(self.shared.patience.alive);
        alive.reset();
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.heard = Instant::now();
                    return done;
                }
                Some(connection) = self.connections.recv() => self.resume(connection),
                _ = alive.tick() => self.say(self.answer),
            }
        }
    }

    fn resume(&mut self, connection: Connection) {
        self.current = Some(connection);
        self.heard = Instant::now();
        self.resumes += 1;
        tracing::info!(
            from = self.from,
            transfer_id = self.transfer_id,
            answer = ?self.answer,
            "the sender of a snapshot came back"
        );
        self.say(self.answer);
    }

    fn say(&mut self, said: Answer) {
        if let Some(connection) = &self.current {
            say(connection, said);
        }
        self.answer = said;
    }

    /// Ends the connection; the transfer stays.
    fn hang_up(&mut self, status: Status) {
        if let Some(connection) = self.current.take() {
            drop(connection.answers.send_replace(Err(status)));
        }
    }
}
