//! Goal: a directory is used only by the node it belongs to, by one process, and says why otherwise.
//! Method: each refusal once, on real directories.

use std::fs;

use super::*;

fn identity() -> Identity {
    Identity {
        cluster_id: 0xc1,
        node_id: 2,
        incarnation: 77,
        name: "n2".to_owned(),
    }
}

#[test]
fn an_identity_is_created_once_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    assert_eq!(data.identity().unwrap(), None);
    data.create_identity(&identity()).unwrap();
    assert_eq!(data.identity().unwrap(), Some(identity()));
    assert!(matches!(
        data.create_identity(&identity()),
        Err(IdentityError::Exists { .. })
    ));
    drop(data);
    assert_eq!(
        DataDir::open(dir.path()).unwrap().identity().unwrap(),
        Some(identity())
    );
}

#[test]
fn fresh_identities_differ_in_their_incarnation() {
    let (a, b) = (Identity::fresh(1, 1, "a"), Identity::fresh(1, 1, "a"));
    assert!(a.incarnation > 0 && a.incarnation != b.incarnation);
}

#[test]
fn names_that_would_break_the_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    for name in ["", "a\nb", &"x".repeat(129)] {
        let identity = Identity {
            name: name.to_owned(),
            ..identity()
        };
        assert!(
            matches!(
                data.create_identity(&identity),
                Err(IdentityError::BadName { .. })
            ),
            "{name:?}"
        );
    }
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path()).unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, IdentityError::Locked { holder: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains("Stop that kvd first"), "{error}");
    drop(first);
    DataDir::open(dir.path()).unwrap();
}

#[test]
fn data_without_identity_is_refused() {
    for found in ["log", "store-1", "CURRENT", "PEERS"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(found)).unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let error = data.identity().unwrap_err();
        assert!(
            matches!(&error, IdentityError::Missing { found: f, .. } if f == found),
            "{error}"
        );
        assert!(error.to_string().contains("kvctl member remove"), "{error}");
    }
}

#[test]
fn files_of_others_in_the_directory_are_no_data() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kvd.pid"), "1").unwrap();
    assert_eq!(DataDir::open(dir.path()).unwrap().identity().unwrap(), None);
}

#[test]
fn the_directory_of_another_node_or_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    data.expect(&identity(), Some("n2"), Some(0xc1)).unwrap();
    data.expect(&identity(), None, None).unwrap();
    let error = data.expect(&identity(), Some("n3"), Some(0xc1)).unwrap_err();
    assert!(matches!(error, IdentityError::OtherNode { .. }), "{error}");
    assert!(error.to_string().contains("--name n2"), "{error}");
    let error = data.expect(&identity(), Some("n2"), Some(0xc2)).unwrap_err();
    assert!(matches!(error, IdentityError::OtherCluster { .. }), "{error}");
}

#[test]
fn a_flipped_bit_in_identity_or_peers_is_refused_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    data.create_identity(&identity()).unwrap();
    data.peers().unwrap().record(3, 5).unwrap();
    for name in ["IDENTITY", "PEERS"] {
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 4;
        fs::write(&path, bytes).unwrap();
    }
    let error = data.identity().unwrap_err();
    assert!(
        matches!(&error, IdentityError::Damage { path, .. } if path.ends_with("IDENTITY")),
        "{error}"
    );
    let error = data.peers().unwrap_err();
    assert!(
        matches!(&error, IdentityError::Damage { path, .. } if path.ends_with("PEERS")),
        "{error}"
    );
}

#[test]
fn a_wiped_peer_is_refused_and_its_record_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let peers = data.peers().unwrap();
    assert_eq!(peers.check(3, 5), Err(Refused::Unknown { id: 3 }));
    peers.record(3, 5).unwrap();
    peers.record(3, 5).unwrap();
    peers.record(1, 9).unwrap();
    assert_eq!(peers.check(3, 5), Ok(()));
    let wiped = Refused::OtherIncarnation {
        id: 3,
        known: 5,
        got: 6,
    };
    assert_eq!(peers.check(3, 6), Err(wiped));
    assert!(matches!(peers.record(3, 6), Err(RecordError::Refused(refused)) if refused == wiped));
    let reopened = data.peers().unwrap();
    assert_eq!(
        (reopened.known(1), reopened.known(3), reopened.known(2)),
        (Some(9), Some(5), None)
    );
}
