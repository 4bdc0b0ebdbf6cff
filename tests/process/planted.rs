//! Goal: the harnesses bite. Each planted bug is caught by a harness that is green without it.
//! Method: `kvd` built with the test-only feature `planted-bugs`, the bug chosen by `NEZHA_PLANTED_BUG`; three seeds
//! each, and the same harness with the same binary and no bug chosen. `vote-unordered` is caught by the log's own
//! crash tests (crate nezha-vlog).

use crate::damage::{self, Conduct};
use crate::flush_order::fault_after_cut;
use crate::harness::cluster::Cluster;
use crate::harness::process::planted_kvd;
use crate::harness::{block_on, seed};
use crate::sync_trace::early_acknowledgements;
use crate::uncommitted::visible_uncommitted;

const SEEDS: [u64; 3] = [101, 102, 103];

fn with_bug(name: &str) -> Vec<(String, String)> {
    if name.is_empty() {
        Vec::new()
    } else {
        vec![("NEZHA_PLANTED_BUG".into(), name.into())]
    }
}

#[test]
fn ack_before_fsync_is_caught_by_the_trace() {
    for seed in SEEDS {
        let early = early_acknowledgements(planted_kvd(), &with_bug("ack-before-fsync"), seed);
        assert!(!early.is_empty(), "seed {seed}: not caught");
        println!("seed {seed}: {}", early[0]);
    }
    let early = early_acknowledgements(planted_kvd(), &with_bug(""), SEEDS[0]);
    assert!(early.is_empty(), "green without it: {early:#?}");
}

/// What a node did whose value has a flipped bit.
fn conduct_with(bug: &str, seed: u64) -> Conduct {
    let at = 1;
    let mut cluster: Cluster = damage::filled(seed, |cluster| {
        for node in &mut cluster.nodes {
            node.program = planted_kvd();
        }
        cluster.nodes[at].env = with_bug(bug);
    });
    let mut rng = seed::rng(seed, 0);
    // A value in a sealed segment, and out of the tail cache after the restart.
    let key = damage::key(rand::RngExt::random_range(&mut rng, 0..20));
    let right = damage::value(seed, &key);
    cluster.nodes[at].kill();
    let mut spot = damage::find(&damage::log_files(&cluster.nodes[at].dir), &right).unwrap();
    spot.offset += rand::RngExt::random_range(&mut rng, 0..right.len() as u64);
    spot.flip();
    block_on(damage::conduct(&mut cluster, at, &key, &right, &spot))
}

#[test]
fn skip_crc_is_caught_by_a_flipped_bit() {
    for seed in SEEDS {
        assert_eq!(
            conduct_with("skip-crc", seed),
            Conduct::ServedWrongBytes,
            "seed {seed}: not caught"
        );
    }
    assert_ne!(
        conduct_with("", SEEDS[0]),
        Conduct::ServedWrongBytes,
        "green without it"
    );
}

#[test]
fn apply_before_commit_is_caught_by_a_stranded_leader() {
    for seed in SEEDS {
        let faults = visible_uncommitted(planted_kvd(), &with_bug("apply-before-commit"), seed);
        assert!(!faults.is_empty(), "seed {seed}: not caught");
        println!("seed {seed}: {}", faults[0]);
    }
    let faults = visible_uncommitted(planted_kvd(), &with_bug(""), SEEDS[0]);
    assert!(faults.is_empty(), "green without it: {faults:#?}");
}

#[test]
fn flush_without_log_is_caught_by_a_power_cut() {
    for seed in SEEDS {
        let fault = fault_after_cut(planted_kvd(), &with_bug("flush-without-log"), seed);
        println!(
            "seed {seed}: {}",
            fault.unwrap_or_else(|| panic!("seed {seed}: not caught"))
        );
    }
    assert_eq!(
        fault_after_cut(planted_kvd(), &with_bug(""), SEEDS[0]),
        None,
        "green without it"
    );
}
