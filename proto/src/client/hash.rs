use super::call::Kind;
use super::{Client, ClientError, rpc};
use crate::v1::{HashRequest, HashResponse, ResponseHeader};

impl Client {
    /// Asks the member at `endpoint` for the hash of a key range. Not retried: a member that does not answer is the
    /// answer.
    ///
    /// Errors: `MEMBER_STATE` if it is past the index; [`FailureKind::TimedOut`](super::FailureKind) if it has not
    /// reached it in time; `DATA_DAMAGED`.
    pub async fn hash(
        &self,
        endpoint: &str,
        request: HashRequest,
    ) -> Result<(ResponseHeader, HashResponse), ClientError> {
        self.ask(endpoint, Kind::Read, |line, within| async move {
            rpc::maintenance(line.channel.clone())
                .hash(rpc::timed(request, within))
                .await
        })
        .await
    }
}
