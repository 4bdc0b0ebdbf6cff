//! One `kvd` process: start, signals, exit codes, memory, and its log.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The product under test.
pub fn kvd() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kvd"))
}

/// A binary of the workspace that stands beside `kvd`.
pub fn beside_kvd(name: &str) -> PathBuf {
    let path = kvd().with_file_name(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build` first",
        path.display()
    );
    path
}

/// `kvd` with the test-only bugs compiled in.
pub fn planted_kvd() -> PathBuf {
    let path = match std::env::var_os("NEZHA_PLANTED_KVD") {
        Some(path) => PathBuf::from(path),
        None => kvd().with_file_name("../planted/kvd"),
    };
    assert!(
        path.exists(),
        "{} is missing: run scripts/build-planted.sh first",
        path.display()
    );
    path
}

/// A started process. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    pub fn start(program: &Path, args: &[String], env: &[(String, String)], log: &Path) -> Process {
        let out: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file opens");
        let err = out.try_clone().expect("a file handle can be cloned");
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().map(|(k, v)| (k, v)))
            .env_remove("NEZHA_SEED")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
        Process {
            child,
            log: log.to_path_buf(),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. No error if it has exited already.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child's pid is above 0");
        // Not reaped yet, so the number cannot belong to anyone else.
        let _ = kill_process(pid, signal);
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child can be waited for");
    }

    /// The exit status, if it has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end; panics with the log's tail when it does not come.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                started.elapsed() < patience,
                "still running after {patience:?}:\n{}",
                self.log_tail(40)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end and returns the exit code; panics when a signal ended it.
    pub fn exit_code(&mut self, patience: Duration) -> i32 {
        let status = self.wait(patience);
        status.code().unwrap_or_else(|| {
            panic!(
                "ended by signal {:?} instead of an exit code:\n{}",
                status.signal(),
                self.log_tail(40)
            )
        })
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Most resident memory since the start, or since [`Process::forget_peak`]; bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Lets the peak begin at what is resident now.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
            .expect("root may reset a process's peak");
    }

    fn memory(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("/proc does not state {name}"));
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{name} is not a number: {line}"));
        kib << 10
    }

    /// The whole log.
    pub fn log(&self) -> String {
        log_of(&self.log)
    }

    /// The last `lines` of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The text of a log file; empty when there is none.
pub fn log_of(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The last `lines` of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = log_of(path);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a program to its end with a deadline. Answers exit code, stdout and stderr.
pub fn run(program: &Path, args: &[&str], patience: Duration) -> (i32, String, String) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
    let pid = Pid::from_raw(child.id() as i32).expect("a child's pid is above 0");
    let out = drain(child.stdout.take().expect("stdout is piped"));
    let err = drain(child.stderr.take().expect("stderr is piped"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if started.elapsed() > patience {
            let _ = kill_process(pid, Signal::KILL);
            let _ = child.wait();
            panic!("{} {args:?} still runs after {patience:?}", program.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |reader: JoinHandle<String>| reader.join().expect("a reader does not panic");
    (status.code().unwrap_or(-1), text(out), text(err))
}

/// Reads a pipe to its end on a thread, so that a full pipe never stops the writer.
fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
