//! A TCP proxy per directed link between members: delay, jitter, half-open and frozen links, for which the kernel may
//! have no queueing discipline. All of them share one thread in the hub.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::net;
use super::rules;

/// Bytes on their way over one connection in one direction; more stay with their sender.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How long a call to a member may take before its caller is let down.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How a directed link treats bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes arrive so much later, in order.
    pub delay: Duration,
    /// And at random up to so much more.
    pub jitter: Duration,
    /// Bytes are taken and thrown away.
    pub half_open: bool,
    /// Bytes are not taken.
    pub frozen: bool,
    /// Counts how often the connections made in this direction were closed.
    pub generation: u64,
}

type Shapes = HashMap<(usize, usize), watch::Sender<Shape>>;

/// The proxies of a network. They end when this is dropped.
pub struct Proxies {
    runtime: Handle,
    ports: Vec<u16>,
    shapes: Mutex<Shapes>,
    /// Its drop ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Proxies {
    /// Starts their thread in the namespace with the handle `namespace`.
    pub fn start(namespace: &str, ports: &[u16]) -> Result<Proxies> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, starting) = mpsc::channel();
        let namespace = namespace.to_string();
        let run = move || {
            let runtime = net::enter(&namespace).and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("cannot make the runtime of the proxies")
            });
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        std::thread::Builder::new()
            .name("proxies".into())
            .spawn(run)
            .context("cannot start the thread of the proxies")?;
        Ok(Proxies {
            runtime: starting.recv().context("the thread of the proxies has ended")??,
            ports: ports.to_vec(),
            shapes: Mutex::default(),
            _stop: stop,
        })
    }

    fn shapes(&self) -> MutexGuard<'_, Shapes> {
        self.shapes.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Listens for what `from` sends to `to`.
    pub fn add(&self, from: usize, to: usize) -> Result<()> {
        let (up, down) = {
            let mut shapes = self.shapes();
            let mut of = |link| shapes.entry(link).or_default().subscribe();
            (of((from, to)), of((to, from)))
        };
        let source: Ipv4Addr = rules::link(from, to).parse().context("a link has an address")?;
        let host: Ipv4Addr = rules::host(to).parse().context("a member has an address")?;
        for port in self.ports.clone() {
            let (listening, heard) = mpsc::channel();
            let (up, down) = (up.clone(), down.clone());
            // Bound there, on the thread that is in the hub.
            self.runtime.spawn(async move {
                match TcpListener::bind((source, port)).await {
                    Ok(listener) => {
                        let _ = listening.send(Ok(()));
                        accept(listener, source, SocketAddrV4::new(host, port).into(), up, down).await;
                    }
                    Err(error) => drop(listening.send(Err(error))),
                }
            });
            heard
                .recv()
                .context("the thread of the proxies has ended")?
                .with_context(|| format!("the proxy of the link {from} -> {to} cannot listen"))?;
        }
        Ok(())
    }

    /// Changes how a directed link treats bytes, at once and for connections that exist too.
    pub fn shape(&self, from: usize, to: usize, change: impl FnOnce(&mut Shape)) -> Result<()> {
        self.shapes()
            .get(&(from, to))
            .ok_or_else(|| anyhow!("there is no link from member {from} to member {to}"))?
            .send_modify(change);
        Ok(())
    }

    /// Lets every link forward bytes as they come.
    pub fn reset(&self) {
        for shape in self.shapes().values() {
            shape.send_modify(|shape| {
                *shape = Shape {
                    generation: shape.generation,
                    ..Shape::default()
                };
            });
        }
    }
}

async fn accept(
    listener: TcpListener,
    source: Ipv4Addr,
    target: SocketAddr,
    up: watch::Receiver<Shape>,
    down: watch::Receiver<Shape>,
) {
    loop {
        match listener.accept().await {
            Ok((caller, _)) => {
                tokio::spawn(forward(caller, source, target, up.clone(), down.clone()));
            }
            // The caller has gone, or there are no descriptors left for the moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Forwards both directions of one connection until it ends or is closed.
async fn forward(
    caller: TcpStream,
    source: Ipv4Addr,
    target: SocketAddr,
    up: watch::Receiver<Shape>,
    down: watch::Receiver<Shape>,
) {
    let Ok(Ok(called)) = timeout(CONNECT_PATIENCE, connect(source, target)).await else {
        // Nobody there: the caller's connection ends when it is dropped here.
        return;
    };
    if caller.set_nodelay(true).is_err() || called.set_nodelay(true).is_err() {
        return;
    }
    let mut closed = up.clone();
    let generation = closed.borrow().generation;
    let ((caller_read, caller_write), (called_read, called_write)) =
        (caller.into_split(), called.into_split());
    tokio::select! {
        _ = async {
            tokio::try_join!(pump(caller_read, called_write, up), pump(called_read, caller_write, down))
        } => {}
        _ = closed.wait_for(|shape| shape.generation != generation) => {}
    }
}

async fn connect(source: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(target).await
}

/// Forwards bytes of one direction to their end, in order and as the link's shape says.
///
/// Errors: the connection broke, or lost bytes to a link that was half open and is not any more.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut shape: watch::Receiver<Shape>,
) -> io::Result<()> {
    let mut queue: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let (mut queued, mut ended, mut lost) = (0, false, false);
    let mut buffer = BytesMut::new();
    loop {
        let now = *shape.borrow_and_update();
        if lost && !now.half_open {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if ended && queue.is_empty() {
            return to.shutdown().await;
        }
        let due = queue.front().map(|(due, _)| *due);
        buffer.reserve(CHUNK_BYTES);
        tokio::select! {
            // What was told before bytes came holds for them; what is due goes before what comes.
            biased;
            changed = shape.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !now.frozen => {
                if let Some((_, bytes)) = queue.pop_front() {
                    queued -= bytes.len();
                    match now.half_open {
                        true => lost = true,
                        false => to.write_all(&bytes).await?,
                    }
                }
            }
            read = from.read_buf(&mut buffer), if !ended && !now.frozen && queued < IN_FLIGHT_BYTES_MAX => {
                let bytes = buffer.split().freeze();
                if read? == 0 {
                    ended = true;
                } else if now.half_open {
                    lost = true;
                } else if queue.is_empty() && now.delay.is_zero() && now.jitter.is_zero() {
                    to.write_all(&bytes).await?;
                } else {
                    let last = queue.back().map(|(due, _)| *due);
                    let due = Instant::now() + now.delay + now.jitter.mul_f64(rand::rng().random());
                    queued += bytes.len();
                    // In order: none overtakes the one before it.
                    queue.push_back((last.map_or(due, |last| last.max(due)), bytes));
                }
            }
        }
    }
}
