//! Goal: the file system of proofs loses what was not synced, keeps what was, and fails where it is told to.
//! Method: small scripts, and many seeds of a crash.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use super::crash::CrashFs;
use super::crash_disk::{FailKind, FailWith};
use super::{File, Fs};

fn with_file(bytes: &[u8]) -> (CrashFs, Arc<dyn File>, &'static Path) {
    let fs = CrashFs::new();
    fs.create_dir_all(Path::new("/d")).unwrap();
    let file = fs.create(Path::new("/d/f")).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    (fs, file, Path::new("/d/f"))
}

#[test]
fn a_removed_directory_stays_away_or_comes_back_with_its_files() {
    let (fs, _, path) = with_file(&[1; 100]);
    let dir = Path::new("/d");
    fs.sync_dir(dir).unwrap();
    fs.remove_dir_all(dir).unwrap();
    let crashed = (0..50).map(|seed| fs.crash(seed));
    let back = crashed.filter(|fs| {
        let file = fs.exists(path).unwrap();
        assert_eq!(fs.list(dir).is_ok(), file);
        file
    });
    assert!((1..50).contains(&back.count()), "the removal is not synced");
}

#[test]
fn synced_bytes_and_names_survive_and_the_rest_may_not() {
    let (fs, file, path) = with_file(&[1; 2000]);
    let names = |fs: &CrashFs| (0..50).filter(|&seed| fs.crash(seed).get(path).is_some()).count();
    assert!((1..50).contains(&names(&fs)), "the name is not synced");
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(names(&fs), 50);
    file.sync_data().unwrap();
    assert_eq!(fs.unsynced(), 0);
    file.write_all_at(&[2; 3000], 1000).unwrap();
    let left: Vec<Vec<u8>> = (0..200).map(|seed| fs.crash(seed).get(path).unwrap()).collect();
    assert!(
        left.iter().all(|bytes| bytes[..512] == [1; 512]),
        "a block that was not written again stays"
    );
    assert!(
        left.iter()
            .any(|bytes| bytes.len() == 2000 && bytes.iter().all(|&byte| byte == 1))
    );
    assert!(
        left.iter()
            .any(|bytes| bytes.len() == 4000 && bytes[1000..] == [2; 3000])
    );
    let holes = left
        .iter()
        .filter(|bytes| bytes.len() == 4000 && bytes[2000..].contains(&0));
    assert!(holes.count() > 0, "some block inside is lost");
    assert_eq!(fs.crash(7).get(path), fs.crash(7).get(path), "a seed says it all");
}

#[test]
fn a_failed_sync_leaves_clean_pages_that_never_reached_the_disk() {
    let (fs, file, path) = with_file(&[1; 600]);
    fs.sync_dir(Path::new("/d")).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 600], 0).unwrap();
    fs.fail(FailKind::Sync, 0, FailWith::Eio);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    assert_eq!(fs.get(path).unwrap(), [2; 600], "the cache still has them");
    assert!((0..20).all(|seed| fs.crash(seed).get(path).unwrap() == [1; 600]));
    assert_eq!(
        fs.fork().get(path).unwrap(),
        [2; 600],
        "a killed process leaves the cache"
    );
}

#[test]
fn chosen_operations_fail() {
    let (fs, file, path) = with_file(&[1; 100]);
    fs.fail(FailKind::Write, 1, FailWith::Enospc);
    file.write_all_at(&[2; 100], 100).unwrap();
    assert_eq!(
        file.write_all_at(&[3; 100], 200).unwrap_err().raw_os_error(),
        Some(28)
    );
    assert_eq!(
        fs.get(path).unwrap().len(),
        250,
        "a failing write has written a part"
    );
    file.write_all_at(&[3; 100], 200).unwrap();
    fs.halt_after(1);
    file.sync_data().unwrap();
    assert!(file.sync_data().is_err() && fs.open(path).is_err() && file.len().is_err());
}

#[test]
fn a_full_disk_takes_what_is_there_and_no_more() {
    let (fs, file, path) = with_file(&[1; 1000]);
    fs.set_capacity(Some(1500));
    assert_eq!(fs.space(path).unwrap().free, 500);
    file.write_all_at(&[2; 1000], 0).unwrap();
    let refused = file.write_all_at(&[3; 600], 1000).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(28));
    let crashed = fs.crash(1);
    crashed.set_capacity(None);
    fs.remove(path).unwrap();
    assert_eq!(fs.space(path).unwrap().free, 1500);
}

#[test]
fn a_rename_is_kept_or_lost_whole() {
    let (fs, file, path) = with_file(b"new");
    file.sync_data().unwrap();
    fs.put(Path::new("/d/CURRENT"), b"old");
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.rename(path, Path::new("/d/CURRENT")).unwrap();
    for seed in 0..50 {
        let left = fs.crash(seed);
        let current = left.get(Path::new("/d/CURRENT")).unwrap();
        assert_eq!(current == b"new", left.get(path).is_none());
    }
}

#[test]
fn the_looks_of_an_observer_neither_count_nor_fail() {
    let (fs, file, path) = with_file(b"abc");
    fs.halt_after(0);
    let counted = fs.operations();
    let mut byte = [0];
    assert_eq!(fs.quietly(|| file.read_at(&mut byte, 1)).unwrap(), 1);
    assert_eq!((byte, fs.operations()), (*b"b", counted));
    assert!(file.read_at(&mut byte, 1).is_err());
    assert_eq!((fs.bytes(path), fs.bytes(Path::new("/d/g"))), (Some(3), None));
    // What is on the disk, which nobody has synced.
    assert_eq!(fs.files(), [(path.to_owned(), 0)]);
}

#[test]
fn power_goes_at_the_nth_operation_of_a_kind() {
    let (fs, file, path) = with_file(b"abc");
    fs.halt_at(FailKind::Sync, 1);
    file.sync_data().unwrap();
    file.write_all_at(b"d", 3).unwrap();
    assert!(!fs.is_halted());
    assert!(file.sync_data().is_err());
    assert!(fs.is_halted() && fs.open(path).is_err());
    assert!(!fs.disarm(), "it had happened");
}

#[test]
fn power_goes_at_the_nth_operation_on_a_path() {
    let (fs, file, path) = with_file(b"abc");
    let (other, current) = (Path::new("/d/other"), Path::new("/d/CURRENT"));
    fs.halt_at_path("CURRENT", 1);
    file.sync_data().unwrap();
    fs.rename(path, other).unwrap();
    fs.rename(other, current).unwrap();
    file.write_all_at(b"d", 3).unwrap();
    assert!(!fs.is_halted());
    assert!(fs.remove(current).is_err());
    assert!(fs.is_halted() && file.sync_data().is_err());
    assert!(fs.fork().get(current).is_some(), "it was not removed");
}
