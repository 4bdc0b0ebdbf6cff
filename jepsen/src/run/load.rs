//! Clients at work: many at once, connected in different ways, at a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nezha_api::client::Dialer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::workload::connection::{Connection, Style};
use crate::workload::{Client, Collector, Parts, Recorder, Workload, assign};

/// How long clients may take to end: longer than any of their calls.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Clients that share a connection of the Rust client, and with it a pipeline.
const SHARING: usize = 4;

/// What all clients of a run are made from.
pub struct Plan<'a> {
    /// From which everything is drawn.
    pub seed: u64,
    /// Names of the members.
    pub names: &'a [String],
    /// Their client addresses.
    pub endpoints: &'a [String],
    /// What is to be done.
    pub workloads: &'a [Arc<dyn Workload>],
    /// How many clients.
    pub clients: usize,
    /// Operations per second of all together.
    pub rate: u32,
    /// Begins their labels, which are unique in a history: of a second load, another one.
    pub label: String,
    /// Makes their connections.
    pub dialer: Dialer,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// Draws how a client is connected.
fn style(rng: &mut StdRng) -> Style {
    match rng.random_range(0..10) {
        0..5 => Style::Pipelined,
        5..7 => Style::Unary,
        _ => Style::Pinned,
    }
}

/// Draws how long a client waits for an answer.
fn patience(rng: &mut StdRng) -> Duration {
    match rng.random_range(0..4) {
        0 => Duration::from_millis(1000),
        1..3 => Duration::from_millis(2500),
        _ => Duration::from_secs(5),
    }
}

impl Load {
    /// Starts the clients.
    pub fn start(runtime: &Handle, plan: &Plan<'_>, recorder: &Arc<Recorder>) -> Result<Load> {
        let _inside = runtime.enter();
        let stop = Arc::new(AtomicBool::new(false));
        let assigned = assign(plan.workloads, plan.clients);
        let interval = Duration::from_secs(1).mul_f64(assigned.len() as f64 / f64::from(plan.rate.max(1)));
        let collect = collector(plan.endpoints, &plan.dialer)?;
        let mut stream: Option<(Connection, usize)> = None;
        let mut clients = Vec::new();
        for (number, workload) in assigned.iter().enumerate() {
            let purpose = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut rng = StdRng::seed_from_u64(plan.seed ^ purpose);
            let patience = patience(&mut rng);
            let mut endpoint = String::new();
            let connection = match style(&mut rng) {
                Style::Pipelined => {
                    // Some callers share a stream, as threads of one program do.
                    let (connection, callers) = match stream.take() {
                        Some((connection, callers)) if callers < SHARING => (connection, callers + 1),
                        _ => (
                            Connection::client(plan.endpoints, true, patience, &plan.dialer)?,
                            1,
                        ),
                    };
                    stream = Some((connection.clone(), callers));
                    connection
                }
                Style::Unary => Connection::client(plan.endpoints, false, patience, &plan.dialer)?,
                Style::Pinned => {
                    let member = rng.random_range(0..plan.endpoints.len());
                    endpoint.clone_from(&plan.names[member]);
                    Connection::pinned(&plan.endpoints[member], patience, &plan.dialer)
                        .context("an endpoint is no address")?
                }
            };
            let mut client = Client::new(Parts {
                recorder: recorder.clone(),
                connection,
                endpoint,
                rng,
                label: format!("{}c{number}", plan.label),
                interval,
                stop: stop.clone(),
                collect: collect.clone(),
            });
            let workload = plan.workloads[*workload].clone();
            clients.push(runtime.spawn(async move { workload.run(&mut client).await }));
        }
        Ok(Load { stop, clients })
    }

    /// Lets every client finish what it does.
    ///
    /// Errors: one that panicked or does not end.
    pub async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let all = async {
            for client in self.clients {
                client.await.context("a client panicked")?;
            }
            Ok(())
        };
        let ended = tokio::time::timeout(STOP_PATIENCE, all).await;
        ended.context("a client does not end")?
    }
}

/// What orders collections in the workloads' name.
pub fn collector(endpoints: &[String], dialer: &Dialer) -> Result<Collector> {
    let options = nezha_api::ClientOptions {
        timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        sync_interval: None,
        dialer: dialer.clone(),
        ..nezha_api::ClientOptions::default()
    };
    Ok(Collector {
        client: nezha_api::Client::connect(endpoints, options).context("make a client for collections")?,
        endpoints: Arc::new(endpoints.to_vec()),
    })
}
