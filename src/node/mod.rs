//! One node: put together, started, stopped in good order.

mod opening;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::client::Dialer;
use nezha_api::peer::peer_service_server::PeerServiceServer;
use nezha_vlog::fs::{Fs, OsFs};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bootstrap::{self, BootError, Established};
use crate::collector::{Collector, Gate};
use crate::config::Config;
use crate::exit::{self, NodeError};
use crate::identity::{DataDir, Identity};
use crate::index::{Engine, NO_SPACE_LEFT, RocksEngine, RocksOptions};
use crate::machine::{Listener, Machine, Net};
use crate::raft::{Consensus, PeerIdentity, PeerServer};
use crate::server::{self, Context, Front, PeerPort};
use crate::store::{Store, StoreOptions};
use opening::{beside, check_space, collector_settings, open_store, raft_settings};

/// The last part of a stop, after drain and leader transfer: closing files. Then the process ends anyway: nothing that
/// was acknowledged depends on it.
const CLOSE_WAIT: Duration = Duration::from_secs(120);
/// How long connections may take to close at the end of a stop.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);

/// Blocking threads beyond those of scans: apply, log reads, point reads, administration.
const BLOCKING_THREADS_SPARE: usize = 512;

/// What a node stores its data with. The default is the product; others are for comparisons with it.
pub struct Parts {
    /// Opens the index.
    pub engine: Arc<dyn Engine>,
    /// Files of log and values.
    pub fs: Arc<dyn Fs>,
    /// See [`StoreOptions::inline_value_max`].
    pub inline_value_max: u32,
    /// What the node answers when it is asked for its version.
    pub version: String,
    /// Threads and network.
    pub machine: Machine,
    /// Takes the lock of its directory; off only where no other process can see its files.
    pub lock: bool,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts {
            engine: Arc::new(RocksEngine::new(&RocksOptions::default())),
            fs: Arc::new(OsFs),
            inline_value_max: StoreOptions::default().inline_value_max,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::default(),
            lock: true,
        }
    }
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT; a second signal ends the process at once. Blocking.
///
/// The caller ends the process afterwards: what still runs is left alone, and no destructor writes any more.
///
/// Errors: see [`NodeError`]; each names its reason and next step, and has an exit code.
pub fn run(config: Config, parts: Parts) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("kvd")
        // Each open scan holds a thread; apply and reads must find one all the same.
        .max_blocking_threads(config.scans_max + BLOCKING_THREADS_SPARE)
        .build()
        .map_err(|source| NodeError::System {
            what: "cannot start threads".to_owned(),
            source,
        })?;
    // Here rather than in the binary, which would otherwise compile all of the node once more.
    let result = runtime.block_on(serve(config, parts));
    std::mem::forget(runtime);
    result
}

async fn serve(config: Config, parts: Parts) -> Result<(), NodeError> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        started = Node::start(config, parts) => {
            let mut node = started?;
            tokio::select! {
                error = node.ended() => Err(error),
                signal = stop.wait() => {
                    tracing::info!(signal, "stopping; a second signal ends the process at once");
                    tokio::spawn(async move {
                        stop.wait().await;
                        tracing::warn!("second signal: ending at once");
                        std::process::exit(exit::OTHER);
                    });
                    node.stop().await
                }
            }
        }
        signal = stop.wait() => {
            tracing::info!(signal, "stopped before the node had started");
            Ok(())
        }
    }
}

/// The signals that end a node.
struct Stop {
    term: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, NodeError> {
        let listen = |kind| {
            signal(kind).map_err(|source| NodeError::System {
                what: "cannot listen for signals".to_owned(),
                source,
            })
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A port that is being served.
struct Port {
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: watch::Sender<bool>,
}

impl Port {
    async fn close(self) {
        self.stop.send_replace(true);
        // Connections that do not close in time end with the process.
        drop(tokio::time::timeout(GOODBYE_WAIT, self.serving).await);
    }
}

/// A running node.
pub struct Node {
    context: Arc<Context>,
    raft: JoinHandle<String>,
    clients: Port,
    members: Port,
    stop_wait: Duration,
    /// Holds the directory's lock.
    _data: Arc<DataDir>,
}

impl Node {
    /// Starts a node: directory, ports, identity, store, Raft, services, in this order.
    ///
    /// Errors: see [`NodeError`].
    pub async fn start(config: Config, parts: Parts) -> Result<Self, NodeError> {
        let Machine {
            threads,
            network: net,
        } = parts.machine.clone();
        let disk_reserve_bytes = check_space(&config, parts.fs.as_ref())?;
        let (dir, fs) = (config.data_dir.clone(), parts.fs.clone());
        let open = match parts.lock {
            true => DataDir::open_on,
            false => DataDir::unlocked,
        };
        let data = beside(&threads, "opening the data directory", move || open(fs, &dir)).await?;
        let data = Arc::new(data.map_err(BootError::from)?);
        let found = bootstrap::existing(&config, &data)?;
        let client_listener = listen(&net, &config.listen_client, "--listen-client").await?;
        let peer_listener = listen(&net, &config.listen_peer, "--listen-peer").await?;
        let incarnation = found
            .as_ref()
            .map_or_else(|| rand::random_range(1..=u64::MAX), |found| found.incarnation);
        let front = Front::new(&config.name);
        let peer_port = PeerPort::new(
            &config.name,
            &config.advertise_client,
            incarnation,
            found.is_some(),
        );
        let message_bytes_max = MESSAGE_BYTES_MAX;
        let peer_service = PeerServiceServer::new(peer_port.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        let (client_limits, peer_limits) = server::port_limits(server::raise_open_files_limit());
        let clients = open_port(client_listener, client_limits, front.clone());
        let members = open_port(peer_listener, peer_limits, peer_service);
        tracing::info!(
            name = config.name,
            clients = config.listen_client,
            members = config.listen_peer,
            data = %config.data_dir.display(),
            version = parts.version,
            "listening"
        );

        let (identity, met) = match found {
            Some(identity) => (identity, None),
            None => {
                let Established { identity, others } =
                    bootstrap::establish(&net.dialer, &config, &data, incarnation).await?;
                (identity, Some(others))
            }
        };
        let (store, writer) = open_store(&config, &parts, &data).await?;
        let peers = Arc::new(data.peers().map_err(BootError::from)?);
        let peer_server = PeerServer::new(Arc::new(PeerIdentity {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            incarnation: identity.incarnation,
            peers,
            threads,
        }));
        peer_port.open(peer_server.clone());
        if is_untouched(&store) {
            let others = match met {
                Some(others) => others,
                None => bootstrap::others(&net.dialer, &config).await?,
            };
            bootstrap::introduce(&net.dialer, &identity, &others).await?;
        }
        let settings = raft_settings(&config, message_bytes_max);
        let consensus =
            Consensus::start(&settings, store.clone(), writer, &peer_server, net.dialer.clone()).await?;
        form_cluster(&net.dialer, &config, &identity, &consensus).await?;
        let gate = Arc::new(Gate::new(disk_reserve_bytes));
        let settings = collector_settings(&config);
        let collector = Collector::spawn(store.clone(), consensus.clone(), gate, settings);
        let context = Arc::new(Context::new(
            &config,
            parts.version,
            &identity,
            consensus,
            store,
            collector,
            net.dialer,
        ));
        front.open(&context);
        let raft = tokio::spawn({
            let context = context.clone();
            async move { context.follow_raft().await }
        });
        tokio::spawn(become_ready(context.clone()));
        tokio::spawn({
            let context = context.clone();
            async move { context.hand_over_when_unfit().await }
        });
        Ok(Self {
            context,
            raft,
            clients,
            members,
            stop_wait: config.stop_wait,
            _data: data,
        })
    }

    /// Waits until the node ends by itself, and says why.
    pub async fn ended(&mut self) -> NodeError {
        let reason = match (&mut self.raft).await {
            Ok(reason) => reason,
            Err(error) => format!("the task that follows it ended: {error}"),
        };
        self.fatal(reason)
    }

    /// The storage, for those who look into a running node.
    pub fn store(&self) -> &Arc<Store> {
        &self.context.store
    }

    /// Raft, likewise.
    pub fn consensus(&self) -> &Consensus {
        &self.context.consensus
    }

    fn fatal(&self, reason: String) -> NodeError {
        if let Some(what) = self.context.consensus.damage() {
            return NodeError::Damage {
                what: what.to_owned(),
            };
        }
        let log_failed = self.context.store.log().is_poisoned();
        match !log_failed && reason.contains(NO_SPACE_LEFT) {
            true => NodeError::OutOfSpace { reason },
            false => NodeError::RaftStopped { reason, log_failed },
        }
    }

    /// Stops in good order: no new requests, those in flight are answered, another voter takes the lead, the index is
    /// flushed, connections close.
    ///
    /// Errors: the log failed meanwhile.
    pub async fn stop(self) -> Result<(), NodeError> {
        let context = &self.context;
        context.stop_admission();
        context.collector.pause();
        if !context.requests.drained(self.stop_wait).await {
            tracing::warn!(
                bytes = context.requests.taken(),
                "requests are still in flight; their outcome is unknown"
            );
        }
        // Ends with the first change that follows; who asks meanwhile is told that this node stops.
        self.raft.abort();
        if tokio::time::timeout(CLOSE_WAIT, context.consensus.shutdown())
            .await
            .is_err()
        {
            tracing::error!(
                seconds = CLOSE_WAIT.as_secs(),
                "closing the files took too long; ending without it"
            );
        }
        if context.store.log().is_poisoned() {
            return Err(self.fatal("the log failed during the stop".to_owned()));
        }
        self.clients.close().await;
        self.members.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn listen(net: &Net, addr: &str, option: &'static str) -> Result<Listener, NodeError> {
    let refused = |source: io::Error| {
        let next = match source.kind() {
            io::ErrorKind::AddrInUse => "stop the process that uses the port, or choose another",
            _ => "check that the address is one of this machine's",
        };
        NodeError::Port {
            addr: addr.to_owned(),
            option,
            source,
            next,
        }
    };
    let listener = net.bind(addr).await.map_err(refused)?;
    if let Some(bound) = listener.local_addr()
        && !bound.ip().is_loopback()
    {
        tracing::warn!(
            %bound,
            "{option}: this port speaks plaintext without authentication, and is open beyond this machine; keep it \
             within a network that you trust"
        );
    }
    Ok(listener)
}

fn open_port<S>(listener: Listener, limits: server::PortLimits, service: S) -> Port
where
    S: tonic::codegen::Service<
            tonic::codegen::http::Request<tonic::body::Body>,
            Response = tonic::codegen::http::Response<tonic::body::Body>,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
    S::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    let (stop, mut stopped) = watch::channel(false);
    let serving = tokio::spawn(server::serve(listener, limits, service, async move {
        // An error means that the port's handle is gone: stop as well.
        drop(stopped.wait_for(|stop| *stop).await);
    }));
    Port { serving, stop }
}

/// True until this node has taken part in anything.
fn is_untouched(store: &Store) -> bool {
    store.log().last_log_id().is_none()
        && store.log().vote().is_none()
        && store.index().state().applied.is_none()
}

/// Forms the cluster, when it is new and this node is the one to do so.
async fn form_cluster(
    dialer: &Dialer,
    config: &Config,
    identity: &Identity,
    consensus: &Consensus,
) -> Result<(), NodeError> {
    if consensus.is_initialized().await? {
        return Ok(());
    }
    if let Some(members) = bootstrap::founders(dialer, config, identity).await? {
        tracing::info!(members = members.len(), "forming the cluster");
        consensus.initialize(members).await?;
    }
    Ok(())
}

async fn become_ready(context: Arc<Context>) {
    match context.consensus.wait_ready().await {
        Ok(()) => {
            context.set_ready();
            tracing::info!("caught up with what was committed before the start");
        }
        Err(error) => tracing::error!(%error, "not ready"),
    }
}
