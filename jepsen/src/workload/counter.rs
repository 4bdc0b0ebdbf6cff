use futures::future::BoxFuture;
use rand::RngExt;

use super::Workload;
use super::client::{Client, revision_read};
use super::rotation::Rotation;

/// Counters at a time.
const SLOTS: usize = 3;
/// Rounds before the next counter takes a place; each is a read and a conditional write.
const PER_KEY: u64 = 500;

/// Counts by reading and writing on the condition that nothing came between. The key's version is the count: an increment
/// that is lost, or counted twice, contradicts it.
pub struct Counter {
    keys: Rotation,
}

impl Default for Counter {
    fn default() -> Counter {
        Counter {
            keys: Rotation::new("counter/", SLOTS, PER_KEY),
        }
    }
}

impl Workload for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn about(&self) -> &'static str {
        "increments by read and cas"
    }

    fn share(&self) -> usize {
        3
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.turn().await {
                let slot = client.rng.random_range(0..self.keys.slots());
                let key = self.keys.key(slot);
                let Some(revision) = revision_read(&client.read(&key).await) else {
                    continue;
                };
                if !client.turn().await {
                    return;
                }
                let value = client.new_value(0);
                client.cas(&key, revision, value).await;
            }
        })
    }
}
