//! What the process tests share: clusters of real `kvd` processes, clients, and load with a ledger. The kernel's tools
//! (namespaces, loop images, traces) are those of `nezha_jepsen::cluster`.

pub mod addresses;
pub mod churn;
pub mod client;
pub mod cluster;
pub mod collection;
pub mod ledger;
pub mod load;
pub mod process;
pub mod seed;
pub mod verify;

use std::future::Future;
use std::time::{Duration, Instant};

/// Runs an async test body on a runtime of its own.
pub fn block_on<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(body)
}

/// Asks `probe` until it answers, for at most `patience`. Patience is generous: it only bounds a failing test.
///
/// Panics with `what` and the probe's last words when it runs out.
pub async fn eventually<T, F>(what: &str, patience: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(answer) => return answer,
            Err(last) if started.elapsed() > patience => panic!("waited {patience:?} for {what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
