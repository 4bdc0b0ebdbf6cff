//! Goal: the load counts what happened, no more and no less. Method: run it against members in this process that can
//! fail on demand, and compare its report with what they saw.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{fake::Fake, measure, zipfian};
use crate::{
    args::{BenchArgs, BenchCommand, DriverKind, StatusArgs},
    report::LoadReport,
    status,
    values::{Keys, Values},
    workload::Workload,
};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

async fn load(fake: &Arc<Fake>, line: &str) -> anyhow::Result<LoadReport> {
    let cli: Cli = clap::Parser::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))?;
    let (workload, load) = match &cli.bench.command {
        BenchCommand::Put(put) => (Workload::put(put)?, &put.load),
        BenchCommand::Get(get) => (Workload::get(get)?, &get.load),
        BenchCommand::Scan(scan) => (Workload::scan(scan)?, &scan.load),
        other => panic!("not a load: {other:?}"),
    };
    measure(&workload, load, &fake.endpoints()).await
}

#[tokio::test]
async fn unique_puts_write_every_key_once() {
    let fake = Fake::start(1, 0).await;
    let line = "put --unique --keys 500 --clients 7 --size 100 --key-prefix u/ --warmup 0 --seconds 600";
    let report = load(&fake, line).await.unwrap();
    assert_eq!((report.ops, report.run_ops), (500, 500));
    assert_eq!(report.run_logical_bytes_put, 500 * (2 + 16 + 100));
    assert_eq!(fake.served[0].load(Ordering::SeqCst), 500);
    assert!(report.errors.is_empty() && report.unique);
    let rows = fake.rows.lock().unwrap();
    let (keys, values) = (Keys::new("u/".to_owned()), Values::new(100));
    assert_eq!(rows.len(), 500);
    for number in 0..500 {
        let key = keys.key(number);
        assert_eq!(rows[&key], values.value(&key));
    }
}

#[tokio::test]
async fn overwrites_stay_within_their_keys() {
    let fake = Fake::start(1, 0).await;
    let line = "put --keys 10 --clients 4 --size 0 --warmup 0 --seconds 0.3";
    let report = load(&fake, line).await.unwrap();
    assert!(fake.rows.lock().unwrap().len() <= 10);
    assert_eq!(report.run_ops, fake.served[0].load(Ordering::SeqCst));
    assert_eq!(report.mb_per_second, 0.0);
}

#[tokio::test]
async fn gets_load_then_verify() {
    let fake = Fake::start(1, 0).await;
    let report = load(
        &fake,
        "get --keys 50 --clients 4 --size 1KiB --warmup 0 --seconds 1",
    )
    .await
    .unwrap();
    assert!(report.ops > 0);
    assert_eq!((report.wrong_reads, report.unknown), (0, 0));
    assert_eq!(fake.rows.lock().unwrap().len(), 50);
    assert_eq!(report.run_ops + 50, fake.served[0].load(Ordering::SeqCst));
}

#[tokio::test]
async fn wrong_and_missing_values_are_noticed() {
    let fake = Fake::start(1, 0).await;
    let line = "get --keys 2 --clients 2 --size 64 --key-prefix w/ --warmup 0 --seconds 1";
    let keys = Keys::new("w/".to_owned());
    load(&fake, line).await.unwrap();
    let other = fake.rows.lock().unwrap()[&keys.key(1)].clone();
    fake.rows.lock().unwrap().insert(keys.key(0), other);
    let swapped = load(&fake, &format!("{line} --no-load")).await.unwrap();
    assert!(swapped.wrong_reads > 0 && swapped.ops > 0);
    fake.rows.lock().unwrap().clear();
    let missing = load(&fake, &format!("{line} --no-load")).await.unwrap();
    assert_eq!(missing.ops, 0);
    assert_eq!(missing.errors["wrong read"], missing.wrong_reads);
}

#[tokio::test]
async fn scans_verify_every_row() {
    let fake = Fake::start(1, 0).await;
    let line = "scan --keys 40 --scan-length 10 --clients 2 --size 64 --key-prefix s/ --warmup 0 --seconds 1";
    let report = load(&fake, line).await.unwrap();
    assert!(report.ops > 0 && report.wrong_reads == 0, "{report:?}");
    let rate = report.ops_per_second * 640.0 / 1e6;
    assert!((report.mb_per_second - rate).abs() <= rate * 1e-9);
    // A row too many, in the middle of the others, is a wrong answer to the scans that meet it.
    let keys = Keys::new("s/".to_owned());
    let between = Bytes::from([&keys.key(7)[..], b"+"].concat());
    fake.rows.lock().unwrap().insert(between, Bytes::new());
    let report = load(&fake, &format!("{line} --no-load")).await.unwrap();
    assert!(report.wrong_reads > 0);
}

#[tokio::test]
async fn clients_find_the_leader() {
    // The Rust client follows the hint within its call.
    for (driver, refusals) in [("nezha", 0..=0), ("nezha-unary", 1..=3)] {
        let fake = Fake::start(3, 2).await;
        let line = "put --unique --keys 300 --clients 3 --size 10 --warmup 0 --seconds 600";
        let report = load(&fake, &format!("{line} --driver {driver}")).await.unwrap();
        assert_eq!(report.run_ops, 300);
        assert_eq!(fake.served[2].load(Ordering::SeqCst), 300);
        let refused = report.errors.get("NOT_LEADER").copied().unwrap_or(0);
        assert!(
            refusals.contains(&refused),
            "{driver}: {refused} refusals for three clients"
        );
        assert_eq!(report.unknown, 0);
    }
}

#[tokio::test]
async fn unknown_outcomes_are_counted_and_the_key_is_written_again() {
    let fake = Fake::start(1, 0).await;
    fake.faults.unknown.store(5, Ordering::SeqCst);
    fake.faults.silent.store(2, Ordering::SeqCst);
    let line = "put --unique --keys 100 --clients 4 --size 10 --warmup 0 --seconds 600 --op-timeout 0.5";
    let report = load(&fake, line).await.unwrap();
    // On a machine that stalls, clients may give up on more puts, those with the fault among them.
    assert!(report.errors["gave up"] >= 2, "{:?}", report.errors);
    assert!(report.unknown >= 7, "{:?}", report.errors);
    assert_eq!(report.unknown, report.errors.values().sum::<u64>());
    assert_eq!(report.run_ops, 100);
    assert_eq!(fake.rows.lock().unwrap().len(), 100);
}

#[tokio::test]
async fn acknowledgements_and_processes_are_accounted() {
    let fake = Fake::start(1, 0).await;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acks");
    let line = format!(
        "put --unique --keys 200 --clients 4 --size 10 --warmup 0 --seconds 600 --pids {} --ack-log {}",
        std::process::id(),
        log.display()
    );
    let report = load(&fake, &line).await.unwrap();
    assert_eq!(report.processes.len(), 1);
    assert!(report.processes[0].write_bytes_per_logical_byte.is_some());
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.lines().count(), 200);
    let gone = load(&fake, "put --pids 4294967295 --seconds 1")
        .await
        .unwrap_err();
    assert!(format!("{gone:#}").contains("/proc/4294967295"), "{gone:#}");
}

#[tokio::test]
async fn keys_that_end_before_the_measurement_are_an_error() {
    let fake = Fake::start(1, 0).await;
    let error = load(&fake, "put --unique --keys 3 --warmup 600")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--warmup 0"), "{error}");
}

#[tokio::test]
async fn the_status_names_the_leader() {
    let fake = Fake::start(3, 1).await;
    let args = StatusArgs {
        driver: DriverKind::Nezha,
        wait: Some(600.0),
    };
    let status = status::collect(&args, &fake.endpoints()).await.unwrap();
    assert!(status.ready);
    assert_eq!(status.leader, Some(fake.endpoints()[1].clone()));
    assert!(
        status
            .members
            .values()
            .all(|member| member.ready && member.reachable)
    );
    // An address where nobody listens: bound, then released. No server of another test gets this host's ports.
    let nobody = std::net::TcpListener::bind("127.0.0.9:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let args = StatusArgs {
        driver: DriverKind::Nezha,
        wait: None,
    };
    let status = status::collect(&args, &[nobody.to_string()]).await.unwrap();
    assert!(!status.ready && status.leader.is_none());
}

#[test]
fn zipfian_keys_are_popular_in_their_order() {
    const KEYS: u64 = 1000;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut counts = vec![0u32; KEYS as usize];
    for _ in 0..100_000 {
        counts[zipfian(KEYS, &mut random) as usize] += 1;
    }
    // 1/n^0.99 over 1000 keys: the first has about an eighth of all, ten times as many as the tenth.
    assert!((12_000..15_000).contains(&counts[0]), "{}", counts[0]);
    let ratio = f64::from(counts[0]) / f64::from(counts[9]);
    assert!((8.5..11.5).contains(&ratio), "{ratio}");
    assert!(counts[KEYS as usize - 1] < 50, "{}", counts[KEYS as usize - 1]);
    assert_eq!(zipfian(1, &mut random), 0);
}
