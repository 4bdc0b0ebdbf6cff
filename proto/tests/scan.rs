//! Goal: a scan delivers each row once, and rows of one state only.
//! Method: a scripted server that breaks its streams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use nezha_api::client::{Client, ClientError, ClientOptions};
use nezha_api::errors::{self, Reason};
use nezha_api::v1::{ResponseHeader, Row, ScanRequest, ScanResponse};
use support::{Chunks, Script, Server, answer, header};
use tonic::Status;

fn client(server: &Server) -> Client {
    let options = ClientOptions {
        backoff_base: Duration::from_millis(1),
        sync_interval: None,
        ..ClientOptions::default()
    };
    Client::connect([&server.endpoint], options).unwrap()
}

fn chunk(revision: u64, keys: &[&'static str], done: bool) -> Result<ScanResponse, Status> {
    let rows: Vec<Row> = keys
        .iter()
        .map(|key| Row {
            key: (*key).into(),
            value: "v".into(),
            metadata: None,
        })
        .collect();
    let resume_key = rows.last().map(|row| row.key.clone()).unwrap_or_default();
    let header = header("").map(|header| ResponseHeader { revision, ..header });
    Ok(ScanResponse {
        header,
        rows,
        done,
        more: false,
        resume_key,
    })
}

/// A stream that ends the way a broken connection looks to the client: without its last chunk.
fn chunks(items: Vec<Result<ScanResponse, Status>>) -> Chunks {
    Box::pin(tokio_stream::iter(items))
}

async fn collect(client: &Client, request: ScanRequest) -> (Vec<Bytes>, Option<ClientError>) {
    let mut scan = client.scan(request);
    let mut keys = Vec::new();
    loop {
        match scan.next().await {
            Ok(Some(row)) => keys.push(row.key),
            Ok(None) => return (keys, None),
            Err(error) => {
                assert!(scan.next().await.unwrap().is_none(), "an error ends the scan");
                return (keys, Some(error));
            }
        }
    }
}

#[tokio::test]
async fn delivers_all_chunks() {
    let scan = answer(|_, _| Ok(chunks(vec![chunk(5, &["a", "b"], false), chunk(5, &["c"], true)])));
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (keys, error) = collect(&client(&server), ScanRequest::default()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(server.scans(), 1);
}

#[tokio::test]
async fn a_break_before_the_first_row_is_not_noticed() {
    let scan = answer(|nth, _| match nth {
        1 => Ok(chunks(vec![])),
        2 => Ok(chunks(vec![chunk(5, &[], false)])),
        // Another revision: nothing was delivered of the old one.
        _ => Ok(chunks(vec![chunk(6, &["a"], true)])),
    });
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (keys, error) = collect(&client(&server), ScanRequest::default()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(keys, ["a"]);
}

#[tokio::test]
async fn continues_on_the_same_revision_without_repeating_rows() {
    let scan = answer(|nth, request: ScanRequest| {
        if nth == 1 {
            return Ok(chunks(vec![chunk(5, &["a", "b"], false)]));
        }
        assert_eq!(request.resume_key, "b");
        assert_eq!(request.limit_rows, 8);
        Ok(chunks(vec![chunk(5, &["c"], true)]))
    });
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let request = ScanRequest {
        limit_rows: 10,
        ..ScanRequest::default()
    };
    let (keys, error) = collect(&client(&server), request).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(server.scans(), 2);
}

#[tokio::test]
async fn does_not_mix_two_revisions() {
    let scan = answer(|nth, _| match nth {
        1 => Ok(chunks(vec![chunk(5, &["a", "b"], false)])),
        _ => Ok(chunks(vec![chunk(6, &["c"], true)])),
    });
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (keys, error) = collect(&client(&server), ScanRequest::default()).await;
    assert_eq!(keys, ["a", "b"]);
    let Some(ClientError::ScanInterrupted { at, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((at.rows, at.revision, at.resume_key), (2, 5, "b".into()));
}

#[tokio::test]
async fn an_expired_view_names_the_resume_key() {
    let scan = answer(|_, _| {
        let expired = errors::scan_expired("n1", &"a".into());
        Ok(chunks(vec![chunk(5, &["a"], false), Err(expired)]))
    });
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (keys, error) = collect(&client(&server), ScanRequest::default()).await;
    assert_eq!(keys, ["a"]);
    let Some(ClientError::ScanInterrupted { at, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(at.resume_key, "a");
    assert_eq!(server.scans(), 1);
}

#[tokio::test]
async fn damage_ends_the_scan_at_once() {
    let scan = answer(|_, _| {
        Ok(chunks(vec![Err(errors::data_damaged(
            "n1",
            "vlog/1",
            9,
            "CRC differs",
        ))]))
    });
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (_, error) = collect(&client(&server), ScanRequest::default()).await;
    assert_eq!(error.unwrap().reason(), Some(Reason::DataDamaged));
    assert_eq!(server.scans(), 1);
}

#[tokio::test]
async fn gives_up_when_every_stream_breaks() {
    let scan = answer(|_, _| Ok(chunks(vec![])));
    let server = Server::start(Script {
        scan,
        ..Script::default()
    })
    .await;
    let (keys, error) = collect(&client(&server), ScanRequest::default()).await;
    assert!(keys.is_empty());
    assert!(
        matches!(error, Some(ClientError::Unavailable { .. })),
        "{error:?}"
    );
}
