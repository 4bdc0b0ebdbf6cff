use bytes::Bytes;

use super::call::{Headed, Kind};
use super::{Client, ClientError, rpc};
use crate::v1::{self, Consistency, KeyMetadata, ResponseHeader, precondition};

/// Under which condition a write takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// Only if the key does not exist.
    Absent,
    /// Only if the key's `mod_revision` is this one (above 0).
    ModRevision(u64),
}

impl Condition {
    /// Returns the wire form.
    pub fn to_proto(self) -> Option<v1::Precondition> {
        let condition = match self {
            Condition::None => return None,
            Condition::Absent => precondition::Condition::Absent(true),
            Condition::ModRevision(revision) => precondition::Condition::ModRevision(revision),
        };
        Some(v1::Precondition {
            condition: Some(condition),
        })
    }
}

/// Answer to a put.
#[derive(Clone, Debug)]
pub struct Put {
    /// Who answered.
    pub header: ResponseHeader,
    /// False: the condition did not hold and nothing was written.
    pub succeeded: bool,
    /// `mod_revision` of the key after the call; 0 if it does not exist.
    pub mod_revision: u64,
}

/// Answer to a delete.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Who answered.
    pub header: ResponseHeader,
    /// False: the condition did not hold and nothing was deleted.
    pub succeeded: bool,
    /// True: the key existed and is gone.
    pub deleted: bool,
    /// `mod_revision` of the key after the call; 0 if it does not exist.
    pub mod_revision: u64,
}

/// Answer to a get.
#[derive(Clone, Debug)]
pub struct Get {
    /// Who answered.
    pub header: ResponseHeader,
    /// The key's value and metadata; `None` if it does not exist.
    pub found: Option<Found>,
}

/// A key that exists.
#[derive(Clone, Debug)]
pub struct Found {
    /// The value; empty when only metadata was asked for.
    pub value: Bytes,
    /// Revisions and version.
    pub metadata: KeyMetadata,
}

impl Client {
    /// Writes one key; durable on a majority when it returns.
    ///
    /// Errors: [`ClientError::OutcomeUnknown`] when it may or may not have taken effect; it is never sent twice.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Put, ClientError> {
        let request = v1::PutRequest {
            key: key.into(),
            value: value.into(),
            precondition: condition.to_proto(),
        };
        let (header, answer) = self
            .call(Kind::Write, |line, within| {
                let request = request.clone();
                async move { line.point(request, within).await }
            })
            .await?;
        Ok(Put {
            header,
            succeeded: answer.succeeded,
            mod_revision: answer.mod_revision,
        })
    }

    /// Deletes one key; durable on a majority when it returns. Deleting an absent key is no error.
    ///
    /// Errors: as [`Client::put`].
    pub async fn delete(&self, key: impl Into<Bytes>, condition: Condition) -> Result<Delete, ClientError> {
        let request = v1::DeleteRequest {
            key: key.into(),
            precondition: condition.to_proto(),
        };
        let (header, answer) = self
            .call(Kind::Write, |line, within| {
                let request = request.clone();
                async move { line.point(request, within).await }
            })
            .await?;
        Ok(Delete {
            header,
            succeeded: answer.succeeded,
            deleted: answer.deleted,
            mod_revision: answer.mod_revision,
        })
    }

    /// Reads one key. Linearizable reads go to the leader, stale ones to the given endpoints in turn.
    pub async fn get(&self, key: impl Into<Bytes>, consistency: Consistency) -> Result<Get, ClientError> {
        self.get_request(key.into(), consistency, false).await
    }

    /// Reads revisions and version of one key, without its value.
    pub async fn get_metadata(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Get, ClientError> {
        self.get_request(key.into(), consistency, true).await
    }

    /// Has the member at `endpoint` read `key` linearizably, through the leader if it does not lead. Not retried, neither
    /// there nor elsewhere: the answer is one about this member.
    ///
    /// Errors: the member is not reached, has not caught up yet, or knows no leader that a majority follows.
    pub async fn confirm_from(
        &self,
        endpoint: &str,
        key: impl Into<Bytes>,
    ) -> Result<ResponseHeader, ClientError> {
        let request = v1::GetRequest {
            key: key.into(),
            consistency: Consistency::Linearizable.into(),
            keys_only: true,
        };
        let asked = self.ask(endpoint, Kind::Read, |line, within| async move {
            rpc::kv(line.channel.clone())
                .get(rpc::timed(request, within))
                .await
        });
        Ok(asked.await?.0)
    }

    async fn get_request(
        &self,
        key: Bytes,
        consistency: Consistency,
        keys_only: bool,
    ) -> Result<Get, ClientError> {
        let request = v1::GetRequest {
            key,
            consistency: consistency.into(),
            keys_only,
        };
        let (header, answer) = self
            .call(read_kind(consistency), |line, within| {
                let request = request.clone();
                async move { line.point(request, within).await }
            })
            .await?;
        let found = answer.found.then(|| Found {
            value: answer.value,
            metadata: answer.metadata.unwrap_or_default(),
        });
        Ok(Get { header, found })
    }
}

/// Returns how calls of this consistency are retried.
pub(crate) fn read_kind(consistency: Consistency) -> Kind {
    match consistency {
        Consistency::Stale => Kind::StaleRead,
        Consistency::Unspecified | Consistency::Linearizable => Kind::Read,
    }
}

macro_rules! headed {
    ($($answer:ident),*) => {
        $(impl Headed for v1::$answer {
            fn take_header(&mut self) -> Option<ResponseHeader> {
                self.header.take()
            }
        })*
    };
}

headed!(
    PutResponse,
    DeleteResponse,
    GetResponse,
    ScanResponse,
    StatusResponse,
    PurgeResponse,
    MemberListResponse,
    MemberAddResponse,
    MemberPromoteResponse,
    MemberRemoveResponse,
    LeaderTransferResponse,
    GcStatusResponse,
    GcRunResponse,
    GcPauseResponse,
    GcResumeResponse,
    HashResponse
);
