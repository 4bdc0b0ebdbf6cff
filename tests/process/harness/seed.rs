//! Seeds: printed by every test that draws, and replayed with `NEZHA_SEED`.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The seed of this run: `NEZHA_SEED` if set, else `default`, which is fixed so that CI runs are alike.
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = match std::env::var("NEZHA_SEED") {
        Ok(text) => text.parse().expect("NEZHA_SEED is a decimal number"),
        Err(_) => default,
    };
    println!("{test}: seed {seed} (replay: NEZHA_SEED={seed} cargo test --release --test process {test})");
    seed
}

/// A generator for one purpose of one seed.
pub fn rng(seed: u64, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// `len` bytes that only this seed and key give.
pub fn value_of(seed: u64, key: &[u8], len: usize) -> Vec<u8> {
    let purpose = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    });
    let mut value = vec![0; len];
    rng(seed, purpose).fill(&mut value[..]);
    value
}

/// A mix of value sizes: mostly below 1 KiB, some of each order up to 1 MiB.
pub fn mixed_size(rng: &mut StdRng) -> usize {
    match rng.random_range(0..1000u32) {
        0..880 => rng.random_range(16..1024),
        880..980 => rng.random_range(1024..16 << 10),
        980..998 => rng.random_range(16 << 10..128 << 10),
        998 => rng.random_range(128 << 10..1 << 20),
        _ => 1 << 20,
    }
}

/// Sizes of which a few make a group that the log writes past the page cache.
pub fn large_size(rng: &mut StdRng) -> usize {
    rng.random_range(32 << 10..256 << 10)
}
