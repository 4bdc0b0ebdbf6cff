//! Snapshots are views: building one writes metadata only, sending one streams the index in key order.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nezha_api::peer;
use openraft::storage::RaftSnapshotBuilder;
use tokio::sync::{mpsc, oneshot};

use super::convert::{invalid_data, log_id_from_vlog, stored_membership};
use super::drop_on_blocking::DropOnBlocking;
use super::types::{NodeId, SnapshotMeta, TypeConfig};
use nezha_vlog::encode_record;

use crate::index::{AppliedState, Index, IndexError, Place, ScanItem, ScanRange};
use crate::machine::Threads;
use crate::store::{self, Staged, Store, StoreError, TransferPin};

/// Bytes of one chunk of a transfer, as [`item_bytes`] counts them; a larger record goes alone.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Chunks that a view reads ahead of whoever takes them; one that is not complete yet counts.
const CHUNKS_AHEAD: usize = 1;

/// Between two attempts to flush onto a full disk.
const SPACE_PAUSE: Duration = Duration::from_millis(500);

/// Memory that a record takes in a chunk besides its bytes.
const ITEM_BYTES: u64 = 64;

/// Memory that a record takes in a chunk.
pub(crate) fn item_bytes(record: &Bytes) -> u64 {
    ITEM_BYTES + record.len() as u64
}

/// openraft's snapshot with our data.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What travels through openraft: on the sender a view, on the receiver a staged store.
pub enum SnapshotData {
    /// What building a snapshot answers: its metadata is all there is. Sending asks for a fresh view.
    Metadata,
    /// A view, for sending.
    View(View),
    /// Received, verified and durable beside the live store. Raft may drop it unread.
    Staged(DropOnBlocking<Staged>),
}

/// A consistent view of the whole state, read by a thread of its own while it is sent.
///
/// Memory: [`CHUNKS_AHEAD`] chunks. Dropping it ends the thread and unpins what it read.
pub struct View {
    state: AppliedState,
    chunks: mpsc::Receiver<io::Result<Vec<peer::SnapshotItem>>>,
    /// Keeps the entries after the view, for whoever receives it.
    pin: TransferPin,
    /// Whom it is sent to.
    receiver: Option<NodeId>,
}

impl View {
    /// Opens a view of what is applied now, after flushing the index; None before anything was applied.
    ///
    /// Called between applies. Errors: of the index.
    pub(crate) async fn open(store: &Arc<Store>) -> io::Result<Option<Snapshot>> {
        if store.index().state().applied.is_none() {
            return Ok(None);
        }
        let index = store.index();
        store
            .threads()
            .run(move || index.flush())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let live = store.view();
        // Before the index is looked at: what the view holds is not older than this.
        let applied = live.index().state().applied.map_or(0, |id| id.index);
        let pin = store.transfers().pin(applied, &live);
        let (state_tx, state_rx) = oneshot::channel();
        let (chunk_tx, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let threads = store.threads().clone();
        store
            .threads()
            .start(move || read_view(&threads, &live, state_tx, &chunk_tx));
        let state = state_rx
            .await
            .map_err(|_| io::Error::other("the view ended before it began"))?;
        Ok(Some(Snapshot {
            meta: meta_of(&state)?,
            snapshot: SnapshotData::View(Self {
                state,
                chunks,
                pin,
                receiver: None,
            }),
        }))
    }

    /// State at which the view was taken.
    pub fn state(&self) -> &AppliedState {
        &self.state
    }

    /// The view, to be sent to `receiver`.
    pub(crate) fn for_member(mut self, receiver: NodeId) -> Self {
        self.receiver = Some(receiver);
        self
    }

    /// Next records in key order; None at the end. Errors: damage, by file and offset; nothing damaged is sent on.
    pub async fn next_chunk(&mut self) -> io::Result<Option<Vec<peer::SnapshotItem>>> {
        if let Some(receiver) = self.receiver {
            self.pin.received_by(receiver);
        }
        self.chunks.recv().await.transpose()
    }

    /// Copies the view into a staged store of `store`.
    pub(crate) async fn stage(mut self, store: &Arc<Store>) -> io::Result<Staged> {
        let owner = store.clone();
        let threads = store.threads();
        let stage = move || Ok(DropOnBlocking::new(owner.threads(), owner.stage()?));
        let mut staging = blocking(threads, stage).await?;
        while let Some(items) = self.next_chunk().await? {
            let after = threads.clone();
            staging = blocking(threads, move || {
                let mut open = staging.into_inner();
                for item in items {
                    open.push(item.create_revision, item.version, item.record)?;
                }
                Ok(DropOnBlocking::new(&after, open))
            })
            .await?;
        }
        let meta = store_meta(self.state)?;
        blocking(threads, move || staging.into_inner().finish(meta)).await
    }
}

async fn blocking<T: Send + 'static>(
    threads: &Threads,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> io::Result<T> {
    threads
        .run(work)
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

fn meta_of(state: &AppliedState) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: state.applied.map(log_id_from_vlog),
        last_membership: stored_membership(state.membership_log_id, &state.membership)?,
    })
}

/// What a view says besides its keys, as the store keeps it.
pub(crate) fn store_meta(state: AppliedState) -> io::Result<store::SnapshotMeta> {
    let last_log_id = state
        .applied
        .ok_or_else(|| invalid_data("a snapshot without a log id"))?;
    Ok(store::SnapshotMeta {
        last_log_id,
        membership_log_id: state.membership_log_id,
        membership: state.membership,
        max_node_id: state.max_node_id,
    })
}

/// Runs on a blocking thread, which owns the RocksDB snapshot for as long as the view lives.
fn read_view(
    threads: &Threads,
    live: &store::View,
    state_tx: oneshot::Sender<AppliedState>,
    chunks: &mpsc::Sender<io::Result<Vec<peer::SnapshotItem>>>,
) {
    let mut state_tx = Some(state_tx);
    let mut items = Vec::new();
    let mut bytes = 0;
    // Room for the chunk that is being read: nothing is read before it is wanted.
    let mut room: Option<mpsc::OwnedPermit<_>> = None;
    let mut failed = None;
    let result = live.index().scan(&ScanRange::all(), &mut |item| match item {
        ScanItem::View(state) => match state_tx.take().is_some_and(|tx| tx.send(state).is_ok()) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        },
        ScanItem::Row { key, entry } => {
            let more = ITEM_BYTES + entry.record_len(&key);
            if bytes + more > CHUNK_BYTES
                && let Some(permit) = room.take()
            {
                drop(permit.send(Ok(std::mem::take(&mut items))));
                bytes = 0;
            }
            if room.is_none() {
                match threads.wait(chunks.clone().reserve_owned()) {
                    Ok(permit) => room = Some(permit),
                    // The transfer was given up.
                    Err(_) => return ControlFlow::Break(()),
                }
            }
            let record = match live.read_record(&entry, &key) {
                Ok(Some(record)) => record,
                Ok(None) => match &entry.place {
                    Place::Inline(value) => encode_record(entry.mod_revision, &key, value),
                    Place::At(at) => unreachable!("the record at {at:?} is not inline"),
                },
                Err(error) => {
                    failed = Some(io::Error::other(error));
                    return ControlFlow::Break(());
                }
            };
            bytes += more;
            items.push(peer::SnapshotItem {
                create_revision: entry.create_revision,
                version: entry.version,
                record,
            });
            ControlFlow::Continue(())
        }
    });
    let last = match (failed, result) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(io::Error::other(error)),
        (None, Ok(())) if items.is_empty() => return,
        #[cfg(feature = "planted-bugs")]
        (None, Ok(())) if super::planted::planted(super::planted::Bug::SnapshotMissesLast) => return,
        (None, Ok(())) => Ok(items),
    };
    match room {
        Some(room) => drop(room.send(last)),
        // The receiver may be gone: the transfer was given up.
        None => {
            let chunks = chunks.clone();
            drop(threads.wait(async move { chunks.send(last).await }));
        }
    }
}

/// Flushes the index; on a full disk it waits for space. A snapshot that fails would end Raft, and one that comes late
/// only holds up purges.
async fn flush_once_there_is_space(threads: &Threads, index: &Arc<dyn Index>) -> io::Result<()> {
    let mut told = false;
    loop {
        let flushing = index.clone();
        let flushed = threads.run(move || flushing.flush());
        match flushed.await.map_err(io::Error::other)? {
            Err(error @ IndexError::NoSpace { .. }) => {
                if !told {
                    tracing::warn!(%error, "the index cannot be flushed, and the log not be purged, until there is space");
                    told = true;
                }
            }
            flushed => return flushed.map(drop).map_err(io::Error::other),
        }
        tokio::time::sleep(SPACE_PAUSE).await;
    }
}

/// Builds snapshots: an index flush and its metadata, no value bytes.
pub struct SnapshotBuilder {
    store: Arc<Store>,
}

impl SnapshotBuilder {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let index = self.store.index();
        // Taken before the flush: applies go on meanwhile, and a snapshot must not be ahead of what is flushed (I4, I8).
        let state = index.state();
        let meta = meta_of(&state)?;
        let snapshot = SnapshotData::Metadata;
        #[cfg(feature = "planted-bugs")]
        if super::planted::planted(super::planted::Bug::PurgePastFlushed) {
            return Ok(Snapshot { meta, snapshot });
        }
        flush_once_there_is_space(self.store.threads(), &index).await?;
        let (applied, flushed) = (state.applied, index.flushed());
        assert!(
            applied.map(|id| id.index) <= flushed.map(|id| id.index),
            "I8: a snapshot at {applied:?} is beyond the flushed {flushed:?}"
        );
        Ok(Snapshot { meta, snapshot })
    }
}
