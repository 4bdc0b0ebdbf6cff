//! Keys and values of the load: both follow from a number, so that every reader can verify what it gets.

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

/// Distinct starts of values in the pool. Far above what compressors look back.
const STARTS: u64 = 32 << 20;
/// Every process must derive the same bytes: `get --no-load` verifies what an earlier `put` wrote.
const SEED: u64 = 0x6e65_7a68_6100_0001;

/// A bijection on `u64` (the finalizer of splitmix64): spreads consecutive numbers over the key space.
pub(crate) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a: cheap for a few dozen bytes. To be mixed before its low bits are used.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Names keys: a prefix and 16 hexadecimal digits.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys that start with `prefix`.
    pub(crate) fn new(prefix: String) -> Keys {
        Keys { prefix }
    }

    /// The key of `number`. Different numbers have different keys, and consecutive ones lie far apart.
    pub(crate) fn key(&self, number: u64) -> Bytes {
        self.key_of_hash(mix(number))
    }

    /// The first `count` keys' hashes in key order, for [`Keys::key_of_hash`].
    pub(crate) fn hashes_in_order(count: u64) -> Vec<u64> {
        let mut hashes: Vec<u64> = (0..count).map(mix).collect();
        hashes.sort_unstable();
        hashes
    }

    /// The key whose hash is `hash`; keys order as their hashes do.
    pub(crate) fn key_of_hash(&self, hash: u64) -> Bytes {
        Bytes::from(format!("{}{hash:016x}", self.prefix))
    }

    /// The first key after all keys of this prefix; empty when there is none.
    pub(crate) fn end(&self) -> Bytes {
        let mut end = self.prefix.clone().into_bytes();
        while let Some(last) = end.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                return Bytes::from(end);
            }
            end.pop();
        }
        Bytes::new()
    }
}

/// Derives values from keys: a window of a fixed pseudo-random stream, chosen by a hash of the key. Costs no copy.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pool: Bytes,
    size: usize,
}

impl Values {
    /// Values of `size` bytes. Takes a few tens of milliseconds and `32 MiB + size` of memory.
    pub(crate) fn new(size: usize) -> Values {
        let mut pool = vec![0; STARTS as usize + size];
        Xoshiro256PlusPlus::seed_from_u64(SEED).fill_bytes(&mut pool);
        Values {
            pool: Bytes::from(pool),
            size,
        }
    }

    /// The value of `key`: incompressible bytes, the same in every process.
    pub(crate) fn value(&self, key: &[u8]) -> Bytes {
        let start = start_of(hash_bytes(key));
        self.pool.slice(start..start + self.size)
    }

    /// The first `length` bytes of the value that follows from `seed`; at most the size of values.
    pub(crate) fn window(&self, seed: u64, length: usize) -> &[u8] {
        let start = start_of(seed);
        &self.pool[start..start + length.min(self.size)]
    }

    /// Whether `value` is exactly what was derived for `key`.
    pub(crate) fn matches(&self, key: &[u8], value: &[u8]) -> bool {
        self.value(key) == value
    }
}

/// Where in the pool a value begins.
fn start_of(seed: u64) -> usize {
    (mix(seed) % STARTS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_distinct_and_of_stated_length() {
        let keys = Keys::new("bench/".to_owned());
        let all: BTreeSet<Bytes> = (0..10_000).map(|n| keys.key(n)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|k| k.len() == 22 && k.starts_with(b"bench/")));
    }

    #[test]
    fn hashes_in_order_are_the_keys_in_order() {
        let keys = Keys::new("p".to_owned());
        let sorted: BTreeSet<Bytes> = (0..1_000).map(|n| keys.key(n)).collect();
        let listed: Vec<Bytes> = Keys::hashes_in_order(1_000)
            .into_iter()
            .map(|h| keys.key_of_hash(h))
            .collect();
        assert_eq!(listed, sorted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_end_follows_every_key() {
        for prefix in ["bench/", "a", "z~"] {
            let keys = Keys::new(prefix.to_owned());
            assert!((0..100).all(|n| keys.key(n) < keys.end()), "{prefix}");
        }
        assert!(Keys::new(String::new()).end().is_empty());
    }

    #[test]
    fn values_follow_from_the_key_alone() {
        let small = Values::new(256);
        let again = Values::new(256);
        let large = Values::new(70_000);
        for n in 0..50 {
            let key = Keys::new("k/".to_owned()).key(n);
            assert_eq!(small.value(&key), again.value(&key));
            assert_eq!(small.value(&key), large.value(&key).slice(..256));
            assert!(small.matches(&key, &again.value(&key)));
        }
    }

    #[test]
    fn a_value_of_another_key_length_or_bit_is_noticed() {
        let values = Values::new(1_000);
        let keys = Keys::new("k/".to_owned());
        let value = values.value(&keys.key(1));
        assert!(!values.matches(&keys.key(2), &value));
        assert!(!values.matches(&keys.key(1), &value[..999]));
        assert!(!values.matches(&keys.key(1), b""));
        for at in [0, 500, 999] {
            let mut flipped = value.to_vec();
            flipped[at] ^= 1;
            assert!(!values.matches(&keys.key(1), &flipped));
        }
    }

    #[test]
    fn bytes_of_the_pool_are_spread_evenly() {
        let values = Values::new(1 << 20);
        let mut counts = [0_u32; 256];
        for byte in values.value(b"x") {
            counts[usize::from(byte)] += 1;
        }
        // 4096 of each expected; six standard deviations are 384.
        assert!(counts.iter().all(|c| (3_700..4_500).contains(c)));
    }
}
