//! Closed-loop clients that write unique keys until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::client::{Conn, Outcome, outcome};
use super::ledger::Ledger;
use super::seed;

/// A running load. Stop it to get its clients' last answers into the ledger.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

/// Draws the length of the next value.
pub type SizeOf = fn(&mut StdRng) -> usize;

impl Load {
    /// Starts `clients` writers that spread over `conns`. `round` keeps the keys of several loads on one ledger apart.
    pub fn start(conns: Vec<Conn>, ledger: &Ledger, round: u64, clients: usize, size_of: SizeOf) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let clients = (0..clients)
            .map(|client| {
                let (stop, acknowledged, ledger) = (stop.clone(), acknowledged.clone(), ledger.clone());
                let conns: Vec<Conn> = conns
                    .iter()
                    .map(|c| c.patience(Duration::from_secs(10)))
                    .collect();
                tokio::spawn(async move {
                    let mut rng = seed::rng(ledger.seed, (round << 20) + client as u64);
                    let mut n = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let key = format!("load/{round:03}/{client:03}/{n:08}").into_bytes();
                        n += 1;
                        let len = size_of(&mut rng);
                        let value = ledger.value(&key, len);
                        let conn = &conns[rng.random_range(0..conns.len())];
                        ledger.sending(&key, len);
                        let told = outcome(&conn.put(&key, value).await);
                        ledger.answered(&key, told);
                        match told {
                            Outcome::Acknowledged(_) => {
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                            // A refused client waits a little, so that an election is not a flood of refusals.
                            _ => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    }
                })
            })
            .collect();
        Load {
            stop,
            acknowledged,
            clients,
        }
    }

    /// Acknowledged writes so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes were acknowledged since now.
    pub async fn wait_acknowledged(&self, more: usize, patience: Duration) {
        let goal = self.acknowledged() + more;
        super::eventually("acknowledged writes", patience, || async {
            let now = self.acknowledged();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        })
        .await;
    }

    /// Lets every client finish its call, and returns how many writes were acknowledged.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        self.acknowledged.load(Ordering::Relaxed)
    }
}
