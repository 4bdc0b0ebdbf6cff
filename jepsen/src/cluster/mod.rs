//! A cluster of real `kvd` processes and every mechanism that hurts it, each with its undoing.
//!
//! Everything blocks. An error is a failure of the harness (a command of ours failed, and says which), except for
//! [`Refused`]: what the cluster itself did not do in time. Members are known by position; one that was removed leaves
//! its position, address and namespace to the next that joins, under a new name and with a fresh disk.
//!
//! Faults may overlap: those of a process answer whether one was there to suffer them, and undoing what is not there
//! is no error.

pub mod command;
pub mod disk;
mod faults;
mod leftovers;
pub mod membership;
pub mod net;
pub mod process;
mod proxy;
mod rot;
mod rules;
mod throttle;
pub mod trace;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use disk::{FailingDisk, LoopDisk};
pub use membership::Refused;
pub use net::Network;
use process::Process;
pub use rules::Side;
use throttle::Throttle;
use trace::Tracer;

/// Port that members serve clients on.
pub const CLIENT_PORT: u16 = 7379;

/// Port that members serve each other on.
pub const PEER_PORT: u16 = 7380;

/// Last lines of a log that tell why a process ended.
const LOG_TAIL_LINES: usize = 40;

/// How long a process may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take until it listens to signals.
const CATCH_PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// First members.
    pub nodes: usize,
    /// The binary.
    pub kvd: PathBuf,
    /// Where logs, images and traces are kept; made when missing. Images are removed with the cluster.
    pub dir: PathBuf,
    /// Added to the command line of every member.
    pub options: Vec<String>,
    /// Added to the environment of every member.
    pub env: Vec<(String, String)>,
    /// Size of each member's disk, MiB.
    pub disk_mib: u64,
}

impl Spec {
    /// Three members with disks of 512 MiB and `kvd`'s own defaults.
    pub fn new(kvd: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Spec {
        Spec {
            nodes: 3,
            kvd: kvd.into(),
            dir: dir.into(),
            options: Vec::new(),
            env: Vec::new(),
            disk_mib: 512,
        }
    }
}

/// How a process ended that nobody stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last lines of its log.
    pub log_tail: String,
}

#[derive(Debug)]
enum Disk {
    Sound(LoopDisk),
    Failing(FailingDisk),
}

impl Disk {
    fn mounted(&self) -> &LoopDisk {
        match self {
            Disk::Sound(disk) => disk,
            Disk::Failing(failing) => failing.disk(),
        }
    }
}

/// One position: who has it now, and what is wrong with it.
#[derive(Default)]
struct Member {
    name: String,
    /// Arguments that say how it got into the cluster.
    origin: Vec<String>,
    /// Whether the cluster counts it, as far as was told.
    belongs: bool,
    // Dropped in this order: whoever uses the disk before the disk.
    tracer: Option<Tracer>,
    process: Option<Process>,
    throttle: Option<Throttle>,
    bytes_per_second: Option<u64>,
    full: bool,
    disk: Option<Disk>,
    /// Disks that this position has had: their names are not used again.
    disks: u32,
}

/// A cluster. Its processes, mounts, control groups and namespaces go when it is dropped.
pub struct Cluster {
    spec: Spec,
    // Before the network: namespaces go after the processes in them.
    members: Vec<Member>,
    /// Members that there were, removed ones included: no name comes back.
    named: usize,
    traces: u32,
    disks: PathBuf,
    network: Network,
}

impl Cluster {
    /// Makes namespaces, proxies and disks for the first members; starts none.
    pub fn new(spec: Spec) -> Result<Cluster> {
        ensure!(
            spec.kvd.is_file(),
            "{} is missing: build it with `make build`",
            spec.kvd.display()
        );
        let network = Network::new(spec.nodes, &[PEER_PORT, CLIENT_PORT])?;
        // Its name says whose mounts they are, should this process be killed.
        let disks = spec.dir.join(network.name());
        std::fs::create_dir_all(&disks).with_context(|| format!("cannot make {}", disks.display()))?;
        let list: Vec<String> = (0..spec.nodes)
            .map(|i| {
                let host = network.host(i);
                format!("n{}={host}:{PEER_PORT}/{host}:{CLIENT_PORT}", i + 1)
            })
            .collect();
        let origin = vec!["--initial-cluster".to_string(), list.join(",")];
        let mut cluster = Cluster {
            named: spec.nodes,
            spec,
            members: Vec::new(),
            traces: 0,
            disks,
            network,
        };
        for i in 0..cluster.spec.nodes {
            cluster.members.push(Member {
                name: format!("n{}", i + 1),
                origin: origin.clone(),
                belongs: true,
                ..Member::default()
            });
            cluster.fresh_disk(i)?;
        }
        Ok(cluster)
    }

    /// Positions: `0..len()`; grows with joiners.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no position at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The names by position; of one that was removed, the name it had.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// Client addresses by position, reachable from the hub (see [`Network::enter`]).
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|i| self.client(i)).collect()
    }

    /// Whether the cluster counts the member: it was not removed, and whoever joins has been added.
    pub fn belongs(&self, i: usize) -> bool {
        self.members.get(i).is_some_and(|member| member.belongs)
    }

    /// The network, with the faults of its links.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What the cluster was made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The data directory of a member.
    pub fn data_dir(&self, i: usize) -> Result<PathBuf> {
        Ok(self.member(i)?.mounted()?.data())
    }

    /// The log file of a member, over all its starts.
    pub fn log_path(&self, i: usize) -> Result<PathBuf> {
        Ok(self.log_file(&self.member(i)?.name))
    }

    /// Lines in the log of a member. Whoever logs very much does something in a loop.
    pub fn log_lines(&self, i: usize) -> Result<usize> {
        Ok(process::log_of(&self.log_path(i)?).lines().count())
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.spec.dir.join(format!("{name}.log"))
    }

    fn client(&self, i: usize) -> String {
        format!("{}:{CLIENT_PORT}", self.network.host(i))
    }

    fn peer(&self, i: usize) -> String {
        format!("{}:{PEER_PORT}", self.network.host(i))
    }

    fn member(&self, i: usize) -> Result<&Member> {
        let count = self.members.len();
        self.members
            .get(i)
            .with_context(|| format!("there is no member {i} of {count}"))
    }

    fn member_mut(&mut self, i: usize) -> Result<&mut Member> {
        let count = self.members.len();
        self.members
            .get_mut(i)
            .with_context(|| format!("there is no member {i} of {count}"))
    }

    /// Gives a member an empty disk; the one it had goes.
    fn fresh_disk(&mut self, i: usize) -> Result<()> {
        let (root, mib) = (self.disks.clone(), self.spec.disk_mib);
        let member = self.member_mut(i)?;
        member.disk = None;
        member.throttle = None;
        (member.full, member.bytes_per_second) = (false, None);
        let name = member.next_disk(i);
        member.disk = Some(Disk::Sound(LoopDisk::new(&root, &name, mib)?));
        Ok(())
    }

    /// Starts a member that does not run; does not wait for anything.
    pub fn start(&mut self, i: usize) -> Result<()> {
        self.start_under(i, &[])
    }

    /// Starts every member that does not run and was not removed.
    pub fn start_all(&mut self) -> Result<()> {
        for i in (0..self.members.len())
            .filter(|i| self.belongs(*i))
            .collect::<Vec<_>>()
        {
            self.start(i)?;
        }
        Ok(())
    }

    /// Starts a member with `wrap` in front of its command line. Whatever wraps it must keep its process id.
    fn start_under(&mut self, i: usize, wrap: &[String]) -> Result<()> {
        if self.member(i)?.process.is_some() {
            return Ok(());
        }
        let member = self.member(i)?;
        let own = [
            ("--name", member.name.clone()),
            ("--data-dir", member.mounted()?.data().display().to_string()),
            ("--listen-client", self.client(i)),
            ("--listen-peer", self.peer(i)),
        ];
        let mut line = wrap.to_vec();
        line.push(self.spec.kvd.display().to_string());
        line.extend(
            own.into_iter()
                .flat_map(|(flag, value)| [flag.to_string(), value]),
        );
        line.extend(member.origin.iter().chain(&self.spec.options).cloned());
        let log = self.log_file(&member.name);
        let process = self.network.inside_member(i, || {
            Process::start(Path::new(&line[0]), &line[1..], &self.spec.env, &log)
        })??;
        let member = self.member_mut(i)?;
        if let Some(throttle) = &member.throttle {
            throttle.add(process.pid())?;
        }
        member.process = Some(process);
        Ok(())
    }

    /// Whether the member's process runs, be it paused.
    pub fn is_running(&mut self, i: usize) -> Result<bool> {
        match &mut self.member_mut(i)?.process {
            Some(process) => Ok(process.exited()?.is_none()),
            None => Ok(false),
        }
    }

    /// Process id of a started member.
    pub fn pid(&self, i: usize) -> Result<Option<u32>> {
        Ok(self.member(i)?.process.as_ref().map(Process::pid))
    }

    /// How the member's process ended, if it did so by itself since it was started; told once. It can then be started
    /// again.
    pub fn ended(&mut self, i: usize) -> Result<Option<Ended>> {
        let member = self.member_mut(i)?;
        let Some(process) = &mut member.process else {
            return Ok(None);
        };
        let Some(status) = process.exited()? else {
            return Ok(None);
        };
        let ended = Ended {
            code: status.code(),
            signal: status.signal(),
            log_tail: process.log_tail(LOG_TAIL_LINES),
        };
        member.forget_process();
        Ok(Some(ended))
    }

    /// kill -9; answers whether there was a process.
    pub fn kill(&mut self, i: usize) -> Result<bool> {
        let member = self.member_mut(i)?;
        let Some(process) = &mut member.process else {
            return Ok(false);
        };
        process.kill()?;
        member.forget_process();
        Ok(true)
    }

    /// kill -9 of all, at once.
    pub fn kill_all(&mut self) -> Result<()> {
        for process in self.members.iter().filter_map(|member| member.process.as_ref()) {
            process.signal(Signal::KILL);
        }
        for i in 0..self.members.len() {
            self.kill(i)?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end; answers the exit code, `None` if there was no process. A paused one goes on; one
    /// that was just started gets the signal once it listens to it, for before that any process dies of it.
    ///
    /// Errors: it is still there after a minute, or a signal ended it.
    pub fn terminate(&mut self, i: usize) -> Result<Option<i32>> {
        let member = self.member_mut(i)?;
        let Some(process) = &mut member.process else {
            return Ok(None);
        };
        process.signal(Signal::CONT);
        process.wait_catching(Signal::TERM, CATCH_PATIENCE)?;
        process.signal(Signal::TERM);
        let code = process
            .exit_code(STOP_PATIENCE)
            .with_context(|| format!("{} was told to stop", member.name))?;
        member.forget_process();
        Ok(Some(code))
    }

    /// SIGSTOP; answers whether there was a process.
    pub fn pause(&mut self, i: usize) -> Result<bool> {
        self.signal(i, Signal::STOP)
    }

    /// SIGCONT; answers whether there was a process.
    pub fn resume(&mut self, i: usize) -> Result<bool> {
        self.signal(i, Signal::CONT)
    }

    fn signal(&mut self, i: usize, signal: Signal) -> Result<bool> {
        let runs = self.is_running(i)?;
        if let Some(process) = &self.member(i)?.process {
            process.signal(signal);
        }
        Ok(runs)
    }
}

impl Member {
    fn mounted(&self) -> Result<&LoopDisk> {
        self.disk
            .as_ref()
            .map(Disk::mounted)
            .with_context(|| format!("{} has no disk", self.name))
    }

    fn next_disk(&mut self, i: usize) -> String {
        self.disks += 1;
        format!("disk{}.{}", i + 1, self.disks)
    }

    /// The process has ended; what was attached to it goes.
    fn forget_process(&mut self) {
        self.process = None;
        self.tracer = None;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once; then each is waited for before its disk goes.
        let _ = self.kill_all();
        self.members.clear();
        let _ = std::fs::remove_dir_all(&self.disks);
    }
}
