//! Puts and deletes on this node: one path for a call of its own and for an operation of a pipeline.

use std::sync::Arc;

use nezha_api::errors::{self, LeaderHint};
use nezha_api::v1::{DeleteRequest, DeleteResponse, PutRequest, PutResponse, ResponseHeader};
use nezha_vlog::{Draft, Precondition};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::context::Context;
use super::forward::Effect;
use super::{kv, validate};
use crate::raft::{WriteError, Written};

/// A request that writes one key.
pub trait WriteRequest: Sized + Send + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;

    /// Checks it, its value against a limit in bytes.
    fn check(&self, value_bytes_max: u64) -> Result<Precondition, Status>;

    /// What is proposed: a copy of key and value.
    fn draft(&self, precondition: Precondition) -> Draft;

    /// The answer to a write that was applied.
    fn answer(header: Option<ResponseHeader>, written: &Written) -> Self::Answer;

    /// Calls another member.
    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

impl WriteRequest for PutRequest {
    type Answer = PutResponse;

    fn check(&self, value_bytes_max: u64) -> Result<Precondition, Status> {
        validate::key(&self.key)?;
        validate::value(&self.value, value_bytes_max)?;
        validate::precondition(self.precondition.as_ref())
    }

    fn draft(&self, precondition: Precondition) -> Draft {
        Draft::put(&self.key, &self.value, precondition)
    }

    fn answer(header: Option<ResponseHeader>, written: &Written) -> PutResponse {
        PutResponse {
            header,
            succeeded: written.outcome.succeeded,
            mod_revision: written.outcome.mod_revision,
        }
    }

    async fn send(channel: Channel, request: Request<Self>) -> Result<Response<PutResponse>, Status> {
        kv::client(channel).put(request).await
    }
}

impl WriteRequest for DeleteRequest {
    type Answer = DeleteResponse;

    fn check(&self, _: u64) -> Result<Precondition, Status> {
        validate::key(&self.key)?;
        validate::precondition(self.precondition.as_ref())
    }

    fn draft(&self, precondition: Precondition) -> Draft {
        Draft::delete(&self.key, precondition)
    }

    fn answer(header: Option<ResponseHeader>, written: &Written) -> DeleteResponse {
        DeleteResponse {
            header,
            succeeded: written.outcome.succeeded,
            deleted: written.outcome.succeeded && written.outcome.existed,
            mod_revision: written.outcome.mod_revision,
        }
    }

    async fn send(channel: Channel, request: Request<Self>) -> Result<Response<DeleteResponse>, Status> {
        kv::client(channel).delete(request).await
    }
}

/// A write that was checked.
pub enum Checked<Q> {
    /// To be proposed here.
    Here(Draft),
    /// To be passed on.
    There(LeaderHint, Q),
}

impl Context {
    /// Checks a write and finds out where it goes.
    ///
    /// Errors: what is wrong with it; STOPPING, NOT_LEADER, NO_LEADER, TIMED_OUT. Nothing was proposed.
    pub fn check_write<Q: WriteRequest>(&self, message: Q, call: &Call) -> Result<Checked<Q>, Status> {
        let precondition = message.check(self.limits.value_bytes_max)?;
        self.check_admission()?;
        Ok(match self.elsewhere(call)? {
            Some(leader) => Checked::There(leader, message),
            // Here the message ends: two copies of a large value would not fit the budget.
            None => Checked::Here(message.draft(precondition)),
        })
    }

    /// Passes a write on to the leader.
    pub async fn forward_write<Q: WriteRequest>(
        &self,
        leader: LeaderHint,
        message: Q,
        call: &Call,
    ) -> Result<Q::Answer, Status> {
        let answer = self
            .forward(leader, call, Effect::Write, message, Q::send)
            .await?;
        Ok(answer.into_inner())
    }

    /// Proposes `draft`, once there is space for it, and calls `done` with its outcome, or with what the client is told
    /// when there was no space in time. It runs on one of Raft's tasks: it must neither block nor wait.
    ///
    /// The bytes of the call stay counted until the outcome is known, whether or not somebody waits for it. (I12)
    pub async fn propose(
        self: Arc<Self>,
        draft: Draft,
        mut call: Call,
        done: impl FnOnce(Result<Written, Status>) + Send + 'static,
    ) {
        if let Err(status) = self.space_for(draft.encoded_len(), &call).await {
            return done(Err(status));
        }
        let (permit, consensus) = (call.permit.take(), self.consensus.clone());
        let told = move |result: Result<Written, WriteError>| {
            drop(permit);
            done(result.map_err(|error| self.write_error(error)));
        };
        consensus.propose(draft, told).await;
    }

    /// Proposes `draft` and waits for its outcome until the call's deadline.
    pub async fn write(self: &Arc<Self>, draft: Draft, call: Call) -> Result<Written, Status> {
        let (tx, rx) = oneshot::channel();
        let deadline = call.deadline;
        // The caller may have given up.
        let done = move |result| drop(tx.send(result));
        self.clone().propose(draft, call, done).await;
        match tokio::time::timeout_at(deadline, rx).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(errors::outcome_unknown(&self.name, "Raft stopped")),
            Err(_) => Err(errors::outcome_unknown(
                &self.name,
                "the deadline passed after the write was proposed",
            )),
        }
    }

    /// What the client is told about a write that was not acknowledged.
    fn write_error(&self, error: WriteError) -> Status {
        match error {
            WriteError::NotLeader { leader } => self.led_by(leader),
            WriteError::Unknown { reason } => errors::outcome_unknown(&self.name, &reason),
        }
    }
}
