//! Goal: a flipped bit in a file of one node is found and named by file and offset, is never served, and the other two
//! nodes serve on.
//! Method: values are found in the stopped node's log files, in a sealed and in the active segment; one bit of one
//! value is flipped; the node is started and read from, checked with `kvd check`, and repaired by flipping it back.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tonic::Code;

use crate::harness::block_on;
use crate::harness::client::assert_refused;
use crate::harness::cluster::Cluster;
use crate::harness::seed::{seed, value_of};

const DAMAGED: i32 = 12;
const VALUES: usize = 160;
const VALUE_BYTES: usize = 20_000;

/// Where a value lies in a node's files.
pub struct Spot {
    pub file: PathBuf,
    pub offset: u64,
}

impl Spot {
    /// Flips the lowest bit of the byte there.
    pub fn flip(&self) {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.file)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.offset).unwrap();
        byte[0] ^= 1;
        file.write_all_at(&byte, self.offset).unwrap();
        file.sync_all().unwrap();
    }
}

/// Log files of a node, oldest first.
pub fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.join("log"))
        .expect("the log directory exists")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    files.sort();
    files
}

/// Finds the bytes in the files.
pub fn find(files: &[PathBuf], bytes: &[u8]) -> Option<Spot> {
    files.iter().find_map(|file| {
        let content = std::fs::read(file).unwrap();
        // The first eight bytes are rare enough to make a plain search quick.
        let starts = content
            .windows(8)
            .enumerate()
            .filter(|(_, w)| *w == &bytes[..8])
            .map(|(i, _)| i);
        let offset = starts.into_iter().find(|i| content[*i..].starts_with(bytes))? as u64;
        Some(Spot {
            file: file.clone(),
            offset,
        })
    })
}

/// What a damaged node did.
#[derive(Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It refused to open and named file and offset.
    RefusedToOpen,
    /// It opened, and the read answered DATA_LOSS.
    RefusedToServe,
    /// It gave bytes that nobody wrote.
    ServedWrongBytes,
}

/// Starts a node whose `key` has a flipped bit, and says what it did. Panics on conduct that is none of these.
pub async fn conduct(cluster: &mut Cluster, at: usize, key: &str, right: &[u8], spot: &Spot) -> Conduct {
    cluster.nodes[at].start();
    let conn = cluster.nodes[at].conn();
    let started = std::time::Instant::now();
    loop {
        if cluster.nodes[at].process().exited().is_some() {
            let (code, log) = cluster.nodes[at].ends();
            assert_eq!(code, DAMAGED, "{log}");
            let file = spot.file.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                log.contains(&file) && log.contains("offset"),
                "file and offset are named:\n{log}"
            );
            return Conduct::RefusedToOpen;
        }
        match conn.get_stale(key).await {
            Ok(got) if got.found && got.value == right => {
                panic!("{key} has the right bytes: the flip missed")
            }
            Ok(got) if got.found => return Conduct::ServedWrongBytes,
            Err(status) if status.code() == Code::DataLoss => {
                let error = assert_refused::<()>(Err(status), Code::DataLoss, "DATA_DAMAGED");
                let file = spot.file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(
                    error.message.contains(&file),
                    "the file is named: {}",
                    error.message
                );
                return Conduct::RefusedToServe;
            }
            other => assert!(
                started.elapsed().as_secs() < 60,
                "neither refused nor served: {other:?}"
            ),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A cluster with values that lie in sealed and active segments of each node.
pub fn filled(seed: u64, prepare: impl Fn(&mut Cluster)) -> Cluster {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.extra = vec!["--log-segment-bytes".into(), "1MiB".into()];
    }
    prepare(&mut cluster);
    cluster.start_all();
    block_on(async {
        cluster.wait_serving().await;
        let conn = cluster.nodes[0].conn();
        for n in 0..VALUES {
            let key = key(n);
            conn.put_surely(&key, value(seed, &key)).await;
        }
        cluster.wait_caught_up().await;
    });
    cluster
}

pub fn key(n: usize) -> String {
    format!("damage/{n:04}")
}

pub fn value(seed: u64, key: &str) -> Vec<u8> {
    value_of(seed, key.as_bytes(), VALUE_BYTES)
}

#[test]
fn a_flipped_bit_is_named_and_never_served() {
    let seed = seed("a_flipped_bit_is_named_and_never_served", 12);
    let mut cluster = filled(seed, |_| {});
    let at = 1;
    // An early value lies in a sealed segment; the last one in the active segment.
    for n in [3, VALUES - 1] {
        cluster.nodes[at].kill();
        let (key, right) = (key(n), value(seed, &key(n)));
        let files = log_files(&cluster.nodes[at].dir);
        assert!(files.len() > 2, "several segments: {files:?}");
        let mut spot = find(&files, &right).expect("the value lies in the log");
        spot.offset += VALUE_BYTES as u64 / 2;
        let active = spot.file == *files.last().unwrap();
        spot.flip();

        let (code, output) = cluster.nodes[at].check();
        let file = spot.file.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(code, DAMAGED, "{output}");
        assert!(output.contains(&file) && output.contains("offset"), "{output}");

        block_on(async {
            let conduct = conduct(&mut cluster, at, &key, &right, &spot).await;
            println!("{key}, active segment: {active}: {conduct:?}");
            assert_ne!(conduct, Conduct::ServedWrongBytes);
            // The other two serve on, this key included.
            for other in [0, 2] {
                let conn = cluster.nodes[other].conn();
                conn.put_surely("damage/after", "served").await;
                assert!(conn.get_stale(&key).await.unwrap().value == right);
            }
            // A linearizable read through the damaged node never gives wrong bytes either.
            if cluster.nodes[at].is_started() {
                match cluster.nodes[at].conn().get(&key).await {
                    Ok(got) => assert!(got.value == right, "wrong bytes"),
                    Err(status) => assert_eq!(status.code(), Code::DataLoss, "{status:?}"),
                }
                cluster.nodes[at].kill();
            }
        });
        spot.flip();
        cluster.start_all();
        block_on(async {
            cluster.wait_serving().await;
            cluster.wait_caught_up().await;
            assert!(cluster.nodes[at].conn().get_stale(&key).await.unwrap().value == right);
        });
    }
    cluster.kill_and_check();
}
