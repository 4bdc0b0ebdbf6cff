//! Overwrites and deletes of the same keys again and again, and what must hold of them afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nezha_api::errors::definitely_not_processed;
use nezha_api::v1::Row;
use rand::RngExt;
use tokio::task::JoinHandle;

use super::client::Conn;
use super::seed;

/// How long a client waits for one answer: a stopped node holds it up no longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Writes after which a client turns to another node, on average; after a failure it does so at once.
const FAITHFUL: usize = 50;

/// How much of what is written.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub clients: u64,
    /// Keys of each client, which nobody else writes.
    pub keys: u64,
    pub value_bytes: usize,
}

/// What the client of one key was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// Number and revision of the last acknowledged write.
    acknowledged: (u64, u64),
    /// Number of a write after it whose outcome is not known; no write follows it.
    unknown: Option<u64>,
}

type Ledger = Arc<Mutex<BTreeMap<Bytes, Told>>>;

/// Clients that overwrite and delete until told to stop.
pub struct Churn {
    seed: u64,
    shape: Shape,
    told: Ledger,
    acknowledged: Arc<AtomicUsize>,
    clients: Background,
}

/// What a churn has written.
pub struct Churned {
    seed: u64,
    value_bytes: usize,
    told: BTreeMap<Bytes, Told>,
}

/// The value of write number `round` of a key: says which one it is.
fn value(seed: u64, key: &[u8], round: u64, len: usize) -> Vec<u8> {
    let mut value = round.to_le_bytes().to_vec();
    let name = [key, &round.to_le_bytes()].concat();
    value.extend(seed::value_of(seed, &name, len));
    value
}

/// Some rounds delete the key instead.
fn deletes(seed: u64, key: &[u8], round: u64) -> bool {
    let name = [key, b"/deletes", &round.to_le_bytes()].concat();
    seed::value_of(seed, &name, 1)[0].is_multiple_of(8)
}

impl Churn {
    /// Starts the clients, each over all of `conns`.
    pub fn start(conns: &[Conn], seed: u64, shape: Shape) -> Churn {
        let mut churn = Churn {
            seed,
            shape,
            told: Ledger::default(),
            acknowledged: Arc::default(),
            clients: Background::default(),
        };
        for client in 0..shape.clients {
            let conns = conns.iter().map(|conn| conn.patience(ANSWER_PATIENCE)).collect();
            let (told, acknowledged) = (churn.told.clone(), churn.acknowledged.clone());
            let stop = churn.clients.stop.clone();
            churn
                .clients
                .spawn(overwrite(conns, seed, client, shape, told, acknowledged, stop));
        }
        churn
    }

    /// Waits until `more` writes were acknowledged since now.
    pub async fn wait_acknowledged(&self, more: usize, patience: Duration) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        super::eventually("acknowledged overwrites", patience, || async {
            match self.acknowledged.load(Ordering::Relaxed) {
                now if now >= goal => Ok(()),
                now => Err(format!("{now} of {goal}")),
            }
        })
        .await;
    }

    /// Lets every client finish its call.
    pub async fn stop(self) -> Churned {
        self.clients.stop().await;
        let told = self.told.lock().unwrap().clone();
        Churned {
            seed: self.seed,
            value_bytes: self.shape.value_bytes,
            told,
        }
    }
}

async fn overwrite(
    conns: Vec<Conn>,
    seed: u64,
    client: u64,
    shape: Shape,
    told: Ledger,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    let mut rng = seed::rng(seed, 1000 + client);
    // Of each key, how often it was given up: a write whose outcome is not known may still come after the next one.
    let mut given_up = vec![0; shape.keys as usize];
    let mut round = 0;
    let mut node = rng.random_range(0..conns.len());
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let number = rng.random_range(0..given_up.len());
        let key = Bytes::from(format!("churn/{client:03}/{number:03}/{}", given_up[number]));
        told.lock().unwrap().entry(key.clone()).or_default().unknown = Some(round);
        if rng.random_range(0..FAITHFUL) == 0 {
            node = rng.random_range(0..conns.len());
        }
        let conn = &conns[node];
        let answer = match deletes(seed, &key, round) {
            true => conn.delete(&key).await.map(|answer| answer.header),
            false => {
                let value = value(seed, &key, round, shape.value_bytes);
                conn.put(&key, value).await.map(|answer| answer.header)
            }
        };
        let refused = answer.as_ref().is_err_and(definitely_not_processed);
        if let Ok(header) = answer {
            let revision = header.expect("every answer carries a header").revision;
            told.lock().unwrap().insert(
                key,
                Told {
                    acknowledged: (round, revision),
                    unknown: None,
                },
            );
            acknowledged.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if refused {
            told.lock().unwrap().get_mut(&key).unwrap().unknown = None;
        } else {
            given_up[number] += 1;
        }
        node = rng.random_range(0..conns.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Churned {
    /// Asserts for the whole state of a node that each key holds what its last acknowledged write left, or what one of
    /// unknown outcome after it did.
    pub fn assert_holds(&self, node: &str, rows: &[Row]) {
        let prefix = b"churn/".as_slice();
        let mut found: BTreeMap<&Bytes, &Row> = rows
            .iter()
            .filter(|row| row.key.starts_with(prefix))
            .map(|row| (&row.key, row))
            .collect();
        for (key, told) in &self.told {
            let fault = self.fault(key, *told, found.remove(key));
            let seed = self.seed;
            assert_eq!(
                fault, None,
                "seed {seed}, {node}: {key:?}, whose client was told {told:?}"
            );
        }
        assert!(found.is_empty(), "{node}: never written: {:?}", found.keys());
    }

    fn fault(&self, key: &[u8], told: Told, row: Option<&Row>) -> Option<String> {
        let (round, revision) = told.acknowledged;
        let Some(row) = row else {
            let gone = |round| deletes(self.seed, key, round);
            let absent = round == 0 || gone(round) || told.unknown.is_some_and(gone);
            return (!absent).then(|| "is lost".to_string());
        };
        let found = match row.value.first_chunk() {
            Some(round) => u64::from_le_bytes(*round),
            None => return Some(format!("has a value of {} bytes", row.value.len())),
        };
        let found_revision = row.metadata.unwrap_or_default().mod_revision;
        if deletes(self.seed, key, found) || row.value != value(self.seed, key, found, self.value_bytes) {
            return Some(format!("has bytes that nobody wrote, as if of round {found}"));
        }
        let expected = told.unknown == Some(found) || (found, found_revision) == (round, revision);
        (!expected).then(|| format!("holds round {found} of revision {found_revision}"))
    }
}

/// Tasks that run until told to stop.
#[derive(Default)]
pub struct Background {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Background {
    /// Orders a collection from every node, again and again: whoever is up collects all the time.
    pub fn collecting(conns: Vec<Conn>, pause: Duration) -> Background {
        let mut background = Background::default();
        for conn in conns {
            let (conn, stop) = (conn.patience(ANSWER_PATIENCE), background.stop.clone());
            background.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    drop(conn.gc_run().await);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        background
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    /// Lets every task finish what it does.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a task in the background does not panic");
        }
    }
}
