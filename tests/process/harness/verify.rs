//! Compares what nodes hold with what clients were told.

use std::collections::BTreeMap;

use bytes::Bytes;
use nezha_api::v1::{Consistency, Row, ScanRequest, ScanResponse};
use tonic::Status;

use super::client::{Conn, Outcome};
use super::cluster::Cluster;
use super::ledger::{Ledger, Written};

/// Rows of one scan call; a node's whole state is read in pages of this size.
const PAGE_ROWS: u64 = 2_000;

/// Waits until all started nodes have caught up, then compares every key of the ledger on each of them.
///
/// Acknowledged: present with exactly the written bytes and the acknowledged revision. Unknown: absent, or exactly the
/// written bytes. Failed: absent. A key that nobody wrote: never.
pub async fn assert_holds_on_every_node(cluster: &Cluster, ledger: &Ledger) {
    cluster.wait_caught_up().await;
    let expected = ledger.entries();
    for i in cluster.started() {
        let faults = faults_of(&cluster.nodes[i].conn(), ledger, &expected).await;
        assert!(
            faults.is_empty(),
            "{} of {} keys are wrong on {}, seed {}; the first ones: {:#?}",
            faults.len(),
            expected.len(),
            cluster.nodes[i].name,
            ledger.seed,
            &faults[..faults.len().min(10)]
        );
    }
}

/// Waits until all started nodes have caught up, and asserts that their whole states are equal: keys, bytes of values,
/// revisions and versions. Returns the state.
pub async fn assert_same_on_every_node(cluster: &Cluster) -> Vec<Row> {
    cluster.wait_caught_up().await;
    let started = cluster.started();
    let first = state_of(&cluster.nodes[started[0]].conn()).await;
    for i in &started[1..] {
        let rows = state_of(&cluster.nodes[*i].conn()).await;
        let (name, other) = (&cluster.nodes[*i].name, &cluster.nodes[started[0]].name);
        for (row, expected) in rows.iter().zip(&first) {
            let summary = |row: &Row| format!("{:?}, {:?}, {} bytes", row.key, row.metadata, row.value.len());
            assert!(
                row == expected,
                "{name} holds {}, {other} holds {}",
                summary(row),
                summary(expected)
            );
        }
        assert_eq!(rows.len(), first.len(), "rows on {name} and on {other}");
    }
    first
}

/// Everything that one node has applied.
async fn state_of(conn: &Conn) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut resume_key = Bytes::new();
    loop {
        let (mut page, last) = page_after(conn, b"", resume_key).await.unwrap();
        rows.append(&mut page);
        if !last.more {
            return rows;
        }
        resume_key = last.resume_key;
    }
}

async fn page_after(
    conn: &Conn,
    prefix: &'static [u8],
    resume_key: Bytes,
) -> Result<(Vec<Row>, ScanResponse), Status> {
    conn.scan(ScanRequest {
        prefix: prefix.into(),
        limit_rows: PAGE_ROWS,
        consistency: Consistency::Stale as i32,
        resume_key,
        ..ScanRequest::default()
    })
    .await
}

/// Reads one node's own state and lists all differences.
pub async fn faults_of(conn: &Conn, ledger: &Ledger, expected: &BTreeMap<Vec<u8>, Written>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut missing: BTreeMap<&[u8], &Written> = expected.iter().map(|(k, w)| (k.as_slice(), w)).collect();
    let mut resume_key = Bytes::new();
    loop {
        let (rows, last) = match page_after(conn, b"load/", resume_key.clone()).await {
            Ok(page) => page,
            Err(status) => {
                faults.push(format!("the scan after {resume_key:?} failed: {status:?}"));
                return faults;
            }
        };
        for row in &rows {
            match missing.remove(row.key.as_ref()) {
                Some(written) => faults.extend(fault_of_row(row, written, ledger)),
                None => faults.push(format!("{:?} was never written", row.key)),
            }
        }
        if !last.more {
            break;
        }
        resume_key = last.resume_key;
    }
    for (key, written) in missing {
        if let Outcome::Acknowledged(revision) = written.outcome {
            faults.push(format!(
                "{:?}, acknowledged at revision {revision}, is lost",
                String::from_utf8_lossy(key)
            ));
        }
    }
    faults
}

fn fault_of_row(row: &Row, written: &Written, ledger: &Ledger) -> Option<String> {
    let metadata = row.metadata.unwrap_or_default();
    if row.value != ledger.value(&row.key, written.len) {
        return Some(format!(
            "{:?} has other bytes than were written ({} bytes)",
            row.key,
            row.value.len()
        ));
    }
    match written.outcome {
        Outcome::Failed => Some(format!(
            "{:?} is there although its write was refused as not proposed",
            row.key
        )),
        Outcome::Unknown if metadata.version == 1 => None,
        Outcome::Acknowledged(revision) if metadata.mod_revision == revision && metadata.version == 1 => None,
        _ => Some(format!(
            "{:?}: {written:?}, but the node says {metadata:?}",
            row.key
        )),
    }
}
