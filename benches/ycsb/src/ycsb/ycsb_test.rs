//! Goal: every workload does what its properties say, and counts it. Method: run it against members in this process that
//! can fail on demand, and compare its report with what they hold.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{
    measures::{Return, Section, Series},
    record::{Layout, Records},
    report::throughput,
    *,
};
use crate::load::fake::Fake;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: YcsbArgs,
}

/// Runs the line against the fake; also returns what the command would say of it.
async fn ycsb(fake: &Arc<Fake>, line: &str) -> anyhow::Result<(Outcome, Option<String>)> {
    let words = std::iter::once("ycsb").chain(line.split_whitespace());
    let args = <Cli as clap::Parser>::try_parse_from(words)?.args;
    let (settings, _) = Settings::resolve(&args)?;
    let mut outcome = measure(&args, &settings, &fake.endpoints()).await?;
    let failure = verdict(&settings, &mut outcome).err();
    // Both reports can be made of any outcome.
    assert!(report::text(&settings, &outcome).starts_with("[OVERALL], RunTime(ms), "));
    serde_json::to_string(&report::Json::new(&args, &settings, &outcome))?;
    Ok((outcome, failure.map(|error| format!("{error:#}"))))
}

/// The same, of a line that succeeds.
async fn succeed(fake: &Arc<Fake>, line: &str) -> Outcome {
    let (outcome, failure) = ycsb(fake, line).await.unwrap();
    assert_eq!(
        failure,
        None,
        "{line}: {:?}",
        outcome.measured.total.errors.lines()
    );
    outcome
}

fn count(outcome: &Outcome, section: Section) -> u64 {
    outcome
        .measured
        .total
        .returns
        .iter()
        .filter(|((of, _), _)| *of == section)
        .map(|(_, count)| count)
        .sum()
}

fn timed(outcome: &Outcome, section: Section, intended: bool) -> u64 {
    let series = Series {
        intended,
        section,
        failed: false,
    };
    let latencies = &outcome.measured.total.latencies;
    latencies.get(&series).map_or(0, |latencies| latencies.count())
}

/// Records of YCSB's default layout.
fn records() -> Records {
    Records::new(Layout {
        table: "usertable".to_owned(),
        ordered: false,
        zero_padding: 1,
        field_count: 10,
        field_length: 100,
    })
}

const LOAD: &str = "--load --workload a -p recordcount=200 --threads 4";

#[tokio::test]
async fn the_load_writes_every_record_once() {
    let fake = Fake::start(1, 0).await;
    let outcome = succeed(&fake, LOAD).await;
    assert_eq!(
        (outcome.measured.total.ops, count(&outcome, Section::Insert)),
        (200, 200)
    );
    assert_eq!(timed(&outcome, Section::Cleanup, false), 4);
    let rows = fake.rows.lock().unwrap();
    let records = records();
    assert_eq!(rows.len(), 200);
    for number in 0..200 {
        let key = records.key(number);
        records.check(&key, &rows[&key]).unwrap();
    }
    let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(outcome.measured.total.bytes_put, bytes as u64);
    assert_eq!(fake.served[0].load(Ordering::SeqCst), 200);
}

#[tokio::test]
async fn parts_of_a_load_make_the_whole() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, &format!("{LOAD} -p insertstart=50 -p insertcount=100")).await;
    assert_eq!(fake.rows.lock().unwrap().len(), 100);
    assert!(!fake.rows.lock().unwrap().contains_key(&records().key(49)));
    succeed(&fake, &format!("{LOAD} -p insertcount=50")).await;
    succeed(&fake, &format!("{LOAD} -p insertstart=150")).await;
    assert_eq!(fake.rows.lock().unwrap().len(), 200);
}

#[tokio::test]
async fn every_workload_runs_and_every_read_is_verified() {
    let fake = Fake::start(3, 1).await;
    succeed(&fake, LOAD).await;
    for (workload, sections) in [
        ("a", &[(Section::Read, 0.5), (Section::Update, 0.5)][..]),
        ("b", &[(Section::Read, 0.95), (Section::Update, 0.05)]),
        ("c", &[(Section::Read, 1.0)]),
        ("d", &[(Section::Read, 0.95), (Section::Insert, 0.05)]),
        ("e", &[(Section::Scan, 0.95), (Section::Insert, 0.05)]),
        ("f", &[(Section::Read, 1.0), (Section::Update, 0.5)]),
    ] {
        for options in ["", "-p writeallfields=true --driver nezha-unary"] {
            let line = format!(
                "--run --workload {workload} -p recordcount=200 -p operationcount=1000 --threads 5 {options}"
            );
            let outcome = succeed(&fake, &line).await;
            assert_eq!(outcome.measured.total.ops, 1_000, "{line}");
            assert!(throughput(&outcome) > 0.0);
            for (section, share) in sections {
                let bound = 5.0 * (1_000.0 * share * (1.0_f64 - share)).sqrt();
                let difference = (count(&outcome, *section) as f64 - 1_000.0 * share).abs();
                assert!(
                    difference <= bound,
                    "{workload}: {section} {}",
                    count(&outcome, *section)
                );
            }
            let modified = timed(&outcome, Section::ReadModifyWrite, false);
            assert_eq!(
                modified,
                if workload == "f" {
                    count(&outcome, Section::Update)
                } else {
                    0
                }
            );
            let seconds = &outcome.measured.seconds;
            assert_eq!(seconds.iter().map(|second| second.ops).sum::<u64>(), 1_000);
        }
    }
    // What updates and inserts left behind are records, whoever wrote which field.
    let records = records();
    for (key, value) in &*fake.rows.lock().unwrap() {
        records.check(key, value).unwrap();
    }
}

#[tokio::test]
async fn all_distributions_run() {
    let fake = Fake::start(1, 0).await;
    succeed(
        &fake,
        &format!("{LOAD} -p insertorder=ordered -p zeropadding=6 -p table=t"),
    )
    .await;
    for distribution in [
        "uniform",
        "zipfian",
        "latest",
        "hotspot",
        "sequential",
        "exponential",
    ] {
        let line = format!(
            "-p recordcount=200 -p operationcount=400 -p insertproportion=0.1 -p scanproportion=0.2 \
             -p maxscanlength=20 -p scanlengthdistribution=zipfian -p requestdistribution={distribution} \
             -p insertorder=ordered -p zeropadding=6 -p table=t -p dataintegrity=true --threads 4"
        );
        let outcome = succeed(&fake, &line).await;
        assert_eq!(outcome.measured.total.ops, 400, "{distribution}");
        assert!(count(&outcome, Section::Verify) >= count(&outcome, Section::Read));
    }
}

#[tokio::test]
async fn missing_records_fail_the_run() {
    let fake = Fake::start(1, 0).await;
    let run = "--workload c -p recordcount=200 -p operationcount=500 --threads 4";
    let (outcome, failure) = ycsb(&fake, run).await.unwrap();
    assert!(failure.unwrap().contains("500 reads found no value"));
    assert_eq!(
        outcome.measured.total.returns[&(Section::Read, Return::NotFound)],
        500
    );
    assert!(outcome.measured.total.errors.lines()[0].contains("run --load"));
    assert_eq!(
        (outcome.measured.total.ops, timed(&outcome, Section::Read, false)),
        (0, 0)
    );
}

#[tokio::test]
async fn wrong_values_fail_the_run() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    let (one, two) = (records().key(0), records().key(1));
    let other = fake.rows.lock().unwrap()[&two].clone();
    fake.rows.lock().unwrap().insert(one.clone(), other);
    for workload in ["c", "e", "f"] {
        let line = format!("--workload {workload} -p recordcount=200 -p operationcount=2000 --threads 4");
        let (outcome, failure) = ycsb(&fake, &line).await.unwrap();
        assert!(failure.unwrap().contains("a wrong one"));
        let total = &outcome.measured.total;
        assert_eq!(total.wrong_reads, total.failed_ops);
        assert!(total.errors.lines()[0].contains(std::str::from_utf8(&one).unwrap()));
    }
    // Other lengths of fields are wrong for every record.
    let line = "--workload c -p recordcount=200 -p operationcount=50 -p fieldlength=99";
    let (outcome, failure) = ycsb(&fake, line).await.unwrap();
    assert!(failure.is_some());
    assert!(outcome.measured.total.errors.lines()[0].contains("1000 bytes instead of 10 fields of 99"));
}

#[tokio::test]
async fn a_record_that_scans_leave_out_fails_the_run() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    fake.rows.lock().unwrap().remove(&records().key(17));
    let line = "--workload e -p recordcount=200 -p operationcount=500 -p insertproportion=0 --threads 4";
    let (outcome, failure) = ycsb(&fake, line).await.unwrap();
    assert!(failure.is_some());
    let lines = outcome.measured.total.errors.lines().join("\n");
    assert!(lines.contains("wrong read"), "{lines}");
    assert!(outcome.measured.total.returns[&(Section::Scan, Return::UnexpectedState)] > 10);
}

#[tokio::test]
async fn inserts_that_failed_may_be_missing() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    fake.faults.silent.store(3, Ordering::SeqCst);
    let line = "--workload d -p recordcount=200 -p operationcount=2000 --threads 8 --op-timeout 1";
    let outcome = succeed(&fake, line).await;
    let total = &outcome.measured.total;
    assert!(total.returns[&(Section::Insert, Return::Error)] >= 3);
    assert!(total.errors.unknown() >= 3);
    assert!(fake.rows.lock().unwrap().len() < 200 + count(&outcome, Section::Insert) as usize);
}

#[tokio::test]
async fn a_load_stops_at_a_failure_unless_it_may_retry() {
    let fake = Fake::start(1, 0).await;
    fake.faults.unknown.store(1, Ordering::SeqCst);
    let (outcome, failure) = ycsb(&fake, LOAD).await.unwrap();
    let failure = failure.unwrap();
    assert!(
        failure.contains("could not be inserted in 1 attempts: OUTCOME_UNKNOWN"),
        "{failure}"
    );
    assert!(failure.contains("core_workload_insertion_retry_limit"));
    assert!(outcome.measured.total.ops < 200 && outcome.left > 0);

    let retries = "-p core_workload_insertion_retry_limit=5 -p core_workload_insertion_retry_interval=0.01";
    fake.faults.unknown.store(4, Ordering::SeqCst);
    let outcome = succeed(&fake, &format!("{LOAD} {retries}")).await;
    assert_eq!(outcome.measured.total.ops, 200);
    assert_eq!(outcome.measured.total.errors.by_kind()["OUTCOME_UNKNOWN"], 4);

    fake.faults.unknown.store(2, Ordering::SeqCst);
    let keep_going = "-p core_workload_insertion_keep_going_on_error=true";
    let outcome = succeed(&fake, &format!("{LOAD} {keep_going}")).await;
    assert_eq!(
        (outcome.measured.total.ops, outcome.measured.total.failed_ops),
        (198, 2)
    );
}

#[tokio::test]
async fn a_target_is_kept_and_both_latencies_are_shown() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    let line = "--workload c -p recordcount=200 -p operationcount=200 --threads 4 --target 400";
    let outcome = succeed(&fake, line).await;
    // The last of 200 operations is due after 199/400 s.
    assert!(
        outcome.elapsed.as_secs_f64() >= 199.0 / 400.0,
        "{:?}",
        outcome.elapsed
    );
    assert_eq!(timed(&outcome, Section::Read, false), 200);
    assert_eq!(timed(&outcome, Section::Read, true), 200);
}

#[tokio::test]
async fn a_stall_shows_in_intended_latencies_only() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    fake.faults.silent.store(1, Ordering::SeqCst);
    // One client: the operation that is given up after half a second holds up all that are due meanwhile.
    let line = "-p recordcount=200 -p operationcount=200 --threads 1 --target 200 -p writeallfields=true \
                -p readproportion=0 -p updateproportion=1 --op-timeout 0.5";
    let outcome = succeed(&fake, line).await;
    let latencies = |intended, failed| {
        let series = Series {
            intended,
            section: Section::Update,
            failed,
        };
        outcome.measured.total.latencies[&series].clone()
    };
    assert!(latencies(false, true).max() >= 499_000);
    // About half of them were due before the first was given up.
    assert!(latencies(true, false).at(0.75) >= 100_000);
    assert!(latencies(true, false).at(0.75) > latencies(false, false).at(0.75));
    assert!(latencies(true, false).max() >= 400_000);
}

#[tokio::test]
async fn time_and_warm_up_bound_the_measurement() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    let line =
        "--workload a -p recordcount=200 -p operationcount=0 -p maxexecutiontime=1 --threads 2 --warmup 0.3";
    let served = fake.served[0].load(Ordering::SeqCst);
    let outcome = succeed(&fake, line).await;
    let total = &outcome.measured.total;
    let requests = count(&outcome, Section::Read) + 2 * count(&outcome, Section::Update);
    assert!((1.0..30.0).contains(&outcome.elapsed.as_secs_f64()));
    assert!(total.ops > 0 && total.failed_ops == 0);
    let all = fake.served[0].load(Ordering::SeqCst) - served;
    assert!(
        all > requests,
        "the warm-up is not counted: {all} calls, {requests} counted"
    );
    let (_, failure) = ycsb(&fake, &format!("{LOAD} --warmup 600")).await.unwrap();
    assert!(failure.unwrap().contains("--warmup 0"));
}

#[tokio::test]
async fn failures_are_counted_and_a_run_without_any_success_fails() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    fake.faults.unknown.store(40, Ordering::SeqCst);
    let line =
        "-p recordcount=200 -p operationcount=100 -p readproportion=0 -p updateproportion=1 --threads 4";
    let outcome = succeed(&fake, line).await;
    let total = &outcome.measured.total;
    assert_eq!(
        (total.ops, total.failed_ops, total.errors.unknown()),
        (60, 40, 40)
    );
    assert_eq!(total.returns[&(Section::Update, Return::Error)], 40);
    fake.faults.unknown.store(100, Ordering::SeqCst);
    let (_, failure) = ycsb(&fake, line).await.unwrap();
    assert!(failure.unwrap().contains("no operation succeeded"));
}

#[tokio::test]
async fn processes_are_accounted() {
    let fake = Fake::start(1, 0).await;
    let outcome = succeed(&fake, &format!("{LOAD} --pids {}", std::process::id())).await;
    assert_eq!(outcome.processes.len(), 1);
    assert!(outcome.processes[0].write_bytes_per_logical_byte.is_some());
    assert!(ycsb(&fake, &format!("{LOAD} --pids 4294967295")).await.is_err());
}

#[tokio::test]
async fn foreign_rows_in_the_table_are_noticed() {
    let fake = Fake::start(1, 0).await;
    succeed(&fake, LOAD).await;
    let foreign = Bytes::from_static(b"usertable:user5");
    fake.rows
        .lock()
        .unwrap()
        .insert(foreign, Bytes::from_static(b"x"));
    let line = "--workload e -p recordcount=200 -p operationcount=500 --threads 4";
    let (outcome, failure) = ycsb(&fake, line).await.unwrap();
    assert!(failure.is_some() && outcome.measured.total.wrong_reads > 0);
}
