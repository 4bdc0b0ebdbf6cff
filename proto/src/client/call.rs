use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::endpoint::{Endpoint, cause_of};
use super::line::Line;
use super::{Client, ClientError, EndpointFailure, FailureKind};
use crate::errors::{ApiError, Reason, connect_failed, no_answer_in_time};
use crate::v1::ResponseHeader;

/// An attempt begins with at least this time left, or a tenth of the call's. One that is cut off at once would only
/// turn the last refusal of a write, which is definite, into an unknown outcome.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(50);

/// What may be done with a call whose outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never repeated unless it is certain that nothing was proposed.
    Write,
    /// Repeated freely, at the leader if it is known.
    Read,
    /// Repeated freely, at the endpoints that were given.
    StaleRead,
}

/// Answers that carry a header.
pub(crate) trait Headed {
    /// Takes the header out.
    fn take_header(&mut self) -> Option<ResponseHeader>;
}

/// What to do after a failed attempt.
enum Verdict {
    /// Ends the call.
    Final(ClientError),
    /// Another attempt may do better.
    Again {
        kind: FailureKind,
        cause: String,
        leader: Option<String>,
        pause: Duration,
    },
}

impl Client {
    /// Runs `send` against one endpoint after another until an answer, a final error or the deadline.
    ///
    /// `send` gets a connection and the time that the attempt has.
    pub(crate) async fn call<T, F, S>(&self, kind: Kind, send: S) -> Result<(ResponseHeader, T), ClientError>
    where
        T: Headed,
        F: Future<Output = Result<Response<T>, Status>>,
        S: Fn(Arc<Line>, Duration) -> F,
    {
        let (endpoint, mut answer) = self.attempt(kind, &send).await?;
        let header = self.take_header(&endpoint, &mut answer)?;
        Ok((header, answer))
    }

    /// As [`Client::call`], for answers of any type; also names the endpoint that answered.
    pub(crate) async fn attempt<T, F, S>(
        &self,
        kind: Kind,
        send: S,
    ) -> Result<(Arc<Endpoint>, T), ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
        S: Fn(Arc<Line>, Duration) -> F,
    {
        let options = &self.inner.options;
        let pool = &self.inner.pool;
        let deadline = Instant::now() + options.timeout;
        let attempt_time_min = (options.timeout / 10).clamp(Duration::from_millis(1), ATTEMPT_TIME_MIN);
        let mut failures: Vec<EndpointFailure> = Vec::new();
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut attempts: u32 = 0;
        let mut rounds: u32 = 0;
        let mut pause = Duration::ZERO;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining < attempt_time_min {
                return Err(ClientError::Unavailable { failures });
            }
            let Some(endpoint) = pool.next(kind != Kind::StaleRead, &tried) else {
                // Everyone was asked: wait before the next round, longer each time, at least as the servers ask.
                let drawn = full_jitter(options.backoff_base, options.backoff_max, rounds);
                tokio::time::sleep(drawn.max(pause).min(remaining)).await;
                rounds += 1;
                pause = Duration::ZERO;
                tried.clear();
                continue;
            };
            tried.push(endpoint.clone());
            let verdict = match endpoint.line(options.connect_timeout.min(remaining)).await {
                Err(cause) => {
                    pool.failed(&endpoint);
                    Verdict::again(FailureKind::Unreachable, cause)
                }
                Ok((line, generation)) => {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    if remaining < attempt_time_min {
                        continue;
                    }
                    let within = match kind {
                        Kind::Write => remaining,
                        Kind::Read | Kind::StaleRead => {
                            let grown = options.attempt_timeout.saturating_mul(1 << attempts.min(8));
                            grown.min(remaining)
                        }
                    };
                    attempts += 1;
                    match tokio::time::timeout(within, send(line, within)).await {
                        Ok(Ok(response)) => {
                            endpoint.pardon();
                            return Ok((endpoint, response.into_inner()));
                        }
                        Ok(Err(status)) => {
                            let verdict = judge(kind, &endpoint, &status, within);
                            if came_from_transport(&status) {
                                pool.failed(&endpoint);
                                endpoint.disconnect(generation).await;
                            } else if is_stopping(&status) {
                                // Nothing new on this connection: it can close once it has answered the rest.
                                endpoint.disconnect(generation).await;
                            }
                            verdict
                        }
                        Err(_) => {
                            pool.failed(&endpoint);
                            endpoint.disconnect(generation).await;
                            no_answer(kind, &endpoint, within)
                        }
                    }
                }
            };
            match verdict {
                Verdict::Final(error) => return Err(error),
                Verdict::Again {
                    kind: failure,
                    cause,
                    leader,
                    pause: asked,
                } => {
                    note(&mut failures, endpoint.address(), failure, cause);
                    if failure == FailureKind::NoLeader {
                        pool.not_leading(&endpoint);
                    }
                    if let Some(leader) = leader {
                        pool.learn_leader(&leader, options);
                    }
                    pause = pause.max(asked);
                }
            }
        }
    }

    /// Runs `send` once against one endpoint, for questions about that member.
    pub(crate) async fn ask<T, F, S>(
        &self,
        address: &str,
        kind: Kind,
        send: S,
    ) -> Result<(ResponseHeader, T), ClientError>
    where
        T: Headed,
        F: Future<Output = Result<Response<T>, Status>>,
        S: FnOnce(Arc<Line>, Duration) -> F,
    {
        let options = &self.inner.options;
        let endpoint = self.inner.pool.get(address, options)?;
        let deadline = Instant::now() + options.timeout;
        let verdict = match endpoint.line(options.connect_timeout.min(options.timeout)).await {
            Err(cause) => Verdict::again(FailureKind::Unreachable, cause),
            Ok((line, generation)) => {
                let within = deadline.saturating_duration_since(Instant::now());
                match tokio::time::timeout(within, send(line, within)).await {
                    Ok(Ok(response)) => {
                        let mut answer = response.into_inner();
                        let header = self.take_header(&endpoint, &mut answer)?;
                        return Ok((header, answer));
                    }
                    Ok(Err(status)) => {
                        if came_from_transport(&status) {
                            endpoint.disconnect(generation).await;
                        }
                        judge(kind, &endpoint, &status, within)
                    }
                    Err(_) => {
                        endpoint.disconnect(generation).await;
                        no_answer(kind, &endpoint, within)
                    }
                }
            }
        };
        Err(match verdict {
            Verdict::Final(error) => error,
            Verdict::Again { kind, cause, .. } => {
                let endpoint = endpoint.address().to_owned();
                ClientError::Unavailable {
                    failures: vec![EndpointFailure {
                        endpoint,
                        kind,
                        cause,
                    }],
                }
            }
        })
    }

    /// Takes the header out of an answer and learns the leader from it.
    pub(crate) fn take_header<T: Headed>(
        &self,
        endpoint: &Endpoint,
        answer: &mut T,
    ) -> Result<ResponseHeader, ClientError> {
        let header = answer.take_header().ok_or_else(|| ClientError::Malformed {
            endpoint: endpoint.address().to_owned(),
            what: "the answer has no header".into(),
        })?;
        if header.leader_id != 0 {
            self.inner
                .pool
                .learn_leader(&header.leader_endpoint, &self.inner.options);
        }
        self.sync_if_due();
        Ok(header)
    }
}

impl Verdict {
    fn again(kind: FailureKind, cause: String) -> Verdict {
        Verdict::Again {
            kind,
            cause,
            leader: None,
            pause: Duration::ZERO,
        }
    }
}

/// Decides what a failed attempt means that had the time `within`.
fn judge(kind: Kind, endpoint: &Endpoint, status: &Status, within: Duration) -> Verdict {
    let error = ApiError::from_status(status);
    if connect_failed(status) {
        return Verdict::again(FailureKind::Unreachable, describe(status));
    }
    let address = || endpoint.address().to_owned();
    if let Some(reason) = error.reason {
        let repeatable = kind != Kind::Write || error.proposed == Some(false);
        if reason.is_transient() && repeatable {
            return Verdict::Again {
                kind: match reason {
                    Reason::NotLeader | Reason::NoLeader => FailureKind::NoLeader,
                    Reason::TimedOut => FailureKind::TimedOut,
                    _ => FailureKind::NotServing,
                },
                cause: error.message,
                leader: error.leader.map(|leader| leader.endpoint),
                pause: error.retry_after.unwrap_or_default(),
            };
        }
        let open = match error.proposed {
            Some(proposed) => proposed,
            None => reason.is_transient() || matches!(reason, Reason::OutcomeUnknown | Reason::Internal),
        };
        if kind == Kind::Write && open {
            let cause = error.cause.unwrap_or(error.message);
            return Verdict::Final(ClientError::OutcomeUnknown {
                endpoint: address(),
                cause,
            });
        }
        if kind != Kind::Write && reason == Reason::OutcomeUnknown {
            return Verdict::again(FailureKind::TimedOut, error.message);
        }
        return Verdict::Final(ClientError::Refused {
            endpoint: address(),
            error: Box::new(error),
        });
    }
    // No word from a server of ours: a transport, a proxy, or a server that does not know the call.
    let refused = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::DataLoss
    );
    if refused {
        return Verdict::Final(ClientError::Refused {
            endpoint: address(),
            error: Box::new(error),
        });
    }
    let cause = describe(status);
    match kind {
        // A reason that this client is too old to know, and the one fact that matters.
        Kind::Write if error.proposed == Some(false) => Verdict::again(FailureKind::NotServing, cause),
        // Whose timer is first, ours or the transport's or the server's, is chance.
        _ if no_answer_in_time(status) => no_answer(kind, endpoint, within),
        Kind::Write => Verdict::Final(ClientError::OutcomeUnknown {
            endpoint: address(),
            cause,
        }),
        Kind::Read | Kind::StaleRead => Verdict::again(FailureKind::Broken, cause),
    }
}

/// Decides what an attempt without an answer means.
fn no_answer(kind: Kind, endpoint: &Endpoint, within: Duration) -> Verdict {
    let cause = format!("no answer within {} ms", within.as_millis());
    match kind {
        Kind::Write => Verdict::Final(ClientError::OutcomeUnknown {
            endpoint: endpoint.address().to_owned(),
            cause,
        }),
        Kind::Read | Kind::StaleRead => Verdict::again(FailureKind::TimedOut, cause),
    }
}

/// Whether the status was made on this side, from a broken connection or a failed dial.
pub(crate) fn came_from_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Whether a server says that it is about to go.
fn is_stopping(status: &Status) -> bool {
    ApiError::from_status(status).reason == Some(Reason::Stopping)
}

/// Puts a status without details into words: the server's message, or the innermost cause.
pub(crate) fn describe(status: &Status) -> String {
    if came_from_transport(status) {
        let cause = cause_of(status);
        if connect_failed(status) {
            cause
        } else {
            format!("connection lost: {cause}")
        }
    } else if status.message().is_empty() {
        format!("{:?}", status.code())
    } else {
        status.message().to_owned()
    }
}

fn note(failures: &mut Vec<EndpointFailure>, endpoint: &str, kind: FailureKind, cause: String) {
    match failures.iter_mut().find(|failure| failure.endpoint == endpoint) {
        Some(failure) => (failure.kind, failure.cause) = (kind, cause),
        None => failures.push(EndpointFailure {
            endpoint: endpoint.to_owned(),
            kind,
            cause,
        }),
    }
}

/// Draws a pause evenly between zero and `base * 2^round`, at most `max`.
pub(crate) fn full_jitter(base: Duration, max: Duration, round: u32) -> Duration {
    let bound = base.saturating_mul(1 << round.min(16)).min(max);
    bound.mul_f64(rand::random::<f64>())
}
