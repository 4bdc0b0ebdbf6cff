//! What of a snapshot has arrived: verified chunk by chunk, and staged.

use std::sync::Arc;

use nezha_api::peer;

use super::chunk_checksum;
use crate::index::AppliedState;
use crate::machine::Threads;
use crate::raft::convert::{decode_membership, log_id_from_peer};
use crate::raft::drop_on_blocking::DropOnBlocking;
use crate::raft::snapshot::{Snapshot, SnapshotData, store_meta};
use crate::raft::types::{SnapshotMeta, StoredMembership};
use crate::store::{Staging, Store, StoreError};

/// Why something that arrived was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    /// It changed on the way; nothing of it was staged, and it may be sent again.
    #[error("chunk {number} is damaged: {reason}")]
    Damaged { number: u64, reason: String },
    /// It does not follow what was sent before; nothing of it was staged.
    #[error("chunk {number} was sent where chunk {expected} is next")]
    OutOfOrder { number: u64, expected: u64 },
    /// What is staged is of no use.
    #[error("staging the snapshot failed: {0}")]
    Unusable(String),
}

fn unusable(error: impl std::fmt::Display) -> Rejected {
    Rejected::Unusable(error.to_string())
}

/// A staged store with what arrived of its snapshot. Blocking: every call that writes, and the drop.
pub(super) struct Intake {
    staging: Staging,
    header: peer::SnapshotHeader,
    chunks: u64,
    items: u64,
    bytes: u64,
    checksum: crc32fast::Hasher,
    threads: Threads,
}

impl Intake {
    /// Makes a staged store. Errors: `Unusable`.
    pub(super) fn open(store: &Arc<Store>, header: peer::SnapshotHeader) -> Result<Intake, Rejected> {
        Ok(Intake {
            staging: store.stage().map_err(unusable)?,
            header,
            chunks: 0,
            items: 0,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
            threads: store.threads().clone(),
        })
    }

    /// Number of staged chunks.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Number and bytes of staged records.
    pub(super) fn records(&self) -> (u64, u64) {
        (self.items, self.bytes)
    }

    /// Verifies the next chunk whole, then stages it. After any error but `Unusable` the same chunk may come again.
    pub(super) fn take(&mut self, chunk: peer::SnapshotChunk) -> Result<(), Rejected> {
        self.verify(&chunk)?;
        for item in chunk.items {
            self.items += 1;
            self.bytes += item.record.len() as u64;
            self.staging
                .push(item.create_revision, item.version, item.record)
                .map_err(unusable)?;
        }
        self.checksum.update(&chunk.checksum.to_le_bytes());
        self.chunks += 1;
        Ok(())
    }

    fn verify(&self, chunk: &peer::SnapshotChunk) -> Result<(), Rejected> {
        let number = chunk.number;
        if number != self.chunks {
            return Err(Rejected::OutOfOrder {
                number,
                expected: self.chunks,
            });
        }
        let damaged = |reason: String| Rejected::Damaged { number, reason };
        let computed = chunk_checksum(number, &chunk.items);
        if computed != Some(chunk.checksum) {
            return Err(damaged(format!(
                "checksum {computed:08x?}, sent {:08x}",
                chunk.checksum
            )));
        }
        // Staging checks each record again, but could not take back those before a damaged one.
        for item in &chunk.items {
            nezha_vlog::decode_record(item.record.clone()).map_err(|e| damaged(e.to_string()))?;
        }
        Ok(())
    }

    /// Completes the staged store and makes it durable.
    ///
    /// Errors: `Unusable`, also when the end does not fit what arrived. Blocking: syncs all of it.
    pub(super) fn finish(self, end: &peer::SnapshotEnd) -> Result<Snapshot, Rejected> {
        let arrived = peer::SnapshotEnd {
            chunks: self.chunks,
            items: self.items,
            checksum: self.checksum.finalize(),
        };
        if arrived != *end {
            return Err(unusable(format!("{arrived:?} arrived, {end:?} was sent")));
        }
        let from_peer = |id: peer::LogId| nezha_vlog::LogId {
            term: id.term,
            node: id.node,
            index: id.index,
        };
        let staged = store_meta(AppliedState {
            applied: self.header.last_log_id.map(from_peer),
            membership_log_id: self.header.membership_log_id.map(from_peer),
            membership: self.header.membership.clone(),
            max_node_id: self.header.max_node_id,
            ..AppliedState::default()
        })
        .map_err(unusable)?;
        let membership = decode_membership(&self.header.membership).map_err(unusable)?;
        let meta = SnapshotMeta {
            last_log_id: self.header.last_log_id.map(log_id_from_peer),
            last_membership: StoredMembership::new(
                self.header.membership_log_id.map(log_id_from_peer),
                membership,
            ),
        };
        let staged = self.staging.finish(staged).map_err(|e: StoreError| unusable(e))?;
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData::Staged(DropOnBlocking::new(&self.threads, staged)),
        })
    }
}
