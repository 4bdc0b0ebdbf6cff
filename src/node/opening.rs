//! What a node is opened with: room, storage, settings of its parts.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nezha_gc::plan::Limits;
use nezha_vlog::fs::{DiskSpace, Fs};

use super::Parts;
use crate::collector;
use crate::config::{Config, GcMode, MIB};
use crate::exit::NodeError;
use crate::identity::DataDir;
use crate::machine::Threads;
use crate::raft::Settings;
use crate::store::{Store, StoreOptions};

/// A node does not start in a new directory with less free space.
const START_FREE_BYTES_MIN: u64 = 64 * MIB;
/// What writes leave to gc by default: a twentieth of the disk, but not more than this.
const DISK_RESERVE_BYTES_MAX: u64 = 512 * MIB;

pub(super) async fn beside<T: Send + 'static>(
    threads: &Threads,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    let done = threads.run(work).await;
    done.map_err(|e| NodeError::System {
        what: what.to_owned(),
        source: io::Error::other(e),
    })
}

/// Refuses to start on a file system that is full, before anything is written to it. A node that was here before needs
/// less: gc may free some.
///
/// Answers what writes leave free for gc, in bytes.
pub(super) fn check_space(config: &Config, fs: &dyn Fs) -> Result<u64, NodeError> {
    let mut dir = config.data_dir.as_path();
    let exists = |dir: &Path| fs.exists(dir).unwrap_or(false);
    let was_here = exists(dir);
    // The directory may not be there yet; what counts is where it will be.
    while !dir.as_os_str().is_empty() && !exists(dir) {
        let Some(parent) = dir.parent() else { break };
        dir = parent;
    }
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let DiskSpace { total, free } = fs.space(dir).map_err(|source| NodeError::System {
        what: format!("cannot tell the free space of {}", dir.display()),
        source,
    })?;
    let default = (total / 20).min(DISK_RESERVE_BYTES_MAX);
    let reserve = config.disk_reserve_bytes.unwrap_or(default);
    let needed = match was_here {
        true => START_FREE_BYTES_MIN.min(reserve / 4),
        false => START_FREE_BYTES_MIN,
    };
    if free < needed {
        return Err(NodeError::NoSpace {
            dir: config.data_dir.display().to_string(),
            free,
            needed,
        });
    }
    Ok(reserve)
}

pub(super) async fn open_store(
    config: &Config,
    parts: &Parts,
    data: &Arc<DataDir>,
) -> Result<(Arc<Store>, nezha_vlog::Writer), NodeError> {
    let log = nezha_vlog::Options::default()
        .with_segment_bytes(config.log_segment_bytes)
        .with_cache_bytes(config.log_cache_bytes);
    let options = StoreOptions {
        log,
        inline_value_max: parts.inline_value_max,
        value_segment_bytes: value_segment_bytes(config),
        threads: parts.machine.threads.clone(),
        ..StoreOptions::default()
    };
    let (data, engine) = (data.clone(), parts.engine.clone());
    let threads = &parts.machine.threads;
    let opened = beside(threads, "opening the store", move || {
        Store::open(data, engine, options)
    });
    let (store, writer, recovered) = opened.await??;
    if let Some(cut) = &recovered.cut {
        tracing::warn!(
            ?cut,
            "the end of the log was torn and is cut: after a power cut or a kill, what was not acknowledged"
        );
    }
    let (segments, last) = (
        recovered.segments.len(),
        recovered.last.map_or(0, |last| last.index),
    );
    tracing::info!(case = ?recovered.case, segments, last, "log opened");
    Ok((Arc::new(store), writer))
}

pub(super) fn raft_settings(config: &Config, message_bytes_max: usize) -> Settings {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Settings {
        heartbeat_ms: millis(config.heartbeat),
        election_ms: millis(config.election_timeout),
        message_bytes_max,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        ..Settings::default()
    }
}

pub(super) fn collector_settings(config: &Config) -> collector::Settings {
    let defaults = Limits::default();
    collector::Settings {
        automatic: config.gc == GcMode::Auto,
        bytes_per_second: config.gc_bytes_per_second,
        lagging_log_bytes_max: config.lagging_log_bytes_max,
        limits: Limits {
            space_amplification_max_per_mille: config.space_amplification_max_per_mille,
            space_floor_bytes: config.space_floor_bytes,
            l0_debt_bytes_min: defaults.l0_debt_bytes_min.min(config.space_floor_bytes / 2),
            segment_bytes: value_segment_bytes(config),
            ..defaults
        },
    }
}

/// Half of a log segment: the outputs of the smallest job, two of them, are no longer than its input.
fn value_segment_bytes(config: &Config) -> u64 {
    (config.log_segment_bytes / 2).min(StoreOptions::default().value_segment_bytes)
}

#[cfg(test)]
mod tests {
    use nezha_vlog::fs::OsFs;

    use super::*;
    use crate::config::Options;

    #[test]
    fn free_space_is_asked_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let check = |data_dir: &Path, reserve: u64| {
            let options = Options {
                name: Some("n1".into()),
                data_dir: Some(data_dir.to_path_buf()),
                disk_reserve_bytes: Some(reserve),
                ..Options::default()
            };
            check_space(&options.resolve(|_| None).unwrap(), &OsFs)
        };
        assert_eq!(
            check(&dir.path().join("not/there/yet"), 16 * MIB).unwrap(),
            16 * MIB
        );
        check(Path::new("relative/not/there"), 0).unwrap();
        // A directory that is there is one of a node that was here: it needs a quarter of its reserve, 64 MiB at most.
        check(dir.path(), 1 << 50).unwrap();
    }
}
