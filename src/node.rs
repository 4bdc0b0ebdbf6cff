//! One node: put together, started, stopped in good order.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nezha_api::MESSAGE_BYTES_MAX;
use nezha_api::peer::peer_service_server::PeerServiceServer;
use nezha_gc::plan::Limits;
use nezha_vlog::fs::{Fs, OsFs};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bootstrap::{self, BootError, Established};
use crate::collector::{self, Collector, Gate};
use crate::config::{Config, GcMode, MIB};
use crate::exit::{self, NodeError};
use crate::identity::{DataDir, Identity};
use crate::index::{Engine, RocksEngine, RocksOptions};
use crate::raft::{Consensus, PeerIdentity, PeerServer, Settings};
use crate::server::{self, Context, Front, PeerPort};
use crate::store::{DiskSpace, Store, StoreOptions, disk_space};

/// A node does not start in a new directory with less free space.
const START_FREE_BYTES_MIN: u64 = 64 * MIB;
/// What writes leave to gc by default: a twentieth of the disk, but not more than this.
const DISK_RESERVE_BYTES_MAX: u64 = 512 * MIB;
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
}

impl Default for Parts {
    fn default() -> Parts {
        Parts {
            engine: Arc::new(RocksEngine::new(&RocksOptions::default())),
            fs: Arc::new(OsFs),
            inline_value_max: StoreOptions::default().inline_value_max,
            version: env!("CARGO_PKG_VERSION").to_owned(),
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
                reason = node.raft_stopped() => Err(node.fatal(reason)),
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
struct Node {
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
    async fn start(config: Config, parts: Parts) -> Result<Self, NodeError> {
        let disk_reserve_bytes = check_space(&config)?;
        let (dir, fs) = (config.data_dir.clone(), parts.fs.clone());
        let data = blocking("opening the data directory", move || DataDir::open_on(fs, &dir)).await?;
        let data = Arc::new(data.map_err(BootError::from)?);
        let found = bootstrap::existing(&config, &data)?;
        let client_listener = listen(&config.listen_client, "--listen-client").await?;
        let peer_listener = listen(&config.listen_peer, "--listen-peer").await?;
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
                    bootstrap::establish(&config, &data, incarnation).await?;
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
        }));
        peer_port.open(peer_server.clone());
        if is_untouched(&store) {
            let others = match met {
                Some(others) => others,
                None => bootstrap::others(&config).await?,
            };
            bootstrap::introduce(&identity, &others).await?;
        }
        let settings = raft_settings(&config, message_bytes_max);
        let consensus = Consensus::start(&settings, store.clone(), writer, &peer_server).await?;
        form_cluster(&config, &identity, &consensus).await?;
        let gate = Arc::new(Gate::new(disk_reserve_bytes));
        let settings = collector_settings(&config);
        let collector = Collector::spawn(store.clone(), consensus.clone(), gate, settings);
        let context = Arc::new(Context::new(
            &config,
            parts.version,
            identity.cluster_id,
            identity.node_id,
            consensus,
            store,
            collector,
        ));
        front.open(&context);
        let raft = tokio::spawn({
            let context = context.clone();
            async move { context.follow_raft().await }
        });
        tokio::spawn(become_ready(context.clone()));
        Ok(Self {
            context,
            raft,
            clients,
            members,
            stop_wait: config.stop_wait,
            _data: data,
        })
    }

    async fn raft_stopped(&mut self) -> String {
        match (&mut self.raft).await {
            Ok(reason) => reason,
            Err(error) => format!("the task that follows it ended: {error}"),
        }
    }

    fn fatal(&self, reason: String) -> NodeError {
        if let Some(what) = self.context.consensus.damage() {
            return NodeError::Damage {
                what: what.to_owned(),
            };
        }
        NodeError::RaftStopped {
            reason,
            log_failed: self.context.store.log().is_poisoned(),
        }
    }

    /// Stops in good order: no new requests, those in flight are answered, another voter takes the lead, the index is
    /// flushed, connections close.
    ///
    /// Errors: the log failed meanwhile.
    async fn stop(self) -> Result<(), NodeError> {
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

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| NodeError::System {
        what: what.to_owned(),
        source: io::Error::other(e),
    })
}

/// Refuses to start on a file system that is full, before anything is written to it. A node that was here before needs
/// less: gc may free some.
fn check_space(config: &Config) -> Result<u64, NodeError> {
    let mut dir = config.data_dir.as_path();
    let was_here = dir.exists();
    // The directory may not be there yet; what counts is where it will be.
    while !dir.as_os_str().is_empty() && !dir.exists() {
        let Some(parent) = dir.parent() else { break };
        dir = parent;
    }
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let DiskSpace { total, free } = disk_space(dir).map_err(|source| NodeError::System {
        what: format!("cannot tell the free space of {}", dir.display()),
        source,
    })?;
    let default = (total / 20).min(DISK_RESERVE_BYTES_MAX);
    let reserve = config.disk_reserve_bytes.unwrap_or(default);
    let needed = match was_here {
        true => START_FREE_BYTES_MIN.min(reserve / 4),
        false => START_FREE_BYTES_MIN,
    };
    if free < needed {
        return Err(NodeError::NoSpace {
            dir: config.data_dir.display().to_string(),
            free,
            needed,
        });
    }
    Ok(reserve)
}

async fn listen(addr: &str, option: &'static str) -> Result<TcpListener, NodeError> {
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
    let listener = TcpListener::bind(addr).await.map_err(refused)?;
    if let Ok(bound) = listener.local_addr()
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

fn open_port<S>(listener: TcpListener, limits: server::PortLimits, service: S) -> Port
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

async fn open_store(
    config: &Config,
    parts: &Parts,
    data: &Arc<DataDir>,
) -> Result<(Arc<Store>, nezha_vlog::Writer), NodeError> {
    let log = nezha_vlog::Options::default()
        .with_segment_bytes(config.log_segment_bytes)
        .with_cache_bytes(config.log_cache_bytes);
    let options = StoreOptions {
        log,
        inline_value_max: parts.inline_value_max,
        value_segment_bytes: value_segment_bytes(config),
        ..StoreOptions::default()
    };
    let (data, engine) = (data.clone(), parts.engine.clone());
    let opened = blocking("opening the store", move || Store::open(data, engine, options));
    let (store, writer, recovered) = opened.await??;
    if let Some(cut) = &recovered.cut {
        tracing::warn!(
            ?cut,
            "the end of the log was torn and is cut: after a power cut or a kill, what was not acknowledged"
        );
    }
    let (segments, last) = (
        recovered.segments.len(),
        recovered.last.map_or(0, |last| last.index),
    );
    tracing::info!(case = ?recovered.case, segments, last, "log opened");
    Ok((Arc::new(store), writer))
}

fn raft_settings(config: &Config, message_bytes_max: usize) -> Settings {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Settings {
        heartbeat_ms: millis(config.heartbeat),
        election_ms: millis(config.election_timeout),
        message_bytes_max,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        ..Settings::default()
    }
}

fn collector_settings(config: &Config) -> collector::Settings {
    let defaults = Limits::default();
    collector::Settings {
        automatic: config.gc == GcMode::Auto,
        bytes_per_second: config.gc_bytes_per_second,
        lagging_log_bytes_max: config.lagging_log_bytes_max,
        limits: Limits {
            space_amplification_max_per_mille: config.space_amplification_max_per_mille,
            space_floor_bytes: config.space_floor_bytes,
            l0_debt_bytes_min: defaults.l0_debt_bytes_min.min(config.space_floor_bytes / 2),
            segment_bytes: value_segment_bytes(config),
            ..defaults
        },
    }
}

/// Half of a log segment: the outputs of the smallest job, two of them, are no longer than its input.
fn value_segment_bytes(config: &Config) -> u64 {
    (config.log_segment_bytes / 2).min(StoreOptions::default().value_segment_bytes)
}

/// True until this node has taken part in anything.
fn is_untouched(store: &Store) -> bool {
    store.log().last_log_id().is_none()
        && store.log().vote().is_none()
        && store.index().state().applied.is_none()
}

/// Forms the cluster, when it is new and this node is the one to do so.
async fn form_cluster(config: &Config, identity: &Identity, consensus: &Consensus) -> Result<(), NodeError> {
    if consensus.is_initialized().await? {
        return Ok(());
    }
    if let Some(members) = bootstrap::founders(config, identity).await? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    #[test]
    fn free_space_is_asked_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let check = |data_dir: &Path, reserve: u64| {
            let options = Options {
                name: Some("n1".into()),
                data_dir: Some(data_dir.to_path_buf()),
                disk_reserve_bytes: Some(reserve),
                ..Options::default()
            };
            check_space(&options.resolve(|_| None).unwrap())
        };
        assert_eq!(
            check(&dir.path().join("not/there/yet"), 16 * MIB).unwrap(),
            16 * MIB
        );
        check(Path::new("relative/not/there"), 0).unwrap();
        // A directory that is there is one of a node that was here: it needs a quarter of its reserve, 64 MiB at most.
        check(dir.path(), 1 << 50).unwrap();
    }
}
