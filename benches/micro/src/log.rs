//! The log: submitting, groups with real syncs, reads from its cache and from its files, recovery.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode};
use nezha_vlog::{HeadPayload, Log, Options, ValueRef};

use crate::group::{of_bytes, of_elements};
use crate::scratch::{
    KEY_BYTES, Rows, Scratch, command, drain, entries, open, os, repeated, size_name, submit,
};
use crate::sink::Sink;

/// Bytes of the values that are submitted and written in groups.
const SIZES: [usize; 3] = [256, 4 << 10, 64 << 10];
/// Entries of one group, from one client to many.
const GROUPS: [u64; 3] = [1, 32, 128];
/// Submissions of one group where its size is not what is measured.
const SUBMITTED: u64 = 128;
/// Records that are read.
const READ: u64 = 4096;
/// Bytes in the active segment at recovery: half of a full one.
const TAIL_BYTES: usize = 64 << 20;

/// Runs them all.
pub fn benchmarks(criterion: &mut Criterion, scratch: &Scratch) {
    for size in SIZES {
        append(criterion, size);
    }
    for size in SIZES {
        for count in GROUPS {
            group_commit(criterion, scratch, size, count);
        }
    }
    reads(criterion, scratch);
    recovery(criterion, scratch);
}

/// From submitting to the callback, in groups, without a disk: what the log's own work costs for one entry.
fn append(criterion: &mut Criterion, size: usize) {
    let mut rows = Rows::new();
    let command = command(&rows.key(), &rows.value(size), 1);
    let mut group = of_elements(criterion, "log/append", 1);
    group.bench_function(size_name(size), |bencher| {
        let (log, mut writer) = open(Arc::new(Sink), Path::new("log"), Options::default());
        let mut index = 0;
        bencher.iter(|| {
            index += 1;
            submit(&log, repeated(&command, index, 1));
            if index % SUBMITTED == 0 {
                drain(&mut writer);
            }
        });
        // The last group is not full: a writer that goes fails what is queued.
        drain(&mut writer);
    });
}

/// `count` submitted entries become durable: laying out, one vectored write, one fdatasync, the callbacks.
fn group_commit(criterion: &mut Criterion, scratch: &Scratch, size: usize, count: u64) {
    let mut rows = Rows::new();
    let command = command(&rows.key(), &rows.value(size), 1);
    let mut group = of_bytes(criterion, "log/group commit", count * size as u64);
    group.bench_function(format!("{count} x {}", size_name(size)), |bencher| {
        bencher.iter_custom(|iterations| {
            // A log of its own each time: what was written for the one before is gone from the disk.
            let dir = scratch.dir();
            let (log, mut writer) = open(os(), dir.path(), Options::default());
            let mut taken = Duration::ZERO;
            for iteration in 0..iterations {
                submit(&log, repeated(&command, 1 + iteration * count, count));
                let begun = Instant::now();
                drain(&mut writer);
                taken += begun.elapsed();
            }
            taken
        });
    });
}

/// What a reader knows of a record.
struct Known {
    key: Bytes,
    revision: u64,
    place: ValueRef,
}

/// Reads of single values and of heads, in an order that no readahead helps.
fn reads(criterion: &mut Criterion, scratch: &Scratch) {
    const SIZE: usize = 4 << 10;
    let cached = Options::default().with_cache_bytes(2 * READ * SIZE as u64);
    // Without a cache, and all of it in the page cache: what is left is the read itself.
    for (name, options) in [
        ("cached", cached),
        ("pread", Options::default().with_cache_bytes(0)),
    ] {
        let dir = scratch.dir();
        let (log, known) = filled(dir.path(), options, SIZE);
        let mut turn = 0;
        let mut group = of_bytes(criterion, "log/read", SIZE as u64);
        group.bench_function(format!("{name}/{}", size_name(SIZE)), |bencher| {
            bencher.iter(|| {
                // An odd step visits all of a power of two.
                turn = (turn + 1237) % known.len();
                let Known { key, revision, place } = &known[turn];
                black_box(log.read_value(*place, key, *revision).expect("it was written"))
            });
        });
        drop(group);
        let mut group = of_elements(criterion, "log/heads", READ);
        group.bench_function(format!("{name}/{READ} of {}", size_name(SIZE)), |bencher| {
            bencher.iter(|| log.heads(1..READ + 1, 0).expect("they are durable"));
        });
    }
}

/// A log of `READ` values, all durable.
fn filled(dir: &Path, options: Options, size: usize) -> (Log, Vec<Known>) {
    let (log, mut writer) = open(os(), dir, options);
    submit(&log, entries(&mut Rows::new(), 1, READ, size));
    drain(&mut writer);
    let heads = log.heads(1..READ + 1, 0).expect("they are durable");
    let known = heads.into_iter().filter_map(|head| match head.payload {
        HeadPayload::Command(ops) => ops.into_iter().next().map(|op| Known {
            key: op.key,
            revision: head.log_id.index,
            place: op.place,
        }),
        _ => None,
    });
    let known = known.collect();
    // The log stays readable without its writer.
    drop(writer);
    (log, known)
}

/// Opening a log whose active segment was never sealed, for few large and for many small values.
fn recovery(criterion: &mut Criterion, scratch: &Scratch) {
    for size in [1 << 10, 64 << 10] {
        let dir = scratch.dir();
        let (log, mut writer) = open(os(), dir.path(), Options::default());
        let count = (TAIL_BYTES / (size + KEY_BYTES)) as u64;
        let mut rows = Rows::new();
        for first in (1..=count).step_by(SUBMITTED as usize) {
            submit(
                &log,
                entries(&mut rows, first, SUBMITTED.min(count - first + 1), size),
            );
            drain(&mut writer);
        }
        drop((log, writer));
        let mut group = of_elements(criterion, "log/recovery", count);
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        let name = format!("{} MiB of {}", TAIL_BYTES >> 20, size_name(size));
        group.bench_function(name, |bencher| {
            bencher.iter(|| open(os(), dir.path(), Options::default()));
        });
    }
}
