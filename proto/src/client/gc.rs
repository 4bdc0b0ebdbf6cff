use super::call::Kind;
use super::{Client, ClientError, rpc};
use crate::v1::{self, GcStatusResponse, ResponseHeader};

/// Garbage collection of one member. Nothing is retried: a member that does not answer is the answer. A server without
/// a collector refuses with UNIMPLEMENTED.
impl Client {
    /// Asks the member at `endpoint` how much garbage it has and what its collector does.
    pub async fn gc_status(&self, endpoint: &str) -> Result<(ResponseHeader, GcStatusResponse), ClientError> {
        self.ask(endpoint, Kind::Read, |line, within| async move {
            rpc::maintenance(line.channel.clone())
                .gc_status(rpc::timed(v1::GcStatusRequest {}, within))
                .await
        })
        .await
    }

    /// Has the member at `endpoint` collect until nothing exceeds its limit; returns before it has, see
    /// [`Client::gc_status`].
    pub async fn gc_run(&self, endpoint: &str) -> Result<ResponseHeader, ClientError> {
        let (header, _) = self
            .ask(endpoint, Kind::Write, |line, within| async move {
                rpc::maintenance(line.channel.clone())
                    .gc_run(rpc::timed(v1::GcRunRequest {}, within))
                    .await
            })
            .await?;
        Ok(header)
    }

    /// Stops the collector of the member at `endpoint`, a running job included. Harmless if it is stopped.
    pub async fn gc_pause(&self, endpoint: &str) -> Result<ResponseHeader, ClientError> {
        let (header, _) = self
            .ask(endpoint, Kind::Write, |line, within| async move {
                rpc::maintenance(line.channel.clone())
                    .gc_pause(rpc::timed(v1::GcPauseRequest {}, within))
                    .await
            })
            .await?;
        Ok(header)
    }

    /// Lets the collector of the member at `endpoint` go on. Harmless if it is not stopped.
    pub async fn gc_resume(&self, endpoint: &str) -> Result<ResponseHeader, ClientError> {
        let (header, _) = self
            .ask(endpoint, Kind::Write, |line, within| async move {
                rpc::maintenance(line.channel.clone())
                    .gc_resume(rpc::timed(v1::GcResumeRequest {}, within))
                    .await
            })
            .await?;
        Ok(header)
    }
}
