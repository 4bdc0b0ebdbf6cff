//! After everything: what is there? Every member is asked for all ranges, and every key is read once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use nezha_api::client::Dialer;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::load::collector;
use crate::history::{History, Outcome};
use crate::workload::connection::Connection;
use crate::workload::{Client, Parts, Recorder, Workload};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one question is put: nothing is wrong with the cluster any more.
const ATTEMPTS: u32 = 5;
/// Rest before it is put again: leadership may be on its way to somebody, and then nobody answers for an election's time.
const REST: Duration = Duration::from_millis(500);
/// Keys that are read at the same time.
const PARALLEL: usize = 16;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All ranges on every member: every key, once for each.
    Scans,
    /// And every key by itself.
    Everything,
}

/// Asks; what nobody answered is a finding.
pub async fn read(
    recorder: &Arc<Recorder>,
    workloads: &[Arc<dyn Workload>],
    members: &[(String, String)],
    extent: Extent,
    dialer: &Dialer,
) -> Result<Vec<String>> {
    let keys = match extent {
        Extent::Scans => Vec::new(),
        Extent::Everything => keys(&recorder.history()),
    };
    let endpoints: Vec<String> = members.iter().map(|(_, endpoint)| endpoint.clone()).collect();
    let client = |connection, endpoint: &str| -> Result<Client> {
        Ok(Client::new(Parts {
            recorder: recorder.clone(),
            connection,
            endpoint: endpoint.to_owned(),
            rng: StdRng::seed_from_u64(0),
            label: "final".to_owned(),
            interval: Duration::ZERO,
            stop: Arc::new(AtomicBool::new(false)),
            collect: collector(&endpoints, dialer)?,
        }))
    };
    let mut scanners = Vec::new();
    for (name, endpoint) in members {
        let connection =
            Connection::pinned(endpoint, PATIENCE, dialer).context("an endpoint is no address")?;
        scanners.push((name.clone(), client(connection, name)?));
    }
    let shared = Connection::client(&endpoints, true, PATIENCE, dialer)?;
    let mut readers = Vec::new();
    for part in split(keys, PARALLEL) {
        readers.push((part, client(shared.clone(), "")?));
    }
    let ranges: Vec<(String, String)> = workloads
        .iter()
        .flat_map(|workload| workload.final_ranges())
        .collect();
    let mut findings = Vec::new();
    for (name, scanner) in &mut scanners {
        for (start, end) in &ranges {
            if !scan(scanner, start, end).await {
                findings.push(format!(
                    "{name} does not answer a scan of {start:?}, long after everything was healed"
                ));
            }
        }
    }
    let unread = futures::stream::iter(readers)
        .map(|(keys, mut client)| async move {
            let mut unread = Vec::new();
            for key in keys {
                if !get(&mut client, &key).await {
                    unread.push(key);
                }
            }
            unread
        })
        .buffer_unordered(PARALLEL)
        .concat()
        .await;
    if let Some(first) = unread.first() {
        let count = unread.len();
        findings.push(format!(
            "{count} keys cannot be read at the end, {first:?} among them"
        ));
    }
    Ok(findings)
}

async fn scan(client: &mut Client, start: &str, end: &str) -> bool {
    for _ in 0..ATTEMPTS {
        if matches!(client.scan(start, end, false, 0).await, Outcome::Ok { .. }) {
            return true;
        }
        tokio::time::sleep(REST).await;
    }
    false
}

async fn get(client: &mut Client, key: &str) -> bool {
    for _ in 0..ATTEMPTS {
        if matches!(client.read(key).await, Outcome::Ok { .. }) {
            return true;
        }
        tokio::time::sleep(REST).await;
    }
    false
}

fn keys(history: &History) -> Vec<String> {
    let keys: BTreeSet<&str> = history
        .operations
        .iter()
        .filter_map(|operation| operation.call.key())
        .collect();
    keys.into_iter().map(str::to_owned).collect()
}

fn split(keys: Vec<String>, parts: usize) -> Vec<Vec<String>> {
    let mut split = vec![Vec::new(); parts];
    for (number, key) in keys.into_iter().enumerate() {
        split[number % parts].push(key);
    }
    split
}
