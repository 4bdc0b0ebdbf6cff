//! Goal: a scan of keys reads no value, and a scan that nobody reads ends and can be resumed.
//! Method: a trace of every call that opens or reads a file while keys are scanned, and the same for values, as proof
//! that the trace would show them; a client that reads one chunk and then waits for longer than a scan may live.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use nezha_api::errors::ApiError;
use nezha_api::v1::{Row, ScanRequest};
use nezha_jepsen::cluster::trace::Tracer;
use tonic::Code;

use crate::harness::client::Conn;
use crate::harness::cluster::Cluster;
use crate::harness::collection::collect;
use crate::harness::{block_on, seed};

fn request(keys_only: bool) -> ScanRequest {
    ScanRequest {
        prefix: "rows/".into(),
        keys_only,
        ..ScanRequest::default()
    }
}

async fn fill(conn: &Conn, seed: u64, rows: usize, value_bytes: usize) {
    for n in 0..rows {
        let key = format!("rows/{n:05}");
        conn.put_surely(&key, seed::value_of(seed, key.as_bytes(), value_bytes))
            .await;
    }
}

fn assert_rows(rows: &[Row], seed: u64, count: usize, value_bytes: usize) {
    assert_eq!(rows.len(), count);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("rows/{n:05}"));
        assert!(
            row.value == seed::value_of(seed, &row.key, value_bytes),
            "{:?} has another value",
            row.key
        );
    }
}

/// Scans with a trace of `pid`, and returns the rows and the calls that opened or read files of log and values.
async fn traced(conn: &Conn, pid: u32, trace: &Path, request: ScanRequest) -> (Vec<Row>, Vec<String>) {
    let tracer = Tracer::attach_to_reads(pid, trace.to_path_buf()).unwrap();
    let (rows, _) = conn.scan(request).await.unwrap();
    (rows, tracer.finish_reads())
}

#[test]
fn a_scan_of_keys_reads_no_value() {
    let seed = seed::seed("a_scan_of_keys_reads_no_value", 41);
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].extra = vec!["--log-segment-bytes".into(), "1MiB".into()];
    cluster.start_all();
    block_on(cluster.wait_serving());
    let trace = cluster.root().join("reads.trace");
    block_on(async {
        let conn = cluster.nodes[0].conn();
        fill(&conn, seed, 400, 9_000).await;
        // Twice: values in the log, and values in sorted segments beside it.
        for collected in [false, true] {
            if collected {
                collect(&cluster, 0).await;
            }
            let pid = cluster.nodes[0].process().pid();
            let (rows, calls) = traced(&conn, pid, &trace, request(true)).await;
            assert_eq!(rows.len(), 400);
            assert!(rows.iter().all(|row| row.value.is_empty()));
            assert_eq!(calls, Vec::<String>::new(), "collected: {collected}");
            let (rows, calls) = traced(&conn, pid, &trace, request(false)).await;
            assert_rows(&rows, seed, 400, 9_000);
            let read = if collected { "/values/" } else { "/log/" };
            assert!(
                calls.iter().any(|call| call.contains(read)),
                "the trace shows reads of {read}: {calls:?}"
            );
        }
    });
    cluster.kill_and_check();
}

#[test]
fn a_scan_that_nobody_reads_expires_and_is_resumed() {
    const ROWS: usize = 64;
    const VALUE_BYTES: usize = 512 << 10;
    let seed = seed::seed("a_scan_that_nobody_reads_expires_and_is_resumed", 42);
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].extra = vec!["--scan-lifetime".into(), "2s".into()];
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let conn = cluster.nodes[0].conn();
        // More than the connection takes from the server without being read.
        fill(&conn, seed, ROWS, VALUE_BYTES).await;
        let mut stream = conn.kv().scan(request(false)).await.unwrap().into_inner();
        let mut rows = stream.message().await.unwrap().unwrap().rows;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let expired = loop {
            match stream.message().await {
                Ok(Some(mut chunk)) => {
                    assert!(!chunk.done, "the scan has outlived its life");
                    rows.append(&mut chunk.rows);
                }
                Ok(None) => panic!("the scan ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(expired.code(), Code::Aborted, "{expired:?}");
        let error = ApiError::from_status(&expired);
        assert_eq!(
            error.reason.map(|reason| reason.to_string()).as_deref(),
            Some("SCAN_EXPIRED")
        );
        let resume_key: Bytes = error.resume_key.expect("an expired scan says where to go on");
        assert_eq!(Some(&resume_key), rows.last().map(|row| &row.key));
        // One that is read in time goes on from there to the end.
        let mut resumed = request(false);
        resumed.resume_key = resume_key;
        let (mut rest, _) = conn.scan(resumed).await.unwrap();
        rows.append(&mut rest);
        assert_rows(&rows, seed, ROWS, VALUE_BYTES);
    });
    cluster.kill_and_check();
}
