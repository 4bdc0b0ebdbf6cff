//! Snapshots are views: building one writes metadata only, sending one streams the index in key order.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use nezha_api::peer;
use openraft::storage::RaftSnapshotBuilder;
use tokio::sync::{mpsc, oneshot};

use super::convert::{invalid_data, log_id_from_vlog, stored_membership};
use super::types::{SnapshotMeta, TypeConfig};
use nezha_vlog::encode_record;

use crate::index::{AppliedState, ScanItem, ScanRange};
use crate::store::{self, LogPin, Staged, Store};

/// Record bytes of one chunk of a transfer; a chunk holds at least one record.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that a view reads ahead of the network.
const CHUNKS_AHEAD: usize = 2;

/// openraft's snapshot with our data.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What travels through openraft: on the sender a view, on the receiver a staged store.
pub enum SnapshotData {
    /// What building a snapshot answers: its metadata is all there is. Sending asks for a fresh view.
    Metadata,
    /// A view, for sending.
    View(View),
    /// Received, verified and durable beside the live store.
    Staged(Staged),
}

/// A consistent view of the whole state, read by a thread of its own while it is sent.
///
/// Memory: [`CHUNKS_AHEAD`] chunks. Dropping it ends the thread and unpins what it read.
pub struct View {
    state: AppliedState,
    chunks: mpsc::Receiver<io::Result<Vec<peer::SnapshotItem>>>,
    /// Entries after the view, for whoever receives it.
    log: LogPin,
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
        tokio::task::spawn_blocking(move || index.flush())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        // Before the view is taken: it is not older than this.
        let pin = store
            .log_pins()
            .pin(store.index().state().applied.map_or(0, |id| id.index));
        let (state_tx, state_rx) = oneshot::channel();
        let (chunk_tx, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let reader = store.clone();
        tokio::task::spawn_blocking(move || read_view(&reader, state_tx, &chunk_tx));
        let state = state_rx
            .await
            .map_err(|_| io::Error::other("the view ended before it began"))?;
        Ok(Some(Snapshot {
            meta: meta_of(&state)?,
            snapshot: SnapshotData::View(Self {
                state,
                chunks,
                log: pin,
            }),
        }))
    }

    /// State at which the view was taken.
    pub fn state(&self) -> &AppliedState {
        &self.state
    }

    /// Next records in key order; None at the end. Errors: damage, by file and offset; nothing damaged is sent on.
    pub async fn next_chunk(&mut self) -> io::Result<Option<Vec<peer::SnapshotItem>>> {
        self.log.in_use();
        self.chunks.recv().await.transpose()
    }

    /// Copies the view into a staged store of `store`.
    pub(crate) async fn stage(mut self, store: &Arc<Store>) -> io::Result<Staged> {
        let owner = store.clone();
        let staging = tokio::task::spawn_blocking(move || owner.stage())
            .await
            .map_err(io::Error::other)?;
        let mut staging = staging.map_err(io::Error::other)?;
        while let Some(items) = self.next_chunk().await? {
            staging = tokio::task::spawn_blocking(move || -> io::Result<_> {
                for item in items {
                    staging
                        .push(item.create_revision, item.version, item.record)
                        .map_err(io::Error::other)?;
                }
                Ok(staging)
            })
            .await
            .map_err(io::Error::other)??;
        }
        let meta = store_meta(self.state)?;
        tokio::task::spawn_blocking(move || staging.finish(meta))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }
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
    store: &Store,
    state_tx: oneshot::Sender<AppliedState>,
    chunks: &mpsc::Sender<io::Result<Vec<peer::SnapshotItem>>>,
) {
    let mut state_tx = Some(state_tx);
    let mut items = Vec::new();
    let mut bytes = 0;
    let mut failed = None;
    let live = store.view();
    let result = live.index().scan(&ScanRange::all(), &mut |item| match item {
        ScanItem::View(state) => match state_tx.take().is_some_and(|tx| tx.send(state).is_ok()) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        },
        ScanItem::Row { key, entry } => {
            let record: Bytes = match live.read(&entry, &key) {
                Ok(value) => encode_record(entry.mod_revision, &key, &value),
                Err(error) => {
                    failed = Some(io::Error::other(error));
                    return ControlFlow::Break(());
                }
            };
            bytes += record.len();
            items.push(peer::SnapshotItem {
                create_revision: entry.create_revision,
                version: entry.version,
                record,
            });
            if bytes < CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            match chunks.blocking_send(Ok(std::mem::take(&mut items))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }
    });
    let last = match (failed, result) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(io::Error::other(error)),
        (None, Ok(())) if items.is_empty() => return,
        (None, Ok(())) => Ok(items),
    };
    // The receiver may be gone: the transfer was given up.
    drop(chunks.blocking_send(last));
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
        let flushing = index.clone();
        tokio::task::spawn_blocking(move || flushing.flush())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let (applied, flushed) = (state.applied, index.flushed());
        assert!(
            applied.map(|id| id.index) <= flushed.map(|id| id.index),
            "I8: a snapshot at {applied:?} is beyond the flushed {flushed:?}"
        );
        Ok(Snapshot { meta, snapshot })
    }
}
