//! Goal: kvd refuses to start where it would do harm, with a code of its own, a reason and the next step.
//! Method: each situation is made for real; exit code and message are compared; what it refused to touch still works.

use std::os::unix::fs::FileExt;

use nezha_jepsen::cluster::disk::TinyDisk;

use crate::harness::block_on;
use crate::harness::cluster::Cluster;
use crate::harness::process::{kvd, run};

const USAGE: i32 = 2;
const DISK_FULL: i32 = 10;
const DAMAGED: i32 = 12;
const IDENTITY: i32 = 13;
const LOCKED: i32 = 14;
const PORT_IN_USE: i32 = 15;

fn assert_says(code: i32, wanted: i32, log: &str, words: &[&str]) {
    assert_eq!(code, wanted, "{log}");
    for word in words {
        assert!(log.contains(word), "'{word}' is missing in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

/// One running node and one that is only described.
fn pair() -> Cluster {
    let mut cluster = Cluster::serving(1);
    cluster.describe_joiner();
    cluster
}

#[test]
fn a_second_process_on_the_same_directory() {
    let mut cluster = pair();
    cluster.nodes[1].dir = cluster.nodes[0].dir.clone();
    cluster.nodes[1].name = cluster.nodes[0].name.clone();
    cluster.nodes[1].origin = cluster.nodes[0].origin.clone();
    cluster.nodes[1].start();
    let (code, log) = cluster.nodes[1].ends();
    let dir = cluster.nodes[0].dir.display().to_string();
    assert_says(code, LOCKED, &log, &[&dir, "in use"]);
    block_on(cluster.wait_serving());
    // The offline commands keep away from a running node, too.
    let (code, output) = cluster.nodes[0].check();
    assert_says(code, LOCKED, &output, &[&dir]);
    block_on(cluster.wait_serving());
}

#[test]
fn a_port_in_use() {
    let mut cluster = pair();
    for (flag, taken) in [
        ("client", cluster.nodes[0].client.clone()),
        ("peer", cluster.nodes[0].peer.clone()),
    ] {
        let mut other = Cluster::new(1);
        if flag == "client" {
            other.nodes[0].client = taken.clone();
        } else {
            other.nodes[0].peer = taken.clone();
        }
        other.nodes[0].origin = vec!["--initial-cluster".into(), format!("n1={}", other.nodes[0].peer)];
        other.nodes[0].start();
        let (code, log) = other.nodes[0].ends();
        assert_says(code, PORT_IN_USE, &log, &[&taken, &format!("--listen-{flag}")]);
    }
    block_on(cluster.wait_serving());
}

#[test]
fn no_space_at_start() {
    let mut cluster = Cluster::new(1);
    let disk = TinyDisk::new(cluster.root().join("tiny"), 96).unwrap();
    cluster.nodes[0].dir = disk.path().join("n1");
    cluster.nodes[0].start();
    let (code, log) = cluster.nodes[0].ends();
    assert_says(
        code,
        DISK_FULL,
        &log,
        &[&cluster.nodes[0].dir.display().to_string(), "space"],
    );
    drop(cluster);
}

#[test]
fn a_directory_of_another_node_or_cluster() {
    let mut cluster = Cluster::serving(3);
    block_on(async { cluster.nodes[0].conn().put_surely("refusals/kept", "x").await });
    cluster.kill_all();

    // n2's process on n1's directory.
    let (own, foreign) = (cluster.nodes[1].dir.clone(), cluster.nodes[0].dir.clone());
    cluster.nodes[1].dir = foreign.clone();
    cluster.nodes[1].start();
    let (code, log) = cluster.nodes[1].ends();
    assert_says(
        code,
        IDENTITY,
        &log,
        &["n1", "n2", &foreign.display().to_string()],
    );
    cluster.nodes[1].dir = own;

    // Its own directory, but as a member of another cluster.
    cluster.nodes[1].extra = vec!["--cluster-token".into(), "another".into()];
    cluster.nodes[1].start();
    let (code, log) = cluster.nodes[1].ends();
    assert_says(code, IDENTITY, &log, &["cluster"]);
    cluster.nodes[1].extra.clear();

    // A directory that holds something, but no identity.
    let strange = cluster.root().join("strange");
    std::fs::create_dir_all(strange.join("log")).unwrap();
    std::fs::write(strange.join("log/photo.jpg"), "not ours").unwrap();
    let mut other = Cluster::new(1);
    other.nodes[0].dir = strange.clone();
    other.nodes[0].start();
    let (code, log) = other.nodes[0].ends();
    assert_says(code, IDENTITY, &log, &[&strange.display().to_string()]);
    assert_eq!(std::fs::read(strange.join("log/photo.jpg")).unwrap(), b"not ours");

    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        assert_eq!(
            cluster.nodes[1].conn().get("refusals/kept").await.unwrap().value,
            "x"
        );
    });
}

#[test]
fn an_unknown_format_version() {
    let mut cluster = Cluster::serving(1);
    block_on(async { cluster.nodes[0].conn().put_surely("refusals/version", "x").await });
    cluster.stop_all();
    let newest = crate::damage::log_files(&cluster.nodes[0].dir).pop().unwrap();
    let kept = std::fs::read(&newest).unwrap();
    // A later version, well formed: the first 16 bytes keep their meaning in every version.
    let mut head: [u8; 16] = kept[..16].try_into().unwrap();
    head[8..12].copy_from_slice(&77u32.to_le_bytes());
    let checksum = crc32fast::hash(&head[..12]).to_le_bytes();
    head[12..16].copy_from_slice(&checksum);
    let file = std::fs::OpenOptions::new().write(true).open(&newest).unwrap();
    file.write_all_at(&head, 0).unwrap();
    let name = newest.file_name().unwrap().to_string_lossy().into_owned();
    cluster.nodes[0].start();
    let (code, log) = cluster.nodes[0].ends();
    assert_says(code, DAMAGED, &log, &[&name, "version 77"]);
    let (code, output) = cluster.nodes[0].check();
    assert_says(code, DAMAGED, &output, &[&name, "version 77"]);
    // Nothing was changed by the refusals: the right head makes it start again.
    file.write_all_at(&kept[..16], 0).unwrap();
    assert_eq!(std::fs::read(&newest).unwrap(), kept);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        assert_eq!(
            cluster.nodes[0]
                .conn()
                .get("refusals/version")
                .await
                .unwrap()
                .value,
            "x"
        );
    });
}

#[test]
fn options_that_make_no_sense() {
    let patience = std::time::Duration::from_secs(20);
    for (args, words) in [
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["--data-dir", "/tmp/never-made"], "--name"),
        (
            vec![
                "--name",
                "n1",
                "--data-dir",
                "/tmp/never-made",
                "--value-bytes-max",
                "65MiB",
            ],
            "64",
        ),
        (
            vec![
                "--name",
                "n1",
                "--data-dir",
                "/tmp/never-made",
                "--initial-cluster",
                "n2=127.0.0.1:1",
            ],
            "n1",
        ),
    ] {
        let (code, _, err) = run(&kvd(), &args, patience);
        assert_says(code, USAGE, &err, &[words]);
    }
    assert!(!std::path::Path::new("/tmp/never-made").exists());
}
