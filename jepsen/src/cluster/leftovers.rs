//! What a run that was killed could not remove: found by its names, which hold the number of its process.

use std::path::Path;
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process};

use super::command::run;
use super::throttle;

/// Begin of every name.
const PREFIX: &str = "nzj";

static SWEPT: Once = Once::new();

/// A name for everything that belongs to cluster `number` of this process.
pub fn name(number: u32) -> String {
    format!("{PREFIX}{}x{number}", std::process::id())
}

/// The process in a name that begins as [`name`] makes it.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('x')?.0.parse().ok()
}

/// Whether something of this name belongs to a process that is gone.
fn is_left_over(name: &str) -> bool {
    // Its own number was another's before: nothing of this process is there yet.
    owner(name).is_some_and(|pid| pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes what earlier runs have left, the first time that it is called in a process. Says what it cannot remove.
pub fn remove_once() {
    SWEPT.call_once(|| {
        namespaces();
        mounts();
        throttle::remove_groups(is_left_over);
    });
}

fn namespaces() {
    let listed = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = listed.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| is_left_over(name)) {
        // Who is in there was started by the run that is gone.
        let pids = run("ip", &["netns", "pids", &name]).unwrap_or_default();
        for pid in pids
            .lines()
            .filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        report(run("ip", &["netns", "del", &name]));
    }
}

fn mounts() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // The newest first: one may lie on another.
    for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if let Some(dir) = Path::new(mount)
            .ancestors()
            .find(|dir| is_left_over(&name_of(dir)))
        {
            report(run("umount", &["-l", mount]));
            // With the images; while another one is mounted in there, it stays until that one's turn.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn report(result: anyhow::Result<String>) {
    if let Err(error) = result {
        eprintln!("an earlier run has left something that cannot be removed: {error:#}");
    }
}

#[test]
fn only_what_a_dead_process_has_left_is_removed() {
    assert_eq!(owner("nzj123x0n4"), Some(123));
    assert_eq!(owner("eth0"), None);
    assert!(!is_left_over("nzj1x0"), "process 1 lives");
    // Above the largest number of a process.
    assert!(is_left_over("nzj99999999x0") && !is_left_over("other99999999x0"));
}
