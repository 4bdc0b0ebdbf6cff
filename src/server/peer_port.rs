//! The peer port: who this node is, from the first moment on; everything else once Raft runs.
//!
//! Nodes that form a cluster find each other here before any of them has an identity: such a node answers `Identify`
//! with node id 0 and the incarnation that it will have. What a node says about itself is recorded, durably, before
//! the answer confirms it, so that the same node on a wiped directory is known for what it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use nezha_api::peer;
use nezha_api::peer::peer_service_server::PeerService;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::raft::{PeerIdentity, PeerServer};

/// Client address of the node that answers `Identify`, in the answer's metadata.
pub const CLIENT_ADDR: &str = "nezha-client-addr";
/// Its name.
pub const NAME: &str = "nezha-name";

/// Callers that one process puts on record when they identify themselves. Who is a member is not known here: nodes
/// record each other before Raft runs, when the membership is not known to anybody, and a new member is recorded by
/// followers that have not heard of it. So their number is bounded instead, far above any cluster's, because the record
/// is a file that is written anew for each and never shrinks.
const RECORDED_MAX: usize = 1024;

/// The peer protocol in all phases of a node's life.
#[derive(Clone)]
pub struct PeerPort {
    me: Arc<Me>,
    server: Arc<OnceLock<PeerServer>>,
    /// Callers that this process has recorded.
    recorded: Arc<AtomicUsize>,
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
            recorded: Arc::default(),
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

/// Records the caller's incarnation, if it says that it is a member of this cluster and is seen for the first time;
/// `recorded` counts those.
///
/// A caller that comes under another incarnation than the recorded one is not refused here: the answer tells it what is
/// known, and it stops by itself.
async fn record(
    identity: &PeerIdentity,
    recorded: &AtomicUsize,
    caller: &peer::IdentifyRequest,
) -> Result<(), Status> {
    let ours = caller.cluster_id == identity.cluster_id && caller.node_id != 0 && caller.incarnation != 0;
    if !ours || identity.peers.known(caller.node_id).is_some() {
        return Ok(());
    }
    let (peers, id, incarnation) = (identity.peers.clone(), caller.node_id, caller.incarnation);
    let before = recorded.fetch_add(1, Ordering::Relaxed);
    if before >= RECORDED_MAX {
        if before == RECORDED_MAX {
            tracing::warn!(
                id,
                "callers that were never seen before are not recorded any more: too many came"
            );
        }
        return Err(Status::resource_exhausted(format!(
            "this member has put {RECORDED_MAX} callers on record since its start and takes no more; if node {id} is \
             to be a member, restart this one, and find out who else calls its peer port"
        )));
    }
    let recorded = identity.threads.run(move || peers.record(id, incarnation)).await;
    match recorded {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Status::internal(format!("recording member {id} failed: {error}"))),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

#[tonic::async_trait]
impl PeerService for PeerPort {
    type AppendStreamStream = <PeerServer as PeerService>::AppendStreamStream;
    type InstallSnapshotStream = <PeerServer as PeerService>::InstallSnapshotStream;

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        let mut response = match self.server.get() {
            Some(server) => {
                record(server.identity(), &self.recorded, request.get_ref()).await?;
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
        request: Request<Streaming<peer::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        self.server()?.install_snapshot(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::DataDir;
    use crate::machine::Threads;

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

    /// Once, every id that somebody made up was written to a file that is rewritten for each.
    #[tokio::test]
    async fn callers_are_recorded_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let identity = PeerIdentity {
            cluster_id: 7,
            node_id: 1,
            incarnation: 1,
            peers: Arc::new(data.peers().unwrap()),
            threads: Threads::default(),
        };
        let caller = |cluster_id: u64, node_id: u64| peer::IdentifyRequest {
            cluster_id,
            node_id,
            incarnation: 5,
            ..Default::default()
        };
        let recorded = AtomicUsize::new(RECORDED_MAX - 1);
        record(&identity, &recorded, &caller(8, 2)).await.unwrap();
        assert_eq!(identity.peers.known(2), None, "of another cluster");
        record(&identity, &recorded, &caller(7, 2)).await.unwrap();
        assert_eq!(identity.peers.known(2), Some(5));
        let refused = record(&identity, &recorded, &caller(7, 3)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        assert_eq!(identity.peers.known(3), None);
        // Those on record are not concerned.
        record(&identity, &recorded, &caller(7, 2)).await.unwrap();
    }
}
