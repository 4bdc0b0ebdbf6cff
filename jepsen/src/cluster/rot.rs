//! Bit rot: a flipped bit in a file that nobody writes to any more.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::{Rng, RngExt};

/// Flips one bit of one cold file; every byte of all cold files is as likely.
pub fn flip_one_bit(data: &Path, rng: &mut impl Rng) -> Result<Option<String>> {
    let mut files = Vec::new();
    for path in cold_files(data)? {
        // One that was collected meanwhile is not there any more.
        let len = std::fs::metadata(&path).map_or(0, |file| file.len());
        files.push((path, len));
    }
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    if total == 0 {
        return Ok(None);
    }
    let mut offset = rng.random_range(0..total);
    let bit = rng.random_range(0..8);
    for (path, len) in files {
        if offset < len {
            flip(&path, offset, bit).with_context(|| format!("cannot flip a bit of {}", path.display()))?;
            let file = path.strip_prefix(data).unwrap_or(&path).display();
            return Ok(Some(format!("bit {bit} at offset {offset} of {file}")));
        }
        offset -= len;
    }
    Ok(None)
}

fn flip(path: &Path, offset: u64, bit: u8) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset)?;
    Ok(file.sync_all()?)
}

/// The log segment that is written to, if there is one.
pub fn active_log(data: &Path) -> Result<Option<PathBuf>> {
    Ok(files_of(&data.join("log"), "log")?.pop())
}

/// Sealed log segments and finished value segments, in order of their names.
fn cold_files(data: &Path) -> Result<Vec<PathBuf>> {
    let mut logs = files_of(&data.join("log"), "log")?;
    // Names are numbers of one width: the last one is written to.
    logs.pop();
    for store in list(data)?.into_iter().filter(|path| path.is_dir()) {
        logs.extend(files_of(&store.join("values"), "val")?);
    }
    Ok(logs)
}

fn files_of(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = list(dir)?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(files)
}

/// What is in a directory, sorted; nothing if there is none.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                paths.push(
                    entry
                        .with_context(|| format!("cannot list {}", dir.display()))?
                        .path(),
                );
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    }
    paths.sort();
    Ok(paths)
}

#[test]
fn one_bit_of_a_cold_file_is_flipped_and_named() {
    use rand::SeedableRng;
    let root = tempfile::tempdir().unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    for dir in ["log", "store-0/values", "store-0/index"] {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    std::fs::write(root.path().join("log/0000000000000002.log"), [0; 100]).unwrap();
    std::fs::write(root.path().join("store-0/index/000001.sst"), [0; 100]).unwrap();
    std::fs::write(root.path().join("store-0/values/L1-02.val.tmp"), [0; 100]).unwrap();
    assert_eq!(
        flip_one_bit(root.path(), &mut rng).unwrap(),
        None,
        "nothing is cold"
    );
    let cold = ["log/0000000000000001.log", "store-0/values/L1-01.val"];
    for file in cold {
        std::fs::write(root.path().join(file), [0; 100]).unwrap();
    }
    for _ in 0..20 {
        let told = flip_one_bit(root.path(), &mut rng).unwrap().unwrap();
        let words: Vec<&str> = told.split(' ').collect();
        let (bit, offset, file) = (words[1], words[4], words[6]);
        assert!(cold.contains(&file), "{told}");
        let path = root.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        let changed: Vec<(usize, u8)> = (0..100)
            .map(|at| (at, bytes[at]))
            .filter(|(_, byte)| *byte != 0)
            .collect();
        assert_eq!(
            changed,
            [(offset.parse().unwrap(), 1 << bit.parse::<u8>().unwrap())]
        );
        std::fs::write(&path, [0; 100]).unwrap();
    }
}
