//! Goal: on a pipeline each caller gets its own answer, a write is never sent twice, and whatever cannot go that way
//! goes as a call. Method: scripted servers in this process count what reaches them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nezha_api::client::{Client, ClientError, ClientOptions, Condition};
use nezha_api::errors::{self, LeaderHint};
use nezha_api::v1::pipeline_request::Operation;
use nezha_api::v1::pipeline_response::Answer;
use nezha_api::v1::{
    Consistency, Failure, GetResponse, PipelineRequest, PipelineResponse, PutResponse, ResponseHeader,
};
use support::{Script, Server, Step, answer, header, written};
use tonic::Status;

fn client(endpoints: &[&str]) -> Client {
    let options = ClientOptions {
        timeout: Duration::from_secs(30),
        attempt_timeout: Duration::from_secs(10),
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        sync_interval: None,
        ..ClientOptions::default()
    };
    Client::connect(endpoints, options).unwrap()
}

fn response(id: u64, answer: Answer) -> PipelineResponse {
    PipelineResponse {
        id,
        header: header(""),
        revision: 100 + id,
        answer: Some(answer),
    }
}

fn put_done(mod_revision: u64) -> Answer {
    Answer::Put(PutResponse {
        header: None,
        succeeded: true,
        mod_revision,
    })
}

fn got(value: Bytes) -> Answer {
    Answer::Get(GetResponse {
        found: true,
        value,
        ..GetResponse::default()
    })
}

fn failure(status: &Status) -> Answer {
    Answer::Failure(Failure {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: status.details().to_vec().into(),
    })
}

fn piped(piper: impl Fn(u32, PipelineRequest) -> Step + Send + Sync + 'static) -> Script {
    Script {
        pipeline: Some(Arc::new(piper)),
        ..Script::default()
    }
}

/// Answers every put at once.
fn puts(_: u32, request: PipelineRequest) -> Step {
    assert!(
        matches!(request.operation, Some(Operation::Put(_))),
        "{request:?}"
    );
    Step::Answer(vec![response(request.id, put_done(7))])
}

/// The value of each key is the key, and the answers come in the order opposite to that of the requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_share_a_stream_and_get_their_own_answers_in_any_order() {
    const CALLERS: u32 = 40;
    let held = Mutex::new(Vec::new());
    let server = Server::start(piped(move |_, request| {
        let Some(Operation::Get(get)) = request.operation else {
            panic!("not a get: {request:?}");
        };
        let mut held = held.lock().unwrap();
        held.push(response(request.id, got(get.key)));
        match held.len() == CALLERS as usize {
            true => Step::Answer(held.drain(..).rev().collect()),
            false => Step::Answer(Vec::new()),
        }
    }))
    .await;
    let client = client(&[&server.endpoint]);
    let calls = (0..CALLERS).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let key = format!("key {n}");
            let get = client.get(key.clone(), Consistency::Linearizable).await.unwrap();
            assert_eq!(get.found.unwrap().value, key);
            get.header
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut revisions = Vec::new();
    for call in calls {
        let header = call.await.unwrap();
        assert_eq!(header.cluster_id, 7);
        revisions.push(header.revision);
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(
        revisions.len(),
        CALLERS as usize,
        "each answer has its own revision"
    );
    assert_eq!((server.pipelines(), server.gets()), (1, 0));
}

/// A header comes only when it has news; the revision comes always.
#[tokio::test]
async fn an_answer_without_a_header_has_the_last_one() {
    let server = Server::start(piped(|nth, request| {
        let response = response(request.id, put_done(u64::from(nth)));
        let header = response.header.filter(|_| nth == 1);
        Step::Answer(vec![PipelineResponse { header, ..response }])
    }))
    .await;
    let client = client(&[&server.endpoint]);
    let mut headers: Vec<ResponseHeader> = Vec::new();
    for _ in 0..2 {
        headers.push(client.put("k", "v", Condition::None).await.unwrap().header);
    }
    assert_eq!((headers[0].term, headers[1].term), (2, 2));
    assert!(headers.iter().all(|header| header.revision >= 100));
}

#[tokio::test]
async fn large_values_go_as_calls_of_their_own() {
    let script = Script {
        put: answer(|_, _| Ok(written(""))),
        get: answer(|_, _| {
            Ok(GetResponse {
                header: header(""),
                found: true,
                value: vec![1; 2 << 20].into(),
                metadata: None,
            })
        }),
        ..piped(|_, request| {
            let too_long = failure(&Status::out_of_range("longer than a pipeline carries"));
            Step::Answer(vec![match request.operation {
                Some(Operation::Get(_)) => response(request.id, too_long),
                _ => response(request.id, put_done(1)),
            }])
        })
    };
    let server = Server::start(script).await;
    let client = client(&[&server.endpoint]);
    client.put("k", vec![0; 1 << 20], Condition::None).await.unwrap();
    assert_eq!(server.puts(), 0, "1 MiB goes through the pipeline");
    client
        .put("k", vec![0; (1 << 20) + 1], Condition::None)
        .await
        .unwrap();
    assert_eq!(server.puts(), 1);
    let get = client.get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(get.found.unwrap().value.len(), 2 << 20);
    assert_eq!(server.gets(), 1);
}

#[tokio::test]
async fn a_server_without_pipelines_gets_calls() {
    let server = Server::start(Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    })
    .await;
    let client = client(&[&server.endpoint]);
    for _ in 0..3 {
        client.put("k", "v", Condition::None).await.unwrap();
    }
    assert_eq!(server.puts(), 3);
}

#[tokio::test]
async fn a_refused_operation_follows_the_hint_and_the_stream_goes_on() {
    let leader = Server::start(piped(puts)).await;
    let hint = leader.endpoint.clone();
    let follower = Server::start(piped(move |_, request| {
        let endpoint = hint.clone();
        let status = errors::not_leader("n1", 2, Some(LeaderHint { id: 2, endpoint }));
        Step::Answer(vec![response(request.id, failure(&status))])
    }))
    .await;
    let client = client(&[&follower.endpoint]);
    for _ in 0..3 {
        client.put("k", "v", Condition::None).await.unwrap();
    }
    assert_eq!((follower.pipelines(), leader.pipelines()), (1, 1));
}

/// The server says about the stream that nothing was proposed; about what was read from it before, that says nothing.
#[tokio::test]
async fn a_write_on_a_stream_that_ends_has_an_unknown_outcome() {
    for status in [
        errors::invalid_request("message", "too long"),
        errors::stopping("n1"),
        Status::internal("no reason at all"),
    ] {
        let ends = status.clone();
        let server = Server::start(piped(move |_, _| Step::End(ends.clone()))).await;
        let error = client(&[&server.endpoint])
            .put("k", "v", Condition::None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::OutcomeUnknown { .. }),
            "{status}: {error}"
        );
        assert_eq!((server.pipelines(), server.puts()), (1, 0), "never sent twice");
    }
}

#[tokio::test]
async fn a_read_on_a_stream_that_ends_is_repeated_on_a_new_one() {
    let server = Server::start(piped(|nth, request| match nth {
        1 => Step::End(Status::internal("restarted")),
        _ => Step::Answer(vec![response(request.id, got("v".into()))]),
    }))
    .await;
    let get = client(&[&server.endpoint])
        .get("k", Consistency::Linearizable)
        .await
        .unwrap();
    assert_eq!(get.found.unwrap().value, "v");
    assert_eq!(server.pipelines(), 2);
}

/// A caller that gives up leaves its place to nobody before the answer has come: a late answer reaches no other caller.
#[tokio::test]
async fn a_late_answer_reaches_nobody_else() {
    let late = Mutex::new(None);
    let server = Server::start(piped(move |nth, request| {
        let Some(Operation::Get(get)) = request.operation else {
            panic!("not a get: {request:?}");
        };
        let response = response(request.id, got(get.key));
        match nth {
            1 => {
                *late.lock().unwrap() = Some(response);
                Step::Answer(Vec::new())
            }
            _ => Step::Answer(
                late.lock()
                    .unwrap()
                    .take()
                    .into_iter()
                    .chain([response])
                    .collect(),
            ),
        }
    }))
    .await;
    let client = client(&[&server.endpoint]);
    let given_up = client.get("first", Consistency::Linearizable);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), given_up)
            .await
            .is_err()
    );
    for key in ["second", "third"] {
        let get = client.get(key, Consistency::Linearizable).await.unwrap();
        assert_eq!(get.found.unwrap().value, key);
    }
    assert_eq!(server.pipelines(), 1);
}

#[tokio::test]
async fn a_server_that_stops_gets_nothing_new_on_the_stream() {
    let server = Server::start(piped(|nth, request| {
        Step::Answer(vec![match nth {
            1 => response(request.id, failure(&errors::stopping("n1"))),
            _ => response(request.id, put_done(1)),
        }])
    }))
    .await;
    client(&[&server.endpoint])
        .put("k", "v", Condition::None)
        .await
        .unwrap();
    assert_eq!(
        server.pipelines(),
        2,
        "the next attempt has a connection of its own"
    );
}
