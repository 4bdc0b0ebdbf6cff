//! Passing a call on to the leader: one hop, over one connection that all calls share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nezha_api::client::Dialer;
use nezha_api::errors::{self, ApiError, LeaderHint};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::call::{Call, FORWARDED};
use super::context::Context;
use super::listen::CLIENT_PORT;

/// How long connecting to the leader may take.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// A leader that answers no ping is gone: cut off from this member's network of clients, it may lead on, and be found
/// anew over another network. What was passed on to it has an unknown outcome then.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_WAIT: Duration = Duration::from_secs(3);
/// Flow-control windows of the connection to the leader, in bytes: what may be under way unread. Scans whose clients do
/// not read, and answers that wait for admission, must not hold up the other calls: the connection's window, 64 MiB, is
/// the sum of those of all calls that the leader takes.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = CLIENT_PORT.streams_max * STREAM_WINDOW_BYTES;

/// What it means when the connection breaks while a call is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call changes nothing: it can be repeated.
    Read,
    /// The call may have taken effect.
    Write,
}

/// The connection to whoever leads.
///
/// Invariant: at most one connection; it is replaced when the leader's address changes.
#[derive(Default)]
pub struct Forwarder {
    dialer: Dialer,
    current: Mutex<Option<(String, Channel)>>,
}

impl Forwarder {
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            current: Mutex::default(),
        }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Status> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, channel)) = &*current
            && at == endpoint
        {
            return Ok(channel.clone());
        }
        let to = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|e| errors::invalid_request("leader_endpoint", &format!("{endpoint}: {e}")))?
            .connect_timeout(CONNECT_WAIT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_WAIT)
            .keep_alive_while_idle(true);
        let channel = self.dialer.lazy(to);
        *current = Some((endpoint.to_owned(), channel.clone()));
        Ok(channel)
    }
}

impl Context {
    /// The member that a linearizable call is to be passed on to; `None` when this node leads.
    ///
    /// Errors: NO_LEADER; NOT_LEADER when the call may not be passed on; TIMED_OUT.
    pub fn elsewhere(&self, call: &Call) -> Result<Option<LeaderHint>, Status> {
        // Now it is certain that nothing was proposed; once it is handed on, a late call has an unknown outcome.
        if call.deadline <= Instant::now() {
            return Err(errors::timed_out(
                &self.name,
                "the request to be admitted and read",
            ));
        }
        match &self.outlook().leader {
            Some(leader) if leader.id == self.node_id => Ok(None),
            Some(leader) if call.may_forward() => Ok(Some(leader.clone())),
            _ => Err(self.not_leader()),
        }
    }

    /// Passes `message` on to `leader` by `send`.
    ///
    /// Errors: the leader's own, unchanged. When the leader could not be reached, or the connection broke during a
    /// read: NOT_LEADER, proposed=false. When it did not answer a read in time: TIMED_OUT. When the connection broke or
    /// time ran out after a write may have been sent: OUTCOME_UNKNOWN.
    pub async fn forward<Q, A, F>(
        &self,
        leader: LeaderHint,
        call: &Call,
        effect: Effect,
        message: Q,
        send: impl FnOnce(Channel, Request<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let channel = self.forwarder.channel(&leader.endpoint)?;
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert(FORWARDED, MetadataValue::from_static("1"));
        // The leader gives a call that states no deadline as long as this member does, and a scan its whole life: a
        // deadline that the caller did not state would end that scan early.
        if call.deadline_stated {
            request.set_timeout(call.deadline.saturating_duration_since(Instant::now()));
        }
        match tokio::time::timeout_at(call.deadline, send(channel, request)).await {
            Ok(Ok(response)) => {
                let (_, message, extensions) = response.into_parts();
                Ok(Response::from_parts(Default::default(), message, extensions))
            }
            Ok(Err(status)) => Err(self.passed_on(&leader, effect, status)),
            Err(_) => Err(no_answer(&self.name, &leader, effect)),
        }
    }

    /// What the client is told about `status`, which came back from the leader or from the connection to it.
    pub fn passed_on(&self, leader: &LeaderHint, effect: Effect, status: Status) -> Status {
        // Only our own servers give reasons: everything else came from the connection.
        if ApiError::from_status(&status).reason.is_some() {
            return status;
        }
        tracing::debug!(leader = leader.endpoint, %status, "forwarding failed");
        broken(&self.name, self.outlook().term, leader, effect, &status)
    }
}

/// The answer of `node` to a call whose `leader` did not answer in time.
fn no_answer(node: &str, leader: &LeaderHint, effect: Effect) -> Status {
    match effect {
        Effect::Read => errors::timed_out(node, &format!("the leader at {}", leader.endpoint)),
        Effect::Write => errors::outcome_unknown(
            node,
            &format!("the leader at {} did not answer in time", leader.endpoint),
        ),
    }
}

/// The answer of `node`, in `term`, to a call that ended with `status` on the way to `leader`.
fn broken(node: &str, term: u64, leader: &LeaderHint, effect: Effect, status: &Status) -> Status {
    if errors::connect_failed(status) {
        return errors::not_leader(node, term, Some(leader.clone()));
    }
    // The connection's timers may be a little earlier than ours, and its pings much earlier.
    if errors::no_answer_in_time(status) {
        return no_answer(node, leader, effect);
    }
    match effect {
        Effect::Read => errors::not_leader(node, term, Some(leader.clone())),
        Effect::Write => errors::outcome_unknown(
            node,
            &format!(
                "the connection to the leader at {} broke: {}",
                leader.endpoint,
                status.message()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use nezha_api::errors::Reason;
    use tonic::Code;

    use super::*;

    fn told(effect: Effect, status: &Status) -> ApiError {
        let leader = LeaderHint {
            id: 2,
            endpoint: "h2:7379".into(),
        };
        ApiError::from_status(&broken("n1", 7, &leader, effect, status))
    }

    /// Once, a read answered NOT_LEADER when the leader hung: the client went on to ask the very leader that hung.
    #[test]
    fn a_leader_that_does_not_answer_is_a_time_out_and_not_another_leader() {
        for status in [
            Status::cancelled("Timeout expired"),
            Status::deadline_exceeded("too late"),
        ] {
            let read = told(Effect::Read, &status);
            assert_eq!(read.reason, Some(Reason::TimedOut), "{status}");
            assert_eq!(read.proposed, Some(false));
            assert!(read.message.contains("the leader at h2:7379"), "{}", read.message);
            let write = told(Effect::Write, &status);
            assert_eq!(write.reason, Some(Reason::OutcomeUnknown), "{status}");
            assert_eq!(
                write.cause.unwrap(),
                "the leader at h2:7379 did not answer in time"
            );
        }
    }

    #[test]
    fn a_broken_connection_leaves_a_write_unknown_and_a_read_repeatable() {
        let status = Status::new(Code::Internal, "h2 protocol error: http2 error");
        assert_eq!(told(Effect::Read, &status).reason, Some(Reason::NotLeader));
        let write = told(Effect::Write, &status);
        assert_eq!(write.reason, Some(Reason::OutcomeUnknown));
        assert_eq!(write.proposed, Some(true));
    }
}
