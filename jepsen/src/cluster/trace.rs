//! System-call traces and injected faults of a running node, by strace.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::command::text;

/// strace attached to one process. Detaches when dropped; the process runs on.
#[derive(Debug)]
pub struct Tracer {
    strace: Strace,
    output: PathBuf,
}

#[derive(Debug)]
enum Strace {
    /// Attached by us.
    Attached(Child),
    /// Came with the start of the process of this number.
    Wrapped(u32),
}

/// A finished call on a log file.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What it does.
    pub kind: Kind,
    /// The file, as strace resolved the descriptor.
    pub file: String,
    /// Seconds since 1970.
    pub start: f64,
    /// Seconds since 1970.
    pub end: f64,
    /// Whether it returned 0 or a byte count.
    pub succeeded: bool,
    /// The arguments as strace prints them; for a write, with the bytes.
    pub arguments: String,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes to a file.
    Write,
    /// Makes a file durable.
    Sync,
}

/// Seconds since 1970, on the clock that strace stamps with.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// How long strace may take to attach, and to let go.
const ATTACH_PATIENCE: Duration = Duration::from_secs(20);

/// Calls that change files, with the bytes of writes.
const WRITES: &[&str] = &[
    "-s",
    "65536",
    "-e",
    "trace=fdatasync,fsync,pwrite64,pwritev,pwritev2",
];
/// Calls that read files, without the bytes.
const READS: &[&str] = &[
    "-s",
    "0",
    "-e",
    "trace=open,openat,openat2,read,readv,pread64,preadv,preadv2,readahead,fadvise64,mmap,sendfile",
];

impl Tracer {
    /// Traces writes and syncs of files, with their bytes. `injections` are strace's, such as
    /// `fdatasync:error=EIO:when=1+`.
    pub fn attach(pid: u32, output: PathBuf, injections: &[&str]) -> Result<Tracer> {
        Tracer::start(pid, output, &strings(WRITES), injections, None)
    }

    /// The same for the calls on one file only.
    pub fn attach_to(pid: u32, output: PathBuf, injections: &[&str], file: &str) -> Result<Tracer> {
        Tracer::start(pid, output, &strings(WRITES), injections, Some(file))
    }

    /// Traces what opens, reads, maps or asks for files, without their bytes.
    pub fn attach_to_reads(pid: u32, output: PathBuf) -> Result<Tracer> {
        Tracer::start(pid, output, &strings(READS), &[], None)
    }

    /// Injects into a running process and traces no more calls than that needs.
    pub fn inject(pid: u32, output: PathBuf, injection: &str) -> Result<Tracer> {
        Tracer::start(pid, output, &calls_of(injection)?, &[injection], None)
    }

    /// The same for the calls on one file only.
    pub fn inject_into(pid: u32, output: PathBuf, injection: &str, file: &Path) -> Result<Tracer> {
        let file = Some(text(file)?);
        Tracer::start(pid, output, &calls_of(injection)?, &[injection], file)
    }

    /// What to put in front of a command so that it runs with an injection from the start, under its own process id;
    /// into the calls on `file` only, if there is one. Of a call with two names the first one counts.
    pub fn wrap(output: &Path, injection: &str, file: Option<&Path>) -> Result<Vec<String>> {
        // -D: strace is the grandchild, and what it traces the child. -I: else it hears no SIGTERM as long as that one runs.
        // Not --seccomp-bpf, which would spare all other calls their stops: with it, strace 6.1 does not inject.
        let mut line = strings(&["strace", "-D", "-I", "2", "-f", "-qq", "-o", text(output)?]);
        line.extend(calls_of(injection)?);
        line.extend(["-e".to_string(), format!("inject={injection}")]);
        if let Some(file) = file {
            line.extend(strings(&["-P", text(file)?]));
        }
        Ok(line)
    }

    /// The tracer of a process that was started under [`Tracer::wrap`].
    pub fn of_wrapped(pid: u32, output: PathBuf) -> Tracer {
        Tracer {
            strace: Strace::Wrapped(pid),
            output,
        }
    }

    fn start(
        pid: u32,
        output: PathBuf,
        calls: &[String],
        injections: &[&str],
        file: Option<&str>,
    ) -> Result<Tracer> {
        // Not a pipe: nobody would read what it says while it runs.
        let said_path = output.with_extension("said");
        let said = std::fs::write(&said_path, "")
            .and_then(|()| OpenOptions::new().append(true).open(&said_path))
            .with_context(|| format!("cannot make {}", said_path.display()))?;
        let mut command = Command::new("strace");
        command
            .args(["-f", "-ttt", "-T", "-y", "-v", "-o"])
            .arg(&output)
            .args(calls);
        for injection in injections {
            command.args(["-e", &format!("inject={injection}")]);
        }
        if let Some(file) = file {
            command.args(["-P", file]);
        }
        command.args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let mut strace = command
            .spawn()
            .context("strace does not start; scripts/deps.sh test installs it")?;
        if let Err(error) = wait_attached(&mut strace, pid, &output) {
            let _ = strace.kill();
            let _ = strace.wait();
            let said = std::fs::read_to_string(&said_path).unwrap_or_default();
            return Err(error.context(format!("strace of {injections:?}: {}", said.trim())));
        }
        Ok(Tracer {
            strace: Strace::Attached(strace),
            output,
        })
    }

    /// Ends it at once, whatever it holds up: calls go on then.
    pub fn abandon(mut self) {
        if let Strace::Attached(strace) = &mut self.strace {
            let _ = strace.kill();
            let _ = strace.wait();
        }
    }

    /// Detaches and returns the calls on files below a directory named `log`, in order of their end.
    pub fn finish(mut self) -> Vec<Call> {
        self.detach();
        let mut calls = parse(&self.text());
        calls.retain(|call| call.file.contains("/log/"));
        calls.sort_by(|a, b| a.end.total_cmp(&b.end));
        calls
    }

    /// Detaches and returns the calls on files below a directory named `log` or `values`, as strace prints them.
    pub fn finish_reads(mut self) -> Vec<String> {
        self.detach();
        self.text()
            .lines()
            .filter(|line| line.contains("/log/") || line.contains("/values/"))
            .map(str::to_owned)
            .collect()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    fn detach(&mut self) {
        match &mut self.strace {
            Strace::Attached(strace) => {
                if let Some(pid) = Pid::from_raw(strace.id() as i32)
                    && strace.try_wait().ok().flatten().is_none()
                {
                    let _ = kill_process(pid, Signal::TERM);
                    let _ = strace.wait();
                }
            }
            // Ends by itself with the process; until then, that one knows its number.
            Strace::Wrapped(pid) => {
                let process = PathBuf::from(format!("/proc/{pid}"));
                let tracer = || tracer_of(&process).and_then(Pid::from_raw);
                let asked = Instant::now();
                while let Some(tracer) = tracer()
                    && asked.elapsed() < ATTACH_PATIENCE
                {
                    let _ = kill_process(tracer, Signal::TERM);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.detach();
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// The options that trace the calls of an injection and no others.
fn calls_of(injection: &str) -> Result<Vec<String>> {
    let Some((calls, what)) = injection.split_once(':') else {
        bail!(
            "{injection:?} is no injection: it has the form CALLS:WHAT, such as fdatasync:error=EIO:when=3+"
        );
    };
    ensure!(
        !calls.is_empty() && !what.is_empty(),
        "{injection:?} lacks calls or what happens"
    );
    Ok(strings(&["-s", "0", "-e", &format!("trace={calls}")]))
}

fn wait_attached(strace: &mut Child, pid: u32, output: &Path) -> Result<()> {
    let started = Instant::now();
    while !all_threads_traced(pid) {
        if let Some(ended) = strace.try_wait().context("cannot wait for strace")? {
            // What it injected has ended the process already, or it never traced anything.
            let traced = std::fs::metadata(output).map_or(0, |output| output.len());
            ensure!(traced > 0, "strace ended instead of attaching to {pid}: {ended}");
            return Ok(());
        }
        ensure!(
            started.elapsed() < ATTACH_PATIENCE,
            "strace does not attach to {pid} within {ATTACH_PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn all_threads_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| is_traced(&task.path()))
}

fn is_traced(task: &Path) -> bool {
    // A thread that has ended in between is not untraced.
    !task.join("status").exists() || tracer_of(task).is_some_and(|tracer| tracer != 0)
}

/// Number of the process that traces the one, or the thread, of this directory of /proc; 0 for none.
fn tracer_of(task: &Path) -> Option<i32> {
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok()
}

/// Reads strace's output. Calls without a result (cut off by the detaching) are left out.
fn parse(text: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (f64, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((stamp, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        let Ok(stamp) = stamp.parse::<f64>() else { continue };
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (stamp, begin));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((start, begin)) = open.remove(thread) else {
                continue;
            };
            let Some((_, end)) = resumed.split_once(" resumed>") else {
                continue;
            };
            calls.extend(call(start, stamp, &format!("{begin}{end}")));
        } else {
            calls.extend(call(stamp, stamp, rest));
        }
    }
    calls
}

fn call(start: f64, seen: f64, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let kind = match name {
        "fdatasync" | "fsync" => Kind::Sync,
        "pwrite64" | "pwritev" | "pwritev2" => Kind::Write,
        _ => return None,
    };
    let file = rest.split_once('<')?.1.split_once('>')?.0.to_string();
    // The result is the last " = ": a value may hold one too.
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let succeeded = result.chars().next()?.is_ascii_digit();
    // "<0.000123>" at the end: how long it took.
    let took: f64 = result.rsplit_once('<')?.1.strip_suffix('>')?.parse().ok()?;
    let end = if seen > start {
        seen.max(start)
    } else {
        start + took
    };
    Some(Call {
        kind,
        file,
        start,
        end,
        succeeded,
        arguments: arguments.to_string(),
    })
}

/// Whether `calls` show that a record with `key` was written and then covered by a successful sync of the same file,
/// begun after the write had returned and over at `by`.
pub fn durable_by(calls: &[Call], key: &str, by: f64) -> bool {
    let writes = calls
        .iter()
        .filter(|c| c.kind == Kind::Write && c.succeeded && c.arguments.contains(key));
    writes.into_iter().any(|write| {
        calls.iter().any(|sync| {
            sync.kind == Kind::Sync
                && sync.succeeded
                && sync.file == write.file
                && sync.start >= write.end
                && sync.end <= by
        })
    })
}

#[test]
fn traces_are_read_and_judged() {
    let text = r#"
10 100.000100 pwritev(7</d/n1/log/1.log>, [{iov_base="ab = key-1 <x>", iov_len=14}], 1, 0) = 14 <0.000050>
10 100.000200 fdatasync(7</d/n1/log/1.log> <unfinished ...>
11 100.000250 pwrite64(9</d/n1/store-0/index/LOG>, "x", 1, 0) = 1 <0.000010>
10 100.004200 <... fdatasync resumed>) = 0 <0.004000>
10 100.005000 pwritev(7</d/n1/log/1.log>, [{iov_base="key-2", iov_len=5}], 1, 14) = 5 <0.000050>
10 100.006000 fdatasync(7</d/n1/log/1.log>) = -1 EIO (Input/output error) (INJECTED) <0.000050>
10 100.007000 pwritev(7</d/n1/log/1.log>, [{iov_base="key-3", iov_len=5}], 1, 19) = 5 <0.000050>
"#;
    let calls = parse(text);
    assert_eq!(calls.len(), 6);
    assert_eq!((calls[1].kind, calls[2].kind), (Kind::Write, Kind::Sync));
    assert!(durable_by(&calls, "key-1", 100.0043));
    assert!(!durable_by(&calls, "key-1", 100.0040), "the sync was not over");
    assert!(!durable_by(&calls, "key-2", 200.0), "its sync failed");
    assert!(!durable_by(&calls, "key-3", 200.0), "it was never synced");
    assert!(!durable_by(&calls, "key-9", 200.0), "it was never written");
}

#[test]
fn a_tracer_sees_syncs_and_can_fail_them() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("log")).unwrap();
    // Writes and syncs after a byte on stdin, so that the tracer is there in time. dd syncs with fsync at its end.
    let file = root.path().join("log/1.log");
    let script = format!(
        "read x; exec dd if=/dev/zero of={} bs=100 count=3 conv=fdatasync",
        file.display()
    );
    for (injections, code) in [(vec![], 0), (vec!["fdatasync,fsync:error=EIO"], 1)] {
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash starts");
        let tracer = Tracer::attach(child.id(), root.path().join("trace"), &injections).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"go\n").expect("bash reads");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        let calls = tracer.finish();
        let syncs: Vec<&Call> = calls.iter().filter(|c| c.kind == Kind::Sync).collect();
        // After a failed fdatasync, dd tries fsync.
        assert!(
            !syncs.is_empty() && syncs.iter().all(|sync| sync.succeeded == (code == 0)),
            "{calls:?}"
        );
    }
}

/// Once, strace heard no SIGTERM: an injection that had been ended killed the process later.
#[cfg(test)]
#[test]
fn a_wrapped_process_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("trace");
    let line = Tracer::wrap(&output, "rename:signal=KILL:when=1", None).unwrap();
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let started = Instant::now();
    while tracer_of(&process).unwrap() == 0 {
        assert!(started.elapsed() < ATTACH_PATIENCE, "it is not traced");
    }
    drop(Tracer::of_wrapped(child.id(), output));
    assert_eq!(tracer_of(&process), Some(0));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}
