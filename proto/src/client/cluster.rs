use super::call::Kind;
use super::{Client, ClientError, rpc};
use crate::v1::{self, ResponseHeader, StatusResponse};

/// A member, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberRef {
    /// Id, above 0.
    Id(u64),
    /// Name.
    Name(String),
}

impl MemberRef {
    fn split(&self) -> (u64, String) {
        match self {
            MemberRef::Id(id) => (*id, String::new()),
            MemberRef::Name(name) => (0, name.clone()),
        }
    }
}

impl Client {
    /// Lists the members, and learns their client addresses as further endpoints.
    pub async fn member_list(&self) -> Result<(ResponseHeader, Vec<v1::Member>), ClientError> {
        let (header, answer) = self
            .call(Kind::Read, |line, within| async move {
                rpc::cluster(line.channel.clone())
                    .member_list(rpc::timed(v1::MemberListRequest { local: false }, within))
                    .await
            })
            .await?;
        let addresses = answer
            .members
            .iter()
            .map(|member| member.client_endpoint.as_str());
        self.inner.pool.learn_members(addresses, &self.inner.options);
        Ok((header, answer.members))
    }

    /// Lists the members that the member at `endpoint` knows of; works without a leader. Not retried.
    pub async fn member_list_from(
        &self,
        endpoint: &str,
    ) -> Result<(ResponseHeader, Vec<v1::Member>), ClientError> {
        let (header, answer) = self
            .ask(endpoint, Kind::Read, |line, within| async move {
                let request = v1::MemberListRequest { local: true };
                rpc::cluster(line.channel.clone())
                    .member_list(rpc::timed(request, within))
                    .await
            })
            .await?;
        Ok((header, answer.members))
    }

    /// Adds a learner under an id that was never used before.
    ///
    /// Errors: as [`Client::put`]; `MEMBER_EXISTS` if the name is taken.
    pub async fn member_add(
        &self,
        name: &str,
        peer_endpoint: &str,
        client_endpoint: &str,
    ) -> Result<v1::Member, ClientError> {
        let request = v1::MemberAddRequest {
            name: name.to_owned(),
            peer_endpoint: peer_endpoint.to_owned(),
            client_endpoint: client_endpoint.to_owned(),
        };
        let (_, answer) = self
            .call(Kind::Write, |line, within| {
                let request = rpc::timed(request.clone(), within);
                async move { rpc::cluster(line.channel.clone()).member_add(request).await }
            })
            .await?;
        Ok(answer.member.unwrap_or_default())
    }

    /// Makes a learner a voter.
    ///
    /// Errors: as [`Client::put`]; `MEMBER_STATE` with the lag while the learner is behind.
    pub async fn member_promote(&self, member: &MemberRef) -> Result<(), ClientError> {
        let (id, name) = member.split();
        let request = v1::MemberPromoteRequest { id, name };
        self.call(Kind::Write, |line, within| {
            let request = rpc::timed(request.clone(), within);
            async move { rpc::cluster(line.channel.clone()).member_promote(request).await }
        })
        .await?;
        Ok(())
    }

    /// Removes a member; its id never comes back.
    ///
    /// Errors: as [`Client::put`].
    pub async fn member_remove(&self, member: &MemberRef) -> Result<(), ClientError> {
        let (id, name) = member.split();
        let request = v1::MemberRemoveRequest { id, name };
        self.call(Kind::Write, |line, within| {
            let request = rpc::timed(request.clone(), within);
            async move { rpc::cluster(line.channel.clone()).member_remove(request).await }
        })
        .await?;
        Ok(())
    }

    /// Moves leadership to `target`, or to the voter that is furthest, and returns the new leader's id.
    ///
    /// Errors: as [`Client::put`].
    pub async fn leader_transfer(&self, target: Option<&MemberRef>) -> Result<u64, ClientError> {
        let (id, name) = target.map(MemberRef::split).unwrap_or_default();
        let request = v1::LeaderTransferRequest { id, name };
        let (_, answer) = self
            .call(Kind::Write, |line, within| {
                let request = rpc::timed(request.clone(), within);
                async move { rpc::cluster(line.channel.clone()).leader_transfer(request).await }
            })
            .await?;
        Ok(answer.leader_id)
    }

    /// Asks the member at `endpoint` about itself. Not retried: an unreachable member is the answer.
    pub async fn status(&self, endpoint: &str) -> Result<(ResponseHeader, StatusResponse), ClientError> {
        self.ask(endpoint, Kind::Read, |line, within| async move {
            rpc::maintenance(line.channel.clone())
                .status(rpc::timed(v1::StatusRequest {}, within))
                .await
        })
        .await
    }

    /// Asks the member at `endpoint` to purge its log up to `log_index` (0: all that is flushed); returns how far the
    /// log is purged now.
    pub async fn purge(&self, endpoint: &str, log_index: u64) -> Result<u64, ClientError> {
        let (_, answer) = self
            .ask(endpoint, Kind::Write, |line, within| async move {
                rpc::maintenance(line.channel.clone())
                    .purge(rpc::timed(v1::PurgeRequest { log_index }, within))
                    .await
            })
            .await?;
        Ok(answer.purged_index)
    }
}
