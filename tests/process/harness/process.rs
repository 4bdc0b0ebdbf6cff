//! One `kvd` process: start, signals, exit codes, memory, and its log. A front of `nezha_jepsen::cluster::process`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nezha_jepsen::cluster::process;
use rustix::process::{Pid, Signal, kill_process};

pub use nezha_jepsen::cluster::process::{log_of, tail};

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

/// A started process, as in `nezha_jepsen::cluster`; what it cannot do fails the test. Killed when dropped.
pub struct Process(process::Process);

fn well<T>(done: anyhow::Result<T>) -> T {
    done.unwrap_or_else(|error| panic!("{error:#}"))
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    pub fn start(program: &Path, args: &[String], env: &[(String, String)], log: &Path) -> Process {
        Process(well(process::Process::start(program, args, env, log)))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Sends a signal. No error if it has exited already.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        well(self.0.kill());
    }

    /// The exit status, if it has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        well(self.0.exited())
    }

    /// Waits for the end; panics with the log's tail when it does not come.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        well(self.0.wait(patience))
    }

    /// Waits for the end and returns the exit code; panics when a signal ended it.
    pub fn exit_code(&mut self, patience: Duration) -> i32 {
        well(self.0.exit_code(patience))
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        well(self.0.resident_bytes())
    }

    /// Most resident memory since the start, or since [`Process::forget_peak`]; bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        well(self.0.peak_resident_bytes())
    }

    /// Lets the peak begin at what is resident now.
    pub fn forget_peak(&self) {
        well(self.0.forget_peak());
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// The last `lines` of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.0.log_tail(lines)
    }
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
