//! Goal: each rule of the planner decides as documented, on the smallest store that shows it.
//! Method: exact jobs for hand-made segments, each also checked against the contract (`check_job`).

use bytes::Bytes;
use nezha_vlog::SegmentId;

use super::sim::check_job;
use super::{
    Job, KeyRange, LEVEL_BOTTOM, LEVEL_LOG, LEVEL_RUNS, Limits, Reason, SegmentStat, Usage, debt, plan,
};

const SEGMENT: u64 = 1000;

/// Limits that ask for nothing: each test lowers one.
fn limits() -> Limits {
    Limits {
        garbage_per_mille: 1000,
        garbage_batch_per_mille: 0,
        l0_debt_per_mille: 0,
        l0_debt_bytes_min: 100 * SEGMENT,
        overlap_max: 100,
        space_amplification_max_per_mille: 2000,
        space_floor_bytes: 200 * SEGMENT,
        job_per_mille: 125,
        job_bytes_max: 100 * SEGMENT,
        segment_bytes: SEGMENT,
    }
}

fn log(number: u64, live_bytes: u64) -> SegmentStat {
    SegmentStat {
        id: SegmentId::new(number),
        level: LEVEL_LOG,
        bytes: SEGMENT,
        live_bytes,
        overhead_bytes: 0,
        keys: None,
        eligible: true,
    }
}

fn sorted(level: u8, number: u64, keys: (&'static str, &'static str), live_bytes: u64) -> SegmentStat {
    SegmentStat {
        id: SegmentId::sorted(number),
        level,
        bytes: SEGMENT,
        live_bytes,
        overhead_bytes: 0,
        keys: Some(KeyRange {
            first: Bytes::from(keys.0),
            last: Bytes::from(keys.1),
        }),
        eligible: true,
    }
}

fn run(number: u64, first: &'static str, last: &'static str) -> SegmentStat {
    sorted(LEVEL_RUNS, number, (first, last), 900)
}

fn bottom(number: u64, first: &'static str, last: &'static str) -> SegmentStat {
    sorted(LEVEL_BOTTOM, number, (first, last), 900)
}

fn held(stat: SegmentStat) -> SegmentStat {
    SegmentStat {
        eligible: false,
        ..stat
    }
}

fn usage(stats: &[SegmentStat]) -> Usage {
    Usage {
        file_bytes: stats.iter().map(|stat| stat.bytes).sum(),
        live_bytes: stats.iter().map(|stat| stat.live_bytes).sum(),
    }
}

fn planned(stats: &[SegmentStat], limits: &Limits) -> Option<Job> {
    let job = plan(stats, usage(stats), limits);
    if let Some(job) = &job {
        check_job(job, stats, usage(stats), limits);
    }
    job
}

/// Reason, level of the outputs, numbers of the inputs (log segments are negative), cuts.
fn shown(job: Option<Job>) -> (Reason, u8, Vec<i64>, Vec<String>) {
    let job = job.expect("there is something to do");
    let number = |id: &SegmentId| match id.is_log() {
        true => -i64::try_from(id.get()).unwrap(),
        false => i64::try_from(id.get() & !SegmentId::sorted(0).get()).unwrap(),
    };
    let cuts = job
        .cuts
        .iter()
        .map(|cut| String::from_utf8(cut.to_vec()).unwrap());
    (
        job.reason,
        job.output_level,
        job.inputs.iter().map(number).collect(),
        cuts.collect(),
    )
}

#[test]
fn nothing_to_do() {
    assert_eq!(planned(&[], &limits()), None);
    assert_eq!(
        planned(&[log(1, 10), run(1, "a", "z"), bottom(2, "a", "z")], &limits()),
        None
    );
    assert_eq!(planned(&[], &limits().thorough()), None);
}

#[test]
fn segments_without_live_bytes_go_first_and_are_not_copied() {
    let stats = [
        log(1, 0),
        held(log(2, 0)),
        log(3, 900),
        sorted(LEVEL_RUNS, 4, ("a", "z"), 0),
    ];
    let job = planned(&stats, &limits().thorough()).unwrap();
    assert_eq!(
        (job.copy_bytes, job.freed_bytes, job.input_bytes),
        (0, 2000, 2000)
    );
    assert_eq!(shown(Some(job)), (Reason::Empty, LEVEL_RUNS, vec![-1, 4], vec![]));
}

#[test]
fn a_pinned_file_without_live_bytes_covers_no_key() {
    // The input of a finished job, still read by a scan, and the output that replaced it.
    let stats = [held(sorted(LEVEL_BOTTOM, 1, ("a", "z"), 0)), bottom(2, "a", "m")];
    assert_eq!(
        planned(
            &stats,
            &Limits {
                overlap_max: 1,
                ..limits()
            }
        ),
        None
    );
}

#[test]
fn the_oldest_log_segments_go_until_half_the_debt_is_left() {
    let limits = Limits {
        l0_debt_bytes_min: 4 * SEGMENT,
        ..limits()
    };
    let mut stats: Vec<SegmentStat> = (1..=4).map(|number| log(number, 900)).collect();
    assert_eq!(planned(&stats, &limits), None);
    stats.push(log(5, 900));
    stats.push(held(log(6, 900)));
    assert_eq!(
        shown(planned(&stats, &limits)),
        (Reason::L0Debt, LEVEL_RUNS, vec![-1, -2, -3], vec![])
    );
    // What is held is no debt, or each new segment would be collected alone.
    stats[0] = held(stats[0].clone());
    assert_eq!(planned(&stats, &limits), None);
    stats.push(log(7, 900));
    assert_eq!(
        shown(planned(&stats, &limits)),
        (Reason::L0Debt, LEVEL_RUNS, vec![-2, -3, -4], vec![])
    );
    let debt = debt(&stats, usage(&stats), &limits);
    assert_eq!((debt.l0_bytes, debt.l0_bytes_max), (5 * SEGMENT, 4 * SEGMENT));
}

#[test]
fn runs_are_cut_where_the_bottom_is() {
    let mut stats: Vec<SegmentStat> = vec![
        bottom(1, "b", "c"),
        bottom(2, "d", "e"),
        bottom(3, "f", "g"),
        bottom(4, "h", "i"),
    ];
    stats.extend((1..=4).map(|number| log(number, 900)));
    let limits = Limits {
        l0_debt_bytes_min: 0,
        job_bytes_max: 4 * SEGMENT,
        ..limits()
    };
    // Parts of half a job, so two segments of L2 under each.
    let cuts = vec!["f".into()];
    assert_eq!(
        shown(planned(&stats, &limits)),
        (Reason::L0Debt, LEVEL_RUNS, vec![-1, -2, -3, -4], cuts)
    );
}

#[test]
fn garbage_of_l2_is_rewritten_in_place_around_what_stays() {
    let garbage = |number, first, last| sorted(LEVEL_BOTTOM, number, (first, last), 200);
    let stats = [
        garbage(1, "a", "b"),
        garbage(2, "c", "d"),
        held(garbage(3, "e", "f")),
        bottom(4, "g", "h"),
        garbage(5, "i", "j"),
        // Not much garbage, but small: joined to its neighbour, or small files would stay for ever.
        SegmentStat {
            bytes: 100,
            live_bytes: 100,
            ..bottom(6, "k", "l")
        },
    ];
    let limits = Limits {
        garbage_per_mille: 700,
        ..limits()
    };
    let job = planned(&stats, &limits).unwrap();
    assert_eq!((job.copy_bytes, job.freed_bytes), (700, 2400));
    assert_eq!(
        job.keys,
        Some(KeyRange {
            first: "a".into(),
            last: "l".into()
        })
    );
    assert_eq!(
        shown(Some(job)),
        (Reason::Garbage, LEVEL_BOTTOM, vec![1, 2, 5, 6], vec!["i".into()])
    );
    // Not worth a job of its own.
    let limits = Limits {
        garbage_batch_per_mille: 13,
        ..limits
    };
    assert_eq!(planned(&stats, &limits), None);
}

#[test]
fn header_table_and_trailer_are_no_garbage() {
    let tiny = SegmentStat {
        overhead_bytes: 900,
        ..sorted(LEVEL_BOTTOM, 1, ("a", "b"), 100)
    };
    assert_eq!(planned(&[tiny], &limits().thorough()), None);
}

#[test]
fn what_overlaps_is_merged_with_all_of_l2_under_it() {
    let stats = [
        run(1, "d", "k"),
        run(2, "f", "m"),
        bottom(3, "a", "c"),
        bottom(4, "e", "g"),
        bottom(5, "h", "l"),
        bottom(6, "n", "z"),
    ];
    let limits = Limits {
        overlap_max: 2,
        ..limits()
    };
    let job = planned(&stats, &limits).unwrap();
    assert_eq!(
        job.keys,
        Some(KeyRange {
            first: "d".into(),
            last: "m".into()
        })
    );
    assert_eq!(
        shown(Some(job)),
        (Reason::Overlap, LEVEL_BOTTOM, vec![1, 2, 4, 5], vec![])
    );
    assert_eq!(debt(&stats, usage(&stats), &limits).overlap, 3);
}

#[test]
fn a_held_segment_of_l2_blocks_only_what_needs_it() {
    let limits = Limits {
        overlap_max: 1,
        ..limits()
    };
    let mut stats = vec![
        run(1, "a", "c"),
        run(2, "b", "d"),
        run(3, "p", "r"),
        held(bottom(4, "a", "d")),
        bottom(5, "p", "s"),
    ];
    assert_eq!(
        shown(planned(&stats, &limits)),
        (Reason::Overlap, LEVEL_BOTTOM, vec![3, 5], vec![])
    );
    // Where it does block, runs are merged among themselves.
    stats.truncate(4);
    assert_eq!(
        shown(planned(&stats, &limits)),
        (Reason::Overlap, LEVEL_RUNS, vec![1, 2], vec![])
    );
    stats.remove(1);
    assert_eq!(planned(&stats, &limits), None);
}

#[test]
fn a_wide_segment_is_cut_before_it_is_merged() {
    let limits = Limits {
        overlap_max: 1,
        job_bytes_max: 4 * SEGMENT,
        ..limits()
    };
    let keys = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h"), ("i", "j")];
    let mut stats = vec![run(9, "a", "j")];
    stats.extend(
        (1..)
            .zip(keys)
            .map(|(number, (first, last))| bottom(number, first, last)),
    );
    let job = shown(planned(&stats, &limits));
    assert_eq!(job, (Reason::Overlap, LEVEL_RUNS, vec![9], vec!["e".into()]));
}

/// The cut was before its own first key, again and again.
#[test]
fn a_wide_segment_that_begins_between_two_of_l2_is_cut_inside() {
    let limits = Limits {
        overlap_max: 1,
        job_bytes_max: 4 * SEGMENT,
        ..limits()
    };
    let keys = [("a", "b"), ("d", "e"), ("f", "g"), ("h", "i"), ("j", "k")];
    let mut stats = vec![run(9, "c", "k")];
    stats.extend(
        (1..)
            .zip(keys)
            .map(|(number, keys)| sorted(LEVEL_BOTTOM, number, keys, 1000)),
    );
    let job = shown(planned(&stats, &limits));
    assert_eq!(job, (Reason::Overlap, LEVEL_RUNS, vec![9], vec!["h".into()]));
}

#[test]
fn segments_of_l2_that_a_crash_left_overlapping_are_merged() {
    let stats = [
        bottom(1, "a", "m"),
        bottom(2, "a", "f"),
        bottom(3, "g", "m"),
        bottom(4, "n", "z"),
    ];
    assert_eq!(
        shown(planned(&stats, &limits())),
        (Reason::Overlap, LEVEL_BOTTOM, vec![1, 2, 3], vec![])
    );
    let mut stats = stats.to_vec();
    stats[2].eligible = false;
    assert_eq!(planned(&stats, &limits()), None);
}

#[test]
fn near_the_bound_the_best_job_is_chosen() {
    let limits = Limits {
        space_floor_bytes: 5 * SEGMENT,
        ..limits()
    };
    let mut stats = vec![
        log(1, 700),
        log(2, 700),
        run(3, "a", "z"),
        bottom(4, "a", "k"),
        bottom(5, "l", "z"),
    ];
    stats.push(sorted(LEVEL_RUNS, 6, ("a", "z"), 300));
    let now = Usage {
        file_bytes: 9000,
        live_bytes: 4400,
    };
    let job = plan(&stats, now, &limits).unwrap();
    check_job(&job, &stats, now, &limits);
    assert_eq!(
        shown(Some(job)),
        (Reason::SpaceBound, LEVEL_RUNS, vec![6], vec![])
    );
    stats[5].eligible = false;
    // The next best frees more than half of the average; without it, rewriting the others does not help.
    let job = plan(&stats, now, &limits).unwrap();
    assert_eq!(
        shown(Some(job)),
        (Reason::SpaceBound, LEVEL_RUNS, vec![-1], vec![])
    );
    let rest = &stats[2..];
    assert_eq!(plan(rest, now, &limits), None);
}

#[test]
#[should_panic(expected = "of level 2 with keys None")]
fn a_sorted_segment_has_keys() {
    planned(
        &[SegmentStat {
            keys: None,
            ..bottom(1, "a", "b")
        }],
        &limits(),
    );
}
