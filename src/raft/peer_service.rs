//! The peer port: what the other members call.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::{Stream, StreamExt, stream};
use nezha_api::peer;
use nezha_api::peer::peer_service_server::{PeerService, PeerServiceServer};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use tonic::{Request, Response, Status, Streaming};

use super::convert::{
    check_sequence, decode_membership, entry_from_peer, invalid_data, log_id_from_peer, log_id_to_peer,
    vote_from_peer, vote_to_peer,
};
use super::peer_identity::PeerIdentity;
use super::snapshot::{Snapshot, SnapshotData, store_meta};
use super::state_machine::StateMachine;
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::index::AppliedState;
use crate::store::{Staging, Store};

/// openraft with our state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// What the service needs once Raft runs; before that only `Identify` answers.
pub(crate) struct Running {
    pub(crate) raft: Raft,
    pub(crate) store: Arc<Store>,
}

/// Serves the peer protocol. Cheap to clone; can be served before Raft is started.
#[derive(Clone)]
pub struct PeerServer {
    identity: Arc<PeerIdentity>,
    running: Arc<OnceLock<Running>>,
}

impl PeerServer {
    /// Answers `Identify` from now on, everything else once Raft runs.
    pub fn new(identity: Arc<PeerIdentity>) -> Self {
        Self {
            identity,
            running: Arc::default(),
        }
    }

    /// Who this member is.
    pub fn identity(&self) -> &Arc<PeerIdentity> {
        &self.identity
    }

    /// The tonic service. `message_bytes_max`: largest message between members, in bytes.
    pub fn into_service(self, message_bytes_max: usize) -> PeerServiceServer<Self> {
        PeerServiceServer::new(self)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max)
    }

    /// Errors: when Raft was attached before.
    pub(crate) fn attach(&self, raft: Raft, store: Arc<Store>) -> Result<(), &'static str> {
        self.running
            .set(Running { raft, store })
            .map_err(|_| "Raft was started twice")
    }

    fn running(&self) -> Result<&Running, Status> {
        self.running
            .get()
            .ok_or_else(|| Status::unavailable("this member is still starting"))
    }
}

fn malformed(error: io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("Raft stopped on this member: {error}"))
}

fn append_from_peer(message: peer::AppendRequest) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let request = AppendEntriesRequest {
        vote: vote_from_peer(message.vote)?,
        prev_log_id: message.prev_log_id.map(log_id_from_peer),
        leader_commit: message.leader_commit.map(log_id_from_peer),
        entries: message
            .entries
            .into_iter()
            .map(entry_from_peer)
            .collect::<io::Result<Vec<_>>>()?,
    };
    let ids: Vec<LogId> = request.entries.iter().map(|entry: &Entry| entry.log_id).collect();
    check_sequence(&request.vote, request.prev_log_id.as_ref(), &ids)?;
    Ok(request)
}

fn append_answer(result: StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use peer::append_response::Result as Answer;
    let result = match result {
        Ok(log_id) => Answer::Matched(peer::Matched {
            log_id: log_id.as_ref().map(log_id_to_peer),
        }),
        Err(StreamAppendError::Conflict(at)) => Answer::Conflict(log_id_to_peer(&at)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_peer(&vote)),
    };
    peer::AppendResponse { result: Some(result) }
}

fn vote_request(message: peer::VoteRequest) -> io::Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(
        vote_from_peer(message.vote)?,
        message.last_log_id.map(log_id_from_peer),
    );
    request.leadership_transfer = message.leader_transfer;
    Ok(request)
}

/// A received snapshot on its way to disk, beside the live store.
struct Receiver {
    staging: Staging,
    header: peer::SnapshotHeader,
    items: u64,
    checksum: crc32fast::Hasher,
}

impl Receiver {
    /// Blocking: writes the records.
    fn push(mut self, items: Vec<peer::SnapshotItem>) -> io::Result<Self> {
        for item in items {
            let crc = item
                .record
                .get(..4)
                .ok_or_else(|| invalid_data("a snapshot record without a checksum"))?;
            self.checksum.update(crc);
            self.items += 1;
            self.staging
                .push(item.create_revision, item.version, item.record)
                .map_err(io::Error::other)?;
        }
        Ok(self)
    }

    /// Blocking: makes the staged store durable. Errors: when records were lost or changed on the way.
    fn finish(self, end: &peer::SnapshotEnd) -> io::Result<(SnapshotMeta, SnapshotData)> {
        let checksum = self.checksum.finalize();
        if (self.items, checksum) != (end.items, end.checksum) {
            return Err(invalid_data(format!(
                "the snapshot ends with {} records of checksum {:08x}, {} of checksum {checksum:08x} arrived",
                end.items, end.checksum, self.items
            )));
        }
        let from_peer = |id: peer::LogId| nezha_vlog::LogId {
            term: id.term,
            node: id.node,
            index: id.index,
        };
        let staged = store_meta(AppliedState {
            applied: self.header.last_log_id.map(from_peer),
            membership_log_id: self.header.membership_log_id.map(from_peer),
            membership: self.header.membership.clone(),
            max_node_id: self.header.max_node_id,
            ..AppliedState::default()
        })?;
        let membership = decode_membership(&self.header.membership)?;
        let meta = SnapshotMeta {
            last_log_id: self.header.last_log_id.map(log_id_from_peer),
            last_membership: StoredMembership::new(
                self.header.membership_log_id.map(log_id_from_peer),
                membership,
            ),
        };
        let staged = self.staging.finish(staged).map_err(io::Error::other)?;
        Ok((meta, SnapshotData::Staged(staged)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Status::internal(e.to_string()))?
        .map_err(|e| Status::internal(format!("staging the snapshot failed: {e}")))
}

type Appends = Pin<Box<dyn Stream<Item = Result<peer::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PeerService for PeerServer {
    type AppendStreamStream = Appends;

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        let caller = request.into_inner();
        let initialized = match self.running.get() {
            Some(running) => running.raft.is_initialized().await.map_err(fatal)?,
            None => false,
        };
        Ok(self.identity.answer(peer::IdentifyResponse {
            cluster_id: self.identity.cluster_id,
            node_id: self.identity.node_id,
            incarnation: self.identity.incarnation,
            initialized,
            known_incarnation: self.identity.peers.known(caller.node_id).unwrap_or(0),
        }))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let from = self.identity.check(request.metadata()).await?;
        let raft = self.running()?.raft.clone();
        let broken = Arc::new(Mutex::new(None));
        let reported = broken.clone();
        let requests = request
            .into_inner()
            .map(|message| message.and_then(|m| append_from_peer(m).map_err(malformed)))
            .scan((), move |(), item| {
                let item = item.inspect_err(|status| {
                    tracing::warn!(from, %status, "the append stream of the leader broke");
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
                });
                futures::future::ready(item.ok())
            });
        let answers = raft
            .stream_append(requests)
            .map(|result| result.map(append_answer).map_err(fatal));
        // What broke the stream goes back to the sender after the answers to what arrived before.
        let tail = stream::once(async move {
            reported
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .map(Err)
        })
        .filter_map(futures::future::ready);
        let stream: Appends = Box::pin(answers.chain(tail));
        Ok(self.identity.answer(stream))
    }

    async fn append(
        &self,
        request: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendResponse>, Status> {
        self.identity.check(request.metadata()).await?;
        let raft = &self.running()?.raft;
        let request = append_from_peer(request.into_inner()).map_err(malformed)?;
        let mut answers = Box::pin(raft.stream_append(stream::iter([request])));
        let result = answers
            .next()
            .await
            .ok_or_else(|| Status::unavailable("Raft stopped"))?
            .map_err(fatal)?;
        Ok(self.identity.answer(append_answer(result)))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.identity.check(request.metadata()).await?;
        let request = vote_request(request.into_inner()).map_err(malformed)?;
        let answer = self.running()?.raft.vote(request).await.map_err(fatal)?;
        Ok(self.identity.answer(peer::VoteResponse {
            vote: Some(vote_to_peer(&answer.vote)),
            last_log_id: answer.last_log_id.as_ref().map(log_id_to_peer),
            granted: answer.vote_granted,
        }))
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.identity.check(request.metadata()).await?;
        let request = vote_request(request.into_inner()).map_err(malformed)?;
        let answer = self.running()?.raft.pre_vote(request).await.map_err(fatal)?;
        Ok(self.identity.answer(peer::VoteResponse {
            vote: Some(vote_to_peer(&answer.vote)),
            last_log_id: answer.last_log_id.as_ref().map(log_id_to_peer),
            granted: answer.vote_granted,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        self.identity.check(request.metadata()).await?;
        let message = request.into_inner();
        let from_leader = vote_from_peer(message.from_leader).map_err(malformed)?;
        let request =
            TransferLeaderRequest::new(from_leader, message.to, message.last_log_id.map(log_id_from_peer));
        let accepted = self
            .running()?
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(fatal)?
            .is_ok();
        Ok(self.identity.answer(peer::TransferLeaderResponse { accepted }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        use peer::snapshot_chunk::Part;
        let from = self.identity.check(request.metadata()).await?;
        let running = self.running()?;
        let mut chunks = request.into_inner();
        let mut receiver: Option<Receiver> = None;
        while let Some(chunk) = chunks.message().await? {
            match (chunk.part, receiver.take()) {
                (Some(Part::Header(header)), None) => {
                    tracing::info!(from, transfer_id = header.transfer_id, "receiving a snapshot");
                    let store = running.store.clone();
                    let staging = blocking(move || store.stage().map_err(io::Error::other)).await?;
                    receiver = Some(Receiver {
                        staging,
                        header,
                        items: 0,
                        checksum: crc32fast::Hasher::new(),
                    });
                }
                (Some(Part::Items(items)), Some(open)) => {
                    receiver = Some(blocking(move || open.push(items.items)).await?);
                }
                (Some(Part::End(end)), Some(open)) => {
                    let vote = vote_from_peer(open.header.vote).map_err(malformed)?;
                    let last = open.header.last_log_id.map(log_id_from_peer);
                    check_sequence(&vote, last.as_ref(), &[]).map_err(malformed)?;
                    let (meta, snapshot) = blocking(move || open.finish(&end)).await?;
                    let snapshot = Snapshot { meta, snapshot };
                    let answer = running
                        .raft
                        .install_full_snapshot(vote, snapshot)
                        .await
                        .map_err(fatal)?;
                    return Ok(self.identity.answer(peer::SnapshotResponse {
                        vote: Some(vote_to_peer(&answer.vote)),
                    }));
                }
                _ => {
                    return Err(Status::invalid_argument(
                        "snapshot parts are header, items, end, in this order",
                    ));
                }
            }
        }
        Err(Status::aborted(
            "the snapshot ended before its end part; what was staged is discarded",
        ))
    }
}
