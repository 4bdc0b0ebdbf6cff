//! The peer port: what the other members call.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use nezha_api::peer;
use nezha_api::peer::peer_service_server::{PeerService, PeerServiceServer};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use tonic::{Request, Response, Status, Streaming};

use super::convert::{
    check_sequence, entry_from_peer, log_id_from_peer, log_id_to_peer, vote_from_peer, vote_to_peer,
};
use super::peer_identity::PeerIdentity;
use super::snapshot::Snapshot;
use super::state_machine::StateMachine;
use super::transfer::{Answers, Inbox, Patience, Target};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::store::Store;

/// openraft with our state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// What the service needs once Raft runs; before that only `Identify` answers.
struct Running {
    raft: Raft,
    store: Arc<Store>,
    inbox: Inbox,
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
        let inbox = Inbox::new(store.clone(), Arc::new(raft.clone()), Patience::DEFAULT);
        self.running
            .set(Running { raft, store, inbox })
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

impl Target for Raft {
    fn vote(&self) -> Vote {
        self.metrics().borrow_watched().vote
    }

    fn install(&self, vote: Vote, snapshot: Snapshot) -> BoxFuture<'static, Result<Vote, Status>> {
        let raft = self.clone();
        Box::pin(async move {
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            Ok(installed.map_err(fatal)?.vote)
        })
    }
}

type Appends = Pin<Box<dyn Stream<Item = Result<peer::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PeerService for PeerServer {
    type AppendStreamStream = Appends;
    type InstallSnapshotStream = Answers;

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
        let Running { raft, store, .. } = self.running()?;
        let room = store.takes_appends();
        let broken = Arc::new(Mutex::new(None));
        let reported = broken.clone();
        let requests = request
            .into_inner()
            // On a disk without room they stay with the sender, as if it did not reach this member.
            .then(move |message| {
                let mut room = room.clone();
                async move {
                    // The sender of `room` lives as long as the store.
                    drop(room.wait_for(|room| *room).await);
                    message
                }
            })
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
        request: Request<Streaming<peer::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let from = self.identity.check(request.metadata()).await?;
        let inbox = &self.running()?.inbox;
        let answers = inbox.accept(from, Box::pin(request.into_inner())).await?;
        Ok(self.identity.answer(answers))
    }
}
