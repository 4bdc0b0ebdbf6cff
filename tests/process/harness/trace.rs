//! System-call traces and injected faults of a running node, by strace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

/// strace attached to one process. Detaches when dropped; the process runs on.
pub struct Tracer {
    strace: Child,
    output: PathBuf,
}

/// A finished call on a log file.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Write,
    Sync,
}

/// Seconds since 1970, on the clock that strace stamps with.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs_f64()
}

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
    pub fn attach(pid: u32, output: PathBuf, injections: &[&str]) -> Tracer {
        Tracer::start(pid, output, WRITES, injections, None)
    }

    /// The same for the calls on one file only.
    pub fn attach_to(pid: u32, output: PathBuf, injections: &[&str], file: &str) -> Tracer {
        Tracer::start(pid, output, WRITES, injections, Some(file))
    }

    /// Traces what opens, reads, maps or asks for files, without their bytes.
    pub fn attach_to_reads(pid: u32, output: PathBuf) -> Tracer {
        Tracer::start(pid, output, READS, &[], None)
    }

    fn start(pid: u32, output: PathBuf, calls: &[&str], injections: &[&str], file: Option<&str>) -> Tracer {
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
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let strace = command
            .spawn()
            .expect("strace starts; scripts/deps.sh test installs it");
        let mut tracer = Tracer { strace, output };
        tracer.wait_attached(pid);
        tracer
    }

    fn wait_attached(&mut self, pid: u32) {
        let started = Instant::now();
        while !all_threads_traced(pid) {
            if let Some(ended) = self.strace.try_wait().expect("a child can be waited for") {
                // What it injected has ended the process already, or it never traced anything.
                let traced = std::fs::metadata(&self.output).map_or(0, |output| output.len());
                assert!(traced > 0, "strace ended instead of attaching to {pid}: {ended}");
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "strace attaches to {pid} within 20 s"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Detaches and returns the calls on files below a directory named `log`, in order of their end.
    pub fn finish(mut self) -> Vec<Call> {
        self.detach();
        let text = String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned();
        let mut calls = parse(&text);
        calls.retain(|call| call.file.contains("/log/"));
        calls.sort_by(|a, b| a.end.total_cmp(&b.end));
        calls
    }

    /// Detaches and returns the calls on files below a directory named `log` or `values`, as strace prints them.
    pub fn finish_reads(mut self) -> Vec<String> {
        self.detach();
        let text = String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned();
        text.lines()
            .filter(|line| line.contains("/log/") || line.contains("/values/"))
            .map(str::to_owned)
            .collect()
    }

    fn detach(&mut self) {
        if let Some(pid) = Pid::from_raw(self.strace.id() as i32)
            && self.strace.try_wait().ok().flatten().is_none()
        {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.detach();
    }
}

fn all_threads_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| is_traced(&task.path()))
}

fn is_traced(task: &Path) -> bool {
    // A thread that has ended in between is not untraced.
    let Ok(status) = std::fs::read_to_string(task.join("status")) else {
        return true;
    };
    status
        .lines()
        .any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
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
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
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
        let tracer = Tracer::attach(child.id(), root.path().join("trace"), &injections);
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
