use futures::future::BoxFuture;
use rand::RngExt;

use super::Workload;
use super::client::{Client, revision_after};
use super::rotation::Rotation;

/// Keys at a time: few, so that clients meet.
const SLOTS: usize = 5;
/// Operations on a key before the next takes its place.
const PER_KEY: u64 = 1000;

/// Reads, writes, conditional writes and deletes of few keys: everything that a single key promises.
pub struct Register {
    keys: Rotation,
}

impl Default for Register {
    fn default() -> Register {
        Register {
            keys: Rotation::new("register/", SLOTS, PER_KEY),
        }
    }
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn about(&self) -> &'static str {
        "read, write, cas by revision and delete of few keys"
    }

    fn share(&self) -> usize {
        6
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Of each slot, the key and its revision as last seen.
            let mut seen = vec![(String::new(), 0); self.keys.slots()];
            while client.turn().await {
                let slot = client.rng.random_range(0..self.keys.slots());
                let key = self.keys.key(slot);
                if seen[slot].0 != key {
                    seen[slot] = (key.clone(), 0);
                }
                let revision = seen[slot].1;
                let outcome = match client.rng.random_range(0..100) {
                    0..40 => client.read(&key).await,
                    40..65 => {
                        let len = client.rng.random_range(0..200);
                        let value = client.new_value(len);
                        client.write(&key, value).await
                    }
                    65..90 => {
                        let value = client.new_value(0);
                        client.cas(&key, revision, value).await
                    }
                    90..95 => client.delete(&key, None).await,
                    _ => client.delete(&key, Some(revision)).await,
                };
                if let Some(revision) = revision_after(&outcome) {
                    seen[slot].1 = revision;
                }
            }
        })
    }
}
