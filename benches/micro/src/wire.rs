//! The wire path: what a put costs before it is queued, and its way to a follower.

use std::hint::black_box;

use bytes::Bytes;
use criterion::Criterion;
use nezha_api::{peer, v1};
use nezha_vlog::{Command, Draft, Precondition};
use prost::Message;

use crate::group::of_bytes;
use crate::scratch::{Rows, command, size_name};

/// Bytes of values, from small to large.
const SIZES: [usize; 4] = [256, 4 << 10, 64 << 10, 256 << 10];
/// Entries of one message between members.
const BATCH: u64 = 32;

/// Runs them all.
pub fn benchmarks(criterion: &mut Criterion) {
    let mut rows = Rows::new();
    for size in SIZES {
        let (key, value) = (rows.key(), rows.value(size));
        request(criterion, size, &key, &value);
        sealing(criterion, size, &key, &value);
        append_request(criterion, size, &mut rows);
    }
}

/// The message of a client's put: building it copies the value, taking it apart does not.
fn request(criterion: &mut Criterion, size: usize, key: &Bytes, value: &Bytes) {
    let message = v1::PutRequest {
        key: key.clone(),
        value: value.clone(),
        ..v1::PutRequest::default()
    };
    let mut group = of_bytes(criterion, "wire/put request", size as u64);
    group.bench_function(format!("encode/{}", size_name(size)), |bencher| {
        bencher.iter(|| black_box(&message).encode_to_vec());
    });
    let encoded = Bytes::from(message.encode_to_vec());
    group.bench_function(format!("decode/{}", size_name(size)), |bencher| {
        bencher.iter(|| v1::PutRequest::decode(black_box(&encoded).clone()).expect("it was encoded here"));
    });
}

/// The command in the log's own layout: one copy and one checksum of the value, then the revision.
fn sealing(criterion: &mut Criterion, size: usize, key: &Bytes, value: &Bytes) {
    let mut group = of_bytes(criterion, "wire/command", size as u64);
    group.bench_function(format!("draft and seal/{}", size_name(size)), |bencher| {
        bencher.iter(|| Draft::put(black_box(key), black_box(value), Precondition::None).seal(7));
    });
    let sealed = command(key, value, 7);
    group.bench_function(format!("verify/{}", size_name(size)), |bencher| {
        bencher
            .iter(|| Command::from_bytes(black_box(sealed.as_bytes()).clone()).expect("it was sealed here"));
    });
}

/// Entries to a follower and their way back into commands there, checksums included.
fn append_request(criterion: &mut Criterion, size: usize, rows: &mut Rows) {
    let value = rows.value(size);
    let log_id = |index| peer::LogId {
        term: 1,
        node: 1,
        index,
    };
    let message = peer::AppendRequest {
        vote: Some(peer::Vote {
            term: 1,
            node: 1,
            committed: true,
        }),
        prev_log_id: Some(log_id(1)),
        leader_commit: Some(log_id(1)),
        entries: (2..2 + BATCH)
            .map(|index| peer::Entry {
                log_id: Some(log_id(index)),
                payload: Some(peer::entry::Payload::Command(
                    command(&rows.key(), &value, index).as_bytes().clone(),
                )),
            })
            .collect(),
    };
    let mut group = of_bytes(criterion, "wire/append request", BATCH * size as u64);
    group.bench_function(format!("encode/{BATCH} x {}", size_name(size)), |bencher| {
        bencher.iter(|| black_box(&message).encode_to_vec());
    });
    let encoded = Bytes::from(message.encode_to_vec());
    group.bench_function(
        format!("decode and verify/{BATCH} x {}", size_name(size)),
        |bencher| {
            bencher.iter(|| commands(black_box(&encoded).clone()));
        },
    );
}

fn commands(encoded: Bytes) -> Vec<Command> {
    let message = peer::AppendRequest::decode(encoded).expect("it was encoded here");
    let bodies = message
        .entries
        .into_iter()
        .filter_map(|entry| match entry.payload {
            Some(peer::entry::Payload::Command(body)) => Some(body),
            _ => None,
        });
    bodies
        .map(|body| Command::from_bytes(body).expect("it was sealed here"))
        .collect()
}
