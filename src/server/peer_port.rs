//! The peer port: who this node is, from the first moment on; everything else once Raft runs.
//!
//! Nodes that form a cluster find each other here before any of them has an identity: such a node answers `Identify`
//! with node id 0 and the incarnation that it will have. What a node says about itself is recorded, durably, before
//! the answer confirms it, so that the same node on a wiped directory is known for what it is.

use std::sync::{Arc, OnceLock};

use nezha_api::peer;
use nezha_api::peer::peer_service_server::PeerService;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::raft::PeerServer;

/// Client address of the node that answers `Identify`, in the answer's metadata.
pub const CLIENT_ADDR: &str = "nezha-client-addr";
/// Its name.
pub const NAME: &str = "nezha-name";

/// The peer protocol in all phases of a node's life.
#[derive(Clone)]
pub struct PeerPort {
    me: Arc<Me>,
    server: Arc<OnceLock<PeerServer>>,
}

struct Me {
    name: String,
    client_addr: String,
    incarnation: u64,
    /// Has an identity, and with it a record of others, that is not open yet.
    remembers: bool,
}

impl PeerPort {
    /// Answers for a node that has no identity yet, or, when it `remembers`, has not opened it yet. `incarnation`: the
    /// one that it has or will have.
    pub fn new(name: &str, client_addr: &str, incarnation: u64, remembers: bool) -> Self {
        let me = Me {
            name: name.to_owned(),
            client_addr: client_addr.to_owned(),
            incarnation,
            remembers,
        };
        Self {
            me: Arc::new(me),
            server: Arc::default(),
        }
    }

    /// Answers as the member that `server` is, from now on. Later calls change nothing.
    pub fn open(&self, server: PeerServer) {
        drop(self.server.set(server));
    }

    fn starting(&self) -> Status {
        Status::unavailable(format!("{} is still starting", self.me.name))
    }

    fn server(&self) -> Result<&PeerServer, Status> {
        self.server.get().ok_or_else(|| self.starting())
    }
}

/// Records the caller's incarnation, if it is a member of this cluster and seen for the first time.
///
/// A caller that comes under another incarnation than the recorded one is not refused here: the answer tells it what is
/// known, and it stops by itself.
async fn record(server: &PeerServer, caller: &peer::IdentifyRequest) -> Result<(), Status> {
    let identity = server.identity();
    let ours = caller.cluster_id == identity.cluster_id && caller.node_id != 0 && caller.incarnation != 0;
    if !ours || identity.peers.known(caller.node_id).is_some() {
        return Ok(());
    }
    let (peers, id, incarnation) = (identity.peers.clone(), caller.node_id, caller.incarnation);
    let recorded = tokio::task::spawn_blocking(move || peers.record(id, incarnation)).await;
    match recorded {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Status::internal(format!("recording member {id} failed: {error}"))),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

#[tonic::async_trait]
impl PeerService for PeerPort {
    type AppendStreamStream = <PeerServer as PeerService>::AppendStreamStream;

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        let mut response = match self.server.get() {
            Some(server) => {
                record(server, request.get_ref()).await?;
                server.identify(request).await?
            }
            // "I know nobody" from a node that knows would let a wiped member in.
            None if self.me.remembers => {
                return Err(self.starting());
            }
            None => Response::new(peer::IdentifyResponse {
                incarnation: self.me.incarnation,
                ..Default::default()
            }),
        };
        for (key, text) in [(CLIENT_ADDR, &self.me.client_addr), (NAME, &self.me.name)] {
            let value = MetadataValue::try_from(text.as_str());
            response
                .metadata_mut()
                .insert(key, value.map_err(|e| Status::internal(format!("{text}: {e}")))?);
        }
        Ok(response)
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        self.server()?.append_stream(request).await
    }

    async fn append(
        &self,
        request: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendResponse>, Status> {
        self.server()?.append(request).await
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.server()?.vote(request).await
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.server()?.pre_vote(request).await
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        self.server()?.transfer_leader(request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        self.server()?.install_snapshot(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn identify(remembers: bool) -> Result<Response<peer::IdentifyResponse>, Status> {
        let port = PeerPort::new("n1", "127.0.0.1:1", 7, remembers);
        port.identify(Request::new(peer::IdentifyRequest::default()))
            .await
    }

    #[tokio::test]
    async fn a_node_that_has_not_opened_its_memory_does_not_claim_to_know_nobody() {
        let blank = identify(false).await.unwrap().into_inner();
        assert_eq!((blank.incarnation, blank.known_incarnation), (7, 0));
        let refused = identify(true).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    }
}
