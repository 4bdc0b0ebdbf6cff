use std::ops::Range;

use futures::future::BoxFuture;
use rand::RngExt;

use super::Workload;
use super::client::Client;
use super::rotation::Rotation;

/// Keys that scans go over.
const KEYS: usize = 16;
/// Operations before the next keys take their place.
const PER_GROUP: u64 = 1500;
/// Keys of the wide range, which stay: together more than a connection and a server hold for a client that reads slowly.
const WIDE_KEYS: usize = 192;
/// Lengths of long values: in the wide range, and where a scan takes many messages.
const LONG_BYTES: Range<usize> = 60_000..160_000;
/// The same where time is dear.
const LIGHT_BYTES: Range<usize> = 1_000..8_000;
/// One of so many scans reads everything, slowly.
const SLOW_ONCE_IN: u32 = 200;

/// Scans in both directions, with and without limits, by quick and by slow readers, against writers of the same keys: each
/// is one revision.
pub struct Scan {
    groups: Rotation,
    long: Range<usize>,
}

impl Scan {
    /// With long values that are not that long: a scan is over sooner, and nearly everything else is the same.
    pub fn light() -> Scan {
        Scan {
            long: LIGHT_BYTES,
            ..Scan::default()
        }
    }
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            groups: Rotation::new("scan/", 1, PER_GROUP),
            long: LONG_BYTES,
        }
    }
}

impl Workload for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn about(&self) -> &'static str {
        "scans in both directions, with limits, by quick and slow readers, against concurrent writes"
    }

    fn share(&self) -> usize {
        4
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.turn().await {
                let group = self.groups.key(0);
                let key = |number: usize| format!("{group}/{number:02}");
                let number = client.rng.random_range(0..KEYS);
                match client.rng.random_range(0..100) {
                    0..40 if client.once_in(SLOW_ONCE_IN) => {
                        // Everything that these clients have ever written: meanwhile files come and go.
                        let reverse = client.once_in(2);
                        client.scan_slowly("scan/", "scan0", reverse).await;
                    }
                    0..40 => {
                        let (start, end) = match client.once_in(2) {
                            true => (format!("{group}/"), format!("{group}0")),
                            false => {
                                let end = client.rng.random_range(number + 1..=KEYS);
                                (key(number), key(end))
                            }
                        };
                        let limit = match client.once_in(3) {
                            true => client.rng.random_range(1..KEYS as u64),
                            false => 0,
                        };
                        let reverse = client.once_in(2);
                        client.scan(&start, &end, reverse, limit).await;
                    }
                    40..46 => {
                        let number = client.rng.random_range(0..WIDE_KEYS);
                        let len = client.rng.random_range(self.long.clone());
                        let value = client.new_value(len);
                        client.write(&format!("scan/wide/{number:03}"), value).await;
                    }
                    46..85 => {
                        // In every third group a scan takes many messages.
                        let len = match group.ends_with(['0', '3', '6', '9']) {
                            true => client.rng.random_range(self.long.clone()),
                            false => client.rng.random_range(0..600),
                        };
                        let value = client.new_value(len);
                        client.write(&key(number), value).await;
                    }
                    _ => {
                        client.delete(&key(number), None).await;
                    }
                }
            }
        })
    }
}
