//! `RaftNetworkV2` over tonic: bulk data, control messages and snapshots on separate connections.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt, stream};
use nezha_api::client::Dialer;
use nezha_api::peer;
use nezha_api::peer::peer_service_client::PeerServiceClient;
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::convert::{
    entry_bytes, entry_to_peer, invalid_data, log_id_from_peer, log_id_to_peer, vote_from_peer, vote_to_peer,
};
use super::credits::Credits;
use super::peer_identity::PeerIdentity;
use super::snapshot::{Snapshot, SnapshotData};
use super::transfer::{Sender, Sending};
use super::types::{Node, NodeId, TypeConfig, Vote};

/// Bytes that may be on the way to one follower. Default 8 MiB; one request is always allowed.
const WINDOW_BYTES: u64 = 8 << 20;

/// A peer that answers nothing for this long, with a request open, counts as gone.
const STALL: Duration = Duration::from_secs(10);

/// Pause after an append stream did not open, at first and at most; twice as long each time. openraft pauses only once
/// the stream asks it for a request, and one that does not open never does.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);
const REOPEN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often an outage is logged while it lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// What a connection carries. Bulk data must never delay a heartbeat or a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Control,
    Bulk,
    Snapshot,
}

/// Creates clients for peers; connections are lazy and shared by address and class.
#[derive(Clone)]
pub struct Network {
    identity: Arc<PeerIdentity>,
    message_bytes_max: usize,
    sending: Sending,
    dialer: Dialer,
    channels: Arc<Mutex<HashMap<(String, Class), Channel>>>,
}

impl Network {
    /// `message_bytes_max`: largest message between members, in bytes; above the value limit plus overhead.
    pub(super) fn new(
        identity: Arc<PeerIdentity>,
        message_bytes_max: usize,
        sending: Sending,
        dialer: Dialer,
    ) -> Self {
        Self {
            identity,
            message_bytes_max,
            sending,
            dialer,
            channels: Arc::default(),
        }
    }

    /// Never blocks: the connection is made at the first request.
    fn channel(&self, addr: &str, class: Class) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&(addr.to_owned(), class)) {
            return Ok(channel.clone());
        }
        let to = Endpoint::from_shared(format!("http://{addr}"))?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20);
        let channel = self.dialer.lazy(to);
        channels.insert((addr.to_owned(), class), channel.clone());
        Ok(channel)
    }

    fn client(&self, target: NodeId, node: &Node, bulk: Class) -> PeerClient {
        PeerClient {
            network: self.clone(),
            target,
            addr: node.peer_addr.clone(),
            bulk,
            outage: None,
        }
    }
}

/// A peer that cannot be reached.
struct Outage {
    since: Instant,
    logged: Option<Instant>,
    pause: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> PeerClient {
        self.client(target, node, Class::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Node) -> PeerClient {
        self.client(target, node, Class::Control)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Node) -> PeerClient {
        self.client(target, node, Class::Snapshot)
    }
}

/// Talks to one peer.
pub struct PeerClient {
    network: Network,
    target: NodeId,
    addr: String,
    bulk: Class,
    outage: Option<Outage>,
}

impl PeerClient {
    fn rpc(&self, class: Class) -> Result<PeerServiceClient<Channel>, RPCError<TypeConfig>> {
        let channel = self
            .network
            .channel(&self.addr, class)
            .map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))?;
        Ok(PeerServiceClient::new(channel)
            .max_decoding_message_size(self.network.message_bytes_max)
            .max_encoding_message_size(self.network.message_bytes_max))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.network.identity.sign(request.metadata_mut(), self.target);
        request
    }

    /// One request, one answer, with a deadline and a check of who answered.
    async fn unary<T>(
        &self,
        ttl: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let response = tokio::time::timeout(ttl, call)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {ttl:?}"))))
            .map_err(|status| self.failed(status))?;
        self.network
            .identity
            .verify(response.metadata(), self.target)
            .await
            .map_err(|s| self.failed(s))?;
        Ok(response.into_inner())
    }

    /// Maps a status to what openraft should do about it: back off, or try again.
    pub(super) fn failed(&self, status: Status) -> RPCError<TypeConfig> {
        self.network.identity.stop_if_refused(&status);
        let error = io::Error::other(format!("peer {} at {}: {status}", self.target, self.addr));
        match status.code() {
            Code::Cancelled | Code::DataLoss => RPCError::Network(NetworkError::new(&error)),
            _ => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    fn broken(&self, error: io::Error) -> RPCError<TypeConfig> {
        RPCError::Network(NetworkError::new(&error))
    }

    async fn pipelined<'s, S>(
        &'s mut self,
        input: S,
    ) -> Result<
        BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
        RPCError<TypeConfig>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let credits = Arc::new(Credits::new(WINDOW_BYTES));
        let outbound = stream::unfold((input, credits.clone()), |(mut input, credits)| async move {
            credits.acquire().await;
            let request = input.next().await?;
            credits.sent(request.entries.iter().map(entry_bytes).sum::<u64>() + 64);
            match append_to_peer(request) {
                Ok(message) => Some((message, (input, credits))),
                Err(error) => {
                    tracing::error!(%error, "the log reader answered an entry that cannot be sent");
                    None
                }
            }
        });
        let inbound = match self.open(outbound).await {
            Ok(inbound) => inbound,
            Err(error) => {
                self.pause_after(&error).await;
                return Err(error);
            }
        };
        if let Some(outage) = self.outage.take() {
            let seconds = outage.since.elapsed().as_secs_f64();
            tracing::info!(
                peer = self.target,
                addr = self.addr,
                seconds,
                "the member is reached again"
            );
        }
        let this = &*self;
        let answers = stream::unfold(Some((inbound, credits)), move |state| async move {
            let (mut inbound, credits) = state?;
            loop {
                let message = match tokio::time::timeout(STALL / 4, inbound.message()).await {
                    Ok(message) => message,
                    Err(_) if credits.oldest().is_none_or(|at| at.elapsed() < STALL) => continue,
                    Err(_) => Err(Status::deadline_exceeded(format!("no answer for {STALL:?}"))),
                };
                return match message {
                    Ok(None) => None,
                    Ok(Some(answer)) if credits.answered() => match append_result(answer) {
                        Ok(result) => Some((Ok(result), Some((inbound, credits)))),
                        Err(error) => Some((Err(this.broken(error)), None)),
                    },
                    Ok(Some(_)) => Some((
                        Err(this.broken(invalid_data("an answer without a request"))),
                        None,
                    )),
                    Err(status) => Some((Err(this.failed(status)), None)),
                };
            }
        });
        Ok(Box::pin(answers))
    }

    async fn open(
        &self,
        outbound: impl Stream<Item = peer::AppendRequest> + Send + 'static,
    ) -> Result<Streaming<peer::AppendResponse>, RPCError<TypeConfig>> {
        let mut rpc = self.rpc(Class::Bulk)?;
        let opened = tokio::time::timeout(STALL, rpc.append_stream(self.request(outbound)))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the append stream did not open")))
            .map_err(|status| self.failed(status))?;
        self.network
            .identity
            .verify(opened.metadata(), self.target)
            .await
            .map_err(|s| self.failed(s))?;
        Ok(opened.into_inner())
    }

    /// Waits before the caller may open the append stream again, and says once in a while that it does not open.
    async fn pause_after(&mut self, error: &RPCError<TypeConfig>) {
        let now = Instant::now();
        let outage = self.outage.get_or_insert(Outage {
            since: now,
            logged: None,
            pause: REOPEN_PAUSE,
        });
        if outage.logged.is_none_or(|logged| logged.elapsed() >= REMINDER) {
            outage.logged = Some(now);
            tracing::warn!(peer = self.target, addr = self.addr, %error, "the member is not reached; trying again and again");
        }
        let pause = outage.pause;
        outage.pause = (pause * 2).min(REOPEN_PAUSE_MAX);
        tokio::time::sleep(pause).await;
    }

    /// The member that this talks to.
    pub(super) fn target(&self) -> NodeId {
        self.target
    }

    /// Opens one connection of a transfer; what is sent through `parts` goes over it.
    pub(super) async fn open_transfer(
        &self,
        parts: mpsc::Receiver<peer::SnapshotPart>,
    ) -> Result<Streaming<peer::SnapshotAnswer>, Status> {
        let mut rpc = self
            .rpc(Class::Snapshot)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let opened = rpc
            .install_snapshot(self.request(ReceiverStream::new(parts)))
            .await?;
        self.network
            .identity
            .verify(opened.metadata(), self.target)
            .await?;
        Ok(opened.into_inner())
    }
}

pub(super) fn streaming(error: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Timeout(e) => StreamingError::Timeout(e),
        RPCError::Unreachable(e) => StreamingError::Unreachable(e),
        RPCError::Network(e) => StreamingError::Network(e),
        RPCError::RemoteError(e) => StreamingError::Network(NetworkError::new(&e)),
    }
}

fn append_to_peer(request: AppendEntriesRequest<TypeConfig>) -> io::Result<peer::AppendRequest> {
    Ok(peer::AppendRequest {
        vote: Some(vote_to_peer(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_peer),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_peer),
        entries: request
            .entries
            .into_iter()
            .map(entry_to_peer)
            .collect::<io::Result<_>>()?,
    })
}

fn append_result(answer: peer::AppendResponse) -> io::Result<StreamAppendResult<TypeConfig>> {
    use peer::append_response::Result as Answer;
    match answer
        .result
        .ok_or_else(|| invalid_data("append answer without a result"))?
    {
        Answer::Matched(matched) => Ok(Ok(matched.log_id.map(log_id_from_peer))),
        Answer::Conflict(at) => Ok(Err(StreamAppendError::Conflict(log_id_from_peer(at)))),
        Answer::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_peer(Some(vote))?))),
    }
}

fn vote_to_message(request: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(vote_to_peer(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_peer),
        leader_transfer: request.leadership_transfer,
    }
}

fn vote_from_message(answer: peer::VoteResponse) -> io::Result<VoteResponse<TypeConfig>> {
    let last = answer.last_log_id.map(log_id_from_peer);
    Ok(VoteResponse::new(
        vote_from_peer(answer.vote)?,
        last,
        answer.granted,
    ))
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let last = rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id);
        let message = append_to_peer(rpc).map_err(|e| self.broken(e))?;
        let mut client = self.rpc(Class::Control)?;
        let answer = self
            .unary(option.soft_ttl(), client.append(self.request(message)))
            .await?;
        Ok(match append_result(answer).map_err(|e| self.broken(e))? {
            Ok(matched) if matched == last => AppendEntriesResponse::Success,
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        match self.bulk {
            Class::Bulk => self.pipelined(input).boxed(),
            Class::Control | Class::Snapshot => stream_append_sequential(self, input, option),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.rpc(Class::Control)?;
        let call = client.vote(self.request(vote_to_message(&rpc)));
        vote_from_message(self.unary(option.soft_ttl(), call).await?).map_err(|e| self.broken(e))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.rpc(Class::Control)?;
        let call = client.pre_vote(self.request(vote_to_message(&rpc)));
        vote_from_message(self.unary(option.soft_ttl(), call).await?).map_err(|e| self.broken(e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "only a view can be sent");
            return Err(StreamingError::Unreachable(Unreachable::new(&error)));
        };
        let view = view.for_member(self.target);
        let sender = Sender::new(self, self.network.sending.clone(), &vote, view);
        tokio::select! {
            closed = cancel => {
                tracing::info!(peer = self.target, %closed, "the transfer of a snapshot was cancelled");
                Err(StreamingError::Closed(closed))
            }
            vote = sender.run() => Ok(SnapshotResponse::new(vote?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let last_log_id = req.last_log_id();
        #[cfg(feature = "planted-bugs")]
        let last_log_id =
            last_log_id.filter(|_| !super::planted::planted(super::planted::Bug::WriteLostOnTransfer));
        let message = peer::TransferLeaderRequest {
            from_leader: Some(vote_to_peer(req.from_leader())),
            to: *req.to_node_id(),
            last_log_id: last_log_id.map(log_id_to_peer),
        };
        let mut client = self.rpc(Class::Control)?;
        // The target waits for its log to be flushed: longer than a heartbeat may take.
        let ttl = option.soft_ttl().max(Duration::from_secs(2));
        let answer = self
            .unary(ttl, client.transfer_leader(self.request(message)))
            .await?;
        if answer.accepted {
            return Ok(Ok(()));
        }
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: req.last_log_id().copied(),
            actual: None,
        }))
    }
}
