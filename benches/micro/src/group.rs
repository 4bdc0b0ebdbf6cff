//! Groups of benchmarks that state their throughput.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

/// Starts a group whose iterations move `bytes` each.
pub fn of_bytes<'a>(criterion: &'a mut Criterion, name: &str, bytes: u64) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes));
    group
}

/// Starts a group whose iterations handle `count` things each.
pub fn of_elements<'a>(criterion: &'a mut Criterion, name: &str, count: u64) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(count));
    group
}
