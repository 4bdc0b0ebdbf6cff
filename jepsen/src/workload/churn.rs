use futures::future::BoxFuture;
use rand::RngExt;

use super::Workload;
use super::client::{Client, revision_after};
use super::rotation::Rotation;

/// Keys at a time.
const SLOTS: usize = 12;
const PER_KEY: u64 = 600;
/// One of so many rounds orders a collection instead.
const COLLECT_ONCE_IN: u32 = 60;

/// Deletes and creates the same keys again and again while garbage is collected: what is deleted stays deleted, what was
/// written last wins.
pub struct Churn {
    keys: Rotation,
}

impl Default for Churn {
    fn default() -> Churn {
        Churn {
            keys: Rotation::new("churn/", SLOTS, PER_KEY),
        }
    }
}

impl Workload for Churn {
    fn name(&self) -> &'static str {
        "churn"
    }

    fn about(&self) -> &'static str {
        "delete and recreate the same keys while gc runs"
    }

    fn share(&self) -> usize {
        3
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut seen = vec![(String::new(), 0); self.keys.slots()];
            while client.turn().await {
                if client.once_in(COLLECT_ONCE_IN) {
                    client.collect().await;
                    continue;
                }
                let slot = client.rng.random_range(0..self.keys.slots());
                let key = self.keys.key(slot);
                if seen[slot].0 != key {
                    seen[slot] = (key.clone(), 0);
                }
                let revision = seen[slot].1;
                // Above what the index holds itself, so that there is something to collect.
                let len = client.rng.random_range(1 << 10..24 << 10);
                let outcome = match client.rng.random_range(0..10) {
                    0..3 => client.read(&key).await,
                    3..5 => {
                        let value = client.new_value(len);
                        client.write(&key, value).await
                    }
                    5..7 => {
                        let value = client.new_value(len);
                        client.cas(&key, revision, value).await
                    }
                    7..9 => client.delete(&key, None).await,
                    _ => client.delete(&key, Some(revision)).await,
                };
                if let Some(revision) = revision_after(&outcome) {
                    seen[slot].1 = revision;
                }
            }
        })
    }
}
