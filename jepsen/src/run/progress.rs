//! What a run says while it lasts: on standard error, one line a second if that is a terminal.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::workload::Recorder;

/// Where lines go.
#[derive(Clone)]
pub struct Console {
    quiet: bool,
    terminal: bool,
    /// Keeps lines whole.
    writing: Arc<Mutex<()>>,
}

/// The line that is written anew each second; ends when dropped.
pub struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Console {
    /// A console that says nothing if `quiet`.
    pub fn new(quiet: bool) -> Console {
        Console {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            writing: Arc::default(),
        }
    }

    /// Writes a line.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.write(&format!("{}{text}\n", self.clear()));
        }
    }

    /// Begins the line of progress.
    pub fn progress(&self, recorder: Arc<Recorder>) -> Progress {
        let stop = Arc::new(AtomicBool::new(false));
        if self.quiet || !self.terminal {
            return Progress { stop, thread: None };
        }
        let (console, stopped) = (self.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut before = 0;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                let counts = recorder.counts();
                let [ok, fail, unknown] =
                    [&counts.ok, &counts.fail, &counts.unknown].map(|count| count.load(Ordering::Relaxed));
                let all = ok + fail + unknown;
                let seconds = recorder.now() / 1_000_000_000;
                let faults = recorder.in_force().join(" ");
                let clear = console.clear();
                console.write(&format!(
                    "{clear}{seconds:4} s  {:5} ops/s  ok {ok}  fail {fail}  unknown {unknown}  {faults}",
                    all - before
                ));
                before = all;
            }
            console.write(console.clear());
        });
        Progress {
            stop,
            thread: Some(thread),
        }
    }

    /// What wipes the line of progress.
    fn clear(&self) -> &'static str {
        match self.terminal {
            true => "\r\x1b[K",
            false => "",
        }
    }

    fn write(&self, text: &str) {
        let _whole = self.writing.lock().expect("no panic while held");
        // A standard error that is closed is no reason to end.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It prints only.
            let _ = thread.join();
        }
    }
}
