//! One simulated machine: a disk, an index, and the production node on it, in one life after another.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nezha::config::{Config, GcMode, Options};
use nezha::index::MapEngine;
use nezha::machine::{self, Machine};
use nezha::node::{Node, Parts};
use nezha::raft::Consensus;
use nezha::store::Store;
use nezha_vlog::fs::CrashFs;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::net;
use crate::plan::Moment;
use crate::threads::Threads;

/// Ports of every machine.
pub const CLIENT_PORT: u16 = 7379;
const PEER_PORT: u16 = 7380;

/// Small, so that logs roll, garbage is collected and members that lag need snapshots within seconds.
const SEGMENT_BYTES: u64 = 1 << 20;

/// How much a message of a scan carries, drawn for each life: a row in half of them, else up to as much as in production.
const SCAN_CHUNK_BITS: std::ops::RangeInclusive<u32> = 12..=20;
const SCAN_ROW_BITS: u32 = 10;

/// What the cache of the log may take.
pub const CACHE_BYTES: u64 = 1 << 20;

/// One clock in so many runs fast for a life, by up to so many per mille: of two that differ it is the other one that
/// is slow.
const FAST_ONE_IN: u32 = 2;
const FAST_PER_MILLE: std::ops::RangeInclusive<u32> = 10..=1_000;
/// How often a clock is set.
const CLOCK_STEP: Duration = Duration::from_millis(4);

/// How a life ends that nobody ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process alone: its page cache stays.
    Kill,
    /// The machine: what was not synced is lost, torn or kept, by chance.
    PowerCut,
}

/// What a node looks like from outside.
#[derive(Clone)]
pub struct Running {
    /// Its storage.
    pub store: Arc<Store>,
    /// Its Raft.
    pub consensus: Consensus,
}

/// A machine.
pub struct Host {
    /// Its name, and that of its node.
    pub name: String,
    state: Mutex<State>,
    stop: Notify,
}

struct State {
    rng: StdRng,
    fs: CrashFs,
    engine: Arc<MapEngine>,
    origin: Origin,
    threads: Option<Arc<Threads>>,
    running: Option<Running>,
    /// How the last life ended, if it is over.
    ended: Option<Ended>,
    lives: u64,
    /// By how much the clock is to jump.
    jump: Duration,
}

/// How a life has ended by itself, or by order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code of the process.
    pub code: i32,
    /// Why.
    pub why: String,
}

/// How the node gets its identity.
#[derive(Clone, Debug)]
pub enum Origin {
    /// One of these first members.
    Founder(Vec<String>),
    /// Added to a running cluster that has these members.
    Joiner(Vec<String>),
}

/// `host:port` for clients of a machine.
pub fn client_addr(name: &str) -> String {
    format!("{name}:{CLIENT_PORT}")
}

/// `host:port` for other members of a machine.
pub fn peer_addr(name: &str) -> String {
    format!("{name}:{PEER_PORT}")
}

impl Host {
    /// A machine with an empty disk.
    pub fn new(name: &str, origin: Origin, seed: u64) -> Arc<Host> {
        Arc::new(Host {
            name: name.to_owned(),
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                fs: CrashFs::new(),
                engine: Arc::default(),
                origin,
                threads: None,
                running: None,
                ended: None,
                lives: 0,
                jump: Duration::ZERO,
            }),
            stop: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self, origin: &Origin, rng: &mut StdRng) -> Config {
        let list = |names: &[String], form: &dyn Fn(&String) -> String| {
            names.iter().map(form).collect::<Vec<_>>().join(",")
        };
        let (initial_cluster, join) = match origin {
            Origin::Founder(names) => {
                let member = |name: &String| format!("{name}={}/{}", peer_addr(name), client_addr(name));
                (Some(list(names, &member)), None)
            }
            Origin::Joiner(names) => (None, Some(list(names, &|name| client_addr(name)))),
        };
        let options = Options {
            name: Some(self.name.clone()),
            data_dir: Some("/data".into()),
            listen_client: Some(format!("0.0.0.0:{CLIENT_PORT}")),
            listen_peer: Some(format!("0.0.0.0:{PEER_PORT}")),
            advertise_client: Some(client_addr(&self.name)),
            advertise_peer: Some(peer_addr(&self.name)),
            initial_cluster,
            join,
            log_segment_bytes: Some(SEGMENT_BYTES),
            log_cache_bytes: Some(CACHE_BYTES),
            value_bytes_max: Some(1 << 20),
            space_floor_bytes: Some(8 * SEGMENT_BYTES),
            lagging_log_bytes_max: Some(SEGMENT_BYTES),
            disk_reserve_bytes: Some(1 << 20),
            gc: Some(GcMode::Auto),
            ..Options::default()
        };
        let config = options
            .resolve(|_| None)
            .expect("the options of a simulated node");
        let scan_chunk_bits = match rng.random_ratio(1, 2) {
            true => SCAN_ROW_BITS,
            false => rng.random_range(SCAN_CHUNK_BITS),
        };
        Config {
            scan_chunk_bytes: 1 << scan_chunk_bits,
            ..config
        }
    }

    /// One life, from start to end. The body of the simulated host.
    pub async fn live(self: Arc<Host>) {
        let (config, parts) = {
            let mut state = self.state();
            state.lives += 1;
            state.ended = None;
            let threads = Threads::new(state.rng.random());
            state.threads = Some(threads.clone());
            let parts = Parts {
                engine: state.engine.clone(),
                fs: Arc::new(state.fs.clone()),
                machine: Machine {
                    threads: machine::Threads::simulated(threads),
                    network: net::net(),
                },
                lock: false,
                ..Parts::default()
            };
            let fast = match state.rng.random_ratio(1, FAST_ONE_IN) {
                true => state.rng.random_range(FAST_PER_MILLE),
                false => 0,
            };
            tokio::spawn(keep_time(self.clone(), fast));
            let State { origin, rng, .. } = &mut *state;
            (self.config(origin, rng), parts)
        };
        let mut node = match Node::start(config, parts).await {
            Ok(node) => node,
            Err(error) => return self.end(error.exit_code(), error.to_string()),
        };
        self.state().running = Some(Running {
            store: node.store().clone(),
            consensus: node.consensus().clone(),
        });
        let error = tokio::select! {
            error = node.ended() => Some(error),
            () = self.stop.notified() => node.stop().await.err(),
        };
        match error {
            None => self.end(0, "stopped as told".to_owned()),
            Some(error) => self.end(error.exit_code(), error.to_string()),
        }
    }

    fn end(&self, code: i32, why: String) {
        let mut state = self.state();
        state.running = None;
        state.ended.get_or_insert(Ended { code, why });
    }

    /// Tells the node to stop in good order.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// How its life has ended, if it has, and what still runs of it is to be taken away.
    pub fn ended(&self) -> Option<Ended> {
        let mut state = self.state();
        if let Some(code) = state.threads.as_ref().and_then(|threads| threads.exit_code()) {
            let why = "the process ended itself".to_owned();
            state.ended.get_or_insert(Ended { code, why });
        }
        state.ended.clone()
    }

    /// The node, while it runs.
    pub fn running(&self) -> Option<Running> {
        self.state().running.clone()
    }

    /// The disk.
    pub fn disk(&self) -> CrashFs {
        self.state().fs.clone()
    }

    /// Lets the clock jump forward, as after a pause of the machine.
    pub fn jump(&self, by: Duration) {
        self.state().jump += by;
    }

    /// Damages a bit on the disk, of a file that is cold: any but the segment that the log is written to. Answers which;
    /// `None` if there is no such file.
    pub fn rot(&self) -> Option<String> {
        let state = &mut *self.state();
        let mut files = state.fs.files();
        files.retain(|(path, bytes)| *bytes > 0 && path.starts_with("/data"));
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        if let Some(active) = files.iter().rposition(|(path, _)| is_log(path)) {
            files.remove(active);
        }
        let (path, bytes) = files.choose(&mut state.rng)?;
        let (offset, bit) = (state.rng.random_range(0..*bytes), state.rng.random_range(0..8));
        state.fs.flip_bit(path, offset, bit);
        Some(format!(
            "{} of {}: bit {bit} of byte {offset}",
            path.display(),
            self.name
        ))
    }

    /// Has the power go at an operation of the disk.
    pub fn halt_at(&self, moment: Moment) {
        let disk = self.disk();
        match moment {
            Moment::Operation(kind, skip) => disk.halt_at(kind, skip),
            Moment::Path(part, skip) => disk.halt_at_path(part, skip),
        }
    }

    /// Makes the disk slow, or quick again.
    pub fn stall(&self, stalled: bool) {
        if let Some(threads) = &self.state().threads {
            threads.stall(stalled);
        }
    }

    /// What is left of the machine after its life was taken: called once nothing of it runs any more.
    pub fn bury(&self, death: Death) {
        let mut state = self.state();
        state.running = None;
        state.threads = None;
        state.ended = None;
        let seed = state.rng.random();
        state.fs = match death {
            Death::Kill => state.fs.fork(),
            Death::PowerCut => state.fs.crash(seed),
        };
        let mut rng = StdRng::seed_from_u64(seed);
        // The engine may have flushed by itself at any time; what it had not is lost with the process.
        let engine = state
            .engine
            .after_crash(|unflushed| rng.random_range(0..=unflushed));
        state.engine = Arc::new(engine);
    }
}

/// Sets the clock of the machine for one life: all of its timers and instants come from it.
async fn keep_time(host: Arc<Host>, fast_per_mille: u32) {
    loop {
        tokio::time::sleep(CLOCK_STEP).await;
        let jump = std::mem::take(&mut host.state().jump);
        let ahead = CLOCK_STEP * fast_per_mille / 1_000 + jump;
        if !ahead.is_zero() {
            tokio::time::advance(ahead).await;
        }
    }
}
