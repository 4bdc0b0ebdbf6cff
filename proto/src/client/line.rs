//! A connection as calls use it: point operations through the pipeline where there is one, everything else on its own.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::pipeline::{Piped, Pipeline, VALUE_BYTES_MAX};
use super::rpc;
use crate::v1::pipeline_request::Operation;
use crate::v1::pipeline_response::Answer;
use crate::v1::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, PutRequest, PutResponse, ResponseHeader,
};

/// One connection.
pub(crate) struct Line {
    /// For calls of their own.
    pub(crate) channel: Channel,
    /// Whether point operations may share a stream.
    pipelined: bool,
    pipeline: Mutex<Option<(Pipeline, Instant)>>,
}

/// A request for one key, as a call of its own or on a pipeline.
pub(crate) trait PointRequest: Clone {
    /// What it is answered with.
    type Answer;

    /// Bytes of the value that it carries.
    fn value_len(&self) -> usize;

    /// Its form on a pipeline.
    fn piped(self) -> Operation;

    /// Takes its answer out; `None` if it is one to something else.
    fn unpiped(header: ResponseHeader, answer: Answer) -> Option<Self::Answer>;

    /// Makes a call of its own.
    fn call(
        self,
        channel: Channel,
        within: Duration,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

impl Line {
    pub(crate) fn new(channel: Channel, pipelined: bool) -> Line {
        Line {
            channel,
            pipelined,
            pipeline: Mutex::default(),
        }
    }

    /// Runs one point operation, whose caller waits `within`.
    pub(crate) async fn point<Q: PointRequest>(
        &self,
        request: Q,
        within: Duration,
    ) -> Result<Response<Q::Answer>, Status> {
        if self.pipelined && request.value_len() <= VALUE_BYTES_MAX {
            match self.pipeline().call(request.clone().piped(), within).await {
                Piped::Answered(header, answer) => {
                    let answer = Q::unpiped(header, answer);
                    return answer
                        .map(Response::new)
                        .ok_or_else(|| Status::unknown("the answer is one to another kind of request"));
                }
                // Only a get is answered so: its value is too long for a pipeline.
                Piped::Failed(status) if status.code() == Code::OutOfRange => {}
                Piped::Failed(status) => return Err(status),
                Piped::NotHere => {}
            }
        }
        request.call(self.channel.clone(), within).await
    }

    /// The stream in use; opens one if there is none.
    fn pipeline(&self) -> Pipeline {
        let mut current = self.pipeline.lock().expect("no panic while held");
        match &*current {
            Some((pipeline, opened)) if !pipeline.is_to_be_replaced(*opened) => pipeline.clone(),
            _ => {
                let pipeline = Pipeline::open(self.channel.clone());
                *current = Some((pipeline.clone(), Instant::now()));
                pipeline
            }
        }
    }
}

impl PointRequest for PutRequest {
    type Answer = PutResponse;

    fn value_len(&self) -> usize {
        self.value.len()
    }

    fn piped(self) -> Operation {
        Operation::Put(self)
    }

    fn unpiped(header: ResponseHeader, answer: Answer) -> Option<PutResponse> {
        match answer {
            Answer::Put(answer) => Some(PutResponse {
                header: Some(header),
                ..answer
            }),
            _ => None,
        }
    }

    async fn call(self, channel: Channel, within: Duration) -> Result<Response<PutResponse>, Status> {
        rpc::kv(channel).put(rpc::timed(self, within)).await
    }
}

impl PointRequest for DeleteRequest {
    type Answer = DeleteResponse;

    fn value_len(&self) -> usize {
        0
    }

    fn piped(self) -> Operation {
        Operation::Delete(self)
    }

    fn unpiped(header: ResponseHeader, answer: Answer) -> Option<DeleteResponse> {
        match answer {
            Answer::Delete(answer) => Some(DeleteResponse {
                header: Some(header),
                ..answer
            }),
            _ => None,
        }
    }

    async fn call(self, channel: Channel, within: Duration) -> Result<Response<DeleteResponse>, Status> {
        rpc::kv(channel).delete(rpc::timed(self, within)).await
    }
}

impl PointRequest for GetRequest {
    type Answer = GetResponse;

    fn value_len(&self) -> usize {
        0
    }

    fn piped(self) -> Operation {
        Operation::Get(self)
    }

    fn unpiped(header: ResponseHeader, answer: Answer) -> Option<GetResponse> {
        match answer {
            Answer::Get(answer) => Some(GetResponse {
                header: Some(header),
                ..answer
            }),
            _ => None,
        }
    }

    async fn call(self, channel: Channel, within: Duration) -> Result<Response<GetResponse>, Status> {
        rpc::kv(channel).get(rpc::timed(self, within)).await
    }
}
