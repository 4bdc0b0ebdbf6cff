//! Linearizable reads: one leadership round serves every read that waited when it was sent.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::errors::ReadError;
use super::peer_service::Raft;

/// Reads that may wait for a round; further ones wait to be queued.
const QUEUE: usize = 64 * 1024;

/// A round that fails because a quorum did not answer is repeated this often before its reads fail.
const ATTEMPTS: u32 = 5;

/// Where a linearizable read stands: everything up to `revision` is applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPoint {
    /// Log index that the read reflects at least.
    pub revision: u64,
    /// Term of the leader that confirmed it.
    pub term: u64,
}

pub(super) type Waiter = oneshot::Sender<Result<ReadPoint, ReadError>>;

/// Batches reads into rounds. A read joins only a round that was not yet sent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    queue: mpsc::Sender<Waiter>,
}

impl ReadIndex {
    /// Starts the batcher; it ends when the last clone is dropped.
    pub(crate) fn spawn(raft: Raft) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiter>(QUEUE);
        tokio::spawn(async move {
            let mut round: Vec<Waiter> = Vec::new();
            #[cfg(feature = "planted-bugs")]
            let mut last = None;
            while waiting.recv_many(&mut round, QUEUE).await > 0 {
                let confirming = confirm(&raft);
                #[cfg(feature = "planted-bugs")]
                let confirming = super::planted::with_late_reads(confirming, &mut waiting, last);
                let result = confirming.await;
                #[cfg(feature = "planted-bugs")]
                {
                    last = result.as_ref().ok().copied();
                }
                for waiter in round.drain(..) {
                    // The read may have been given up.
                    drop(waiter.send(result.clone()));
                }
            }
        });
        Self { queue }
    }

    /// Waits until this node is proven to lead and has applied everything committed before the call.
    pub(crate) async fn barrier(&self) -> Result<ReadPoint, ReadError> {
        let (tx, rx) = oneshot::channel();
        let stopped = || ReadError::Stopped {
            reason: "the node is stopping".into(),
        };
        self.queue.send(tx).await.map_err(|_| stopped())?;
        rx.await.map_err(|_| stopped())?
    }
}

async fn confirm(raft: &Raft) -> Result<ReadPoint, ReadError> {
    #[cfg(feature = "planted-bugs")]
    if let Some(point) = super::planted::unconfirmed(raft).await? {
        return Ok(point);
    }
    let mut attempt = 1;
    loop {
        match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => {
                let state = linearizer
                    .await_ready(raft)
                    .await
                    .map_err(|e| ReadError::Stopped {
                        reason: e.to_string(),
                    })?;
                let at = state.read_log_id();
                let term = raft.metrics().borrow_watched().current_term;
                return Ok(ReadPoint {
                    revision: at.index(),
                    term,
                });
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                return Err(ReadError::NotLeader {
                    leader: to.leader_id.zip(to.leader_node),
                });
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) if attempt == ATTEMPTS => {
                return Err(ReadError::Unavailable {
                    reason: e.to_string(),
                });
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                // One lost message must not fail a read that has time left.
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
            }
            Err(RaftError::Fatal(e)) => {
                return Err(ReadError::Stopped {
                    reason: e.to_string(),
                });
            }
        }
    }
}
