//! Keys, orders and seeds of the workloads.

use rand::RngExt;
use rand::rngs::StdRng;

use super::super::Limits;
use super::{Figures, RECORD_BYTES, SEGMENT_BYTES, Sim};

/// Draws keys.
pub(in crate::plan) enum Keys {
    Uniform(u64),
    /// Cumulated shares of the ranks.
    Zipfian(Vec<f64>),
}

impl Keys {
    /// Of `keys`, in the proportions of YCSB.
    pub(in crate::plan) fn zipfian(keys: u64) -> Keys {
        let mut total = 0.0;
        let mut shares: Vec<f64> = Vec::new();
        for rank in 1..=keys {
            total += (rank as f64).powf(-0.99);
            shares.push(total);
        }
        Keys::Zipfian(shares.into_iter().map(|share| share / total).collect())
    }

    pub(in crate::plan) fn draw(&self, rng: &mut StdRng) -> u64 {
        match self {
            Keys::Uniform(keys) => rng.random_range(0..*keys),
            Keys::Zipfian(shares) => {
                let drawn: f64 = rng.random();
                shares
                    .partition_point(|share| *share < drawn)
                    .min(shares.len() - 1) as u64
            }
        }
    }
}

/// Spreads consecutive numbers over the key space, so that neither time nor rank is the order of keys.
pub(in crate::plan) fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
}

pub(in crate::plan) fn keys_of(segments: u64) -> u64 {
    segments * SEGMENT_BYTES / RECORD_BYTES
}

pub(in crate::plan) fn load(sim: &mut Sim, segments: u64) -> Figures {
    (0..keys_of(segments)).for_each(|number| sim.put(spread(number)));
    let figures = sim.figures.clone();
    sim.measure();
    figures
}

pub(in crate::plan) fn overwrite(sim: &mut Sim, keys: &Keys, times: u64) {
    for _ in 0..times {
        let number = keys.draw(&mut sim.rng);
        sim.put(spread(number));
    }
}

/// Loads a data set and overwrites it five times; returns the figures of both.
pub(in crate::plan) fn overwritten(
    seed: u64,
    limits: &Limits,
    segments: u64,
    zipfian: bool,
    pace: f64,
) -> (Figures, Figures) {
    let mut sim = Sim::new(seed, limits.clone());
    sim.pace = pace;
    let loaded = load(&mut sim, segments);
    let keys = match zipfian {
        true => Keys::zipfian(keys_of(segments)),
        false => Keys::Uniform(keys_of(segments)),
    };
    overwrite(&mut sim, &keys, 5 * keys_of(segments));
    let figures = sim.figures.clone();
    sim.drain();
    sim.assert_exact();
    (loaded, figures)
}

pub(in crate::plan) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NEZHA_SEED") {
        Ok(seed) => vec![seed.parse().expect("NEZHA_SEED is a decimal number")],
        Err(_) => (0..count).collect(),
    }
}

/// Names the seed when a case panics.
pub(in crate::plan) struct Named(pub(in crate::plan) u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: NEZHA_SEED={}", self.0);
        }
    }
}
