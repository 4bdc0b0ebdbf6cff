//! Goal: the distributions are YCSB's. Method: draw many times with fixed seeds, and compare with the formulas; bounds
//! are five standard deviations or wider.

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;

const DRAWS: usize = 200_000;

fn random() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(42)
}

fn chooser(distribution: Distribution, first: u64, count: u64, added: u64) -> KeyChooser {
    let span = Span { first, count, added };
    KeyChooser::new(distribution, span, Arc::default())
}

/// How often each of `first..first + places` is drawn; draws elsewhere fail.
fn histogram(chooser: &mut KeyChooser, existing: u64, places: usize) -> Vec<usize> {
    let mut random = random();
    let mut counts = vec![0; places];
    for _ in 0..DRAWS {
        let number = chooser.choose(existing, &mut random);
        counts[usize::try_from(number - chooser.span.first).unwrap()] += 1;
    }
    counts
}

fn assert_share(count: usize, expected: f64, what: &str) {
    let (n, p) = (DRAWS as f64, expected);
    let bound = 5.0 * (n * p * (1.0 - p)).sqrt() + 1.0;
    let difference = (count as f64 - n * p).abs();
    assert!(difference <= bound, "{what}: {count} for {}", n * p);
}

#[test]
fn hashes_are_those_of_ycsb_keys() {
    // The first keys of every load of YCSB with hashed order.
    assert_eq!(fnv_hash(0), 6_284_781_860_667_377_211);
    assert_eq!(fnv_hash(1), 8_517_097_267_634_966_620);
    assert_eq!(fnv_hash(2), 1_820_151_046_732_198_393);
}

#[test]
fn zeta_is_the_sum() {
    let mut sum = 0.0;
    for n in 1..=20_000_u64 {
        sum += (n as f64).powf(-ZIPFIAN_CONSTANT);
        assert!((zeta(n) - sum).abs() < 1e-11, "zeta({n}) = {} for {sum}", zeta(n));
    }
    // The constant that YCSB has precomputed for its ten billion ranks.
    let of_scrambled = zeta(SCRAMBLED_RANKS);
    assert!(
        (of_scrambled - 26.469_028_201_783_02).abs() < 1e-6,
        "{of_scrambled}"
    );
}

#[test]
fn zipfian_ranks_follow_their_formula() {
    let zipfian = Zipfian::new(1_000);
    let mut random = random();
    let mut counts = vec![0_usize; 1_000];
    for _ in 0..DRAWS {
        counts[zipfian.draw(&mut random) as usize] += 1;
    }
    let zeta = zeta(1_000);
    assert_share(counts[0], 1.0 / zeta, "the first");
    assert_share(counts[1], 0.5_f64.powf(ZIPFIAN_CONSTANT) / zeta, "the second");
    // Beyond the second, the method approximates: its head is right within a few percent.
    let head: usize = counts[..100].iter().sum();
    let expected = super::zeta(100) / zeta;
    let share = head as f64 / DRAWS as f64;
    assert!((share / expected - 1.0).abs() < 0.05, "{share} for {expected}");
    assert!(counts[999] > 0 && counts[999] < 100, "{}", counts[999]);
    assert_eq!(Zipfian::new(1).draw(&mut random), 0);
    assert!((0..1_000).all(|_| Zipfian::new(2).draw(&mut random) < 2));
}

#[test]
fn scrambled_zipfian_has_few_popular_keys_anywhere() {
    let counts = histogram(&mut chooser(Distribution::Zipfian, 0, 999, 0), 1_000, 1_000);
    // The most popular rank has 1/26.469 of all draws; its key is where its hash falls.
    let popular = (fnv_hash(0) % 1_000) as usize;
    let most = counts.iter().max().unwrap();
    assert_eq!(counts[popular], *most);
    let first = 1.0 / 26.469_028_201_783_02;
    // The ranks that fall on the same key add about a thousandth.
    let share = *most as f64 / DRAWS as f64;
    assert!(
        (first * 0.98..first + 0.003).contains(&share),
        "{share} for {first}"
    );
    let second = counts[(fnv_hash(1) % 1_000) as usize] as f64 / DRAWS as f64;
    assert!(
        (0.45..0.65).contains(&(second / share)),
        "{second} beside {share}"
    );
    // Popular keys lie anywhere: neither half has nearly all.
    let half: usize = counts[..500].iter().sum();
    assert!((DRAWS / 4..DRAWS * 3 / 4).contains(&half), "{half}");
    assert!(counts.iter().all(|c| *c > 0));
}

#[test]
fn keys_that_are_added_do_not_move_popular_ones() {
    let mut before = chooser(Distribution::Zipfian, 0, 1_000, 500);
    let counts = histogram(&mut before, 1_000, 1_000);
    let later = histogram(&mut chooser(Distribution::Zipfian, 0, 1_000, 500), 1_400, 1_400);
    let top = |counts: &[usize]| {
        let mut order: Vec<usize> = (0..1_000).collect();
        order.sort_by_key(|at| std::cmp::Reverse(counts[*at]));
        order[..2].to_vec()
    };
    assert_eq!(top(&counts), top(&later));
}

#[test]
fn latest_prefers_the_newest_that_exists() {
    let mut chooser = chooser(Distribution::Latest, 0, 1_000, 0);
    let counts = histogram(&mut chooser, 1_000, 1_000);
    assert_share(counts[999], 1.0 / zeta(1_000), "the newest");
    assert!(counts[999] > counts[998] && counts[998] > counts[990] && counts[990] > counts[0]);
    // After inserts the newest one is another.
    let counts = histogram(&mut chooser, 1_200, 1_200);
    assert_share(counts[1_199], 1.0 / zeta(1_200), "the newest");
    assert_eq!(
        counts.iter().position(|c| c == counts.iter().max().unwrap()),
        Some(1_199)
    );
    assert_eq!(chooser.choose(1, &mut random()), 0);
}

#[test]
fn uniform_keys_are_drawn_equally_often_from_their_range() {
    let counts = histogram(&mut chooser(Distribution::Uniform, 70, 50, 9), 1_000, 50);
    for count in counts {
        assert_share(count, 1.0 / 50.0, "a key");
    }
}

#[test]
fn hotspot_keys_get_their_share() {
    let spot = |data, operations| Distribution::Hotspot { data, operations };
    let counts = histogram(&mut chooser(spot(0.2, 0.8), 10, 100, 0), 110, 100);
    assert_share(counts[..20].iter().sum(), 0.8, "the hot keys");
    assert_share(counts[0], 0.8 / 20.0, "a hot key");
    assert_share(counts[99], 0.2 / 80.0, "a cold key");
    // Nothing hot, or nothing cold: every key gets its share.
    for (data, operations) in [(0.0, 0.8), (1.0, 0.2)] {
        let counts = histogram(&mut chooser(spot(data, operations), 0, 10, 0), 10, 10);
        assert_share(counts[0], 0.1, "a key");
    }
}

#[test]
fn sequential_keys_come_in_turn_for_all_clients() {
    let mut one = chooser(Distribution::Sequential, 5, 3, 0);
    let mut two = one.clone();
    let mut random = random();
    let drawn: Vec<u64> = (0..4)
        .flat_map(|_| [one.choose(8, &mut random), two.choose(8, &mut random)])
        .collect();
    assert_eq!(drawn, [5, 6, 7, 5, 6, 7, 5, 6]);
}

#[test]
fn exponential_keys_are_mostly_new() {
    let distribution = Distribution::Exponential {
        percentile: 90.0,
        fraction: 0.1,
    };
    let counts = histogram(&mut chooser(distribution, 0, 1_000, 0), 1_000, 1_000);
    // Beyond the oldest record lies 10^-10 of the whole.
    assert_share(counts[900..].iter().sum(), 0.9, "the newest tenth");
    assert_share(counts[800..900].iter().sum(), 0.09, "the tenth before");
}

#[test]
fn operations_have_their_shares() {
    let mix = Mix {
        read: 1.9,
        update: 0.0,
        insert: 0.1,
        scan: 1.0,
        read_modify_write: 1.0,
    };
    let mut random = random();
    let mut counts = [0_usize; 5];
    for _ in 0..DRAWS {
        counts[mix.choose(&mut random) as usize] += 1;
    }
    assert_eq!(counts[Operation::Update as usize], 0);
    for (operation, share) in [
        (Operation::Read, 1.9),
        (Operation::Insert, 0.1),
        (Operation::Scan, 1.0),
        (Operation::ReadModifyWrite, 1.0),
    ] {
        assert_share(counts[operation as usize], share / 4.0, &format!("{operation:?}"));
    }
}

#[test]
fn scan_lengths_stay_within_their_bounds() {
    let mut random = random();
    let uniform = ScanLength::Uniform { min: 3, max: 6 };
    let zipfian = ScanLength::Zipfian {
        min: 3,
        extra: Zipfian::new(4),
    };
    let (mut flat, mut skewed) = ([0_usize; 7], [0_usize; 7]);
    for _ in 0..DRAWS {
        flat[uniform.choose(&mut random) as usize] += 1;
        skewed[zipfian.choose(&mut random) as usize] += 1;
    }
    assert!(flat[..3] == [0; 3] && skewed[..3] == [0; 3]);
    (3..=6).for_each(|n| assert_share(flat[n], 0.25, "a length"));
    assert_share(skewed[3], 1.0 / zeta(4), "the shortest");
}
