//! Goal: input that is out of bounds is refused with a precise error; bytes that are no request at all cost little and
//! disturb nobody.
//! Method: calls at and just beyond each limit, on leader and followers; garbage on both ports of every node while
//! another client is served and resident memory is watched.

use bytes::Bytes;
use nezha_api::v1::precondition::Condition;
use nezha_api::v1::{GetRequest, PutResponse, ResponseHeader, ScanRequest};
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::client::{Conn, assert_refused};
use crate::harness::cluster::Cluster;
use crate::harness::{block_on, seed};

const KEY_BYTES_MAX: usize = 8 << 10;
const VALUE_BYTES_MAX: usize = 16 << 20;
const GARBAGE_GROWTH_MAX: u64 = 16 << 20;

#[test]
fn limits_are_exact_and_their_errors_precise() {
    let cluster = Cluster::serving_steadily(3);
    block_on(async {
        for conn in cluster.conns() {
            keys_and_values(&conn).await;
            conditions_and_ranges(&conn).await;
            members(&conn).await;
            malformed(&conn).await;
        }
        // The others were not disturbed: every node still serves.
        for conn in cluster.conns() {
            conn.put_surely("after", "all").await;
        }
    });
}

async fn keys_and_values(conn: &Conn) {
    let invalid = Code::InvalidArgument;
    assert_refused(conn.put("", "x").await, invalid, "KEY_EMPTY");
    assert_refused(conn.get("").await, invalid, "KEY_EMPTY");
    assert_refused(conn.delete("").await, invalid, "KEY_EMPTY");
    let longest = vec![b'k'; KEY_BYTES_MAX];
    conn.put_surely(&longest, "x").await;
    assert_eq!(conn.get(&longest).await.unwrap().value, "x");
    conn.delete(&longest).await.unwrap();
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    for answer in [
        conn.put(&longer, "x").await.err(),
        conn.get(&longer).await.err(),
        conn.delete(&longer).await.err(),
    ] {
        let error = assert_refused::<()>(Err(answer.expect("refused")), invalid, "KEY_TOO_LARGE");
        assert_eq!(error.limit, Some(KEY_BYTES_MAX as u64));
        assert_eq!(error.violations[0].0, "key");
    }
    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    conn.put_surely("largest", largest.clone()).await;
    assert!(conn.get("largest").await.unwrap().value == largest);
    let error = assert_refused(
        conn.put("larger", vec![7; VALUE_BYTES_MAX + 1]).await,
        invalid,
        "VALUE_TOO_LARGE",
    );
    assert_eq!(error.limit, Some(VALUE_BYTES_MAX as u64));
    assert!(!conn.get("larger").await.unwrap().found);
}

async fn conditions_and_ranges(conn: &Conn) {
    let invalid = Code::InvalidArgument;
    let put = conn.put_if("p", "x", Some(Condition::Absent(false))).await;
    assert_refused(put, invalid, "INVALID_REQUEST");
    let put = conn.put_if("p", "x", Some(Condition::ModRevision(0))).await;
    assert_refused(put, invalid, "INVALID_REQUEST");
    assert!(!conn.get("p").await.unwrap().found);
    let scan = |start: &str, end: &str, resume: &str| ScanRequest {
        start: start.to_string().into(),
        end: end.to_string().into(),
        resume_key: resume.to_string().into(),
        ..ScanRequest::default()
    };
    assert_refused(conn.scan(scan("b", "a", "")).await, invalid, "INVALID_RANGE");
    assert_refused(conn.scan(scan("b", "d", "x")).await, invalid, "INVALID_RANGE");
}

async fn members(conn: &Conn) {
    assert_refused(conn.promote("n99").await, Code::NotFound, "UNKNOWN_MEMBER");
    assert_refused(conn.remove_member("n99").await, Code::NotFound, "UNKNOWN_MEMBER");
    assert_refused(
        conn.transfer_leader("n99").await,
        Code::NotFound,
        "UNKNOWN_MEMBER",
    );
    let added = conn.add_member("n1", "127.0.0.1:1", "127.0.0.1:2").await;
    assert_refused(added, Code::AlreadyExists, "MEMBER_EXISTS");
    let added = conn.add_member("n9", "not an address", "127.0.0.1:2").await;
    assert_refused(added, Code::InvalidArgument, "INVALID_REQUEST");
}

/// A well-framed request whose bytes are not the message that the method wants.
async fn malformed(conn: &Conn) {
    let mut grpc = tonic::client::Grpc::new(conn.channel());
    grpc.ready().await.unwrap();
    // Field 1 of PutRequest is bytes; here it is a number.
    let wrong = ResponseHeader {
        cluster_id: 5,
        ..ResponseHeader::default()
    };
    let codec = tonic_prost::ProstCodec::<ResponseHeader, PutResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/nezha.v1.KvService/Put");
    let answer = grpc.unary(tonic::Request::new(wrong), path, codec).await;
    let error = assert_refused(answer, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(error.violations[0].0, "message");
    assert_eq!(error.proposed, Some(false));
    let codec = tonic_prost::ProstCodec::<GetRequest, PutResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/nezha.v1.KvService/NoSuchMethod");
    grpc.ready().await.unwrap();
    let answer = grpc
        .unary(tonic::Request::new(GetRequest::default()), path, codec)
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

/// What a connection sends before it waits to be closed.
fn garbage(kind: usize, rng: &mut rand::rngs::StdRng) -> Vec<u8> {
    let mut noise = vec![0u8; 64 << 10];
    rng.fill(&mut noise[..]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    match kind % 5 {
        0 => noise,
        1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // HTTP/2 and then noise.
        2 => [preface, noise].concat(),
        // A frame that claims the largest length, and then little.
        3 => [
            preface,
            vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
            noise[..100].to_vec(),
        ]
        .concat(),
        // TLS to a plaintext port.
        _ => [
            vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc],
            noise[..503].to_vec(),
        ]
        .concat(),
    }
}

/// Sends garbage and reads until the other side closes. Whether sending fails half-way does not matter.
async fn send_garbage(address: String, bytes: Vec<u8>) {
    let Ok(mut stream) = TcpStream::connect(&address).await else {
        panic!("{address} accepts connections")
    };
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut sink = vec![0; 4096];
    let closed = async { while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), closed)
        .await
        .unwrap_or_else(|_| panic!("{address} closes a connection that sends garbage"));
}

#[test]
fn garbage_on_either_port_costs_little_and_disturbs_nobody() {
    let seed = seed::seed("garbage_on_either_port_costs_little_and_disturbs_nobody", 11);
    let mut rng = seed::rng(seed, 0);
    let mut cluster = Cluster::serving_steadily(3);
    block_on(async {
        let conns = cluster.conns();
        // Warm up, so that what serving costs anyway is not counted as growth.
        for n in 0..600 {
            conns[n % 3]
                .put_surely(format!("warm/{}", n % 100), vec![1; 1000])
                .await;
        }
        let before: Vec<u64> = (0..3)
            .map(|i| cluster.nodes[i].process().resident_bytes())
            .collect();
        for round in 0..5 {
            let mut senders = tokio::task::JoinSet::new();
            for kind in 0..10 {
                for node in &cluster.nodes {
                    senders.spawn(send_garbage(node.client.clone(), garbage(kind, &mut rng)));
                    senders.spawn(send_garbage(node.peer.clone(), garbage(kind, &mut rng)));
                }
            }
            // Another client is served at the same time.
            for conn in &conns {
                conn.put_surely(format!("garbage/{round}"), "served").await;
                assert_eq!(
                    conn.get(format!("garbage/{round}")).await.unwrap().value,
                    "served"
                );
            }
            senders.join_all().await;
        }
        for (i, before) in before.into_iter().enumerate() {
            let after = cluster.nodes[i].process().resident_bytes();
            let growth = after.saturating_sub(before);
            println!(
                "n{}: {} KiB resident, {} KiB after 100 garbage connections",
                i + 1,
                before >> 10,
                after >> 10
            );
            assert!(growth < GARBAGE_GROWTH_MAX, "n{} grew by {growth} bytes", i + 1);
            assert!(
                !cluster.nodes[i].process().log().contains("panicked"),
                "no input panics a node"
            );
        }
    });
}
