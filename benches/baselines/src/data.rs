//! Keys and values of a run, derived from their number.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};

/// Rows of a short scan.
pub const SCAN_ROWS: u64 = 100;

/// What both sides hold.
#[derive(Debug, Clone, Copy)]
pub struct DataSet {
    /// Number of keys.
    pub keys: u64,
    /// Length of each value in bytes.
    pub value_bytes: usize,
    /// Of values and orders.
    pub seed: u64,
}

impl DataSet {
    /// The key of this number; keys are in the order of their numbers.
    pub fn key(&self, number: u64) -> Bytes {
        Bytes::from(format!("user{number:016}"))
    }

    /// The value of this number: no compression makes it smaller.
    pub fn value(&self, number: u64) -> Vec<u8> {
        let mut value = vec![0; self.value_bytes];
        StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill_bytes(&mut value);
        value
    }

    /// All numbers in the order in which they are written.
    pub fn write_order(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..self.keys).collect();
        numbers.shuffle(&mut StdRng::seed_from_u64(self.seed));
        numbers
    }

    /// Where `count` short scans of round `round` start; each finds [`SCAN_ROWS`] rows.
    pub fn scan_starts(&self, round: u64, count: u64) -> Vec<Bytes> {
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(1 + round));
        let starts = self.keys.saturating_sub(SCAN_ROWS) + 1;
        (0..count)
            .map(|_| self.key(rng.random_range(0..starts)))
            .collect()
    }

    /// Bytes of keys and values of `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        rows * (self.key(0).len() + self.value_bytes) as u64
    }
}
