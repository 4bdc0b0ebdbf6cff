//! `MaintenanceService`: about this node, answered by this node.

use std::sync::Arc;

use nezha_api::errors;
use nezha_api::v1::maintenance_service_server::MaintenanceService;
use nezha_api::v1::{
    DamagedFile, GcDebt, GcJob, GcLevel, GcPauseRequest, GcPauseResponse, GcPin, GcResumeRequest,
    GcResumeResponse, GcRunRequest, GcRunResponse, GcSpace, GcStatusRequest, GcStatusResponse, HashRequest,
    HashResponse, PurgeRequest, PurgeResponse, Role, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

use super::call::Call;
use super::context::Context;
use crate::collector;
use crate::config::KEY_BYTES_MAX;
use crate::raft::{AdminError, ServerState};
use crate::store;

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

fn gc_space(space: collector::Space, held_up: collector::HeldUp) -> GcSpace {
    GcSpace {
        state: space.state().to_string(),
        bound_bytes: space.pressure.map_or(0, |pressure| pressure.bound_bytes),
        held_garbage_bytes: space.pressure.map_or(0, |pressure| pressure.held_garbage_bytes),
        disk_free_bytes: space.disk.free_bytes,
        disk_reserve_bytes: space.disk.reserve_bytes,
        disk_low: space.disk.low,
        writes_slowed: held_up.slowed,
        writes_refused: held_up.refused,
    }
}

fn damaged(found: store::DamagedFile) -> DamagedFile {
    DamagedFile {
        file: found.file.display().to_string(),
        offset: found.offset,
        reason: found.reason,
        first_seen_ms: found.first_seen_ms,
        count: found.count,
    }
}

fn gc_answer(context: &Context, status: collector::Status) -> GcStatusResponse {
    let level = |(level, files): (u32, collector::Level)| GcLevel {
        level,
        files: files.files,
        bytes: files.bytes,
        live_bytes: files.live_bytes,
        garbage_bytes: files.garbage_bytes,
    };
    let job = |job: collector::Running| GcJob {
        reason: job.reason,
        inputs: job.inputs,
        output_level: job.output_level.into(),
        copy_bytes: job.copy_bytes,
        copied_bytes: job.copied_bytes,
        elapsed_ms: job.elapsed_ms,
        bytes_per_second: job.bytes_per_second,
    };
    let pin = |pin: collector::Pin| GcPin {
        file: pin.file,
        bytes: pin.bytes,
        reason: pin.reason.to_owned(),
    };
    GcStatusResponse {
        header: Some(context.local_header()),
        name: context.name.clone(),
        automatic: status.automatic,
        paused: status.paused,
        requested: status.requested,
        levels: (0..).zip(status.levels).map(level).collect(),
        file_bytes: status.file_bytes,
        live_bytes: status.live_bytes,
        job: status.running.map(job),
        pins: status.pins.into_iter().map(pin).collect(),
        jobs_finished: status.jobs_finished,
        bytes_copied: status.bytes_copied,
        files_removed: status.files_removed,
        last_error: status.last_error.unwrap_or_default(),
        bytes_per_second: status.bytes_per_second,
        space: Some(gc_space(status.space, status.held_up)),
        debt: Some(GcDebt {
            l0_bytes: status.debt.l0_bytes,
            l0_bytes_max: status.debt.l0_bytes_max,
            overlap: status.debt.overlap,
            overlap_max: status.debt.overlap_max,
        }),
    }
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let context = &self.context;
        let metrics = context.consensus.metrics();
        let state = context.store.index().state();
        let store = context.store.clone();
        let sizes = context
            .store
            .threads()
            .run(move || (store.disk_bytes(), store.disk_space()));
        let unmeasured = |e: &dyn std::fmt::Display| {
            errors::internal(&context.name, &format!("measuring the disk failed: {e}"), false)
        };
        let (used, free) = sizes.await.map_err(|e| unmeasured(&e))?;
        let disk_bytes = used.map_err(|e| unmeasured(&e))?;
        let disk_free_bytes = free.map_err(|e| unmeasured(&e))?.free;
        Ok(Response::new(StatusResponse {
            header: Some(context.local_header()),
            name: context.name.clone(),
            version: context.version.clone(),
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
            damage: context.store.damaged_files().into_iter().map(damaged).collect(),
            value_bytes_max: context.limits.value_bytes_max,
            key_bytes_max: KEY_BYTES_MAX,
            uptime_ms: u64::try_from(context.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn gc_status(&self, _: Request<GcStatusRequest>) -> Result<Response<GcStatusResponse>, Status> {
        let context = &self.context;
        let collector = context.collector.clone();
        let asked = context.store.threads().run(move || collector.status()).await;
        let asked = asked.map_err(|e| errors::internal(&context.name, &e.to_string(), false))?;
        let status = asked.map_err(|error| context.store_error(&error))?;
        Ok(Response::new(gc_answer(context, status)))
    }

    async fn gc_run(&self, _: Request<GcRunRequest>) -> Result<Response<GcRunResponse>, Status> {
        self.context.check_local_read()?;
        self.context.collector.run_now();
        tracing::info!("collection ordered");
        let header = Some(self.context.local_header());
        Ok(Response::new(GcRunResponse { header }))
    }

    async fn gc_pause(&self, _: Request<GcPauseRequest>) -> Result<Response<GcPauseResponse>, Status> {
        self.context.collector.pause();
        tracing::info!("collection paused by order");
        let header = Some(self.context.local_header());
        Ok(Response::new(GcPauseResponse { header }))
    }

    async fn gc_resume(&self, _: Request<GcResumeRequest>) -> Result<Response<GcResumeResponse>, Status> {
        self.context.collector.resume();
        tracing::info!("collection resumed by order");
        let header = Some(self.context.local_header());
        Ok(Response::new(GcResumeResponse { header }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let call = Call::of(&request);
        self.context.check_local_read()?;
        super::hash::answer(&self.context, request.into_inner(), &call).await
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
