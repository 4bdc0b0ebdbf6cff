//! The raw disk: records written to files with an fdatasync after each.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use rustix::fs::OFlags;
use serde::Serialize;

use crate::{
    args::DiskArgs,
    errors::BenchError,
    histogram::{Latencies, LatencySummary},
    size::format_size,
    values::Values,
};

/// Offset, length and memory of a direct write are multiples of this.
const DIRECT_BLOCK: usize = 4 << 10;

/// The result of a probe. Field names are those of the JSON line.
#[derive(Debug, Clone, Serialize)]
struct DiskReport {
    operation: &'static str,
    overwrite: bool,
    direct: bool,
    writers: u32,
    size: u64,
    seconds: f64,
    syncs: u64,
    syncs_per_second: f64,
    mb_per_second: f64,
    /// From the start of a write to the end of its sync.
    latency_us: LatencySummary,
}

/// Runs the probe and prints its report.
///
/// Errors: the directory cannot be written, or no sync ended within the measurement.
/// Blocking: for the length of the measurement.
pub(crate) fn run(args: &DiskArgs) -> anyhow::Result<()> {
    let report = probe(args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "raw disk, {}{}: {} writers, records of {}, {:.1} s\n{:.0} syncs/s   {:.2} MB/s\n{}",
            if args.overwrite {
                "overwriting allocated blocks"
            } else {
                "growing files"
            },
            if args.direct { ", past the page cache" } else { "" },
            report.writers,
            format_size(report.size),
            report.seconds,
            report.syncs_per_second,
            report.mb_per_second,
            report.latency_us.line()
        );
    }
    Ok(())
}

fn probe(args: &DiskArgs) -> anyhow::Result<DiskReport> {
    ensure!(
        args.size > 0,
        BenchError::Usage("--size must be above 0".to_owned())
    );
    ensure!(
        !args.direct || args.size.is_multiple_of(DIRECT_BLOCK as u64),
        BenchError::Usage("--size must be a multiple of 4 KiB with --direct".to_owned())
    );
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    let size = usize::try_from(args.size).context("--size does not fit this machine")?;
    let values = Values::new(size + DIRECT_BLOCK);
    // Each writer is ready, and the overwritten blocks are allocated, before the first starts.
    let ready = Arc::new(Barrier::new(args.writers as usize));
    let duration = Duration::from_secs_f64(args.seconds);
    let writers: Vec<_> = (0..args.writers)
        .map(|number| {
            let path = args.dir.join(format!("probe-{number}"));
            let record = values.value(format!("record {number}").as_bytes());
            // Memory from a block's boundary on: what a direct write needs costs the others nothing.
            let start = record.as_ptr().align_offset(DIRECT_BLOCK).min(DIRECT_BLOCK);
            let writer = Writer {
                path,
                record: record.slice(start..start + size),
                direct: args.direct,
                file_size: args.file_size.max(args.size),
                overwrite: args.overwrite,
            };
            let ready = ready.clone();
            thread::spawn(move || writer.run(&ready, duration))
        })
        .collect();
    let mut latencies = Latencies::new();
    for writer in writers {
        let counted = writer
            .join()
            .map_err(|_| anyhow!("a writer of the disk probe panicked"))??;
        latencies.merge(&counted);
    }
    let syncs = latencies.count();
    ensure!(syncs > 0, "no sync ended within {} s", args.seconds);
    Ok(DiskReport {
        operation: "disk",
        overwrite: args.overwrite,
        direct: args.direct,
        writers: args.writers,
        size: args.size,
        seconds: args.seconds,
        syncs,
        syncs_per_second: syncs as f64 / args.seconds,
        mb_per_second: (syncs * args.size) as f64 / 1e6 / args.seconds,
        latency_us: latencies.summary(),
    })
}

struct Writer {
    path: PathBuf,
    record: Bytes,
    file_size: u64,
    overwrite: bool,
    direct: bool,
}

/// Removes its file when it goes.
struct TemporaryFile<'a>(&'a Path);

impl Drop for TemporaryFile<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Writer {
    fn run(&self, ready: &Barrier, duration: Duration) -> anyhow::Result<Latencies> {
        let prepared = self.prepare();
        // Waited for in every case: a writer that failed must not leave the others waiting.
        ready.wait();
        let (file, _removed) = prepared.with_context(|| format!("cannot prepare {}", self.path.display()))?;
        let mut latencies = Latencies::new();
        let end = Instant::now() + duration;
        let mut offset = 0;
        loop {
            let started = Instant::now();
            self.append(&file, &mut offset)
                .with_context(|| format!("cannot write {}", self.path.display()))?;
            let ended = Instant::now();
            if ended > end {
                return Ok(latencies);
            }
            latencies.record(ended - started);
        }
    }

    fn prepare(&self) -> std::io::Result<(File, TemporaryFile<'_>)> {
        let flags = if self.direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.path)?;
        let removed = TemporaryFile(&self.path);
        if self.overwrite {
            let records = self.file_size / self.record.len() as u64;
            for number in 0..records {
                file.write_all_at(&self.record, number * self.record.len() as u64)?;
            }
            file.sync_all()?;
        }
        Ok((file, removed))
    }

    fn append(&self, file: &File, offset: &mut u64) -> std::io::Result<()> {
        if *offset + self.record.len() as u64 > self.file_size {
            *offset = 0;
            if !self.overwrite {
                file.set_len(0)?;
            }
        }
        file.write_all_at(&self.record, *offset)?;
        file.sync_data()?;
        *offset += self.record.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, overwrite: bool) -> DiskArgs {
        DiskArgs {
            dir: dir.to_owned(),
            size: 4096,
            writers: 2,
            seconds: 0.2,
            overwrite,
            direct: false,
            file_size: 20_000,
            json: true,
        }
    }

    /// Probes for longer and longer: on a disk that stalls, no sync may end within the first times.
    fn probe_until_synced(dir: &Path, overwrite: bool, direct: bool) -> DiskReport {
        let probe = |seconds| {
            probe(&DiskArgs {
                seconds,
                direct,
                ..args(dir, overwrite)
            })
        };
        probe(0.2)
            .or_else(|_| probe(2.0))
            .or_else(|_| probe(20.0))
            .unwrap()
    }

    #[test]
    fn all_kinds_count_syncs_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (overwrite, direct) in [(false, false), (true, false), (false, true), (true, true)] {
            let report = probe_until_synced(dir.path(), overwrite, direct);
            assert!(report.syncs > 0);
            assert!(report.latency_us.max >= report.latency_us.p50);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_direct_record_has_whole_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let asked = DiskArgs {
            size: 5000,
            direct: true,
            ..args(dir.path(), false)
        };
        let error = probe(&asked).unwrap_err();
        assert!(error.to_string().contains("multiple of 4 KiB"), "{error:#}");
    }

    #[test]
    fn files_of_others_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("probe-1"), "mine").unwrap();
        let error = probe(&args(dir.path(), false)).unwrap_err();
        assert!(format!("{error:#}").contains("probe-1"), "{error:#}");
        assert_eq!(fs::read(dir.path().join("probe-1")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
