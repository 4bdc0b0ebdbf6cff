//! Arrows between rooms, and what a room must not know even through others.

use crate::graph::{Graph, metadata};

/// Every arrow between workspace crates. An arrow that is not here is a violation; so is a crate that is not here.
const ARROWS: &[(&str, &[&str])] = &[
    ("nezha", &["nezha-gc", "nezha-vlog", "nezha-api"]),
    ("nezha-gc", &["nezha-vlog"]),
    ("nezha-vlog", &[]),
    ("nezha-api", &[]),
    ("nezha-ycsb", &["nezha-api"]),
    ("kvctl", &["nezha-api", "nezha-ycsb"]),
    ("nezha-baselines", &["nezha", "nezha-gc", "nezha-vlog"]),
    ("nezha-micro", &["nezha-gc", "nezha-vlog", "nezha-api"]),
    ("nezha-jepsen", &["nezha-api"]),
    ("nezha-sim", &["nezha", "nezha-vlog", "nezha-api", "nezha-jepsen"]),
];

/// Arrows that only tests have: what ships must not.
const DEV_ARROWS: &[(&str, &str)] = &[("nezha", "nezha-jepsen")];

/// Crates a room must not reach, directly or through any other crate.
const UNKNOWN_TO: &[(&str, &[&str])] = &[
    ("nezha-vlog", STORAGE_CORE),
    ("nezha-gc", STORAGE_CORE),
    ("nezha-api", &["openraft", "rocksdb", "librocksdb-sys"]),
    ("nezha-ycsb", &["openraft", "rocksdb", "librocksdb-sys"]),
    ("kvctl", &["openraft", "rocksdb", "librocksdb-sys"]),
    ("nezha-micro", &["openraft", "rocksdb", "librocksdb-sys"]),
    (
        "nezha-jepsen",
        &["nezha", "openraft", "rocksdb", "librocksdb-sys"],
    ),
];

/// vlog and gc are synchronous and know bytes only.
const STORAGE_CORE: &[&str] = &["tokio", "openraft", "rocksdb", "librocksdb-sys", "prost", "tonic"];

/// All violations, as sentences; empty when the graph is as drawn.
fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == member) else {
            found.push(format!(
                "{member} is not in the table of rooms (tests/architecture/edges.rs)"
            ));
            continue;
        };
        let links = graph.links.get(member).into_iter().flatten();
        let dev = graph.dev.get(member).into_iter().flatten();
        let dev = dev.filter(|to| !DEV_ARROWS.contains(&(member.as_str(), to.as_str())));
        for to in links.chain(dev) {
            if graph.members.contains(to) && to != member && !allowed.contains(&to.as_str()) {
                found.push(format!("{member} -> {to} is not an allowed arrow"));
            }
        }
    }
    for (room, banned) in UNKNOWN_TO {
        for target in *banned {
            if let Some(path) = graph.path(room, target) {
                found.push(format!(
                    "{room} must not know {target}, but {}",
                    path.join(" -> ")
                ));
            }
        }
    }
    found
}

#[test]
fn the_workspace_has_only_the_arrows_that_are_drawn() {
    let graph = Graph::of(&metadata());
    assert!(
        graph.members.contains("nezha-vlog"),
        "the graph was read: {:?}",
        graph.members
    );
    assert!(
        graph.path("nezha", "rocksdb").is_some(),
        "the node links RocksDB, so paths are found at all"
    );
    let found = violations(&graph);
    assert!(found.is_empty(), "{found:#?}");
}

/// Each planted wrong edge must be reported, and by its own sentence only.
#[test]
fn a_planted_wrong_edge_is_refused() {
    let real = Graph::of(&metadata());
    let planted = [
        (
            "nezha-vlog",
            "nezha-gc",
            "nezha-vlog -> nezha-gc is not an allowed arrow",
        ),
        (
            "nezha-vlog",
            "tokio",
            "nezha-vlog must not know tokio, but nezha-vlog -> tokio",
        ),
        (
            "crc32fast",
            "prost",
            "nezha-vlog must not know prost, but nezha-vlog -> crc32fast -> prost",
        ),
        ("kvctl", "nezha-gc", "kvctl -> nezha-gc is not an allowed arrow"),
        (
            "nezha",
            "nezha-jepsen",
            "nezha -> nezha-jepsen is not an allowed arrow",
        ),
        ("nezha-api", "rocksdb", "kvctl must not know librocksdb-sys, but "),
    ];
    for (from, to, sentence) in planted {
        let mut graph = real.clone();
        graph.link(from, to);
        let found = violations(&graph);
        assert!(
            found.iter().any(|v| v.starts_with(sentence)),
            "{from} -> {to} was planted, but only this was found: {found:#?}"
        );
    }
}

#[test]
fn a_planted_wrong_development_edge_is_refused() {
    let mut graph = Graph::of(&metadata());
    graph
        .dev
        .entry("nezha-gc".into())
        .or_default()
        .insert("nezha".into());
    assert_eq!(violations(&graph), ["nezha-gc -> nezha is not an allowed arrow"]);
}

#[test]
fn a_room_without_a_row_in_the_table_is_refused() {
    let mut graph = Graph::of(&metadata());
    graph.members.insert("nezha-annex".into());
    assert_eq!(
        violations(&graph),
        ["nezha-annex is not in the table of rooms (tests/architecture/edges.rs)"]
    );
}
