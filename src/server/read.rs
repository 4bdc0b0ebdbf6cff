//! Point reads on this node.

use std::sync::Arc;

use bytes::Bytes;
use nezha_api::errors;
use nezha_api::v1::{GetRequest, GetResponse, KeyMetadata};
use tonic::{Response, Status};

use super::admission::AnswerPermit;
use super::call::Call;
use super::context::Context;
use crate::index::IndexEntry;
use crate::raft::ReadError;
use crate::store::{StoreError, View};

/// Values up to this many bytes are left to the limit of streams per connection; larger ones are counted.
pub const UNCOUNTED_BYTES_MAX: u64 = 16 << 10;

/// What the API says about a key besides its value.
pub fn metadata(entry: &IndexEntry) -> KeyMetadata {
    KeyMetadata {
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        version: entry.version,
    }
}

impl Context {
    /// Waits until this node may answer a read, and returns the revision that the answer reflects at least.
    ///
    /// Errors: NOT_LEADER, NO_LEADER, TIMED_OUT, NOT_READY, STOPPING.
    pub async fn read_point(&self, stale: bool, call: &Call) -> Result<u64, Status> {
        if stale {
            self.check_local_read()?;
            return Ok(self.store.index().state().applied.map_or(0, |id| id.index));
        }
        let barrier = tokio::time::timeout_at(call.deadline, self.consensus.read_barrier());
        let Ok(point) = barrier.await else {
            return Err(errors::timed_out(&self.name, "a majority to confirm the leader"));
        };
        match point {
            Ok(point) => Ok(point.revision),
            Err(ReadError::NotLeader { .. }) => Err(self.not_leader()),
            Err(ReadError::Unavailable { reason }) => {
                tracing::debug!(reason, "read barrier failed");
                Err(errors::not_leader(&self.name, self.outlook().term, None))
            }
            Err(ReadError::Stopped { .. }) => Err(errors::stopping(&self.name)),
        }
    }

    /// Answers a Get from this node's store.
    ///
    /// Errors: DATA_LOSS with file and offset when the value is damaged; RESOURCE_EXHAUSTED when too many bytes of
    /// answers wait for their readers.
    pub async fn read(
        &self,
        request: GetRequest,
        revision: u64,
        call: &Call,
    ) -> Result<Response<GetResponse>, Status> {
        let view = self.store.view();
        let Some(entry) = self.entry(&view, &request.key, call).await? else {
            let header = Some(self.header(revision));
            return Ok(Response::new(GetResponse {
                header,
                found: false,
                value: Bytes::new(),
                metadata: None,
            }));
        };
        let metadata = metadata(&entry);
        // The entry may be newer than the read point.
        let revision = revision.max(entry.mod_revision);
        let bytes = entry.value_len() as u64;
        let mut permit = None;
        let value = if request.keys_only {
            Bytes::new()
        } else {
            if bytes > UNCOUNTED_BYTES_MAX {
                permit = Some(self.answers.take(bytes, call.deadline).await?);
            }
            self.value(view, entry, request.key, call).await?
        };
        let header = Some(self.header(revision));
        let mut response = Response::new(GetResponse {
            header,
            found: true,
            value,
            metadata: Some(metadata),
        });
        if let Some(permit) = permit {
            response.extensions_mut().insert(AnswerPermit::new(permit));
        }
        Ok(response)
    }

    /// Looks `key` up: here when the index has it in memory, else on a thread that may block. A cold index must not hold
    /// up the workers that carry heartbeats.
    async fn entry(&self, view: &Arc<View>, key: &Bytes, call: &Call) -> Result<Option<IndexEntry>, Status> {
        let in_memory = view.index().try_get(key);
        if let Some(found) = in_memory.map_err(|e| self.store_error(&e.into()))? {
            return Ok(found);
        }
        let (view, key) = (view.clone(), key.clone());
        self.on_reader(call, move || Ok(view.index().get(&key)?)).await
    }

    /// Reads the value of `entry`: here when it is in memory, page cache included, else on a thread that may block.
    async fn value(
        &self,
        view: Arc<View>,
        entry: IndexEntry,
        key: Bytes,
        call: &Call,
    ) -> Result<Bytes, Status> {
        if let Some(value) = view
            .try_read(&entry, &key)
            .map_err(|error| self.store_error(&error))?
        {
            return Ok(value);
        }
        self.on_reader(call, move || view.read(&entry, &key)).await
    }

    /// Runs `read` on a thread that may block, once one of the reader slots is free.
    async fn on_reader<T: Send + 'static>(
        &self,
        call: &Call,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let slot = tokio::time::timeout_at(call.deadline, self.readers.clone().acquire_owned());
        let Ok(Ok(slot)) = slot.await else {
            return Err(errors::timed_out(&self.name, "a reader thread"));
        };
        let read = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            read()
        });
        let done = read
            .await
            .map_err(|e| errors::internal(&self.name, &format!("the reader ended: {e}"), false))?;
        done.map_err(|error| self.store_error(&error))
    }
}
