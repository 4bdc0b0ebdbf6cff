//! One process: start, signals, exit codes, memory, and its log.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A started process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with its output appended to `log`, in the namespaces of the calling thread.
    pub fn start(program: &Path, args: &[String], env: &[(String, String)], log: &Path) -> Result<Process> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log file {}", log.display()))?;
        let err = out.try_clone().context("cannot clone a file handle")?;
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().map(|(k, v)| (k, v)))
            .env_remove("NEZHA_SEED")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process {
            child,
            log: log.to_path_buf(),
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. Nothing happens if it has exited already.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // Not reaped yet, so the number cannot belong to anyone else.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it catches `signal`, or has ended.
    ///
    /// Errors: it does not within `patience`; with the log's tail.
    pub fn wait_catching(&mut self, signal: Signal, patience: Duration) -> Result<()> {
        let started = Instant::now();
        while self.exited()?.is_none() && !catches(self.pid(), signal) {
            if started.elapsed() > patience {
                bail!(
                    "it does not catch {signal:?} after {patience:?}:\n{}",
                    self.log_tail(40)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait().context("cannot wait for a killed process")
    }

    /// The exit status, if it has exited.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for the exit status")
    }

    /// Waits for the end.
    ///
    /// Errors: it runs on after `patience`; with the log's tail.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if started.elapsed() > patience {
                bail!("still running after {patience:?}:\n{}", self.log_tail(40));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end and answers the exit code.
    ///
    /// Errors: it runs on after `patience`, or a signal ended it; with the log's tail.
    pub fn exit_code(&mut self, patience: Duration) -> Result<i32> {
        let status = self.wait(patience)?;
        status.code().with_context(|| {
            format!(
                "ended by signal {:?} instead of an exit code:\n{}",
                status.signal(),
                self.log_tail(40)
            )
        })
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Most resident memory since the start, or since [`Process::forget_peak`]; bytes.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// Lets the peak begin at what is resident now.
    pub fn forget_peak(&self) -> Result<()> {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
            .context("cannot reset a process's peak; that needs root")
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .context("cannot read the memory of a process")?;
        let kib: u64 = status
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_whitespace().nth(1))
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("/proc states no {name}"))?;
        Ok(kib << 10)
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

/// Whether a process has a handler for `signal`, as the mask `SigCgt` of /proc says.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_waits_until_it_is_caught() {
        let dir = tempfile::tempdir().unwrap();
        // Dash catches SIGTERM only once the trap is set.
        let script = "sleep 0.3; trap 'exit 7' TERM; while :; do sleep 0.05; done".to_owned();
        let args = ["-c".to_owned(), script];
        let mut process = Process::start(Path::new("/bin/sh"), &args, &[], &dir.path().join("log")).unwrap();
        process
            .wait_catching(Signal::TERM, Duration::from_secs(10))
            .unwrap();
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code(Duration::from_secs(10)).unwrap(), 7);
    }
}
