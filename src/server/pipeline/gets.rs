//! Gets of a pipeline: those that wait together share a read index.

use std::sync::Arc;

use nezha_api::errors::LeaderHint;
use nezha_api::v1::{GetRequest, pipeline_response};
use tokio::sync::mpsc;
use tonic::Status;

use super::answers::{Answer, Answers};
use super::{Slot, VALUE_BYTES_MAX};
use crate::server::call::Call;
use crate::server::context::Context;
use crate::server::read::Counted;

/// Gets that are answered on one read index at most: what follows them waits until they are read.
const ROUND_MAX: usize = 256;

/// A get that was checked.
pub struct Get {
    pub id: u64,
    pub request: GetRequest,
    /// Needs no read index.
    pub stale: bool,
    pub call: Call,
    pub slot: Slot,
}

/// Answers what comes in `queue`, in rounds, until its sender is gone.
pub async fn serve(context: Arc<Context>, answers: Answers, mut queue: mpsc::UnboundedReceiver<Get>) {
    let mut round = Vec::new();
    while queue.recv_many(&mut round, ROUND_MAX).await > 0 {
        let (stale, fresh): (Vec<Get>, Vec<Get>) = round.drain(..).partition(|get| get.stale);
        for (gets, stale) in [(stale, true), (fresh, false)] {
            let Some(until) = gets.iter().map(|get| get.call.deadline).max() else {
                continue;
            };
            match context.read_point(stale, until).await {
                // In a task of their own: the next round's read index is on its way meanwhile.
                Ok(revision) => drop(tokio::spawn(read(
                    context.clone(),
                    answers.clone(),
                    gets,
                    revision,
                ))),
                Err(status) => {
                    for get in gets {
                        answers.send(Answer::failed(get.id, status.clone(), get.slot));
                    }
                }
            }
        }
    }
}

/// Reads what is in memory here, and gives what is not a task of its own.
async fn read(context: Arc<Context>, answers: Answers, gets: Vec<Get>, revision: u64) {
    let view = context.store.view();
    for get in gets {
        match context.read_now(&view, &get.request, revision) {
            Ok(Some(counted)) => answers.send(get_answer(get.id, get.slot, Ok(counted))),
            Err(status) => answers.send(Answer::failed(get.id, status, get.slot)),
            Ok(None) => {
                let (context, answers) = (context.clone(), answers.clone());
                tokio::spawn(async move {
                    let counted = context.read(get.request, revision, 0, &get.call).await;
                    answers.send(get_answer(get.id, get.slot, counted));
                });
            }
        }
    }
}

impl Get {
    /// Has the leader answer.
    pub async fn forward(self, context: Arc<Context>, answers: Answers, leader: LeaderHint) {
        let counted = context.forward_get(leader, &self.call, self.request).await;
        answers.send(get_answer(self.id, self.slot, counted));
    }
}

fn get_answer(id: u64, slot: Slot, counted: Result<Counted, Status>) -> Answer {
    let counted = counted.and_then(|counted| match counted.answer.value.len() as u64 {
        len if len > VALUE_BYTES_MAX => Err(value_too_long(len)),
        _ => Ok(counted),
    });
    match counted {
        Ok(mut counted) => {
            counted.answer.header = None;
            let answer = pipeline_response::Answer::Get(counted.answer);
            Answer::done(id, counted.revision, answer, slot).holding(counted.permit)
        }
        Err(status) => Answer::failed(id, status, slot),
    }
}

/// A value that would hold up those behind it.
fn value_too_long(len: u64) -> Status {
    Status::out_of_range(format!(
        "the value has {len} bytes; a pipeline carries values up to {VALUE_BYTES_MAX}: use KvService.Get"
    ))
}
