//! Goal: the commands about members and health print what their help promises, and exit as listed.
//! Method: the real binary against fake servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use nezha_api::v1::DamagedFile;
use support::{Fake, closed_endpoint, kvctl, member};

const HEADER: &str = "NODE ENDPOINT ROLE VOTER TERM APPLIED LAG KEYS LIVE ON DISK FREE VERSION ERRORS";

#[test]
fn status_of_a_healthy_cluster() {
    let nodes = Fake::cluster(3);
    // One endpoint is given; the others are learned.
    let status = nodes[1].run(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let row = |at: usize, role: &str, applied: u64, lag: u64| {
        let endpoint = &nodes[at].endpoint;
        let id = at + 1;
        format!("n{id} {endpoint} {role} yes 3 {applied} {lag} 12 3MiB 5MiB 7GiB 0.1.0 -")
    };
    let expected = [
        "The cluster is healthy: 3 of 3 voters answer, leader n1 (term 3).".to_owned(),
        HEADER.to_owned(),
        row(0, "leader", 100, 0),
        row(1, "follower", 99, 1),
        row(2, "follower", 98, 2),
    ];
    assert_eq!(status.words(), expected);
}

#[test]
fn an_unreachable_member_stays_in_the_table() {
    let mut nodes = Fake::cluster(3);
    let lost = nodes.remove(2).endpoint.clone();
    let status = nodes[0].run(&["status"]);
    assert_eq!(status.code, Some(6), "{status:?}");
    let words = status.words();
    assert_eq!(
        words[0],
        "The cluster is available, but not healthy: no answer from n3."
    );
    assert!(
        words[4].starts_with(&format!("n3 {lost} unreachable yes - - - - - - - - ")),
        "{words:?}"
    );
    assert!(words[4].contains("refused"), "{words:?}");
    let json = nodes[0].run(&["status", "-w", "json"]);
    assert_eq!(json.code, Some(6));
    let json = json.json();
    assert_eq!(
        (json["healthy"].as_bool(), json["available"].as_bool()),
        (Some(false), Some(true))
    );
    assert_eq!(json["members"][2]["reachable"], false);
    assert_eq!(json["members"][0]["live_bytes"], 3 << 20);
    assert_eq!(json["cluster_id"], "0000000000000abc");
}

#[test]
fn status_without_a_majority() {
    let mut nodes = Fake::cluster(3);
    nodes.truncate(1);
    let status = nodes[0].run(&["status"]);
    assert_eq!(status.code, Some(6), "{status:?}");
    assert_eq!(
        status.words()[0],
        "The cluster is not available: only 1 of 3 voters answer."
    );
}

#[test]
fn status_without_a_leader() {
    let nodes = Fake::cluster(3);
    for node in &nodes {
        let mut state = node.state.lock().unwrap();
        state.status.role = nezha_api::v1::Role::Candidate.into();
        state.members[0].leader = false;
    }
    let status = nodes[0].run(&["status"]);
    assert_eq!(status.code, Some(6), "{status:?}");
    assert_eq!(
        status.words()[0],
        "The cluster is not available: no leader; 3 of 3 voters answer."
    );
}

#[test]
fn damage_and_start_are_shown() {
    let nodes = Fake::cluster(3);
    nodes[1].state.lock().unwrap().status.damage = vec![DamagedFile {
        file: "vlog/7".into(),
        offset: 4096,
        reason: "CRC differs".into(),
        first_seen_ms: 1,
        count: 3,
    }];
    nodes[2].state.lock().unwrap().status.ready = false;
    let status = nodes[0].run(&["status"]);
    assert_eq!(status.code, Some(6), "{status:?}");
    let words = status.words();
    assert_eq!(words[0], "The cluster is available, but not healthy: see n2, n3.");
    assert!(
        words[3].ends_with("vlog/7 offset 4096: CRC differs (met 3 times)"),
        "{words:?}"
    );
    assert!(
        words[4].ends_with("not ready: catching up after its start"),
        "{words:?}"
    );
}

#[test]
fn status_of_nobody() {
    let closed = closed_endpoint();
    let status = kvctl(&["--endpoints", &closed, "status"], &[], b"");
    assert_eq!(status.code, Some(3), "{status:?}");
    assert_eq!(
        status.words()[0],
        "The cluster cannot be reached: no endpoint answers."
    );
    assert!(
        status.words()[2].starts_with(&format!("? {closed} unreachable ?")),
        "{status:?}"
    );
}

#[test]
fn given_endpoints_that_are_no_members_stay_too() {
    let node = Fake::one();
    let closed = closed_endpoint();
    let both = format!("{},{closed}", node.endpoint);
    let status = kvctl(&["--endpoints", &both, "status"], &[], b"");
    assert_eq!(status.code, Some(6), "{status:?}");
    let text = format!("The cluster is available, but not healthy: no answer from {closed}.");
    assert_eq!(status.words()[0], text);
}

#[test]
fn member_list() {
    let nodes = Fake::cluster(2);
    let list = nodes[0].run(&["member", "list"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    let expected = [
        "ID NODE ROLE PEER ADDRESS CLIENT ADDRESS MATCHED".to_owned(),
        format!("1 n1 leader 10.0.0.1:7380 {} 100", nodes[0].endpoint),
        format!("2 n2 voter 10.0.0.2:7380 {} 100", nodes[1].endpoint),
    ];
    assert_eq!(list.words(), expected);
    let json = format!(
        "{{\"id\":1,\"name\":\"n1\",\"role\":\"leader\",\"peer_endpoint\":\"10.0.0.1:7380\",\
         \"client_endpoint\":\"{}\",\"matched_index\":100}}",
        nodes[0].endpoint
    );
    let list = nodes[0].run(&["member", "list", "-w", "jsonl"]);
    assert_eq!(list.text().lines().next(), Some(json.as_str()));
}

#[test]
fn member_add_promote_remove() {
    let node = Fake::one();
    let add = node.run(&[
        "member",
        "add",
        "n2",
        "--peer-addr",
        "10.0.0.2:7380",
        "--client-addr",
        "10.0.0.2:7379",
    ]);
    let command = format!(
        "kvd --name n2 --join {} --data-dir DIR --listen-client 10.0.0.2:7379 --listen-peer 10.0.0.2:7380",
        node.endpoint
    );
    assert_eq!(add.code, Some(0), "{add:?}");
    assert_eq!(
        add.text(),
        format!("n2 is added as a learner with id 2; start it with:\n  {command}\n")
    );
    assert_eq!(
        add.stderr,
        "n2 has caught up; make it a voter with: kvctl member promote n2\n"
    );
    node.run(&["member", "promote", "n2"])
        .is(0, "n2 (id 2) is a voter now\n");
    let again = node.run(&["member", "promote", "2"]);
    again.is(4, "");
    assert!(again.stderr.contains("n2: is a voter already"), "{again:?}");
    let taken = node.run(&[
        "member",
        "add",
        "n2",
        "--peer-addr",
        "a:1",
        "--client-addr",
        "a:2",
        "--no-wait",
    ]);
    taken.is(4, "");
    assert!(taken.stderr.contains("n2 already exists"), "{taken:?}");
    let removed = "n2 (id 2) is removed; its data directory can be deleted\n";
    node.run(&["member", "remove", "n2"]).is(0, removed);
    let unknown = node.run(&["member", "remove", "n2"]);
    unknown.is(4, "");
    assert_eq!(unknown.stderr, "no member n2; members are: n1 (id 1)\n");
}

#[test]
fn member_add_does_not_wait_if_told() {
    let node = Fake::one();
    let args = [
        "member",
        "add",
        "n2",
        "--peer-addr",
        "a:1",
        "--client-addr",
        "a:2",
        "--no-wait",
        "-w",
        "jsonl",
    ];
    let add = node.run(&args);
    assert_eq!(add.code, Some(0), "{add:?}");
    assert_eq!(add.json()["id"], 2);
    assert!(
        add.json()["start_command"]
            .as_str()
            .unwrap()
            .starts_with("kvd --name n2 --join ")
    );
    assert!(add.stderr.is_empty());
}

#[test]
fn leader_show_and_transfer() {
    let nodes = Fake::cluster(3);
    nodes[0]
        .run(&["leader", "show"])
        .is(0, &format!("n1 {} term 3\n", nodes[0].endpoint));
    assert_eq!(nodes[0].run(&["leader", "show", "-w", "json"]).json()["id"], 1);
    nodes[0]
        .run(&["leader", "transfer"])
        .is(0, "n2 (id 2) leads now\n");
    nodes[0]
        .run(&["leader", "transfer", "n3"])
        .is(0, "n3 (id 3) leads now\n");
    nodes[0].run(&["leader", "transfer", "n9"]).is(4, "");
}

#[test]
fn no_leader_to_show() {
    let node = Fake::one();
    node.state.lock().unwrap().members = vec![member(1, &node.endpoint)];
    node.run(&["leader", "show"]).is(3, "");
}

#[test]
fn purge_of_each_endpoint() {
    let nodes = Fake::cluster(2);
    let (first, second) = (&nodes[0].endpoint, &nodes[1].endpoint);
    let both = format!("{first},{second}");
    let expected = format!("{first}: purged through 90\n{second}: purged through 90\n");
    kvctl(&["--endpoints", &both, "purge"], &[], b"").is(0, &expected);
    let expected = format!("{first}: purged through 7\n");
    nodes[0].run(&["purge", "--index", "7"]).is(0, &expected);
    // One endpoint is gone: the other is purged, and the exit code tells.
    let closed = closed_endpoint();
    let partly = kvctl(&["--endpoints", &format!("{closed},{second}"), "purge"], &[], b"");
    assert_eq!(partly.code, Some(3), "{partly:?}");
    assert_eq!(partly.text(), format!("{second}: purged through 90\n"));
}

#[test]
fn health_is_that_of_the_asked_member_alone() {
    let nodes = Fake::cluster(2);
    let health = nodes[1].run(&["health"]);
    assert_eq!(health.code, Some(0), "{health:?}");
    let endpoint = &nodes[1].endpoint;
    assert!(
        health
            .text()
            .starts_with(&format!("{endpoint} is healthy: a linearizable read took ")),
        "{health:?}"
    );
    let json = nodes[1].run(&["health", "-w", "jsonl"]).json();
    assert_eq!(
        (json["endpoint"].as_str(), json["healthy"].as_bool()),
        (Some(&**endpoint), Some(true))
    );

    // The first still serves, and the second names it as the leader: that does not make the second healthy.
    let leader = nezha_api::errors::LeaderHint {
        id: 1,
        endpoint: nodes[0].endpoint.clone(),
    };
    nodes[1].fail_with(nezha_api::errors::not_leader("n2", 3, Some(leader)));
    let health = nodes[1].run(&["health"]);
    assert_eq!(health.code, Some(6), "{health:?}");
    assert!(
        health.text().starts_with(&format!("{endpoint} is not healthy: ")),
        "{health:?}"
    );
    let both = nodes[0].run(&["health", "--cluster", "-w", "json"]);
    assert_eq!(both.code, Some(6), "{both:?}");
    let both = both.json();
    assert_eq!(
        (both[0]["healthy"].as_bool(), both[1]["healthy"].as_bool()),
        (Some(true), Some(false))
    );
}

#[test]
fn health_of_a_member_that_hangs_or_is_not_there() {
    let server = Fake::one();
    server.state.lock().unwrap().hang = true;
    let hung = server.run(&["--timeout", "1s", "health"]);
    assert_eq!(hung.code, Some(6), "{hung:?}");
    let closed = closed_endpoint();
    let lost = kvctl(&["--endpoints", &closed, "health"], &[], b"");
    lost.is(6, lost.text());
    assert!(lost.text().contains("refused"), "{lost:?}");
    let lost = kvctl(
        &["--endpoints", &closed, "--timeout", "1s", "health", "--cluster"],
        &[],
        b"",
    );
    lost.is(3, "");
}
