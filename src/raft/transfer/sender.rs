//! The sending side: one view to one member, over as many connections as it takes.

use std::io;
use std::time::Duration;

use nezha_api::peer;
use nezha_api::peer::snapshot_answer::Answer;
use nezha_api::peer::snapshot_part::Part;
use openraft::errors::{NetworkError, StreamingError, Unreachable};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status, Streaming};

use super::window::Window;
use super::{Sending, chunk_checksum, part};
use crate::raft::convert::{invalid_data, vote_from_peer, vote_to_peer};
use crate::raft::network::{PeerClient, streaming};
use crate::raft::snapshot::View;
use crate::raft::types::{TypeConfig, Vote};

/// Pause before another connection is tried, at first and at most; twice as long each time.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Sends one view. Memory: a window of chunks, and what the view reads ahead.
pub(in crate::raft) struct Sender<'a> {
    client: &'a PeerClient,
    sending: Sending,
    header: peer::SnapshotHeader,
    view: View,
    window: Window,
    /// Known once the view has ended.
    end: Option<peer::SnapshotEnd>,
    items: u64,
    bytes: u64,
    checksum: crc32fast::Hasher,
    /// The receiver has answered: from now on a broken connection is replaced.
    met: bool,
    /// When something was last read, staged or installed.
    advanced: Instant,
    /// When the throttle lets the next chunk through.
    may_read: Instant,
    started: Instant,
    resumes: u64,
}

/// Why a connection ended without the last answer.
enum Stop {
    /// Another connection may do.
    Broken(Status),
    /// This call is over.
    Failed(StreamingError<TypeConfig>),
}

/// One connection.
struct Link {
    parts: mpsc::Sender<peer::SnapshotPart>,
    /// The connection takes no more parts; what it says last is still to come.
    closed: bool,
    answers: Streaming<peer::SnapshotAnswer>,
    /// Number of the next chunk to send; known from the first answer.
    next: Option<u64>,
    end_sent: bool,
    heard: Instant,
    spoke: Instant,
}

impl<'a> Sender<'a> {
    pub(in crate::raft) fn new(client: &'a PeerClient, sending: Sending, vote: &Vote, view: View) -> Self {
        let header = header(vote, &view);
        let now = Instant::now();
        Self {
            client,
            sending,
            header,
            view,
            window: Window::default(),
            end: None,
            items: 0,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
            met: false,
            advanced: now,
            may_read: now,
            started: now,
            resumes: 0,
        }
    }

    /// Sends all of it and answers the receiver's vote: ours, or a higher one that refuses it.
    ///
    /// A receiver that never answers is not tried twice: openraft pauses between calls, and a view that waits for a
    /// member that is down would keep files that were collected meanwhile.
    pub(in crate::raft) async fn run(mut self) -> Result<Vote, StreamingError<TypeConfig>> {
        let mut pause = RECONNECT_PAUSE;
        let mut logged = None;
        loop {
            let status = match self.connection().await {
                Ok(vote) => {
                    self.log_end(&vote);
                    return Ok(vote);
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Broken(status)) if self.met => status,
                Err(Stop::Broken(status)) => return Err(streaming(self.client.failed(status))),
            };
            // Once for each time that it had advanced: an outage is not a flood of lines.
            if logged != Some(self.advanced) {
                logged = Some(self.advanced);
                pause = RECONNECT_PAUSE;
                tracing::warn!(
                    peer = self.client.target(),
                    transfer_id = self.header.transfer_id,
                    staged_chunks = self.window.acknowledged(),
                    %status,
                    "the transfer of a snapshot was interrupted; reconnecting"
                );
            }
            if Instant::now() + pause >= self.gives_up_at() {
                return Err(self.given_up());
            }
            sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
    }

    /// One connection, to its end.
    async fn connection(&mut self) -> Result<Vote, Stop> {
        let patience = self.sending.patience;
        let (parts, outbound) = mpsc::channel(1);
        let header = peer::SnapshotHeader {
            acknowledged: self.window.acknowledged(),
            ..self.header.clone()
        };
        parts
            .try_send(part(Part::Header(header)))
            .expect("the channel was just made, with room for one");
        let answers = timeout(patience.stall, self.client.open_transfer(outbound))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the transfer did not open")))
            .map_err(|status| self.stop(status))?;
        let now = Instant::now();
        let mut link = Link {
            parts,
            closed: false,
            answers,
            next: None,
            end_sent: false,
            heard: now,
            spoke: now,
        };
        loop {
            let now = Instant::now();
            if now >= self.gives_up_at() {
                return Err(Stop::Failed(self.given_up()));
            }
            let silent_at = link.heard + patience.stall + self.window.transit();
            if now >= silent_at {
                let status = Status::deadline_exceeded(format!("no answer for {:?}", patience.stall));
                return Err(Stop::Broken(status));
            }
            let alive_at = link.spoke + patience.alive;
            let speaks = !link.closed && (self.has_part(&link) || now >= alive_at);
            let reads = link.next.is_some() && self.end.is_none() && self.window.has_room();
            let wakes = [self.gives_up_at(), silent_at, alive_at, self.may_read];
            let wake_at = wakes.into_iter().filter(|at| *at > now).min();
            tokio::select! {
                biased;
                answer = link.answers.message() => {
                    let answer = answer.map_err(|status| self.stop(status))?;
                    let Some(answer) = answer.and_then(|answer| answer.answer) else {
                        return Err(Stop::Broken(Status::unavailable("the receiver has ended the transfer")));
                    };
                    link.heard = Instant::now();
                    if let Some(vote) = self.answered(answer, &mut link)? {
                        return Ok(vote);
                    }
                }
                permit = link.parts.clone().reserve_owned(), if speaks => match permit {
                    Ok(permit) => {
                        let next = self.next_part(&link);
                        match &next {
                            Some(Part::Chunk(chunk)) => link.next = Some(chunk.number + 1),
                            Some(Part::End(_)) => link.end_sent = true,
                            _ => {}
                        }
                        drop(permit.send(part(next.unwrap_or(Part::Alive(peer::SnapshotAlive {})))));
                        link.spoke = Instant::now();
                    }
                    Err(_) => link.closed = true,
                },
                read = self.view.next_chunk(), if reads && now >= self.may_read => self.read(read)?,
                () = sleep_until(wake_at.unwrap_or(silent_at)) => {}
            }
        }
    }

    fn has_part(&self, link: &Link) -> bool {
        let ends = self.end.is_some() && !link.end_sent;
        link.next.is_some_and(|next| ends || next < self.window.read())
    }

    /// What is to be sent next on this connection: a chunk that the receiver lacks, or the end.
    fn next_part(&self, link: &Link) -> Option<Part> {
        let next = link.next?;
        if let Some(chunk) = self.window.chunk(next) {
            return Some(Part::Chunk(chunk.clone()));
        }
        let end = self.end.filter(|_| !link.end_sent)?;
        Some(Part::End(end))
    }

    /// Books what the view has given.
    fn read(&mut self, read: io::Result<Option<Vec<peer::SnapshotItem>>>) -> Result<(), Stop> {
        let unreadable = |error: io::Error| {
            // Damage in our own files: this replica cannot serve as a source, and must not stop because of it.
            tracing::error!(%error, "the snapshot could not be read; the transfer was given up");
            Stop::Failed(StreamingError::Unreachable(Unreachable::new(&error)))
        };
        self.advanced = Instant::now();
        let Some(items) = read.map_err(unreadable)? else {
            self.end = Some(peer::SnapshotEnd {
                chunks: self.window.read(),
                items: self.items,
                checksum: self.checksum.clone().finalize(),
            });
            return Ok(());
        };
        let number = self.window.read();
        let checksum =
            chunk_checksum(number, &items).ok_or_else(|| unreadable(invalid_data("an empty record")))?;
        let bytes: u64 = items.iter().map(|item| item.record.len() as u64).sum();
        self.items += items.len() as u64;
        self.bytes += bytes;
        self.checksum.update(&checksum.to_le_bytes());
        self.window.push(peer::SnapshotChunk {
            number,
            items,
            checksum,
        });
        self.may_read = Instant::from_std(self.sending.take(bytes));
        Ok(())
    }

    /// Books an answer; the vote is the last one.
    fn answered(&mut self, answer: Answer, link: &mut Link) -> Result<Option<Vote>, Stop> {
        let malformed =
            |reason: String| Stop::Failed(StreamingError::Network(NetworkError::new(&invalid_data(reason))));
        let first = link.next.is_none();
        let met_before = std::mem::replace(&mut self.met, true);
        match answer {
            Answer::Done(vote) => {
                return vote_from_peer(Some(vote))
                    .map(Some)
                    .map_err(|e| malformed(e.to_string()));
            }
            Answer::Staged(staged) => {
                let sent = link.next.unwrap_or(self.window.read());
                if staged > sent {
                    return Err(malformed(format!("{staged} chunks staged, {sent} sent")));
                }
                if self.window.acknowledge(staged).map_err(malformed)? {
                    self.advanced = Instant::now();
                }
                link.next.get_or_insert(staged);
            }
            Answer::Installing(_) => {
                // It has all of it.
                self.window.acknowledge(self.window.read()).map_err(malformed)?;
                self.advanced = Instant::now();
                link.next = Some(self.window.read());
                link.end_sent = true;
            }
        }
        if first && met_before {
            self.resumes += 1;
        }
        if first {
            tracing::info!(
                peer = self.client.target(),
                transfer_id = self.header.transfer_id,
                staged_chunks = self.window.acknowledged(),
                resumes = self.resumes,
                "{}",
                match met_before {
                    true => "resumed the transfer of a snapshot",
                    false => "sending a snapshot",
                }
            );
        }
        Ok(None)
    }

    /// Whether what ended the connection ends the call.
    fn stop(&self, status: Status) -> Stop {
        match status.code() {
            // The receiver has lost what we cannot send again: at once, with a fresh view.
            Code::Aborted => {
                tracing::warn!(peer = self.client.target(), %status, "the receiver of a snapshot begins anew");
                let error = io::Error::other(status.to_string());
                Stop::Failed(StreamingError::Network(NetworkError::new(&error)))
            }
            // Who we are, or what we send, is refused; or the receiver cannot store it.
            Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => {
                tracing::warn!(peer = self.client.target(), %status, "the snapshot was refused");
                Stop::Failed(streaming(self.client.failed(status)))
            }
            _ => Stop::Broken(status),
        }
    }

    /// Time that the throttle takes does not count.
    fn gives_up_at(&self) -> Instant {
        self.advanced.max(self.may_read) + self.sending.patience.progress + self.window.transit()
    }

    fn given_up(&self) -> StreamingError<TypeConfig> {
        let error = io::Error::other(format!(
            "the transfer {:016x} to member {} did not advance for {:?}: {} of {} chunks read are staged there",
            self.header.transfer_id,
            self.client.target(),
            self.sending.patience.progress,
            self.window.acknowledged(),
            self.window.read()
        ));
        tracing::warn!(%error, "gave up sending a snapshot");
        StreamingError::Unreachable(Unreachable::new(&error))
    }

    fn log_end(&self, vote: &Vote) {
        let seconds = self.started.elapsed().as_secs_f64();
        let said = match self.end {
            Some(_) => "sent a snapshot",
            None => "the receiver of a snapshot needs it no more",
        };
        tracing::info!(
            peer = self.client.target(),
            transfer_id = self.header.transfer_id,
            records = self.items,
            bytes = self.bytes,
            seconds,
            resumes = self.resumes,
            %vote,
            "{said}"
        );
    }
}

fn header(vote: &Vote, view: &View) -> peer::SnapshotHeader {
    let state = view.state();
    let to_peer = |id: &nezha_vlog::LogId| peer::LogId {
        term: id.term,
        node: id.node,
        index: id.index,
    };
    peer::SnapshotHeader {
        vote: Some(vote_to_peer(vote)),
        last_log_id: state.applied.as_ref().map(to_peer),
        membership_log_id: state.membership_log_id.as_ref().map(to_peer),
        membership: state.membership.clone(),
        transfer_id: rand::random(),
        max_node_id: state.max_node_id,
        acknowledged: 0,
    }
}
