//! What a fake node holds, and the services that answer from it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use nezha_api::errors;
use nezha_api::v1::cluster_service_server::ClusterService;
use nezha_api::v1::kv_service_server::KvService;
use nezha_api::v1::maintenance_service_server::MaintenanceService;
use nezha_api::v1::*;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// What a fake node answers.
#[derive(Default)]
pub struct State {
    pub rows: BTreeMap<Vec<u8>, (Vec<u8>, KeyMetadata)>,
    pub revision: u64,
    /// Member that this node is, 1.. .
    pub id: u64,
    pub members: Vec<Member>,
    /// Fails every call of the KV service.
    pub failure: Option<Status>,
    /// Never answers calls of the KV service.
    pub hang: bool,
    pub status: StatusResponse,
    /// What GcStatus answers, one after the other; the last one again and again.
    pub gc: VecDeque<GcStatusResponse>,
    /// Fails every call about garbage collection.
    pub gc_failure: Option<Status>,
    /// Calls that control garbage collection, in order.
    pub gc_orders: Vec<&'static str>,
    /// Entries applied at each Status: the node is written to. What is committed is applied in any case once it is
    /// asked for.
    pub pace: u64,
    /// Indices that Hash was asked for, in order.
    pub hashes: Vec<u64>,
    /// Fails every Hash.
    pub hash_failure: Option<Status>,
}

impl State {
    fn header(&self) -> Option<ResponseHeader> {
        let leader = self.members.iter().find(|member| member.leader);
        Some(ResponseHeader {
            cluster_id: 0xabc,
            node_id: self.id,
            term: 3,
            revision: self.revision,
            leader_id: leader.map_or(0, |leader| leader.id),
            leader_endpoint: leader.map_or_else(String::new, |leader| leader.client_endpoint.clone()),
        })
    }

    fn mod_revision(&self, key: &[u8]) -> u64 {
        self.rows
            .get(key)
            .map_or(0, |(_, metadata)| metadata.mod_revision)
    }

    fn holds(&self, key: &[u8], precondition: Option<Precondition>) -> bool {
        let found = self.mod_revision(key);
        match precondition.and_then(|precondition| precondition.condition) {
            None => true,
            Some(precondition::Condition::Absent(_)) => found == 0,
            Some(precondition::Condition::ModRevision(wanted)) => found == wanted,
        }
    }

    /// Has the node apply as much as `index`, if it can.
    fn reach(&mut self, index: u64) -> Result<(), Status> {
        let name = format!("n{}", self.id);
        let applied = self.status.applied_index;
        if index < applied {
            return Err(errors::member_state(
                &name,
                &format!("{applied} is applied"),
                None,
            ));
        }
        if index > self.status.committed_index && self.pace == 0 {
            return Err(errors::timed_out(&name, &format!("log index {index}")));
        }
        self.status.applied_index = index;
        Ok(())
    }

    /// A hash of its own: only equality counts.
    fn hash(&self, request: &HashRequest) -> HashResponse {
        let mut hasher = DefaultHasher::new();
        let mut answer = HashResponse::default();
        let limit = match request.limit_keys {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let range = self.rows.range(request.start.to_vec()..);
        let rows = range.filter(|(key, _)| key.starts_with(&request.prefix));
        for (key, (value, metadata)) in rows.take(limit) {
            (key, value.len(), metadata.mod_revision).hash(&mut hasher);
            if !request.keys_only {
                value.hash(&mut hasher);
            }
            answer.keys += 1;
            answer.bytes += (key.len() + value.len()) as u64;
            answer.last_key = key.clone().into();
        }
        answer.hash = hasher.finish().to_le_bytes().to_vec().into();
        answer
    }

    /// Stores a row directly.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.revision += 1;
        let old = self.rows.get(key).map(|(_, metadata)| *metadata);
        let metadata = KeyMetadata {
            create_revision: old.map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: old.map_or(1, |old| old.version + 1),
        };
        self.rows.insert(key.to_vec(), (value.to_vec(), metadata));
    }
}

#[derive(Clone)]
pub struct Service(pub Arc<Mutex<State>>);

impl Service {
    /// Takes an order to the collector.
    fn gc_order(&self, order: &'static str) -> Result<Option<ResponseHeader>, Status> {
        let mut state = self.0.lock().unwrap();
        if let Some(failure) = &state.gc_failure {
            return Err(failure.clone());
        }
        state.gc_orders.push(order);
        Ok(state.header())
    }

    async fn enter(&self) -> Result<(), Status> {
        let (failure, hang) = {
            let state = self.0.lock().unwrap();
            (state.failure.clone(), state.hang)
        };
        if hang {
            std::future::pending::<()>().await;
        }
        failure.map_or(Ok(()), Err)
    }
}

#[tonic::async_trait]
impl KvService for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if request.key.is_empty() {
            return Err(errors::key_empty());
        }
        let succeeded = state.holds(&request.key, request.precondition);
        if succeeded {
            state.insert(&request.key, &request.value);
        }
        let mod_revision = state.mod_revision(&request.key);
        Ok(Response::new(PutResponse {
            header: state.header(),
            succeeded,
            mod_revision,
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let succeeded = state.holds(&request.key, request.precondition);
        let deleted = succeeded && state.rows.remove(&request.key[..]).is_some();
        state.revision += 1;
        let mod_revision = state.mod_revision(&request.key);
        Ok(Response::new(DeleteResponse {
            header: state.header(),
            succeeded,
            deleted,
            mod_revision,
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let row = state.rows.get(&request.key[..]);
        Ok(Response::new(GetResponse {
            header: state.header(),
            found: row.is_some(),
            value: row.map(|row| row.0.clone().into()).unwrap_or_default(),
            metadata: row.map(|row| row.1),
        }))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<ScanResponse, Status>> + Send>>;

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let end = match request.end.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(request.end.to_vec()),
        };
        let mut rows: Vec<Row> = state
            .rows
            .range((Bound::Included(request.start.to_vec()), end))
            .filter(|(key, _)| key.starts_with(&request.prefix))
            .map(|(key, (value, metadata))| Row {
                key: key.clone().into(),
                value: if request.keys_only {
                    Default::default()
                } else {
                    value.clone().into()
                },
                metadata: Some(*metadata),
            })
            .collect();
        if request.reverse {
            rows.reverse();
        }
        let limit = if request.limit_rows == 0 {
            rows.len()
        } else {
            request.limit_rows as usize
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        let mut chunks: Vec<Result<ScanResponse, Status>> = rows
            .chunks(2)
            .map(|rows| {
                let resume_key = rows[rows.len() - 1].key.clone();
                let rows = rows.to_vec();
                Ok(ScanResponse {
                    header: state.header(),
                    rows,
                    resume_key,
                    ..Default::default()
                })
            })
            .collect();
        chunks.push(Ok(ScanResponse {
            header: state.header(),
            done: true,
            more,
            ..Default::default()
        }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

#[tonic::async_trait]
impl ClusterService for Service {
    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let state = self.0.lock().unwrap();
        Ok(Response::new(MemberListResponse {
            header: state.header(),
            members: state.members.clone(),
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if state.members.iter().any(|member| member.name == request.name) {
            return Err(errors::member_exists(&request.name, "choose another name"));
        }
        let member = Member {
            id: state.members.len() as u64 + 1,
            name: request.name,
            peer_endpoint: request.peer_endpoint,
            client_endpoint: request.client_endpoint,
            // Has caught up at once.
            matched_index: state.status.last_log_index,
            ..Member::default()
        };
        state.members.push(member.clone());
        Ok(Response::new(MemberAddResponse {
            header: state.header(),
            member: Some(member),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        let mut state = self.0.lock().unwrap();
        let member = state.members.iter_mut().find(|member| member.id == id).unwrap();
        if member.voter {
            return Err(errors::member_state(&member.name, "is a voter already", Some(0)));
        }
        member.voter = true;
        Ok(Response::new(MemberPromoteResponse {
            header: state.header(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        let mut state = self.0.lock().unwrap();
        state.members.retain(|member| member.id != id);
        Ok(Response::new(MemberRemoveResponse {
            header: state.header(),
        }))
    }

    async fn leader_transfer(
        &self,
        request: Request<LeaderTransferRequest>,
    ) -> Result<Response<LeaderTransferResponse>, Status> {
        let state = self.0.lock().unwrap();
        let leader_id = if request.get_ref().id == 0 {
            2
        } else {
            request.get_ref().id
        };
        Ok(Response::new(LeaderTransferResponse {
            header: state.header(),
            leader_id,
        }))
    }
}

#[tonic::async_trait]
impl MaintenanceService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.status.applied_index += state.pace;
        Ok(Response::new(StatusResponse {
            header: state.header(),
            ..state.status.clone()
        }))
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Result<Response<PurgeResponse>, Status> {
        let state = self.0.lock().unwrap();
        let asked = request.get_ref().log_index;
        let purged_index = if asked == 0 {
            state.status.flushed_index
        } else {
            asked
        };
        Ok(Response::new(PurgeResponse {
            header: state.header(),
            purged_index,
        }))
    }

    async fn gc_status(&self, _: Request<GcStatusRequest>) -> Result<Response<GcStatusResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        if let Some(failure) = &state.gc_failure {
            return Err(failure.clone());
        }
        let answer = match state.gc.len() {
            0 => GcStatusResponse::default(),
            1 => state.gc[0].clone(),
            _ => state.gc.pop_front().unwrap(),
        };
        Ok(Response::new(GcStatusResponse {
            header: state.header(),
            name: format!("n{}", state.id),
            ..answer
        }))
    }

    async fn gc_run(&self, _: Request<GcRunRequest>) -> Result<Response<GcRunResponse>, Status> {
        let header = self.gc_order("run")?;
        Ok(Response::new(GcRunResponse { header }))
    }

    async fn gc_pause(&self, _: Request<GcPauseRequest>) -> Result<Response<GcPauseResponse>, Status> {
        let header = self.gc_order("pause")?;
        Ok(Response::new(GcPauseResponse { header }))
    }

    async fn gc_resume(&self, _: Request<GcResumeRequest>) -> Result<Response<GcResumeResponse>, Status> {
        let header = self.gc_order("resume")?;
        Ok(Response::new(GcResumeResponse { header }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.hashes.push(request.applied_index);
        if let Some(failure) = &state.hash_failure {
            return Err(failure.clone());
        }
        state.reach(request.applied_index)?;
        Ok(Response::new(HashResponse {
            applied_index: request.applied_index,
            name: format!("n{}", state.id),
            header: state.header(),
            ..state.hash(&request)
        }))
    }
}
