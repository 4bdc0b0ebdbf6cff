//! `kvd local`: a cluster on one machine, one child process per node, looked after by this one.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use nezha_api::v1::StatusRequest;
use nezha_api::v1::maintenance_service_client::MaintenanceServiceClient;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Endpoint;

use crate::exit;

/// Set for a child: it ends when its parent does.
const SUPERVISED: &str = "KVD_SUPERVISED";
/// Pause before a child is started again, at first and at most; twice as long each time.
const RESTART_DELAY: Duration = Duration::from_millis(250);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A child that ran this long starts with the first pause again.
const HEALTHY: Duration = Duration::from_secs(30);
/// How long children may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(150);

const EXAMPLES: &str = "\
Examples:
  kvd local --nodes 3 --data-dir ./demo
  kvd local --data-dir ./demo --client-port 7379 --peer-port 7479 -- --value-bytes-max 64MiB
  kill -9 $(cat demo/n1/kvd.pid)     a node dies, and is started again

Nodes are called n1, n2, ...; DIR/<node> has the data, kvd.pid and kvd.log. The same DIR continues the same cluster.";

/// Options of `kvd local`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct LocalOptions {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Directory of the cluster; each node has a directory in it
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Client port of the first node; the others follow
    #[arg(long, default_value_t = 7379)]
    pub client_port: u16,
    /// Peer port of the first node; the others follow
    #[arg(long, default_value_t = 7479)]
    pub peer_port: u16,
    /// Leave a node that ended as it is
    #[arg(long)]
    pub no_restart: bool,
    /// Options for every node
    #[arg(last = true, value_name = "NODE OPTIONS")]
    pub node_options: Vec<String>,
}

/// One node of the cluster.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    dir: PathBuf,
    client: String,
    args: Vec<String>,
}

/// Ends this process when its supervisor ends, if it has one: nodes that nobody looks after would hold their ports.
pub fn die_with_parent() {
    if std::env::var_os(SUPERVISED).is_none() {
        return;
    }
    let parent = rustix::process::getppid();
    let asked = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    // The parent may have ended before that call.
    if asked.is_err() || rustix::process::getppid() != parent {
        tracing::warn!("this node may outlive its supervisor");
    }
}

/// Runs the cluster until a signal comes or no node is left. Returns the exit code.
pub fn run(options: &LocalOptions) -> i32 {
    // One thread: a child is told of its parent's end by the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(supervise(options))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kvd local: {error}");
            exit::OTHER
        }
    }
}

fn members(options: &LocalOptions) -> Result<Vec<Member>, String> {
    let port = |first: u16, i: u16| {
        first
            .checked_add(i)
            .ok_or_else(|| format!("port {first} + {i} is above 65535"))
    };
    let last = options.nodes - 1;
    let overlap = options.client_port <= options.peer_port.saturating_add(last)
        && options.peer_port <= options.client_port.saturating_add(last);
    if overlap {
        return Err(format!(
            "client ports from {} and peer ports from {} overlap; leave {} between them",
            options.client_port, options.peer_port, options.nodes
        ));
    }
    let mut list = Vec::new();
    for i in 0..options.nodes {
        let peer = port(options.peer_port, i)?;
        let client = port(options.client_port, i)?;
        list.push(format!("n{}=127.0.0.1:{peer}/127.0.0.1:{client}", i + 1));
    }
    let list = list.join(",");
    let member = |i: u16| {
        let name = format!("n{}", i + 1);
        let dir = options.data_dir.join(&name);
        let client = format!("127.0.0.1:{}", port(options.client_port, i)?);
        let peer = format!("127.0.0.1:{}", port(options.peer_port, i)?);
        let mut args: Vec<String> = vec![
            "--name".into(),
            name.clone(),
            "--data-dir".into(),
            dir.display().to_string(),
        ];
        args.extend([
            "--listen-client".into(),
            client.clone(),
            "--listen-peer".into(),
            peer,
        ]);
        args.extend(["--initial-cluster".into(), list.clone()]);
        args.extend(options.node_options.iter().cloned());
        Ok(Member {
            name,
            dir,
            client,
            args,
        })
    };
    (0..options.nodes).map(member).collect()
}

/// Prints a line, also when nobody reads any more (`kvd local | head`): the cluster goes on.
macro_rules! say {
    ($($text:tt)*) => { drop(writeln!(io::stdout(), $($text)*)) };
}

async fn supervise(options: &LocalOptions) -> io::Result<i32> {
    let members = match members(options) {
        Ok(members) => members,
        Err(reason) => {
            eprintln!("kvd local: {reason}");
            return Ok(exit::USAGE);
        }
    };
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopping) = watch::channel(false);
    let mut nodes = JoinSet::new();
    for member in members.clone() {
        say!(
            "{}: clients {}, log {}",
            member.name,
            member.client,
            member.dir.join("kvd.log").display()
        );
        nodes.spawn(keep_running(member, !options.no_restart, stopping.clone()));
    }
    let mut announced = Box::pin(announce(options, &members));
    let mut waiting = true;
    let mut worst = 0;
    loop {
        tokio::select! {
            () = &mut announced, if waiting => waiting = false,
            ended = nodes.join_next() => match ended {
                Some(Ok(code)) => worst = if code == 0 { worst } else { code },
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(worst),
            },
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    say!("stopping {} nodes", nodes.len());
    stop.send_replace(true);
    let all = async {
        while let Some(ended) = nodes.join_next().await {
            worst = ended.unwrap_or(exit::OTHER).max(worst);
        }
        worst
    };
    tokio::select! {
        code = all => Ok(code),
        // The end of this process is the nodes' second signal: they end at once.
        _ = term.recv() => Ok(exit::OTHER),
        _ = interrupt.recv() => Ok(exit::OTHER),
    }
}

/// Starts a node again and again. Returns its last exit code when it is not to be started again.
async fn keep_running(member: Member, restart: bool, mut stopping: watch::Receiver<bool>) -> i32 {
    let mut delay = RESTART_DELAY;
    let mut first = true;
    loop {
        let started = Instant::now();
        let mut child = match start(&member) {
            Ok(child) => child,
            Err(error) => {
                eprintln!("{}: cannot start: {error}", member.name);
                return exit::OTHER;
            }
        };
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some(ended) = ended else {
            return end(&member, child).await;
        };
        forget_pid(&member.dir);
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                eprintln!("{}: cannot be watched: {error}", member.name);
                return exit::OTHER;
            }
        };
        let code = status.code().unwrap_or(exit::OTHER);
        let log = member.dir.join("kvd.log");
        if !restart || is_refusal(code, first) {
            eprintln!(
                "{}: ended: {status}; not started again; see {}: {}",
                member.name,
                log.display(),
                last_line(&log)
            );
            return code;
        }
        first = false;
        if started.elapsed() > HEALTHY {
            delay = RESTART_DELAY;
        }
        eprintln!(
            "{}: ended: {status}; starting again in {} ms; see {}",
            member.name,
            delay.as_millis(),
            log.display()
        );
        tokio::select! {
            () = sleep(delay) => {}
            _ = stopping.wait_for(|stop| *stop) => return 0,
        }
        delay = (delay * 2).min(RESTART_DELAY_MAX);
    }
}

/// Whether an exit code says that starting again cannot help. A port that is taken at the first start belongs to
/// somebody else; later, it may be free again soon.
fn is_refusal(code: i32, first: bool) -> bool {
    match code {
        exit::USAGE | exit::DATA_REFUSED | exit::WRONG_DIRECTORY | exit::LOCKED => true,
        exit::PORT_IN_USE => first,
        _ => false,
    }
}

/// What a node said last: its reason.
fn last_line(log: &Path) -> String {
    let tail = || -> io::Result<String> {
        let mut file = OpenOptions::new().read(true).open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    // Without it the path of the log is still there.
    let tail = tail().unwrap_or_default();
    tail.trim_end().lines().last().unwrap_or_default().to_owned()
}

fn start(member: &Member) -> io::Result<Child> {
    std::fs::create_dir_all(&member.dir)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(member.dir.join("kvd.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .args(&member.args)
        .env(SUPERVISED, "1")
        // Ctrl-C reaches this process only, which passes it on once: a second signal would end a node at once.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    // A node that runs without its pid file is still looked after.
    if let Some(pid) = child.id()
        && let Err(error) = write_pid(&member.dir, pid)
    {
        eprintln!("{}: cannot write kvd.pid: {error}", member.name);
    }
    Ok(child)
}

/// Tells a node to stop and waits for it.
async fn end(member: &Member, mut child: Child) -> i32 {
    let pid = child
        .id()
        .and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        eprintln!("{}: cannot be told to stop: {error}", member.name);
    }
    let ended = tokio::time::timeout(STOP_WAIT, child.wait()).await;
    forget_pid(&member.dir);
    match ended {
        Ok(Ok(status)) => status.code().unwrap_or(exit::OTHER),
        Ok(Err(_)) | Err(_) => {
            eprintln!("{}: did not stop in time; killing it", member.name);
            // It may have ended by itself just now.
            drop(child.kill().await);
            exit::OTHER
        }
    }
}

/// Written beside and renamed: whoever reads it gets a whole number.
fn write_pid(dir: &Path, pid: u32) -> io::Result<()> {
    let temporary = dir.join("kvd.pid.new");
    std::fs::write(&temporary, format!("{pid}\n"))?;
    std::fs::rename(&temporary, dir.join("kvd.pid"))
}

fn forget_pid(dir: &Path) {
    // A file that is not there is as good.
    drop(std::fs::remove_file(dir.join("kvd.pid")));
}

/// Says so once all nodes are ready and know a leader.
async fn announce(options: &LocalOptions, members: &[Member]) {
    let mut leader = 0;
    for member in members {
        leader = loop {
            match serves(&member.client).await {
                Some(leader) => break leader,
                None => sleep(Duration::from_millis(100)).await,
            }
        };
    }
    let endpoints = members
        .iter()
        .map(|member| member.client.as_str())
        .collect::<Vec<_>>()
        .join(",");
    say!(
        "\nThe cluster serves: {} nodes, n{leader} leads. Try:\n",
        members.len()
    );
    say!("  export KVCTL_ENDPOINTS={endpoints}");
    say!("  kvctl put greeting 'hello, world'");
    say!("  kvctl get greeting");
    say!("  kvctl status\n");
    let pid = options.data_dir.join("n1/kvd.pid");
    say!(
        "  kill -9 $(cat {})        a node dies; reads and writes go on\n",
        pid.display()
    );
    say!(
        "Stop with Ctrl-C; the data stays in {}.",
        options.data_dir.display()
    );
}

/// The leader that a node knows, once it is ready.
async fn serves(client: &str) -> Option<u64> {
    let channel = Endpoint::from_shared(format!("http://{client}"))
        .ok()?
        .connect()
        .await
        .ok()?;
    let mut service = MaintenanceServiceClient::new(channel);
    let status = tokio::time::timeout(Duration::from_secs(1), service.status(StatusRequest {}))
        .await
        .ok()?
        .ok()?;
    let status = status.into_inner();
    let leader = status.header.map_or(0, |header| header.leader_id);
    (status.ready && leader != 0).then_some(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(nodes: u16, client_port: u16, peer_port: u16) -> LocalOptions {
        LocalOptions {
            nodes,
            data_dir: "d".into(),
            client_port,
            peer_port,
            no_restart: false,
            node_options: vec![],
        }
    }

    #[test]
    fn nodes_get_consecutive_ports_and_the_same_list() {
        let members = members(&options(3, 7379, 7479)).unwrap();
        assert_eq!(members[2].name, "n3");
        assert_eq!(members[2].client, "127.0.0.1:7381");
        assert_eq!(members[2].dir, Path::new("d/n3"));
        let list = members[0]
            .args
            .iter()
            .position(|arg| arg == "--initial-cluster")
            .unwrap()
            + 1;
        assert!(members[0].args[list].contains("n3=127.0.0.1:7481/127.0.0.1:7381"));
        assert_eq!(members[0].args[list], members[1].args[list]);
    }

    #[test]
    fn ports_that_overlap_or_overflow_are_refused() {
        assert!(members(&options(3, 7379, 7380)).unwrap_err().contains("overlap"));
        assert!(members(&options(3, 65534, 7380)).unwrap_err().contains("65535"));
        assert!(members(&options(1, 7379, 7380)).is_ok());
    }

    #[test]
    fn refusals_are_not_repeated() {
        for code in [
            exit::WRONG_DIRECTORY,
            exit::DATA_REFUSED,
            exit::USAGE,
            exit::LOCKED,
        ] {
            assert!(is_refusal(code, true) && is_refusal(code, false), "{code}");
        }
        for code in [exit::OTHER, exit::LOG_FAILED, exit::NO_SPACE, 0] {
            assert!(!is_refusal(code, true), "{code}");
        }
        assert!(is_refusal(exit::PORT_IN_USE, true) && !is_refusal(exit::PORT_IN_USE, false));
    }
}
