//! Who talks to whom: every message between members names cluster, sender, incarnation and receiver, and is refused
//! when one of them is not who was meant.

use std::sync::Arc;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::types::NodeId;
use crate::identity::Peers;
use crate::machine::Threads;

/// Exit code of the process when the cluster knows its id under another incarnation.
pub const EXIT_REFUSED: i32 = 13;

const CLUSTER: &str = "nezha-cluster-id";
const FROM: &str = "nezha-from";
const FROM_INCARNATION: &str = "nezha-from-incarnation";
const TO: &str = "nezha-to";
/// Set on a refusal that the caller cannot survive.
const REFUSED: &str = "nezha-refused";

/// This member as its peers see it.
pub struct PeerIdentity {
    /// Cluster id, from IDENTITY.
    pub cluster_id: u64,
    /// This member's id.
    pub node_id: NodeId,
    /// Drawn when the data directory was made: a wiped directory comes back under another one.
    pub incarnation: u64,
    /// Incarnations of the others, durable.
    pub peers: Arc<Peers>,
    /// What writes to disk beside the async workers, and ends the process.
    pub threads: Threads,
}

fn number(metadata: &MetadataMap, name: &'static str) -> Result<u64, Status> {
    metadata
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Status::invalid_argument(format!("metadata {name} is missing or not a number")))
}

impl PeerIdentity {
    fn insert(&self, metadata: &mut MetadataMap) {
        for (name, value) in [
            (CLUSTER, self.cluster_id),
            (FROM, self.node_id),
            (FROM_INCARNATION, self.incarnation),
        ] {
            metadata.insert(name, MetadataValue::from(value));
        }
    }

    /// Names sender and receiver on a request.
    pub(crate) fn sign(&self, metadata: &mut MetadataMap, to: NodeId) {
        self.insert(metadata);
        metadata.insert(TO, MetadataValue::from(to));
    }

    /// Names the answering member on a response.
    pub(crate) fn answer<T>(&self, message: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        self.insert(response.metadata_mut());
        response
    }

    /// Checks a request: meant for this member, from this cluster, from a known incarnation. A member that is seen for
    /// the first time is recorded durably before it counts.
    ///
    /// Errors: FAILED_PRECONDITION that says which of them differs.
    pub(crate) async fn check(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let (cluster, to) = (number(metadata, CLUSTER)?, number(metadata, TO)?);
        if cluster != self.cluster_id {
            return Err(Status::failed_precondition(format!(
                "this is cluster {:016x}, the caller belongs to cluster {cluster:016x}",
                self.cluster_id
            )));
        }
        if to != self.node_id {
            return Err(Status::failed_precondition(format!(
                "this is member {}, the caller wants member {to}",
                self.node_id
            )));
        }
        let (from, incarnation) = (number(metadata, FROM)?, number(metadata, FROM_INCARNATION)?);
        self.admit(from, incarnation).await.map_err(|reason| {
            let mut status = Status::failed_precondition(reason);
            if self.peers.known(from).is_some_and(|known| known != incarnation) {
                status
                    .metadata_mut()
                    .insert(REFUSED, MetadataValue::from_static("incarnation"));
            }
            status
        })?;
        Ok(from)
    }

    /// Checks an answer: it comes from the member that was meant.
    pub(crate) async fn verify(&self, metadata: &MetadataMap, target: NodeId) -> Result<(), Status> {
        let (cluster, from) = (number(metadata, CLUSTER)?, number(metadata, FROM)?);
        if cluster != self.cluster_id || from != target {
            return Err(Status::failed_precondition(format!(
                "wanted member {target} of cluster {:016x}, reached member {from} of cluster {cluster:016x}",
                self.cluster_id
            )));
        }
        self.admit(from, number(metadata, FROM_INCARNATION)?)
            .await
            .map_err(Status::failed_precondition)
    }

    /// Accepts a member as the incarnation on record, or puts it on record, durably, when it is new.
    async fn admit(&self, id: NodeId, incarnation: u64) -> Result<(), String> {
        if self.peers.known(id) == Some(incarnation) {
            return Ok(());
        }
        let peers = self.peers.clone();
        self.threads
            .run(move || peers.record(id, incarnation))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())
    }

    /// Stops the process when a peer refused it for good: its data directory was wiped, and going on under the old id
    /// could lose what it acknowledged before.
    pub(crate) fn stop_if_refused(&self, status: &Status) {
        if status.code() != Code::FailedPrecondition || status.metadata().get(REFUSED).is_none() {
            return;
        }
        tracing::error!(reason = status.message(), "refused by a peer; stopping");
        eprintln!(
            "kvd: the cluster refuses this data directory: {}",
            status.message()
        );
        self.threads.exit(EXIT_REFUSED);
    }
}
