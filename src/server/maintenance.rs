//! `MaintenanceService`: about this node, answered by this node.

use std::path::Path;
use std::sync::Arc;

use nezha_api::errors;
use nezha_api::v1::maintenance_service_server::MaintenanceService;
use nezha_api::v1::{PurgeRequest, PurgeResponse, Role, StatusRequest, StatusResponse};
use tonic::{Request, Response, Status};

use super::call::Call;
use super::context::Context;
use crate::config::KEY_BYTES_MAX;
use crate::raft::{AdminError, ServerState};

/// The service behind `kvctl status`.
#[derive(Clone)]
pub struct Maintenance {
    context: Arc<Context>,
}

impl Maintenance {
    /// Serves `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Unspecified,
    }
}

/// Bytes that are free for this process on the file system of `dir`. Blocking.
pub fn disk_free_bytes(dir: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let context = &self.context;
        let metrics = context.consensus.metrics();
        let state = context.store.index().state();
        let store = context.store.clone();
        let sizes =
            tokio::task::spawn_blocking(move || (store.disk_bytes(), disk_free_bytes(store.data().path())));
        let unmeasured = |e: &dyn std::fmt::Display| {
            errors::internal(&context.name, &format!("measuring the disk failed: {e}"), false)
        };
        let (used, free) = sizes.await.map_err(|e| unmeasured(&e))?;
        let disk_bytes = used.map_err(|e| unmeasured(&e))?;
        let disk_free_bytes = free.map_err(|e| unmeasured(&e))?;
        Ok(Response::new(StatusResponse {
            header: Some(context.local_header()),
            name: context.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role(metrics.role) as i32,
            ready: context.is_ready(),
            last_log_index: metrics.last_log_index,
            committed_index: metrics.committed,
            applied_index: metrics.applied,
            flushed_index: metrics.flushed,
            purged_index: metrics.purged,
            snapshot_index: metrics.snapshot,
            keys: state.keys,
            live_bytes: state.live_bytes,
            disk_bytes,
            disk_free_bytes,
            damage: context.damage(),
            value_bytes_max: context.limits.value_bytes_max,
            key_bytes_max: KEY_BYTES_MAX,
            uptime_ms: u64::try_from(context.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Result<Response<PurgeResponse>, Status> {
        let context = &self.context;
        let call = Call::of(&request);
        context.check_local_read()?;
        let consensus = context.consensus.clone();
        let upto = request.into_inner().log_index;
        let purge = tokio::spawn(async move { consensus.purge(upto).await });
        let Ok(joined) = tokio::time::timeout_at(call.deadline, purge).await else {
            return Err(errors::outcome_unknown(
                &context.name,
                "the deadline passed while the log was purged",
            ));
        };
        let purged = joined
            .map_err(|e| errors::internal(&context.name, &format!("the purge's task ended: {e}"), true))?;
        let purged_index = purged.map_err(|error| match error {
            AdminError::Refused { reason, lag } => errors::member_state(&context.name, &reason, lag),
            AdminError::NotLeader { .. } => context.not_leader(),
            AdminError::Unknown { reason } => errors::outcome_unknown(&context.name, &reason),
        })?;
        tracing::info!(purged_index, "log purged by order");
        Ok(Response::new(PurgeResponse {
            header: Some(context.local_header()),
            purged_index,
        }))
    }
}
