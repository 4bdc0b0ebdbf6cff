//! Collection, as far as it is the gc crate's: choosing a job, and copying its live records in key order.
//!
//! The node's job also reads the index, merges its reads, and moves the index over: `benches/collection.py` measures
//! that in whole processes.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, SamplingMode};
use nezha_gc::SegmentWriter;
use nezha_gc::plan::{KeyRange, LEVEL_BOTTOM, LEVEL_LOG, LEVEL_RUNS, Limits, SegmentStat, Usage, plan};
use nezha_vlog::{HeadPayload, Log, Options, SegmentId, ValueRef};

use crate::group::{of_bytes, of_elements};
use crate::scratch::{Rows, Scratch, drain, entries, open, os, size_name, submit};

/// Bytes of values that a merge copies.
const MERGED_BYTES: usize = 32 << 20;
/// Files of a store for the planner.
const SEGMENTS: u64 = 1000;

/// Where each live key's record is, and its revision: what a job asks the index for.
type LiveRefs = BTreeMap<Bytes, (ValueRef, u64)>;

/// Runs them all.
pub fn benchmarks(criterion: &mut Criterion, scratch: &Scratch) {
    for size in [1 << 10, 16 << 10] {
        merge(criterion, scratch, size);
    }
    choose(criterion);
}

/// Copies the records of a log, written in random order, to one sorted segment; durable at its end.
fn merge(criterion: &mut Criterion, scratch: &Scratch, size: usize) {
    let dir = scratch.dir();
    // Without a cache: a job reads what was written long ago.
    let (log, mut writer) = open(os(), dir.path(), Options::default().with_cache_bytes(0));
    let count = (MERGED_BYTES / size) as u64;
    submit(&log, entries(&mut Rows::new(), 1, count, size));
    drain(&mut writer);
    let live = live_refs(&log, count);
    let mut group = of_bytes(criterion, "gc/merge", MERGED_BYTES as u64);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    let name = format!("{} MiB of {}", MERGED_BYTES >> 20, size_name(size));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || scratch.dir(),
            |out| {
                copy(&log, &live, out.path());
                out
            },
            BatchSize::PerIteration,
        );
    });
}

fn live_refs(log: &Log, count: u64) -> LiveRefs {
    let heads = log.heads(1..count + 1, 0).expect("they are durable");
    let refs = heads.into_iter().filter_map(|head| match head.payload {
        HeadPayload::Command(ops) => ops
            .into_iter()
            .next()
            .map(|op| (op.key, (op.place, head.log_id.index))),
        _ => None,
    });
    refs.collect()
}

fn copy(log: &Log, live: &LiveRefs, out: &Path) {
    let id = SegmentId::sorted(1);
    let mut segment = SegmentWriter::create(os(), out, LEVEL_RUNS, id).expect("the directory is empty");
    for (key, (place, revision)) in live {
        let record = log.read_record(*place, key, *revision).expect("it was written");
        segment.append(&record).expect("keys ascend");
    }
    segment.finish().expect("the disk takes the segment");
}

/// Chooses a job for a store of many files, with more in the log than the planner allows.
fn choose(criterion: &mut Criterion) {
    let stats: Vec<SegmentStat> = (0..SEGMENTS).map(segment).collect();
    let usage = Usage {
        file_bytes: stats.iter().map(|stat| stat.bytes).sum(),
        live_bytes: stats.iter().map(|stat| stat.live_bytes).sum(),
    };
    let limits = Limits::default();
    assert!(
        plan(&stats, usage, &limits).is_some(),
        "the planner finds a job, so that choosing it is what is measured"
    );
    let mut group = of_elements(criterion, "gc/plan", SEGMENTS);
    group.bench_function(format!("{SEGMENTS} segments"), |bencher| {
        bencher.iter(|| plan(&stats, usage, &limits));
    });
}

/// A third of the files each in the log, in overlapping runs and in the bottom run.
fn segment(number: u64) -> SegmentStat {
    const BYTES: u64 = 64 << 20;
    let key = |number: u64| Bytes::copy_from_slice(format!("{number:016x}").as_bytes());
    let (level, keys) = match number % 3 {
        0 => (LEVEL_LOG, None),
        1 => (LEVEL_RUNS, Some((number.saturating_sub(30), number + 30))),
        _ => (LEVEL_BOTTOM, Some((number, number))),
    };
    SegmentStat {
        id: match level {
            LEVEL_LOG => SegmentId::new(number + 1),
            _ => SegmentId::sorted(number),
        },
        level,
        bytes: BYTES,
        // From full to a third of it garbage.
        live_bytes: BYTES - BYTES / 3 * (number % 10) / 10,
        overhead_bytes: 0,
        keys: keys.map(|(first, last)| KeyRange {
            first: key(first),
            last: key(last),
        }),
        eligible: true,
    }
}
