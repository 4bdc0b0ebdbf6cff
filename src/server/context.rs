//! What all services of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nezha_api::client::Dialer;
use nezha_api::errors::{self, LeaderHint};
use nezha_api::v1::ResponseHeader;
use tokio::sync::Semaphore;
use tonic::Status;

use super::admission::Budget;
use super::call::Call;
use super::forward::Forwarder;
use super::hash::HASHES_MAX;
use super::pipeline::PIPELINES_MAX;
use crate::collector::Collector;
use crate::config::Config;
use crate::identity::Identity;
use crate::raft::{Consensus, Metrics, Node, NodeId};
use crate::store::{Store, StoreError};

/// Threads that read value files at once. Beyond that a read waits in order.
const READERS_MAX: usize = 64;
/// What a client is asked to wait when space is short.
const SPACE_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Metrics of Raft change with every write; who leads is looked up at most this often.
const OUTLOOK_INTERVAL: Duration = Duration::from_millis(1);
/// And at least this often, whatever was missed.
const OUTLOOK_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// Limits that the services enforce, from the configuration. Units in the names; see [`Config`] for defaults.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest value.
    pub value_bytes_max: u64,
    /// Life of one scan.
    pub scan_lifetime: Duration,
    /// About so many bytes of keys and values are in a message of a scan.
    pub scan_chunk_bytes: u64,
    /// Longest wait for a scan slot, or for space.
    pub admission_wait: Duration,
    /// Open scans.
    pub scans_max: usize,
}

/// State of one node's services.
pub struct Context {
    /// Name of this node.
    pub name: String,
    /// What this node answers when it is asked for its version.
    pub version: String,
    /// Cluster that this node belongs to.
    pub cluster_id: u64,
    /// Id of this node.
    pub node_id: NodeId,
    /// Raft.
    pub consensus: Consensus,
    /// Log, values and index.
    pub store: Arc<Store>,
    /// What removes garbage.
    pub collector: Arc<Collector>,
    /// Enforced limits.
    pub limits: Limits,
    /// Bytes of requests in flight.
    pub requests: Budget,
    /// Bytes of large answers in flight.
    pub answers: Budget,
    /// Slots of open scans.
    pub scans: Arc<Semaphore>,
    /// Slots of open pipelines.
    pub pipelines: Arc<Semaphore>,
    /// Slots of state hashes.
    pub hashes: Arc<Semaphore>,
    /// Slots of threads that read value files.
    pub readers: Arc<Semaphore>,
    /// Connection to the leader.
    pub forwarder: Forwarder,
    /// Connects to other members.
    pub dialer: Dialer,
    /// When this process started.
    pub started: Instant,
    outlook: ArcSwap<Outlook>,
    stopping: AtomicBool,
    ready: AtomicBool,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Raft term of this node.
    pub term: u64,
    /// The leader and where it serves clients.
    pub leader: Option<LeaderHint>,
}

impl From<&Metrics> for Outlook {
    fn from(metrics: &Metrics) -> Self {
        let leader = metrics.leader.as_ref();
        Self {
            term: metrics.term,
            leader: leader.map(|(id, node)| LeaderHint {
                id: *id,
                endpoint: node.client_addr.clone(),
            }),
        }
    }
}

/// Where node `me`, which was refused as not leading, sends its clients: never back to itself, which Raft may still
/// name while it steps down or hands the lead over.
fn other_leader(me: NodeId, leader: Option<(NodeId, Node)>) -> Option<LeaderHint> {
    leader.filter(|(id, _)| *id != me).map(|(id, node)| LeaderHint {
        id,
        endpoint: node.client_addr,
    })
}

impl Context {
    /// Puts together what the services need.
    pub fn new(
        config: &Config,
        version: String,
        identity: &Identity,
        consensus: Consensus,
        store: Arc<Store>,
        collector: Arc<Collector>,
        dialer: Dialer,
    ) -> Self {
        let outlook = ArcSwap::from_pointee(Outlook::from(&consensus.metrics()));
        let budget = |name, bytes| Budget::new(name, &config.name, bytes, config.admission_wait);
        Self {
            name: config.name.clone(),
            version,
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            consensus,
            store,
            collector,
            limits: Limits {
                value_bytes_max: config.value_bytes_max,
                scan_lifetime: config.scan_lifetime,
                scan_chunk_bytes: config.scan_chunk_bytes,
                admission_wait: config.admission_wait,
                scans_max: config.scans_max,
            },
            requests: budget("requests", config.proposal_bytes_max),
            answers: budget("answers", config.read_bytes_max),
            scans: Arc::new(Semaphore::new(config.scans_max)),
            pipelines: Arc::new(Semaphore::new(PIPELINES_MAX)),
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            forwarder: Forwarder::new(dialer.clone()),
            dialer,
            started: Instant::now(),
            outlook,
            stopping: AtomicBool::new(false),
            ready: AtomicBool::new(false),
        }
    }

    /// Refuses everything that comes from now on.
    pub fn stop_admission(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Says that this node has caught up since its start: local reads are allowed from now on.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether local reads are allowed and admission is open.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.stopping.load(Ordering::Acquire)
    }

    /// Errors: STOPPING, proposed=false.
    pub fn check_admission(&self) -> Result<(), Status> {
        match self.stopping.load(Ordering::Acquire) {
            true => Err(errors::stopping(&self.name)),
            false => Ok(()),
        }
    }

    /// Waits until there is space for a write of `bytes` here.
    ///
    /// Errors: SPACE_BOUND or NO_SPACE, proposed=false, when there was none within the wait for admission.
    pub async fn space_for(&self, bytes: u64, call: &Call) -> Result<(), Status> {
        let until = call
            .deadline
            .min(tokio::time::Instant::now() + self.limits.admission_wait);
        let short = match self.collector.gate().admit(bytes, until).await {
            Ok(()) => return Ok(()),
            Err(short) => short,
        };
        let disk = short.0.disk;
        Err(match disk.low {
            true => errors::no_space(&self.name, disk.free_bytes, disk.reserve_bytes),
            false => errors::space_bound(&self.name, &short.to_string(), SPACE_RETRY_AFTER),
        })
    }

    /// Whether a write of `bytes` needs not wait for space now.
    pub fn has_space(&self, bytes: u64) -> bool {
        self.collector.gate().is_open(bytes)
    }

    /// Errors: STOPPING; NOT_READY until this node has caught up with what it knew before its start.
    pub fn check_local_read(&self) -> Result<(), Status> {
        self.check_admission()?;
        match self.ready.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(errors::not_ready(&self.name, "it applies its log first")),
        }
    }

    /// Who leads, as far as this node knows.
    pub fn outlook(&self) -> Arc<Outlook> {
        self.outlook.load_full()
    }

    /// Follows Raft: who leads, and whether it still runs. Returns why Raft stopped.
    pub async fn follow_raft(&self) -> String {
        let mut changes = self.consensus.changes();
        loop {
            let metrics = self.consensus.metrics();
            let outlook = Outlook::from(&metrics);
            if outlook != **self.outlook.load() {
                if outlook.leader != self.outlook.load().leader {
                    let leader = outlook.leader.as_ref().map_or(0, |leader| leader.id);
                    tracing::info!(term = outlook.term, leader, "leader changed");
                }
                self.outlook.store(Arc::new(outlook));
            }
            if let Some(reason) = metrics.stopped {
                return reason;
            }
            tokio::time::sleep(OUTLOOK_INTERVAL).await;
            // What ends this wait is looked at above.
            drop(tokio::time::timeout(OUTLOOK_INTERVAL_MAX, changes.next()).await);
        }
    }

    /// The header of an answer that reflects `revision`.
    pub fn header(&self, revision: u64) -> ResponseHeader {
        let outlook = self.outlook();
        let leader = outlook.leader.as_ref();
        let (leader_id, leader_endpoint) = leader.map_or((0, String::new()), |l| (l.id, l.endpoint.clone()));
        ResponseHeader {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            term: outlook.term,
            revision,
            leader_id,
            leader_endpoint,
        }
    }

    /// The header of an answer that reflects what this node has applied.
    pub fn local_header(&self) -> ResponseHeader {
        self.header(self.store.index().state().applied.map_or(0, |id| id.index))
    }

    /// NOT_LEADER or NO_LEADER, with the leader as far as this node knows; proposed=false.
    pub fn not_leader(&self) -> Status {
        let outlook = self.outlook();
        let other = outlook.leader.clone().filter(|leader| leader.id != self.node_id);
        errors::not_leader(&self.name, outlook.term, other)
    }

    /// The same, with the leader that Raft named when it refused.
    pub fn led_by(&self, leader: Option<(NodeId, Node)>) -> Status {
        errors::not_leader(
            &self.name,
            self.outlook().term,
            other_leader(self.node_id, leader),
        )
    }

    /// Turns a failed read of the store into an answer, and remembers damage.
    pub fn store_error(&self, error: &StoreError) -> Status {
        let StoreError::Damage { file, offset, reason } = error else {
            tracing::error!(%error, "reading from the store failed");
            return errors::internal(&self.name, &format!("reading failed: {error}"), false);
        };
        self.store.note_damage(error);
        errors::data_damaged(&self.name, &file.display().to_string(), *offset, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_lead_never_names_itself() {
        let node = Node {
            name: "n1".into(),
            peer_addr: "h1:7380".into(),
            client_addr: "h1:7379".into(),
        };
        assert_eq!(other_leader(1, Some((1, node.clone()))), None);
        assert_eq!(other_leader(2, Some((1, node))).unwrap().endpoint, "h1:7379");
        assert_eq!(other_leader(1, None), None);
    }
}
