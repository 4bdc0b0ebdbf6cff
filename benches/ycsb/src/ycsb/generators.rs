//! YCSB's distributions: which key, which operation, how many rows.
//!
//! Numbers are those of records; [`super::record`] makes keys of them. Every client has generators of its own, so that
//! nothing is locked for a draw.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use rand::{Rng, RngExt};

use crate::values::hash_bytes;

/// Exponent of all zipfian distributions of YCSB's core.
const ZIPFIAN_CONSTANT: f64 = 0.99;
/// Ranks that the scrambled zipfian draws from, whatever the number of keys: popular keys stay popular when keys are
/// added.
const SCRAMBLED_RANKS: u64 = 10_000_000_000;
/// Terms of zeta that are added one by one; the rest is the Euler-Maclaurin formula.
const ZETA_TERMS: u64 = 1_000;

/// Hashes a number as YCSB does: 64-bit FNV-1a over its octets from the lowest on, and Java's absolute value of that.
pub(crate) fn fnv_hash(number: u64) -> u64 {
    hash_bytes(&number.to_le_bytes()).cast_signed().unsigned_abs()
}

fn sum_of_powers(n: u64) -> f64 {
    (1..=n).map(|i| (i as f64).powf(-ZIPFIAN_CONSTANT)).sum()
}

/// The sum of `1/i^ZIPFIAN_CONSTANT` for `i` from 1 to `n`, exact to about 13 digits. Quick for any `n`: it is computed
/// anew for every record that is added.
fn zeta(n: u64) -> f64 {
    static FIRST_TERMS: LazyLock<f64> = LazyLock::new(|| sum_of_powers(ZETA_TERMS));
    if n <= ZETA_TERMS {
        return sum_of_powers(n);
    }
    let theta = ZIPFIAN_CONSTANT;
    let (m, n, sum) = (ZETA_TERMS as f64, n as f64, *FIRST_TERMS);
    let integral = (n.powf(1.0 - theta) - m.powf(1.0 - theta)) / (1.0 - theta);
    let ends = (n.powf(-theta) - m.powf(-theta)) / 2.0;
    let slopes = theta * (m.powf(-theta - 1.0) - n.powf(-theta - 1.0)) / 12.0;
    sum + integral + ends + slopes
}

/// Ranks from 0 on, the n-th most popular drawn in proportion to `1/n^0.99`: the method of Gray and others,
/// "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), that YCSB uses.
#[derive(Debug, Clone)]
pub(crate) struct Zipfian {
    ranks: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// Draws from `ranks` ranks; at least one.
    pub(crate) fn new(ranks: u64) -> Zipfian {
        let ranks = ranks.max(1);
        let zeta = zeta(ranks);
        let of_two = 1.0 + 0.5_f64.powf(ZIPFIAN_CONSTANT);
        let eta = (1.0 - (2.0 / ranks as f64).powf(1.0 - ZIPFIAN_CONSTANT)) / (1.0 - of_two / zeta);
        Zipfian { ranks, zeta, eta }
    }

    /// Draws a rank.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> u64 {
        let uniform: f64 = random.random();
        let scaled = uniform * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(ZIPFIAN_CONSTANT) {
            1
        } else {
            let base = self.eta * uniform - self.eta + 1.0;
            (self.ranks as f64 * base.powf(1.0 / (1.0 - ZIPFIAN_CONSTANT))) as u64
        };
        rank.min(self.ranks - 1)
    }
}

/// How the record of a request is chosen: `requestdistribution` and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    /// All equally often.
    Uniform,
    /// Popular records anywhere in the key space.
    Zipfian,
    /// The newest most often, in a zipfian manner.
    Latest,
    /// The first `data` of the records get `operations` of the requests; both from 0 to 1.
    Hotspot { data: f64, operations: f64 },
    /// One after the other, then again from the first.
    Sequential,
    /// Newer ones more often: `percentile` percent of the requests go to the newest `fraction` of the records.
    Exponential { percentile: f64, fraction: f64 },
}

/// The records that requests go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Number of the first record.
    pub(crate) first: u64,
    /// Records that exist from the start; above 0.
    pub(crate) count: u64,
    /// Records that the run is expected to add, for distributions whose shape must not change with them.
    pub(crate) added: u64,
}

/// Chooses the record of each request of one client.
#[derive(Debug, Clone)]
pub(crate) struct KeyChooser {
    distribution: Distribution,
    span: Span,
    zipfian: Zipfian,
    /// Shared by all clients, for sequential requests.
    sequence: Arc<AtomicU64>,
}

impl KeyChooser {
    /// Chooses from `span`; `sequence` is one counter for all clients, 0 at first.
    pub(crate) fn new(distribution: Distribution, span: Span, sequence: Arc<AtomicU64>) -> KeyChooser {
        let ranks = match distribution {
            Distribution::Zipfian => SCRAMBLED_RANKS,
            _ => span.count,
        };
        KeyChooser {
            distribution,
            span,
            zipfian: Zipfian::new(ranks),
            sequence,
        }
    }

    /// The next record; below `existing`, the count of records that all exist, which must be above `span.first`.
    pub(crate) fn choose(&mut self, existing: u64, random: &mut impl Rng) -> u64 {
        // As in YCSB: what does not exist yet is drawn again, so that the shape stays that of the whole.
        loop {
            if let Some(number) = self.draw(existing, random)
                && number < existing
            {
                return number;
            }
        }
    }

    fn draw(&mut self, existing: u64, random: &mut impl Rng) -> Option<u64> {
        let Span { first, count, added } = self.span;
        match self.distribution {
            Distribution::Uniform => Some(first + random.random_range(0..count)),
            Distribution::Zipfian => {
                // One more than there are: YCSB takes the end of the range for a part of it.
                let places = count + added + 1;
                Some(first + fnv_hash(self.zipfian.draw(random)) % places)
            }
            Distribution::Latest => {
                if self.zipfian.ranks != existing {
                    self.zipfian = Zipfian::new(existing);
                }
                Some(existing - 1 - self.zipfian.draw(random))
            }
            Distribution::Hotspot { data, operations } => {
                let hot = (count as f64 * data) as u64;
                let is_hot = random.random::<f64>() < operations;
                let (from, to) = match is_hot {
                    true if hot > 0 => (0, hot),
                    false if hot < count => (hot, count),
                    _ => (0, count),
                };
                Some(first + random.random_range(from..to))
            }
            Distribution::Sequential => Some(first + self.sequence.fetch_add(1, Ordering::Relaxed) % count),
            Distribution::Exponential { percentile, fraction } => {
                let gamma = -(1.0 - percentile / 100.0).ln() / (count as f64 * fraction);
                // Of (0, 1]: the logarithm of 0 is none.
                let back = -(1.0 - random.random::<f64>()).ln() / gamma;
                (existing - 1).checked_sub(back as u64)
            }
        }
    }
}

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

/// The shares of the operations; they need not add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    pub(crate) read: f64,
    pub(crate) update: f64,
    pub(crate) insert: f64,
    pub(crate) scan: f64,
    pub(crate) read_modify_write: f64,
}

impl Mix {
    fn shares(&self) -> [(Operation, f64); 5] {
        [
            (Operation::Read, self.read),
            (Operation::Update, self.update),
            (Operation::Insert, self.insert),
            (Operation::Scan, self.scan),
            (Operation::ReadModifyWrite, self.read_modify_write),
        ]
    }

    /// What the shares add up to.
    pub(crate) fn total(&self) -> f64 {
        self.shares().iter().map(|(_, share)| share).sum()
    }

    /// Chooses an operation; the total must be above 0.
    pub(crate) fn choose(&self, random: &mut impl Rng) -> Operation {
        let mut left = random.random::<f64>() * self.total();
        let mut last = Operation::Read;
        for (operation, share) in self.shares() {
            if share > 0.0 {
                if left < share {
                    return operation;
                }
                left -= share;
                last = operation;
            }
        }
        // Only where rounding used up the last share.
        last
    }
}

/// Rows of each scan.
#[derive(Debug, Clone)]
pub(crate) enum ScanLength {
    /// All lengths equally often.
    Uniform { min: u64, max: u64 },
    /// The shortest most often.
    Zipfian { min: u64, extra: Zipfian },
}

impl ScanLength {
    /// Chooses a length.
    pub(crate) fn choose(&self, random: &mut impl Rng) -> u64 {
        match self {
            ScanLength::Uniform { min, max } => random.random_range(*min..=*max),
            ScanLength::Zipfian { min, extra } => min + extra.draw(random),
        }
    }
}

#[cfg(test)]
mod generators_test;
