//! `ClusterService`: members and leadership.

use std::sync::Arc;

use nezha_api::errors;
use nezha_api::v1::cluster_service_client::ClusterServiceClient;
use nezha_api::v1::cluster_service_server::ClusterService;
use nezha_api::v1::{
    LeaderTransferRequest, LeaderTransferResponse, Member, MemberAddRequest, MemberAddResponse,
    MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest,
    MemberRemoveResponse, ResponseHeader,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::context::Context;
use super::forward::Effect;
use crate::config::{addr_problem, name_problem};
use crate::raft::{AdminError, Consensus, MemberInfo, Metrics, Node, NodeId};

type Leader = ClusterServiceClient<Channel>;

/// The service behind `kvctl member` and `kvctl leader`.
#[derive(Clone)]
pub struct Cluster {
    context: Arc<Context>,
    /// Serializes adding members: two calls must not be given the same id.
    adding: Arc<tokio::sync::Mutex<()>>,
}

fn wire(member: &MemberInfo, leader: Option<NodeId>) -> Member {
    Member {
        id: member.id,
        name: member.node.name.clone(),
        peer_endpoint: member.node.peer_addr.clone(),
        client_endpoint: member.node.client_addr.clone(),
        voter: member.voter,
        leader: leader == Some(member.id),
        matched_index: member.matched.unwrap_or(0),
    }
}

/// The member that a request names by id, or by name when the id is 0.
fn find<'m>(members: &'m [MemberInfo], id: u64, name: &str) -> Result<&'m MemberInfo, Status> {
    if id == 0 && name.is_empty() {
        return Err(errors::invalid_request("name", "neither id nor name is given"));
    }
    let found = members
        .iter()
        .find(|m| if id == 0 { m.node.name == name } else { m.id == id });
    found.ok_or_else(|| {
        let known: Vec<&str> = members.iter().map(|m| m.node.name.as_str()).collect();
        let who = if id == 0 { name.to_owned() } else { id.to_string() };
        errors::unknown_member(&who, &known)
    })
}

/// Refuses a name or an address that a member has already, or that cannot be one.
fn check_new(members: &[MemberInfo], new: &MemberAddRequest) -> Result<(), Status> {
    if let Some(problem) = name_problem(&new.name) {
        return Err(errors::invalid_request("name", &problem));
    }
    for (field, addr) in [
        ("peer_endpoint", &new.peer_endpoint),
        ("client_endpoint", &new.client_endpoint),
    ] {
        if let Some(problem) = addr_problem(addr, false) {
            return Err(errors::invalid_request(field, &format!("'{addr}': {problem}")));
        }
    }
    for member in members {
        let Node {
            name,
            peer_addr,
            client_addr,
        } = &member.node;
        let clash = [
            ("name", name, &new.name),
            ("peer address", peer_addr, &new.peer_endpoint),
            ("client address", client_addr, &new.client_endpoint),
        ];
        if let Some((what, taken, _)) = clash.into_iter().find(|(_, taken, wanted)| taken == wanted) {
            return Err(errors::member_exists(
                taken,
                &format!("it is the {what} of member {} ({name})", member.id),
            ));
        }
    }
    Ok(())
}

/// Refuses to take the last vote away.
fn check_remove(members: &[MemberInfo], member: &MemberInfo) -> Result<(), Status> {
    let others = members.iter().filter(|m| m.voter && m.id != member.id).count();
    if member.voter && others == 0 {
        let text =
            "it is the only voter: without it nothing could ever be written; promote another member first";
        return Err(errors::member_state(&member.node.name, text, None));
    }
    Ok(())
}

impl Cluster {
    /// Serves `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            adding: Arc::default(),
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(self.context.local_header())
    }

    fn failed(&self, subject: &str, error: AdminError) -> Status {
        match error {
            AdminError::NotLeader { leader } => self.context.led_by(leader),
            AdminError::Refused { reason, lag } => errors::member_state(subject, &reason, lag),
            AdminError::Unknown { reason } => errors::outcome_unknown(&self.context.name, &reason),
        }
    }

    /// Takes a call in. Errors: STOPPING.
    fn admit<Q>(&self, request: Request<Q>) -> Result<(Call, Q), Status> {
        let call = Call::of(&request);
        self.context.check_admission()?;
        Ok((call, request.into_inner()))
    }

    /// The leader's answer, got by `send`; `None` when this node leads.
    async fn by_leader<Q: Clone, A, F>(
        &self,
        call: &Call,
        effect: Effect,
        message: &Q,
        send: impl FnOnce(Leader, Request<Q>) -> F,
    ) -> Result<Option<Response<A>>, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(leader) = self.context.elsewhere(call)? else {
            return Ok(None);
        };
        let send = |channel, request| send(Leader::new(channel), request);
        self.context
            .forward(leader, call, effect, message.clone(), send)
            .await
            .map(Some)
    }

    /// Runs a change until the caller's deadline; it goes on beyond that.
    async fn change<T: Send + 'static, F>(
        &self,
        call: &Call,
        subject: &str,
        work: impl FnOnce(Consensus) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, AdminError>> + Send + 'static,
    {
        let task = tokio::spawn(work(self.context.consensus.clone()));
        match tokio::time::timeout_at(call.deadline, task).await {
            Ok(Ok(result)) => result.map_err(|error| self.failed(subject, error)),
            Ok(Err(e)) => Err(errors::internal(
                &self.context.name,
                &format!("the change's task ended: {e}"),
                true,
            )),
            Err(_) => Err(errors::outcome_unknown(
                &self.context.name,
                "the deadline passed while the change was made",
            )),
        }
    }

    /// The members as the whole cluster has agreed, at or after the call: what this node alone believes may be old, or yet
    /// be undone, and nobody is to be told for certain that somebody is a member, or is none, by that.
    async fn agreed_members(&self, call: &Call) -> Result<Vec<MemberInfo>, Status> {
        self.context.read_point(false, call.deadline).await?;
        let settled = self.context.consensus.settled_members();
        match tokio::time::timeout_at(call.deadline, settled).await {
            Ok(members) => members.map_err(|_| errors::stopping(&self.context.name)),
            Err(_) => Err(errors::timed_out(
                &self.context.name,
                "the last change of members to be committed",
            )),
        }
    }

    fn list(&self, members: &[MemberInfo], leader: Option<NodeId>) -> Response<MemberListResponse> {
        Response::new(MemberListResponse {
            header: self.header(),
            members: members.iter().map(|member| wire(member, leader)).collect(),
        })
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let (call, message) = self.admit(request)?;
        if message.local {
            let Metrics { members, leader, .. } = self.context.consensus.metrics();
            return Ok(self.list(&members, leader.map(|(id, _)| id)));
        }
        let send = async |mut leader: Leader, request| leader.member_list(request).await;
        if let Some(answer) = self.by_leader(&call, Effect::Read, &message, send).await? {
            return Ok(answer);
        }
        let members = self.agreed_members(&call).await?;
        Ok(self.list(&members, Some(self.context.node_id)))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let (call, message) = self.admit(request)?;
        let send = async |mut leader: Leader, request| leader.member_add(request).await;
        if let Some(answer) = self.by_leader(&call, Effect::Write, &message, send).await? {
            return Ok(answer);
        }
        let Ok(_adding) = tokio::time::timeout_at(call.deadline, self.adding.lock()).await else {
            return Err(errors::timed_out(
                &self.context.name,
                "another member to be added",
            ));
        };
        // The id must be above all that were ever used: the barrier makes sure that this node has applied them all.
        let members = self.agreed_members(&call).await?;
        check_new(&members, &message)?;
        let highest = members.iter().map(|m| m.id).max().unwrap_or(0);
        let id = self.context.store.index().state().max_node_id.max(highest) + 1;
        let node = Node {
            name: message.name,
            peer_addr: message.peer_endpoint,
            client_addr: message.client_endpoint,
        };
        let added = node.clone();
        self.change(&call, &node.name, move |consensus| async move {
            consensus.add_learner(id, added).await
        })
        .await?;
        tracing::info!(id, member = %node, "member added as learner");
        let member = wire(
            &MemberInfo {
                id,
                node,
                voter: false,
                matched: None,
            },
            None,
        );
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: Some(member),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let (call, message) = self.admit(request)?;
        let send = async |mut leader: Leader, request| leader.member_promote(request).await;
        if let Some(answer) = self.by_leader(&call, Effect::Write, &message, send).await? {
            return Ok(answer);
        }
        let members = self.agreed_members(&call).await?;
        let member = find(&members, message.id, &message.name)?;
        // Even if it is a voter already: promoting one changes nothing.
        let id = member.id;
        self.change(&call, &member.node.name, move |consensus| async move {
            consensus.promote(id).await
        })
        .await?;
        tracing::info!(id, name = member.node.name, "member promoted to voter");
        Ok(Response::new(MemberPromoteResponse {
            header: self.header(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let (call, message) = self.admit(request)?;
        let send = async |mut leader: Leader, request| leader.member_remove(request).await;
        if let Some(answer) = self.by_leader(&call, Effect::Write, &message, send).await? {
            return Ok(answer);
        }
        let members = self.agreed_members(&call).await?;
        let member = find(&members, message.id, &message.name)?;
        check_remove(&members, member)?;
        let id = member.id;
        self.change(&call, &member.node.name, move |consensus| async move {
            consensus.remove(id).await
        })
        .await?;
        tracing::info!(id, name = member.node.name, "member removed");
        Ok(Response::new(MemberRemoveResponse {
            header: self.header(),
        }))
    }

    async fn leader_transfer(
        &self,
        request: Request<LeaderTransferRequest>,
    ) -> Result<Response<LeaderTransferResponse>, Status> {
        let (call, message) = self.admit(request)?;
        let send = async |mut leader: Leader, request| leader.leader_transfer(request).await;
        if let Some(answer) = self.by_leader(&call, Effect::Write, &message, send).await? {
            return Ok(answer);
        }
        let metrics = self.context.consensus.metrics();
        let target = match (message.id, message.name.as_str()) {
            (0, "") => None,
            (id, name) => Some(find(&metrics.members, id, name)?),
        };
        let subject = target
            .map_or("leader", |member| member.node.name.as_str())
            .to_owned();
        let id = target.map(|member| member.id);
        let leader_id = self
            .change(&call, &subject, move |consensus| async move {
                consensus.transfer_leader(id).await
            })
            .await?;
        Ok(Response::new(LeaderTransferResponse {
            header: self.header(),
            leader_id,
        }))
    }
}

#[cfg(test)]
mod tests {
    use nezha_api::errors::{ApiError, Reason};

    use super::*;

    fn member(id: u64, voter: bool) -> MemberInfo {
        let node = Node {
            name: format!("n{id}"),
            peer_addr: format!("h{id}:7380"),
            client_addr: format!("h{id}:7379"),
        };
        MemberInfo {
            id,
            node,
            voter,
            matched: None,
        }
    }

    fn reason(status: &Status) -> Option<Reason> {
        ApiError::from_status(status).reason
    }

    #[test]
    fn an_unknown_member_is_refused_with_the_known_names() {
        let members = [member(1, true), member(2, true)];
        assert_eq!(find(&members, 2, "").unwrap().node.name, "n2");
        assert_eq!(find(&members, 0, "n1").unwrap().id, 1);
        let status = find(&members, 0, "n9").unwrap_err();
        assert_eq!(reason(&status), Some(Reason::UnknownMember));
        assert!(status.message().contains("n1, n2"), "{}", status.message());
        assert_eq!(
            reason(&find(&members, 0, "").unwrap_err()),
            Some(Reason::InvalidRequest)
        );
    }

    #[test]
    fn a_new_member_must_differ_from_all_others() {
        let members = [member(1, true)];
        let new = |name: &str, peer: &str, client: &str| MemberAddRequest {
            name: name.into(),
            peer_endpoint: peer.into(),
            client_endpoint: client.into(),
        };
        assert!(check_new(&members, &new("n4", "h4:7380", "h4:7379")).is_ok());
        for clash in [
            new("n1", "h4:1", "h4:2"),
            new("n4", "h1:7380", "h4:2"),
            new("n4", "h4:1", "h1:7379"),
        ] {
            assert_eq!(
                reason(&check_new(&members, &clash).unwrap_err()),
                Some(Reason::MemberExists)
            );
        }
        for bad in [
            new("", "h4:1", "h4:2"),
            new("n4", "h4", "h4:2"),
            new("n4", "h4:1", "h4:0"),
        ] {
            assert_eq!(
                reason(&check_new(&members, &bad).unwrap_err()),
                Some(Reason::InvalidRequest)
            );
        }
    }

    #[test]
    fn the_last_voter_stays() {
        let members = [member(1, true), member(2, false)];
        let status = check_remove(&members, &members[0]).unwrap_err();
        assert_eq!(reason(&status), Some(Reason::MemberState));
        assert!(check_remove(&members, &members[1]).is_ok());
    }
}
