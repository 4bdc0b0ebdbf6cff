//! Point reads on this node.

use std::sync::Arc;

use bytes::Bytes;
use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::errors::{self, LeaderHint};
use nezha_api::v1::kv_service_client::KvServiceClient;
use nezha_api::v1::{GetRequest, GetResponse, KeyMetadata};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::util::MapResponse;

use super::admission::{AdmittedBody, MessageLimit, Messages, Permit, PermitSlot};
use super::call::Call;
use super::context::Context;
use super::forward::Effect;
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

/// No value that a leader takes is that large, so no answer is.
fn answer_too_large(actual: u64, limit: u64) -> Status {
    Status::out_of_range(format!("the answer has {actual} bytes, more than {limit}"))
}

/// An answer to a Get, with the bytes that its value holds in the budget of answers.
#[derive(Debug)]
pub struct Counted {
    /// Reflects this revision at least.
    pub revision: u64,
    /// The answer; without a header, unless another member gave it.
    pub answer: GetResponse,
    /// Held until the answer has left.
    pub permit: Option<Permit>,
}

impl Counted {
    fn absent(revision: u64) -> Counted {
        Counted {
            revision,
            answer: GetResponse::default(),
            permit: None,
        }
    }

    fn found(revision: u64, about: KeyMetadata, value: Bytes, permit: Option<Permit>) -> Counted {
        Counted {
            // The entry may be newer than the read point.
            revision: revision.max(about.mod_revision),
            answer: GetResponse {
                header: None,
                found: true,
                value,
                metadata: Some(about),
            },
            permit,
        }
    }
}

impl Context {
    /// Waits until this node may answer a read, at most until `deadline`, and returns the revision that the answer
    /// reflects at least.
    ///
    /// Errors: NOT_LEADER, NO_LEADER, TIMED_OUT, NOT_READY, STOPPING.
    pub async fn read_point(&self, stale: bool, deadline: Instant) -> Result<u64, Status> {
        if stale {
            self.check_local_read()?;
            return Ok(self.store.index().state().applied.map_or(0, |id| id.index));
        }
        let barrier = tokio::time::timeout_at(deadline, self.consensus.read_barrier());
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

    /// Answers a Get from this node's store. Values up to `uncounted_bytes_max` are not counted.
    ///
    /// Errors: DATA_LOSS with file and offset when the value is damaged; RESOURCE_EXHAUSTED when too many bytes of
    /// answers wait for their readers.
    pub async fn read(
        &self,
        request: GetRequest,
        revision: u64,
        uncounted_bytes_max: u64,
        call: &Call,
    ) -> Result<Counted, Status> {
        let view = self.store.view();
        let Some(entry) = self.entry(&view, &request.key, call).await? else {
            return Ok(Counted::absent(revision));
        };
        let bytes = entry.value_len() as u64;
        let mut permit = None;
        if !request.keys_only && bytes > uncounted_bytes_max {
            permit = Some(self.answers.take(bytes, call.deadline).await?);
        }
        let about = metadata(&entry);
        let value = match request.keys_only {
            true => Bytes::new(),
            false => self.value(view, entry, request.key, call).await?,
        };
        Ok(Counted::found(revision, about, value, permit))
    }

    /// As [`Context::read`], but only what is in memory and fits the budget now, and every value is counted; `None` if it
    /// would have to wait.
    pub fn read_now(
        &self,
        view: &View,
        request: &GetRequest,
        revision: u64,
    ) -> Result<Option<Counted>, Status> {
        let in_memory = view.index().try_get(&request.key);
        let Some(found) = in_memory.map_err(|e| self.store_error(&e.into()))? else {
            return Ok(None);
        };
        let Some(entry) = found else {
            return Ok(Some(Counted::absent(revision)));
        };
        let about = metadata(&entry);
        if request.keys_only {
            return Ok(Some(Counted::found(revision, about, Bytes::new(), None)));
        }
        let Some(permit) = self.answers.try_take(entry.value_len() as u64) else {
            return Ok(None);
        };
        let value = view
            .try_read(&entry, &request.key)
            .map_err(|e| self.store_error(&e))?;
        Ok(value.map(|value| Counted::found(revision, about, value, Some(permit))))
    }

    /// Has the leader answer. The answer is counted here too, before it is read: the leader counts what is in its own
    /// memory, and a client that reads slowly leaves the value in this node's.
    pub async fn forward_get(
        &self,
        leader: LeaderHint,
        call: &Call,
        message: GetRequest,
    ) -> Result<Counted, Status> {
        let limit = MessageLimit {
            messages: Messages::One,
            message_bytes_max: MESSAGE_BYTES_MAX as u64,
            too_large: answer_too_large,
            must_arrive: false,
            uncounted_bytes_max: UNCOUNTED_BYTES_MAX,
            budget: self.answers.clone(),
        };
        let (slot, until) = (PermitSlot::default(), call.deadline);
        let filled = slot.clone();
        let send = move |channel: Channel, request: Request<GetRequest>| async move {
            let counted = MapResponse::new(channel, move |answer: http::Response<Body>| {
                answer.map(|body| Body::new(AdmittedBody::new(body, limit, filled, until)))
            });
            let mut client = KvServiceClient::new(counted).max_decoding_message_size(MESSAGE_BYTES_MAX);
            client.get(request).await
        };
        let answer = self.forward(leader, call, Effect::Read, message, send).await?;
        let answer = answer.into_inner();
        Ok(Counted {
            revision: answer.header.as_ref().map_or(0, |header| header.revision),
            answer,
            permit: slot.take(),
        })
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
        let read = self.store.threads().run(move || {
            let _slot = slot;
            read()
        });
        let done = read
            .await
            .map_err(|e| errors::internal(&self.name, &format!("the reader ended: {e}"), false))?;
        done.map_err(|error| self.store_error(&error))
    }
}
