//! Clients: the workloads of the black-box harness, over the simulated network.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nezha_jepsen::run::finals::{self, Extent};
use nezha_jepsen::run::load::{Load, Plan};
use nezha_jepsen::workload::{Recorder, Workload};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::host::client_addr;
use crate::net::dialer;

/// How often it is looked what the simulation wants.
const LOOK: Duration = Duration::from_millis(20);

/// What the simulation and its clients tell each other.
#[derive(Default)]
pub struct Signals {
    /// Clients are to stop.
    pub stop: AtomicBool,
    /// They have stopped.
    pub stopped: AtomicBool,
    /// Everything is to be read.
    pub read: AtomicBool,
    /// On every one of these members.
    pub members: Mutex<Vec<String>>,
    /// It was read.
    pub done: AtomicBool,
}

/// Who asks whom for what.
pub struct Clients {
    /// Draws everything.
    pub seed: u64,
    /// Names of the members.
    pub members: Vec<String>,
    /// What is done.
    pub workloads: Vec<Arc<dyn Workload>>,
    /// How many clients.
    pub clients: usize,
    /// Operations per second of all together.
    pub rate: u32,
    /// Writes it down.
    pub recorder: Arc<Recorder>,
    /// See there.
    pub signals: Arc<Signals>,
}

async fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        sleep(LOOK).await;
    }
}

impl Clients {
    /// Works until told to stop, then reads everything when told. Answers what could not be read.
    pub async fn work(self) -> anyhow::Result<Vec<String>> {
        let endpoints: Vec<String> = self.members.iter().map(|name| client_addr(name)).collect();
        let plan = Plan {
            seed: self.seed,
            names: &self.members,
            endpoints: &endpoints,
            workloads: &self.workloads,
            clients: self.clients,
            rate: self.rate,
            label: String::new(),
            dialer: dialer(),
        };
        let load = Load::start(&Handle::current(), &plan, &self.recorder)?;
        until(&self.signals.stop).await;
        load.stop().await?;
        self.signals.stopped.store(true, Ordering::Relaxed);
        until(&self.signals.read).await;
        let names = std::mem::take(
            &mut *self
                .signals
                .members
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let members: Vec<(String, String)> = names
            .into_iter()
            .map(|name| (name.clone(), client_addr(&name)))
            .collect();
        finals::read(
            &self.recorder,
            &self.workloads,
            &members,
            Extent::Everything,
            &dialer(),
        )
        .await
    }
}
