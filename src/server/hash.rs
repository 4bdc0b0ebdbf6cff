//! State hashes: one blocking thread each, over one view, a few at a time. Memory of one: the largest value.

use std::sync::Arc;
use std::time::Duration;

use nezha_api::errors;
use nezha_api::v1::{HashRequest, HashResponse, ScanRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::call::Call;
use super::context::Context;
use super::validate;
use crate::store::{HashError, HashOrder};

/// Hashes at a time. Each holds a view, a thread and a value.
pub const HASHES_MAX: usize = 2;
/// What a client is asked to wait when there are more.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Answers a Hash from this node's store.
///
/// It lives as long as the call: until the deadline, and no longer than its client. The view keeps files for that long.
/// Errors: OVERLOADED when too many are under way; MEMBER_STATE when the index is passed; TIMED_OUT when it is not
/// reached, or the range not read, in time; DATA_DAMAGED.
pub async fn answer(
    context: &Arc<Context>,
    request: HashRequest,
    call: &Call,
) -> Result<Response<HashResponse>, Status> {
    let asked = request.applied_index;
    let order = order(request, call)?;
    let wait = call.deadline.min(Instant::now() + context.limits.admission_wait);
    let slot = tokio::time::timeout_at(wait, context.hashes.clone().acquire_owned()).await;
    let Ok(Ok(slot)) = slot else {
        let what = format!("{HASHES_MAX} hashes are under way");
        return Err(errors::overloaded(&context.name, &what, RETRY_AFTER));
    };
    let (answer, hashed) = oneshot::channel();
    let (store, deadline) = (context.store.clone(), call.deadline);
    context.store.threads().start(move || {
        let _slot = slot;
        let result = store.hash(&order, &mut || !answer.is_closed() && Instant::now() < deadline);
        // The client may be gone.
        drop(answer.send(result));
    });
    let result = hashed
        .await
        .map_err(|_| errors::internal(&context.name, "the hash's thread ended", false))?;
    let hashed = result.map_err(|error| match error {
        HashError::Past { applied } => {
            let what = format!(
                "the state at log index {asked} is gone, {applied} is applied; ask for an index that is yet to come"
            );
            errors::member_state(&context.name, &what, None)
        }
        HashError::NotReached { applied } => {
            errors::timed_out(&context.name, &format!("log index {asked}; {applied} is applied"))
        }
        HashError::Stopped => errors::timed_out(&context.name, "the rest of the range"),
        HashError::Store(error) => context.store_error(&error),
    })?;
    Ok(Response::new(HashResponse {
        header: Some(context.header(hashed.applied_index)),
        name: context.name.clone(),
        applied_index: hashed.applied_index,
        hash: hashed.digest.to_vec().into(),
        keys: hashed.keys,
        bytes: hashed.bytes,
        last_key: hashed.last_key,
    }))
}

fn order(request: HashRequest, call: &Call) -> Result<HashOrder, Status> {
    let deadline = call.deadline.into_std();
    let wait_until = match request.wait_ms {
        0 => deadline,
        wait_ms => std::time::Instant::now()
            .checked_add(Duration::from_millis(wait_ms))
            .map_or(deadline, |until| until.min(deadline)),
    };
    Ok(HashOrder {
        applied_index: request.applied_index,
        wait_until,
        keys_only: request.keys_only,
        keys_max: request.limit_keys,
        range: validate::range(&ScanRequest {
            prefix: request.prefix,
            start: request.start,
            end: request.end,
            ..ScanRequest::default()
        })?,
    })
}
