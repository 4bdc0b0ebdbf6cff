//! Goal: exit codes, settings and help are as documented.
//! Method: the real binary against fake servers that refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::io::Read;

use nezha_api::errors;
use support::{Fake, closed_endpoint, command, kvctl};

#[test]
fn refusals_have_their_codes() {
    let server = Fake::one();
    server.run(&["put", "", "v"]).is(4, "");
    // The last two are repeated until time runs out.
    let cases = [
        (errors::value_too_large(20, 16), "10s", 4, "the limit is 16"),
        (
            errors::outcome_unknown("n1", "leadership was lost"),
            "10s",
            5,
            "outcome unknown",
        ),
        (errors::no_space("n1", 1, 2), "10s", 7, "disk of n1 is full"),
        (
            errors::data_damaged("n1", "vlog/7", 4096, "CRC differs"),
            "10s",
            8,
            "vlog/7 is damaged at offset 4096",
        ),
        (errors::not_leader("n1", 3, None), "2s", 3, "knows no leader"),
        (errors::stopping("n1"), "2s", 3, "is stopping"),
    ];
    for (status, timeout, code, text) in cases {
        server.fail_with(status);
        let output = server.run(&["--timeout", timeout, "put", "k", "v"]);
        output.is(code, "");
        assert!(output.stderr.contains(text), "{output:?}");
        assert!(
            output.stderr.contains(&server.endpoint),
            "the endpoint is named: {output:?}"
        );
    }
}

#[test]
fn time_outs() {
    let server = Fake::one();
    server.state.lock().unwrap().hang = true;
    let write = server.run(&["--timeout", "2s", "put", "k", "v"]);
    write.is(5, "");
    assert!(write.stderr.contains("outcome unknown"), "{write:?}");
    let read = server.run(&["--timeout", "2s", "get", "k"]);
    read.is(5, "");
    assert!(read.stderr.contains("no answer"), "{read:?}");
}

#[test]
fn a_refused_connection_says_so_for_each_endpoint() {
    let closed = [closed_endpoint(), closed_endpoint()];
    let output = kvctl(
        &["--endpoints", &closed.join(","), "--timeout", "2s", "get", "k"],
        &[],
        b"",
    );
    output.is(3, "");
    for endpoint in closed {
        assert!(output.stderr.contains(&format!("{endpoint}: ")), "{output:?}");
    }
    assert!(output.stderr.contains("refused"), "{output:?}");
}

#[test]
fn flags_beat_the_environment_silently() {
    let server = Fake::one();
    server.insert(&[("k", "v")]);
    let closed = closed_endpoint();
    kvctl(&["get", "k"], &[("KVCTL_ENDPOINTS", &server.endpoint)], b"").is(0, "v");
    let env = [("KVCTL_ENDPOINTS", closed.as_str())];
    kvctl(&["--endpoints", &server.endpoint, "get", "k"], &env, b"").is(0, "v");
    kvctl(&["get", "k", "--endpoints", &server.endpoint], &env, b"").is(0, "v");
}

#[test]
fn debug_prints_the_settings() {
    let server = Fake::one();
    server.insert(&[("k", "v")]);
    let output = server.run(&["--debug", "--timeout", "20s", "get", "k"]);
    assert_eq!(output.text(), "v");
    let expected = format!("debug: endpoints {} (from --endpoints)", server.endpoint);
    assert!(output.stderr.contains(&expected), "{output:?}");
    assert!(output.stderr.contains("debug: timeout 20s"), "{output:?}");
}

#[test]
fn wrong_usage() {
    for args in [
        &["put", "k"][..],
        &["frobnicate"],
        &["--timeout", "5", "get", "k"],
        &["--endpoints", "nowhere", "get", "k"],
        &["-w", "xml", "get", "k"],
        &[],
    ] {
        let output = kvctl(args, &[], b"");
        output.is(2, "");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn benchmarks_that_cannot_run() {
    let closed = closed_endpoint();
    let bench = |args: &[&str]| kvctl(&[&["--endpoints", &closed, "bench"], args].concat(), &[], b"");
    bench(&["put", "--seconds", "0"]).is(2, "");
    bench(&["scan", "--keys", "1", "--scan-length", "2"]).is(2, "");
    bench(&["disk", "--dir", "/dev/null/d"]).is(2, "");
    let nobody = bench(&["put", "--seconds", "1", "--warmup", "0", "--clients", "1"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert!(nobody.text().contains("not connected"), "{nobody:?}");
}

#[test]
fn every_help_has_examples() {
    for path in [
        &["put"][..],
        &["get"],
        &["del"],
        &["scan"],
        &["status"],
        &["member", "list"],
        &["member", "add"],
        &["member", "promote"],
        &["member", "remove"],
        &["leader", "show"],
        &["leader", "transfer"],
        &["purge"],
        &["gc", "status"],
        &["gc", "run"],
        &["gc", "pause"],
        &["gc", "resume"],
        &["check", "replicas"],
        &["bench"],
        &[],
    ] {
        let output = kvctl(&[path, &["--help"]].concat(), &[], b"");
        assert_eq!(output.code, Some(0), "{path:?}");
        assert!(output.text().contains("Example"), "{path:?}: {}", output.text());
        assert!(output.text().contains("--endpoints"), "{path:?}");
    }
}

#[test]
fn an_interrupt_exits_with_130() {
    let server = Fake::one();
    server.state.lock().unwrap().hang = true;
    let mut child = command(
        &["--endpoints", &server.endpoint, "--debug", "put", "k", "v"],
        &[],
    )
    .spawn()
    .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    // The handler is set before anything is printed.
    let mut first = [0; 6];
    stderr.read_exact(&mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("interrupted; a change that was sent may still take effect"),
        "{rest}"
    );
}
