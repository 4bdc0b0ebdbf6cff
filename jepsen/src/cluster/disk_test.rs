//! Goal: each disk fails as it says, and what is durable is what comes back.

use std::fs::File;
use std::io::Write;

use super::*;

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(path: &Path) {
    OpenOptions::new()
        .read(true)
        .open(path)
        .unwrap()
        .sync_all()
        .unwrap();
}

#[test]
fn a_replaced_disk_has_what_was_synced_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = LoopDisk::new(root.path(), "disk", 64).unwrap();
    write_synced(&disk.path().join("synced"), b"kept").unwrap();
    sync_dir(disk.path());
    std::fs::write(disk.path().join("unsynced"), "lost").unwrap();
    let copy = disk.copy_image().unwrap();
    disk.replace_by(&copy).unwrap();
    assert_eq!(std::fs::read(disk.path().join("synced")).unwrap(), b"kept");
    let lost = std::fs::read(disk.path().join("unsynced")).unwrap_or_default();
    assert!(lost.is_empty(), "what was not synced is gone");
    let (mount, image) = (disk.mount.clone(), disk.image.clone());
    drop(disk);
    assert!(!image.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(mount.to_str().unwrap()));
}

#[test]
fn a_full_disk_takes_nothing_until_freed() {
    let root = tempfile::tempdir().unwrap();
    let disk = LoopDisk::new(root.path(), "disk", 64).unwrap();
    let more = vec![1; 256 << 10];
    disk.fill().unwrap();
    let refused = write_synced(&disk.path().join("more"), &more).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    disk.fill().unwrap();
    disk.free().unwrap();
    disk.free().unwrap();
    write_synced(&disk.path().join("more"), &more).unwrap();
}

/// Once, a disk that had been freed just before the power cut was full for good after it.
#[test]
fn a_freed_disk_stays_free_after_a_power_cut() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = LoopDisk::new(root.path(), "disk", 64).unwrap();
    disk.fill().unwrap();
    run("sync", &["-f", text(disk.path()).unwrap()]).unwrap();
    disk.free().unwrap();
    let copy = disk.copy_image().unwrap();
    disk.replace_by(&copy).unwrap();
    write_synced(&disk.path().join("more"), &vec![1; 256 << 10]).unwrap();
}

#[test]
fn a_failing_disk_fails_a_sync_and_what_it_had_promised_is_rescued() {
    let root = tempfile::tempdir().unwrap();
    let sound = LoopDisk::new(root.path(), "sound", 64).unwrap();
    std::fs::create_dir(sound.data()).unwrap();
    std::fs::write(sound.data().join("before"), "kept").unwrap();
    let failing = FailingDisk::copy_of(&sound, root.path(), "disk", 64, 2 << 10).unwrap();
    let data = failing.disk().data();
    assert_eq!(std::fs::read(data.join("before")).unwrap(), b"kept");
    // Block after block in one file, as a log does, until a sync fails.
    let mut file = File::create(data.join("log")).unwrap();
    let mut durable = 0;
    let error = loop {
        let block = vec![durable as u8 + 1; 64 << 10];
        match file.write_all(&block).and_then(|()| file.sync_data()) {
            Ok(()) => durable += 1,
            Err(error) => break error,
        }
        assert!(durable < 200, "a disk with 2 MiB to go takes 12 MiB");
    };
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error()),
        "{error}"
    );
    assert!(durable > 2, "some blocks go first: {durable}");
    drop(file);
    let rescued = failing.rescue(root.path(), "rescued").unwrap();
    assert_eq!(std::fs::read(rescued.data().join("before")).unwrap(), b"kept");
    let log = std::fs::read(rescued.data().join("log")).unwrap();
    for block in 0..durable {
        let bytes = &log[block << 16..(block + 1) << 16];
        assert!(
            bytes.iter().all(|byte| *byte == block as u8 + 1),
            "block {block} of {durable}"
        );
    }
    write_synced(&rescued.data().join("after"), &vec![1; 4 << 20]).unwrap();
}
