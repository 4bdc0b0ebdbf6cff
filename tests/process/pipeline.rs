//! Goal: an operation on a pipeline does what the same call does, on the leader and on a follower, while others are under
//! way; a client that does not read ends its own stream and nobody else's. Method: raw streams to real nodes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use nezha_api::v1::pipeline_request::Operation;
use nezha_api::v1::pipeline_response::Answer;
use nezha_api::v1::pipeline_service_client::PipelineServiceClient;
use nezha_api::v1::precondition::Condition;
use nezha_api::v1::{
    Consistency, DeleteRequest, GetRequest, PipelineRequest, PipelineResponse, Precondition, PutRequest,
};
use nezha_api::{Client, ClientError, ClientOptions, client};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::block_on;
use crate::harness::client::Conn;
use crate::harness::cluster::Cluster;

/// How long a test waits for an answer before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream to one node.
struct Pipe {
    requests: mpsc::Sender<PipelineRequest>,
    answers: Streaming<PipelineResponse>,
    last_id: u64,
}

impl Pipe {
    async fn open(conn: &Conn) -> Pipe {
        let (requests, queue) = mpsc::channel(4096);
        let mut client = PipelineServiceClient::new(conn.channel()).max_decoding_message_size(2 << 20);
        let answers = client.pipeline(ReceiverStream::new(queue)).await.unwrap();
        Pipe {
            requests,
            answers: answers.into_inner(),
            last_id: 0,
        }
    }

    async fn send(&mut self, operation: Operation) -> u64 {
        self.last_id += 1;
        let request = PipelineRequest {
            id: self.last_id,
            timeout_ms: 10_000,
            operation: Some(operation),
        };
        self.requests.send(request).await.unwrap();
        self.last_id
    }

    async fn next(&mut self) -> Result<PipelineResponse, Status> {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        Ok(next.expect("an answer in time")?.expect("the stream goes on"))
    }

    /// Sends one operation and waits for its answer; nothing else is under way.
    async fn ask(&mut self, operation: Operation) -> Answer {
        let id = self.send(operation).await;
        let response = self.next().await.unwrap();
        assert_eq!(response.id, id);
        response.answer.unwrap()
    }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, condition: Option<Condition>) -> Operation {
    Operation::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        precondition: condition.map(|condition| Precondition {
            condition: Some(condition),
        }),
    })
}

fn get(key: impl Into<Bytes>, consistency: Consistency) -> Operation {
    Operation::Get(GetRequest {
        key: key.into(),
        consistency: consistency.into(),
        keys_only: false,
    })
}

fn delete(key: impl Into<Bytes>) -> Operation {
    Operation::Delete(DeleteRequest {
        key: key.into(),
        precondition: None,
    })
}

#[test]
fn operations_of_a_pipeline() {
    let cluster = Cluster::serving_steadily(3);
    block_on(async {
        let leader = cluster.leader().await;
        for (node, conn) in cluster.conns().iter().enumerate() {
            let mut pipe = Pipe::open(conn).await;
            each_kind_does_what_its_call_does(&mut pipe, node).await;
            refusals_concern_one_operation(&mut pipe).await;
            many_at_once_are_each_answered(&mut pipe, node).await;
        }
        let conn = &cluster.conns()[leader];
        too_long_messages_end_only_their_stream(conn).await;
        large_values_are_left_to_calls(conn).await;
        the_first_answer_has_the_header(conn, &cluster.nodes[leader].client).await;
    });
}

async fn each_kind_does_what_its_call_does(pipe: &mut Pipe, node: usize) {
    let key = format!("piped/{node}");
    let Answer::Put(first) = pipe
        .ask(put(key.clone(), "one", Some(Condition::Absent(true))))
        .await
    else {
        panic!("not the answer to a put");
    };
    assert!(first.succeeded && first.mod_revision > 0 && first.header.is_none());
    let Answer::Put(refused) = pipe
        .ask(put(key.clone(), "two", Some(Condition::Absent(true))))
        .await
    else {
        panic!("not the answer to a put");
    };
    assert_eq!(
        (refused.succeeded, refused.mod_revision),
        (false, first.mod_revision)
    );
    for consistency in [Consistency::Linearizable, Consistency::Stale] {
        let Answer::Get(got) = pipe.ask(get(key.clone(), consistency)).await else {
            panic!("not the answer to a get");
        };
        // A follower may not have applied the put yet, and says so by not finding it.
        if consistency == Consistency::Linearizable {
            assert_eq!((got.found, &got.value[..]), (true, &b"one"[..]));
            assert_eq!(got.metadata.unwrap().mod_revision, first.mod_revision);
        }
    }
    let Answer::Delete(deleted) = pipe.ask(delete(key.clone())).await else {
        panic!("not the answer to a delete");
    };
    assert!(deleted.succeeded && deleted.deleted);
    let Answer::Get(gone) = pipe.ask(get(key, Consistency::Linearizable)).await else {
        panic!("not the answer to a get");
    };
    assert!(!gone.found);
}

async fn refusals_concern_one_operation(pipe: &mut Pipe) {
    for (operation, code) in [
        (put("", "v", None), Code::InvalidArgument),
        (put(vec![0; 9 << 10], "v", None), Code::InvalidArgument),
        (get("", Consistency::Linearizable), Code::InvalidArgument),
        (
            put("k", "v", Some(Condition::ModRevision(0))),
            Code::InvalidArgument,
        ),
    ] {
        let Answer::Failure(failure) = pipe.ask(operation.clone()).await else {
            panic!("{operation:?} was not refused");
        };
        assert_eq!(Code::from_i32(failure.code), code, "{operation:?}");
        assert!(!failure.message.is_empty() && !failure.details.is_empty());
    }
    let id = pipe.last_id + 1;
    pipe.last_id = id;
    let request = PipelineRequest {
        id,
        timeout_ms: 0,
        operation: None,
    };
    pipe.requests.send(request).await.unwrap();
    let response = pipe.next().await.unwrap();
    assert!(
        matches!(response.answer, Some(Answer::Failure(_))),
        "{response:?}"
    );
}

/// More than a stream takes at once, and each is answered once, with its own answer.
async fn many_at_once_are_each_answered(pipe: &mut Pipe, node: usize) {
    const KEYS: u64 = 3000;
    let first = pipe.last_id + 1;
    let requests = pipe.requests.clone();
    let sending = tokio::spawn(async move {
        for n in 0..KEYS {
            let request = PipelineRequest {
                id: first + n,
                timeout_ms: 0,
                operation: Some(put(format!("many/{node}/{n}"), n.to_string(), None)),
            };
            requests.send(request).await.unwrap();
        }
    });
    let mut revisions = BTreeMap::new();
    for _ in 0..KEYS {
        let response = pipe.next().await.unwrap();
        let Some(Answer::Put(done)) = response.answer else {
            panic!("not the answer to a put: {response:?}");
        };
        assert!(done.succeeded && done.mod_revision == response.revision);
        let twice = revisions.insert(response.id, done.mod_revision);
        assert!(twice.is_none(), "request {} was answered twice", response.id);
    }
    sending.await.unwrap();
    pipe.last_id = first + KEYS;
    assert_eq!(
        revisions.keys().copied().collect::<Vec<_>>(),
        (first..first + KEYS).collect::<Vec<_>>()
    );
    for n in (0..KEYS).step_by(500) {
        let Answer::Get(got) = pipe
            .ask(get(format!("many/{node}/{n}"), Consistency::Linearizable))
            .await
        else {
            panic!("not the answer to a get");
        };
        assert_eq!(got.value, n.to_string());
        assert_eq!(got.metadata.unwrap().mod_revision, revisions[&(first + n)]);
    }
}

async fn too_long_messages_end_only_their_stream(conn: &Conn) {
    let (mut one, mut other) = (Pipe::open(conn).await, Pipe::open(conn).await);
    one.send(put("k", vec![0; 2 << 20], None)).await;
    let status = one.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("KvService"), "{status}");
    assert!(matches!(other.ask(put("k", "v", None)).await, Answer::Put(_)));
}

async fn large_values_are_left_to_calls(conn: &Conn) {
    conn.put("large", vec![7; (1 << 20) + 1]).await.unwrap();
    let mut pipe = Pipe::open(conn).await;
    let Answer::Failure(failure) = pipe.ask(get("large", Consistency::Linearizable)).await else {
        panic!("a value of more than 1 MiB came through");
    };
    assert_eq!(Code::from_i32(failure.code), Code::OutOfRange);
    let longest = vec![9; 1 << 20];
    assert!(matches!(
        pipe.ask(put("longest", longest.clone(), None)).await,
        Answer::Put(_)
    ));
    let Answer::Get(got) = pipe.ask(get("longest", Consistency::Linearizable)).await else {
        panic!("a value of 1 MiB did not come through");
    };
    assert_eq!(got.value, longest);
}

async fn the_first_answer_has_the_header(conn: &Conn, endpoint: &str) {
    let mut pipe = Pipe::open(conn).await;
    for first in [true, false] {
        pipe.send(put("k", "v", None)).await;
        let response = pipe.next().await.unwrap();
        assert_eq!(response.header.is_some(), first, "{response:?}");
        assert!(response.revision > 0);
        if let Some(header) = response.header {
            assert_eq!(header.leader_endpoint, endpoint);
            assert_eq!(header.revision, response.revision);
        }
    }
}

/// The Rust client over pipelines, while its leader is killed: nothing acknowledged is lost.
#[test]
fn a_pipelined_client_follows_the_leader() {
    let mut cluster = Cluster::serving_steadily(3);
    let endpoints: Vec<String> = cluster.nodes.iter().map(|node| node.client.clone()).collect();
    block_on(async {
        let client = Client::connect(&endpoints, ClientOptions::default()).unwrap();
        let mut acknowledged = write(&client, 0..50).await;
        assert_eq!(acknowledged.len(), 50, "nothing is in the way yet");
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        acknowledged.extend(write(&client, 50..100).await);
        // One at a time: at most the one that was under way is unknown.
        assert!(acknowledged.len() >= 99, "{} of 100", acknowledged.len());
        for key in acknowledged {
            let got = client.get(key.clone(), Consistency::Linearizable).await.unwrap();
            assert_eq!(got.found.map(|found| found.value), Some(Bytes::from(key)));
        }
    });
}

/// Writes one key after the other; the value of each is the key. Returns those that were acknowledged.
async fn write(client: &Client, keys: Range<u32>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for key in keys.map(|n| format!("follow/{n}")) {
        match client
            .put(key.clone(), key.clone(), client::Condition::None)
            .await
        {
            Ok(_) => acknowledged.push(key),
            Err(ClientError::OutcomeUnknown { .. }) => {}
            Err(other) => panic!("{key}: {other}"),
        }
    }
    acknowledged
}
