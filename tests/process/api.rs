//! Goal: every call of the client API does what its .proto file says, from each of three nodes.
//! Method: the calls are sent round to leader and followers of a real cluster; answers are compared exactly.

use bytes::Bytes;
use nezha_api::v1::precondition::Condition;
use nezha_api::v1::{Consistency, GetResponse, Row, ScanRequest};
use tonic::Code;

use crate::harness::block_on;
use crate::harness::client::{Conn, assert_refused};
use crate::harness::cluster::Cluster;

#[test]
fn point_operations_conditions_and_headers() {
    let cluster = Cluster::serving_steadily(3);
    block_on(async {
        followers_forward(&cluster).await;
        versions_follow_each_key(&cluster.conns()).await;
        conditions_decide(&cluster.conns()).await;
        stale_reads_are_answered_locally(&cluster).await;
    });
}

/// Every node takes writes and linearizable reads, and names the leader in its answer.
async fn followers_forward(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let leader_id = cluster.status(leader).await.header.unwrap().node_id;
    let conns = cluster.conns();
    for (i, conn) in conns.iter().enumerate() {
        let key = format!("forward/{i}");
        let put = conn.put(&key, format!("from node {i}")).await.unwrap();
        let header = put.header.unwrap();
        assert!(put.succeeded);
        assert_eq!(
            header.node_id, leader_id,
            "the leader answered, node {i} forwarded"
        );
        assert_eq!(header.leader_id, leader_id);
        assert_eq!(header.leader_endpoint, cluster.nodes[leader].client);
        assert!(header.revision > 0 && header.term > 0 && header.cluster_id != 0);
        // Linearizable: every node sees it at once.
        for reader in &conns {
            let got = reader.get(&key).await.unwrap();
            assert!(got.found);
            assert_eq!(got.value, format!("from node {i}"));
            assert_eq!(got.metadata.unwrap().mod_revision, header.revision);
        }
    }
}

fn versions(got: &GetResponse) -> (u64, u64, u64) {
    let metadata = got.metadata.unwrap_or_default();
    (metadata.create_revision, metadata.mod_revision, metadata.version)
}

/// create_revision, mod_revision and version mean what they mean in etcd; a delete starts them anew.
async fn versions_follow_each_key(conns: &[Conn]) {
    let revision = |header: Option<nezha_api::v1::ResponseHeader>| header.unwrap().revision;
    let first = revision(conns[0].put("v", "1").await.unwrap().header);
    let second = revision(conns[1].put("v", "2").await.unwrap().header);
    assert!(second > first);
    assert_eq!(versions(&conns[2].get("v").await.unwrap()), (first, second, 2));
    let deleted = conns[2].delete("v").await.unwrap();
    assert_eq!(
        (deleted.succeeded, deleted.deleted, deleted.mod_revision),
        (true, true, 0)
    );
    assert!(!conns[0].get("v").await.unwrap().found);
    let again = conns[1].delete("v").await.unwrap();
    assert_eq!((again.succeeded, again.deleted), (true, false));
    let third = revision(conns[0].put("v", "").await.unwrap().header);
    let got = conns[1].get("v").await.unwrap();
    assert!(got.found && got.value.is_empty(), "an empty value is a value");
    assert_eq!(versions(&got), (third, third, 1));
}

/// A condition that does not hold is an answer, not an error, and changes nothing.
async fn conditions_decide(conns: &[Conn]) {
    let put = |i: usize, value: &'static str, condition| {
        let conn = conns[i].clone();
        async move { conn.put_if("c", value, Some(condition)).await.unwrap() }
    };
    let created = put(0, "1", Condition::Absent(true)).await;
    assert!(created.succeeded);
    let refused = put(1, "2", Condition::Absent(true)).await;
    assert_eq!(
        (refused.succeeded, refused.mod_revision),
        (false, created.mod_revision)
    );
    let updated = put(2, "3", Condition::ModRevision(created.mod_revision)).await;
    assert!(updated.succeeded && updated.mod_revision > created.mod_revision);
    let lost = put(0, "4", Condition::ModRevision(created.mod_revision)).await;
    assert_eq!((lost.succeeded, lost.mod_revision), (false, updated.mod_revision));
    assert_eq!(conns[1].get("c").await.unwrap().value, "3");
    let kept = conns[2]
        .delete_if("c", Some(Condition::ModRevision(created.mod_revision)))
        .await
        .unwrap();
    assert_eq!(
        (kept.succeeded, kept.deleted, kept.mod_revision),
        (false, false, updated.mod_revision)
    );
    let gone = conns[0]
        .delete_if("c", Some(Condition::ModRevision(updated.mod_revision)))
        .await
        .unwrap();
    assert_eq!((gone.succeeded, gone.deleted), (true, true));
    // Of many writers with the same condition exactly one wins.
    let mut races = tokio::task::JoinSet::new();
    for i in 0..24 {
        let conn = conns[i % conns.len()].clone();
        races.spawn(async move {
            conn.put_if("race", format!("{i}"), Some(Condition::Absent(true)))
                .await
                .unwrap()
                .succeeded
        });
    }
    let winners = races.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
}

/// A stale read is answered by the node that was asked.
async fn stale_reads_are_answered_locally(cluster: &Cluster) {
    cluster.nodes[0].conn().put("stale", "x").await.unwrap();
    cluster.wait_caught_up().await;
    for i in cluster.started() {
        let id = cluster.status(i).await.header.unwrap().node_id;
        let got = cluster.nodes[i].conn().get_stale("stale").await.unwrap();
        assert_eq!(
            (got.value.as_ref(), got.header.unwrap().node_id),
            (b"x".as_slice(), id)
        );
    }
}

/// Rows of the scanned data set: key, value.
fn rows_of_the_set() -> Vec<(String, Vec<u8>)> {
    let len = |i: usize| if i.is_multiple_of(10) { 200_000 } else { 100 + i };
    (0..120)
        .map(|i| (format!("scan/{i:04}"), vec![i as u8; len(i)]))
        .collect()
}

fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| String::from_utf8_lossy(&row.key).into_owned())
        .collect()
}

#[test]
fn scans_in_both_directions_with_limits_and_resume() {
    let cluster = Cluster::serving_steadily(3);
    block_on(async {
        let set = rows_of_the_set();
        let conns = cluster.conns();
        for (i, (key, value)) in set.iter().enumerate() {
            conns[i % 3].put(key, value.clone()).await.unwrap();
        }
        conns[0].put("scan0", "behind the prefix").await.unwrap();
        conns[0].put("scan.", "before the prefix").await.unwrap();
        let prefix = || ScanRequest {
            prefix: "scan/".into(),
            ..ScanRequest::default()
        };
        for conn in &conns {
            whole_scans(conn, &set, prefix()).await;
            pages(
                conn,
                &set,
                ScanRequest {
                    limit_rows: 7,
                    ..prefix()
                },
            )
            .await;
            pages(
                conn,
                &set,
                ScanRequest {
                    limit_bytes: 300_000,
                    ..prefix()
                },
            )
            .await;
            pages(
                conn,
                &set,
                ScanRequest {
                    limit_rows: 50,
                    reverse: true,
                    ..prefix()
                },
            )
            .await;
            ranges(conn).await;
        }
        cluster.wait_caught_up().await;
        for conn in &conns {
            whole_scans(
                conn,
                &set,
                ScanRequest {
                    consistency: Consistency::Stale as i32,
                    ..prefix()
                },
            )
            .await;
        }
    });
}

async fn whole_scans(conn: &Conn, set: &[(String, Vec<u8>)], request: ScanRequest) {
    let (rows, last) = conn.scan(request.clone()).await.unwrap();
    assert_eq!(rows.len(), set.len());
    for (row, (key, value)) in rows.iter().zip(set) {
        assert_eq!(
            (row.key.as_ref(), row.value.as_ref()),
            (key.as_bytes(), value.as_slice())
        );
        assert_eq!(row.metadata.unwrap().version, 1);
    }
    assert!(!last.more);
    assert!(last.header.unwrap().revision > 0);
    let (reversed, _) = conn
        .scan(ScanRequest {
            reverse: true,
            ..request.clone()
        })
        .await
        .unwrap();
    assert!(
        reversed.iter().rev().eq(rows.iter()),
        "reverse is the same rows in the other order"
    );
    let (bare, _) = conn
        .scan(ScanRequest {
            keys_only: true,
            ..request
        })
        .await
        .unwrap();
    assert_eq!(keys(&bare), keys(&rows));
    assert!(
        bare.iter()
            .all(|row| row.value.is_empty() && row.metadata.is_some())
    );
}

/// Resuming from each answer's key gives every row once, in order.
async fn pages(conn: &Conn, set: &[(String, Vec<u8>)], request: ScanRequest) {
    let mut seen = Vec::new();
    let mut resume_key = Bytes::new();
    for page in 0.. {
        assert!(page <= set.len(), "paging ends");
        let request = ScanRequest {
            resume_key: resume_key.clone(),
            ..request.clone()
        };
        let (rows, last) = conn.scan(request.clone()).await.unwrap();
        if request.limit_rows > 0 {
            assert!(rows.len() as u64 <= request.limit_rows);
        }
        if request.limit_bytes > 0 && !rows.is_empty() {
            let bytes = |rows: &[Row]| {
                rows.iter()
                    .map(|r| (r.key.len() + r.value.len()) as u64)
                    .sum::<u64>()
            };
            assert!(
                bytes(&rows[..rows.len() - 1]) < request.limit_bytes,
                "only the last row may pass the limit"
            );
        }
        seen.extend(keys(&rows));
        if !last.more {
            break;
        }
        assert_eq!(last.resume_key, rows.last().unwrap().key);
        resume_key = last.resume_key;
    }
    let mut all: Vec<String> = set.iter().map(|(key, _)| key.clone()).collect();
    if request.reverse {
        all.reverse();
    }
    assert_eq!(seen, all);
}

async fn ranges(conn: &Conn) {
    let range = |start: &str, end: &str| ScanRequest {
        start: start.to_string().into(),
        end: end.to_string().into(),
        keys_only: true,
        ..ScanRequest::default()
    };
    let (rows, _) = conn.scan(range("scan/0003", "scan/0006")).await.unwrap();
    assert_eq!(
        keys(&rows),
        ["scan/0003", "scan/0004", "scan/0005"],
        "the end is not included"
    );
    let (rows, _) = conn.scan(range("scan/0118", "")).await.unwrap();
    assert_eq!(
        keys(&rows)[..2],
        ["scan/0118", "scan/0119"],
        "an empty end is the end of the key space"
    );
    let narrowed = ScanRequest {
        prefix: "scan/".into(),
        ..range("scan/0118", "")
    };
    let (rows, _) = conn.scan(narrowed).await.unwrap();
    assert_eq!(
        keys(&rows),
        ["scan/0118", "scan/0119"],
        "a prefix and a start narrow each other"
    );
    let (rows, last) = conn.scan(range("scan/0003x", "scan/0003y")).await.unwrap();
    assert!(rows.is_empty() && !last.more);
    assert_refused(
        conn.scan(range("b", "a")).await,
        Code::InvalidArgument,
        "INVALID_RANGE",
    );
}
