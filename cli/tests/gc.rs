//! Goal: `kvctl gc` prints what its help promises about every endpoint, waits as long as a run takes, and exits as
//! listed.
//! Method: the real binary against fake servers that play a script of collector states.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::time::{Duration, Instant};

use nezha_api::v1::{GcDebt, GcJob, GcLevel, GcPin, GcSpace, GcStatusResponse};
use support::{Fake, Output, closed_endpoint, command, kvctl};
use tonic::Status;

const HEADER: &str = "NODE ENDPOINT LEVEL FILES BYTES LIVE GARBAGE ERROR";

/// A collector that has done something and does nothing now.
fn idle() -> GcStatusResponse {
    GcStatusResponse {
        automatic: true,
        levels: vec![
            GcLevel {
                level: 0,
                files: 3,
                bytes: 384 << 20,
                live_bytes: 84 << 20,
                garbage_bytes: 300 << 20,
            },
            GcLevel {
                level: 1,
                ..GcLevel::default()
            },
        ],
        file_bytes: 400 << 20,
        live_bytes: 160 << 20,
        jobs_finished: 7,
        bytes_copied: 3 << 30,
        files_removed: 21,
        ..GcStatusResponse::default()
    }
}

/// The same collector at work for a request.
fn busy(copied_bytes: u64) -> GcStatusResponse {
    GcStatusResponse {
        requested: true,
        job: Some(GcJob {
            reason: "garbage".into(),
            inputs: 3,
            output_level: 1,
            copy_bytes: 84 << 20,
            copied_bytes,
            elapsed_ms: 3000,
            bytes_per_second: 8 << 20,
        }),
        ..idle()
    }
}

fn play(node: &Fake, script: impl IntoIterator<Item = GcStatusResponse>) {
    node.state.lock().unwrap().gc = script.into_iter().collect();
}

fn orders(node: &Fake) -> Vec<&'static str> {
    node.state.lock().unwrap().gc_orders.clone()
}

fn kvctl_at(endpoints: &[&str], args: &[&str]) -> Output {
    kvctl(&[&["--endpoints", &endpoints.join(",")], args].concat(), &[], b"")
}

#[test]
fn status_of_each_node() {
    let nodes = Fake::cluster(2);
    play(&nodes[0], [idle()]);
    let second = GcStatusResponse {
        paused: true,
        bytes_per_second: 64 << 20,
        last_error: "values/9 is damaged at offset 4096".into(),
        space: Some(GcSpace {
            state: "refuse".into(),
            bound_bytes: 400 << 20,
            held_garbage_bytes: 20 << 20,
            disk_free_bytes: 10 << 20,
            disk_reserve_bytes: 512 << 20,
            disk_low: true,
            writes_slowed: 1,
            writes_refused: 3,
        }),
        debt: Some(GcDebt {
            l0_bytes: 300 << 20,
            l0_bytes_max: 512 << 20,
            overlap: 2,
            overlap_max: 12,
        }),
        ..busy(21 << 20)
    };
    play(&nodes[1], [second]);
    let (one, two) = (&nodes[0].endpoint, &nodes[1].endpoint);
    let status = kvctl_at(&[one, two], &["gc", "status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert_eq!(status.stderr, "");
    let expected = [
        HEADER.to_owned(),
        format!("n1 {one} 0 3 384MiB 84MiB 300MiB -"),
        format!("n1 {one} 1 0 0B 0B 0B -"),
        format!("n2 {two} 0 3 384MiB 84MiB 300MiB -"),
        format!("n2 {two} 1 0 0B 0B 0B -"),
        "n1: automatic; no job runs; space amplification 2.50 (400MiB for 160MiB live); \
         7 jobs finished, 3GiB copied, 21 files removed"
            .to_owned(),
        "n2: automatic, paused, run requested; garbage job, 3 files into level 1: 21MiB of 84MiB copied, 25%, \
         7MiB/s; at most 64MiB/s; space amplification 2.50 (400MiB for 160MiB live); \
         THE DISK IS NEARLY FULL, writes are refused (10MiB free, 512MiB kept for gc), space refuse, bound 400MiB, \
         20MiB of garbage held, 1 write slowed, 3 refused; to sort: 300MiB of log (limit 512MiB), 2 files over one key \
         (limit 12); 7 jobs finished, 3GiB copied, 21 files removed; last error: values/9 is damaged at offset 4096"
            .to_owned(),
    ];
    assert_eq!(status.words(), expected);
    // Only the given endpoints are asked.
    assert_eq!(nodes[0].run(&["gc", "status"]).words().len(), 4);
}

#[test]
fn what_is_pinned() {
    let node = Fake::one();
    let pin = |number: u64| GcPin {
        file: format!("{number}.log"),
        bytes: number << 20,
        reason: if number == 1 { "read" } else { "log" }.into(),
    };
    let pins = |count| GcStatusResponse {
        pins: (1..=count).map(pin).collect(),
        ..idle()
    };
    play(&node, [pins(10)]);
    let ten = node.run(&["gc", "status"]).words();
    assert_eq!(ten[4], "NODE PINNED FILE BYTES REASON");
    assert_eq!(ten[5], "n1 1.log 1MiB read");
    assert_eq!(ten[14], "n1 10.log 10MiB log");
    assert_eq!(ten.len(), 15);
    play(&node, [pins(12)]);
    let twelve = node.run(&["gc", "status"]).words();
    assert_eq!(twelve[14], "n1 10.log 10MiB log");
    assert_eq!(twelve[15], "n1 and 2 more 23MiB -");
    assert_eq!(twelve.len(), 16);
    let json = node.run(&["gc", "status", "-w", "json"]).json();
    assert_eq!(json[0]["pins"].as_array().unwrap().len(), 12);
}

#[test]
fn an_unreachable_node_stays_in_the_table() {
    let node = Fake::one();
    play(&node, [idle()]);
    let closed = closed_endpoint();
    let endpoints = [closed.as_str(), &node.endpoint];
    let status = kvctl_at(&endpoints, &["gc", "status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    let words = status.words();
    assert!(
        words[1].starts_with(&format!("? {closed} - - - - - ")),
        "{words:?}"
    );
    assert!(words[1].contains("refused"), "{words:?}");
    assert!(
        words[2].starts_with(&format!("n1 {} 0 3 ", node.endpoint)),
        "{words:?}"
    );
    assert!(words[4].starts_with("n1: automatic; "), "{words:?}");
    let status = kvctl_at(&endpoints, &["gc", "status", "-w", "json"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    let json = status.json();
    assert!(json[0]["error"].as_str().unwrap().contains("refused"), "{json}");
    assert_eq!(json[0].as_object().unwrap().len(), 2, "{json}");
    assert_eq!(json[1]["error"], serde_json::Value::Null);
}

#[test]
fn status_as_json() {
    let node = Fake::one();
    let pin = GcPin {
        file: "7.log".into(),
        bytes: 4096,
        reason: "log".into(),
    };
    let state = GcStatusResponse {
        pins: vec![pin],
        space: Some(GcSpace {
            state: "calm".into(),
            bound_bytes: 1 << 30,
            ..GcSpace::default()
        }),
        ..busy(1 << 20)
    };
    play(&node, [state]);
    let expected = serde_json::json!({
        "endpoint": node.endpoint,
        "error": null,
        "name": "n1",
        "automatic": true,
        "paused": false,
        "requested": true,
        "levels": [
            { "level": 0, "files": 3, "bytes": 384 << 20, "live_bytes": 84 << 20, "garbage_bytes": 300 << 20 },
            { "level": 1, "files": 0, "bytes": 0, "live_bytes": 0, "garbage_bytes": 0 },
        ],
        "file_bytes": 400 << 20,
        "live_bytes": 160 << 20,
        "space_amplification": 2.5,
        "job": {
            "reason": "garbage", "inputs": 3, "output_level": 1, "copy_bytes": 84 << 20, "copied_bytes": 1 << 20,
            "elapsed_ms": 3000, "bytes_per_second": 8 << 20,
        },
        "pins": [{ "file": "7.log", "bytes": 4096, "reason": "log" }],
        "jobs_finished": 7,
        "bytes_copied": 3_u64 << 30,
        "files_removed": 21,
        "last_error": "",
        "bytes_per_second": 0,
        "space": {
            "state": "calm", "bound_bytes": 1 << 30, "held_garbage_bytes": 0, "disk_free_bytes": 0,
            "disk_reserve_bytes": 0, "disk_low": false, "writes_slowed": 0, "writes_refused": 0,
        },
        "debt": { "l0_bytes": 0, "l0_bytes_max": 0, "overlap": 0, "overlap_max": 0 },
        "cluster_id": "0000000000000abc",
        "node_id": 1,
        "leader_id": 1,
        "term": 3,
        "revision": 0,
    });
    let status = node.run(&["gc", "status", "-w", "json"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert_eq!(status.json(), serde_json::json!([expected]));
    let line = node.run(&["gc", "status", "-w", "jsonl"]);
    assert_eq!(line.text().lines().count(), 1);
    assert_eq!(line.json(), expected);
    play(&node, [GcStatusResponse::default()]);
    let empty = node.run(&["gc", "status", "-w", "jsonl"]).json();
    assert_eq!(empty["job"], serde_json::Value::Null);
    assert_eq!(empty["space_amplification"], serde_json::Value::Null);
}

#[test]
fn a_table_has_lines() {
    let node = Fake::one();
    play(&node, [idle()]);
    let table = node.run(&["gc", "status", "-w", "table"]);
    assert!(table.text().starts_with('┌'), "{table:?}");
    let table = node.run(&["gc", "run", "-w", "table"]);
    assert!(table.text().contains("requested"), "{table:?}");
    let table = node.run(&["gc", "pause", "-w", "table"]);
    assert!(table.text().contains("paused"), "{table:?}");
}

#[test]
fn an_older_server_is_named() {
    let node = Fake::one();
    // What a server without the methods answers: the code alone.
    node.state.lock().unwrap().gc_failure = Some(Status::unimplemented(""));
    let text = "does not know this call: its kvd is older than this kvctl";
    let expected = format!(
        "{}: {text}\nnothing was changed; `kvctl status` shows the version that each member runs\n",
        node.endpoint
    );
    for order in [&["run"][..], &["run", "--wait"], &["pause"], &["resume"]] {
        let output = node.run(&[&["gc"], order].concat());
        output.is(4, "");
        assert_eq!(output.stderr, expected);
    }
    let status = node.run(&["gc", "status"]);
    assert_eq!(status.code, Some(4), "{status:?}");
    assert!(status.words()[1].ends_with(text), "{status:?}");
    let json = node.run(&["gc", "pause", "-w", "jsonl"]);
    assert_eq!(json.code, Some(4), "{json:?}");
    let expected = serde_json::json!({ "endpoint": node.endpoint, "paused": null, "error": text });
    assert_eq!(json.json(), expected);
}

#[test]
fn pause_and_resume_of_each_node() {
    let nodes = Fake::cluster(2);
    let (one, two) = (nodes[0].endpoint.as_str(), nodes[1].endpoint.as_str());
    let expected = format!("{one}: paused\n{two}: paused\n");
    kvctl_at(&[one, two], &["gc", "pause"]).is(0, &expected);
    let expected = format!("{one}: resumed\n{two}: resumed\n");
    kvctl_at(&[one, two], &["gc", "resume"]).is(0, &expected);
    assert_eq!(orders(&nodes[0]), ["pause", "resume"]);
    assert_eq!(orders(&nodes[1]), ["pause", "resume"]);
    let closed = closed_endpoint();
    let partly = kvctl_at(&[&closed, two], &["gc", "pause"]);
    assert_eq!(partly.code, Some(3), "{partly:?}");
    assert_eq!(partly.text(), format!("{two}: paused\n"));
    assert!(partly.stderr.contains(&format!("{closed}: ")), "{partly:?}");
    let json = kvctl_at(&[&closed, two], &["gc", "resume", "-w", "json"]);
    assert_eq!(json.code, Some(3), "{json:?}");
    let json = json.json();
    assert_eq!(json[0]["paused"], serde_json::Value::Null);
    assert!(json[0]["error"].as_str().unwrap().contains("refused"), "{json}");
    let expected = serde_json::json!({ "endpoint": two, "paused": false, "error": null });
    assert_eq!(json[1], expected);
}

#[test]
fn run_without_waiting() {
    let node = Fake::one();
    play(&node, [idle()]);
    node.run(&["gc", "run"])
        .is(0, &format!("{}: requested\n", node.endpoint));
    let paused = GcStatusResponse {
        paused: true,
        ..idle()
    };
    play(&node, [paused]);
    let expected = format!(
        "{}: requested; it is paused: begins after `kvctl gc resume`\n",
        node.endpoint
    );
    node.run(&["gc", "run"]).is(0, &expected);
    assert_eq!(orders(&node), ["run", "run"]);
    let json = node.run(&["gc", "run", "-w", "jsonl"]).json();
    let expected = serde_json::json!({ "endpoint": node.endpoint, "outcome": "requested", "error": null });
    assert_eq!(json, expected);
}

#[test]
fn run_and_wait() {
    let node = Fake::one();
    let between = GcStatusResponse {
        requested: true,
        ..idle()
    };
    let mut second = busy(0);
    second.job.as_mut().unwrap().reason = "overlap".into();
    let after = GcStatusResponse {
        jobs_finished: 9,
        bytes_copied: (3 << 30) + (96 << 20),
        files_removed: 24,
        ..idle()
    };
    let script = [idle(), busy(0), busy(40 << 20), between, second, after.clone()];
    play(&node, script.clone());
    let run = node.run(&["gc", "run", "--wait"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected = format!(
        "{}: collected: 2 jobs finished, 96MiB copied, 3 files removed\n",
        node.endpoint
    );
    assert_eq!(run.text(), expected);
    // No bar without a terminal, but a line for each job.
    let expected = format!(
        "{0}: garbage job, 3 files into level 1\n{0}: overlap job, 3 files into level 1\n",
        node.endpoint
    );
    assert_eq!(run.stderr, expected);
    assert_eq!(orders(&node), ["run"]);
    play(&node, script);
    let json = node.run(&["gc", "run", "--wait", "-w", "json"]).json();
    let expected = serde_json::json!([{
        "endpoint": node.endpoint, "outcome": "collected", "error": null, "jobs_finished": 2,
        "bytes_copied": 96 << 20, "files_removed": 3,
    }]);
    assert_eq!(json, expected);
    // Nothing to do.
    play(&node, [idle()]);
    let expected = format!(
        "{}: collected: 0 jobs finished, 0B copied, 0 files removed\n",
        node.endpoint
    );
    node.run(&["gc", "run", "--wait"]).is(0, &expected);
}

#[test]
fn a_failed_run_says_why() {
    let nodes = Fake::cluster(2);
    let (one, two) = (nodes[0].endpoint.as_str(), nodes[1].endpoint.as_str());
    let failed = GcStatusResponse {
        last_error: "7.log is damaged at offset 4096".into(),
        ..idle()
    };
    let script = [idle(), busy(1), failed];
    play(&nodes[0], script.clone());
    play(&nodes[1], [idle()]);
    let run = kvctl_at(&[one, two], &["gc", "run", "--wait"]);
    assert_eq!(run.code, Some(6), "{run:?}");
    let expected = format!("{two}: collected: 0 jobs finished, 0B copied, 0 files removed\n");
    assert_eq!(run.text(), expected);
    let expected =
        format!("{one}: garbage job, 3 files into level 1\n{one}: failed: 7.log is damaged at offset 4096\n");
    assert_eq!(run.stderr, expected);
    play(&nodes[0], script);
    let run = kvctl_at(&[one, two], &["gc", "run", "--wait", "-w", "json"]);
    assert_eq!(run.code, Some(6), "{run:?}");
    assert_eq!(run.json()[0]["outcome"], "failed");
    assert_eq!(run.json()[0]["error"], "7.log is damaged at offset 4096");
    assert_eq!(run.json()[1]["outcome"], "collected");
}

#[test]
fn an_old_failure_is_not_this_runs() {
    let node = Fake::one();
    let failed = GcStatusResponse {
        last_error: "no space".into(),
        ..idle()
    };
    play(&node, [failed, busy(1), idle()]);
    let run = node.run(&["gc", "run", "--wait"]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_paused_collector_ends_the_wait() {
    let node = Fake::one();
    let paused = GcStatusResponse {
        paused: true,
        requested: true,
        ..idle()
    };
    // The running job ends first: it is shown until it has.
    let stopping = GcStatusResponse {
        paused: true,
        ..busy(1)
    };
    play(&node, [idle(), stopping, paused]);
    let run = node.run(&["gc", "run", "--wait"]);
    run.is(1, "");
    let expected = format!("{}: paused: goes on after `kvctl gc resume`\n", node.endpoint);
    assert!(run.stderr.ends_with(&expected), "{run:?}");
}

#[test]
fn a_given_timeout_bounds_the_wait() {
    let node = Fake::one();
    play(&node, [idle(), busy(1)]);
    let run = node.run(&["--timeout", "3s", "gc", "run", "--wait"]);
    run.is(5, "");
    assert!(
        run.stderr
            .ends_with("timed-out: not done in time; it goes on, see `kvctl gc status`\n"),
        "{run:?}"
    );
}

#[test]
fn a_node_that_goes_away_during_the_wait() {
    let node = Fake::one();
    play(&node, [idle(), busy(1)]);
    let endpoint = node.endpoint.clone();
    let args = ["--endpoints", &endpoint, "--timeout", "5s", "gc", "run", "--wait"];
    let child = command(&args, &[]).spawn().unwrap();
    let begun = Instant::now();
    while orders(&node).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(node);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains(&format!("{endpoint}: ")), "{stderr}");
}

#[test]
fn a_node_that_starts_anew_forgets_the_run() {
    let node = Fake::one();
    node.state.lock().unwrap().status.uptime_ms = 0;
    let script = [idle()]
        .into_iter()
        .chain((0..6).map(busy))
        .chain([GcStatusResponse::default()]);
    play(&node, script);
    let run = node.run(&["gc", "run", "--wait"]);
    run.is(6, "");
    assert!(
        run.stderr.contains("restarted: the node has started anew"),
        "{run:?}"
    );
}

#[test]
fn nothing_is_ordered_where_the_state_cannot_be_read() {
    let closed = closed_endpoint();
    let run = kvctl_at(&[&closed], &["gc", "run", "--wait"]);
    run.is(3, "");
    assert!(run.stderr.contains("nothing was changed"), "{run:?}");
}
