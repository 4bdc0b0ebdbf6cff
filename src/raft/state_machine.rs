//! `RaftStateMachine` over the index: applies keys and places, never touches a value file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::stream::Fuse;
use futures::{FutureExt, Stream, StreamExt};
use nezha_vlog::OpHead;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use super::convert::{entry_to_head, log_id_from_vlog, max_node_id, stored_membership};
use super::drop_on_blocking::DropOnBlocking;
use super::log_writer::to_io;
use super::snapshot::{Snapshot, SnapshotBuilder, SnapshotData, View};
use super::types::{LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig};
use crate::index::Outcome;
use crate::store::Store;

/// Entries of one write batch at most.
const BATCH_ENTRIES: usize = 512;
/// Bytes of values in one write batch; the entry that reaches them is the last.
const BATCH_INLINE_BYTES: u64 = 4 << 20;

/// When the index is flushed, so that a restart replays a bounded part of the log.
#[derive(Debug, Clone)]
pub struct FlushPolicy {
    /// Log bytes applied since the last flush. Default 1 GiB; 1 MiB and more.
    pub log_bytes: u64,
    /// Entries applied since the last flush. Default 1,000,000; 1 and more.
    pub entries: u64,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            log_bytes: 1 << 30,
            entries: 1_000_000,
        }
    }
}

/// The state machine as openraft drives it: one caller at a time.
pub struct StateMachine {
    store: Arc<Store>,
    policy: FlushPolicy,
    flushing: Arc<AtomicBool>,
}

impl StateMachine {
    /// Wraps an opened store.
    pub fn new(store: Arc<Store>, policy: FlushPolicy) -> Self {
        Self {
            store,
            policy,
            flushing: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Waits until every log change that was submitted is durable: the new store relies on it.
    async fn log_barrier(&self) -> io::Result<()> {
        // Nothing is appended, and is durable only after everything queued before it (I1).
        let (tx, rx) = oneshot::channel();
        self.store
            .log()
            .append(Vec::new(), Box::new(move |result| drop(tx.send(result))))
            .map_err(to_io)?;
        rx.await.map_err(io::Error::other)?.map_err(to_io)
    }

    /// Starts a flush in the background when the policy asks for one and none runs.
    fn flush_if_due(&self) {
        let index = self.store.index();
        let applied = index.state().applied.map_or(0, |id| id.index);
        let flushed = index.flushed().map_or(0, |id| id.index);
        let due = applied.saturating_sub(flushed) >= self.policy.entries
            || self.store.log().bytes_since(flushed) >= self.policy.log_bytes;
        if !due || self.flushing.swap(true, Ordering::AcqRel) {
            return;
        }
        let flushing = self.flushing.clone();
        self.store.threads().start(move || {
            if let Err(error) = index.flush() {
                tracing::error!(%error, "flushing the index failed; it is retried at the next write");
            }
            flushing.store(false, Ordering::Release);
        });
    }
}

/// An entry with whoever waits for it.
type Item = Result<EntryResponder<TypeConfig>, io::Error>;

/// Takes what is ready, as much as one batch may have. Waits for the first; `None` at the end.
async fn next_batch(entries: &mut Fuse<impl Stream<Item = Item> + Unpin>) -> Option<Vec<Item>> {
    let mut next = entries.next().await;
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(item) = next {
        bytes += inline_bytes(&item);
        batch.push(item);
        next = match batch.len() < BATCH_ENTRIES && bytes < BATCH_INLINE_BYTES {
            true => entries.next().now_or_never().flatten(),
            false => None,
        };
    }
    (!batch.is_empty()).then_some(batch)
}

/// Bytes of values that the index will keep.
fn inline_bytes(item: &Item) -> u64 {
    match item {
        Ok((entry, _)) => match &entry.payload {
            EntryPayload::Normal(Proposal::Heads(heads)) => heads.iter().map(OpHead::inline_bytes).sum(),
            _ => 0,
        },
        Err(_) => 0,
    }
}

/// Applies one batch and answers those who wait.
async fn apply_batch(store: &Arc<Store>, batch: Vec<Item>) -> io::Result<()> {
    let mut heads = Vec::with_capacity(batch.len());
    let mut responders: Vec<Option<ApplyResponder<TypeConfig>>> = Vec::with_capacity(batch.len());
    for item in batch {
        let (entry, responder) = item?;
        heads.push(entry_to_head(entry)?);
        responders.push(responder);
    }
    #[cfg(feature = "planted-bugs")]
    let early = match super::planted::planted(super::planted::Bug::ApplyBeforeCommit) {
        true => super::planted::already_applied(store, &mut heads),
        false => Vec::new(),
    };
    // openraft notes what is committed before it applies it. Without a note Raft is not there: in tests.
    if let (Some(committed), Some(last)) = (store.log().committed(), heads.last()) {
        assert!(
            last.log_id.index <= committed.index,
            "I8: {} is to be applied, but only {committed} is committed",
            last.log_id
        );
    }
    let applier = store.clone();
    let outcomes: Vec<Vec<Outcome>> = store
        .threads()
        .run(move || applier.apply(heads, &max_node_id))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    #[cfg(feature = "planted-bugs")]
    let outcomes = early.into_iter().chain(outcomes);
    for (responder, outcome) in responders.into_iter().zip(outcomes) {
        if let Some(responder) = responder {
            responder.send(outcome);
        }
    }
    Ok(())
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.store.index().state();
        Ok((
            state.applied.map(log_id_from_vlog),
            stored_membership(state.membership_log_id, &state.membership)?,
        ))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(batch) = next_batch(&mut entries).await {
            apply_batch(&self.store, batch).await?;
        }
        self.flush_if_due();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder::new(self.store.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let staged = match snapshot {
            SnapshotData::Staged(staged) => staged,
            // Only where sender and receiver share a process: a received snapshot was staged by the peer service.
            SnapshotData::View(view) => {
                DropOnBlocking::new(self.store.threads(), view.stage(&self.store).await?)
            }
            SnapshotData::Metadata => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a snapshot's metadata cannot be installed",
                ));
            }
        };
        let started = Instant::now();
        self.log_barrier().await?;
        let store = self.store.clone();
        let at = meta.last_log_id;
        self.store
            .threads()
            .run(move || store.install(staged.into_inner()))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let switch_ms = started.elapsed().as_secs_f64() * 1000.0;
        let store = self.store.clone();
        self.store.threads().start(move || {
            if let Err(error) = store.sweep() {
                tracing::warn!(%error, "a replaced store could not be removed; the next start does it");
            }
        });
        // For so long nothing was applied and nothing answered.
        tracing::info!(?at, switch_ms, "installed a snapshot");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        View::open(&self.store).await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use nezha_vlog::{OpKind, Precondition, SegmentId, ValueRef};

    use super::*;
    use crate::raft::types::Entry;

    fn item(index: u64, value_len: usize) -> Item {
        let head = OpHead {
            kind: OpKind::Put,
            precondition: Precondition::None,
            key: Bytes::from_static(b"key"),
            place: ValueRef {
                segment: SegmentId::new(1),
                offset: 0,
                value_len: value_len as u32,
            },
            inline: Some(Bytes::from(vec![0; value_len])),
        };
        let entry = Entry {
            log_id: log_id_from_vlog(nezha_vlog::LogId::new(1, 1, index)),
            payload: EntryPayload::Normal(Proposal::Heads(vec![head])),
        };
        Ok((entry, None))
    }

    #[tokio::test]
    async fn a_batch_ends_where_nothing_is_ready_and_where_it_is_large() {
        let small = (0..BATCH_ENTRIES as u64 + 3).map(|index| item(index, 1));
        let large = (0..5).map(|index| item(1000 + index, 3 << 19));
        let late = stream::once(async {
            tokio::task::yield_now().await;
            item(2000, 1)
        });
        let mut entries = stream::iter(small.chain(large)).chain(Box::pin(late)).fuse();
        let mut sizes = Vec::new();
        while let Some(batch) = next_batch(&mut entries).await {
            sizes.push(batch.len());
        }
        // 3 small ones and 3 large ones reach the limit of bytes; then what is ready, and what came late.
        assert_eq!(sizes, [BATCH_ENTRIES, 6, 2, 1]);
    }
}
