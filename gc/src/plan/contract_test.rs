//! Goal: whatever the statistics, a plan is allowed, and the order of the list does not matter.
//! Method: random segments and limits, most of them as no store would have them; `check_job`.

use bytes::Bytes;
use nezha_vlog::SegmentId;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::sim::check_job;
use super::sim::workload::{Named, seeds};
use super::{KeyRange, LEVEL_BOTTOM, LEVEL_LOG, Limits, SegmentStat, Usage, plan};

const SEGMENT: u64 = 1000;

#[test]
fn any_statistics_give_an_allowed_plan() {
    for seed in seeds(3000) {
        let _named = Named(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut stats: Vec<SegmentStat> = (0..rng.random_range(0..40))
            .map(|number| random_stat(&mut rng, number))
            .collect();
        let limits = Limits {
            garbage_per_mille: rng.random_range(0..1100),
            garbage_batch_per_mille: rng.random_range(0..50),
            l0_debt_per_mille: rng.random_range(0..500),
            l0_debt_bytes_min: rng.random_range(0..20_000),
            overlap_max: rng.random_range(0..8),
            space_amplification_max_per_mille: rng.random_range(0..3000),
            space_floor_bytes: rng.random_range(0..100_000),
            job_per_mille: rng.random_range(0..600),
            job_bytes_max: *[0, 5000, u64::MAX].get(rng.random_range(0..3usize)).unwrap(),
            segment_bytes: *[0, SEGMENT, u64::MAX].get(rng.random_range(0..3usize)).unwrap(),
        };
        let usage = Usage {
            file_bytes: stats.iter().map(|stat| stat.bytes).sum::<u64>() + rng.random_range(0..50_000),
            live_bytes: stats.iter().map(|stat| stat.live_bytes).sum(),
        };
        let job = plan(&stats, usage, &limits);
        if let Some(job) = &job {
            check_job(
                job,
                &stats,
                usage,
                &Limits {
                    job_bytes_max: u64::MAX,
                    segment_bytes: u64::MAX,
                    ..limits.clone()
                },
            );
        }
        stats.shuffle(&mut rng);
        assert_eq!(plan(&stats, usage, &limits), job, "seed {seed}");
    }
}

fn random_stat(rng: &mut StdRng, number: u64) -> SegmentStat {
    let level = rng.random_range(LEVEL_LOG..=LEVEL_BOTTOM);
    let (one, other) = (rng.random_range(0..1000u32), rng.random_range(0..30));
    let key = |key: u32| Bytes::from(format!("{key:04}"));
    let bytes = rng.random_range(0..3 * SEGMENT);
    SegmentStat {
        id: if level == LEVEL_LOG {
            SegmentId::new(number)
        } else {
            SegmentId::sorted(number)
        },
        level,
        bytes,
        live_bytes: if rng.random_bool(0.1) {
            0
        } else {
            rng.random_range(0..=bytes + 10)
        },
        overhead_bytes: rng.random_range(0..200),
        keys: (level > LEVEL_LOG).then(|| KeyRange {
            first: key(one),
            last: key(one + other),
        }),
        eligible: rng.random_bool(0.8),
    }
}
