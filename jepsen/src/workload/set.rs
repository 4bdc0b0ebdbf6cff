use futures::future::BoxFuture;

use super::Workload;
use super::client::Client;
use super::rotation::Rotation;

/// Elements of a set before the next begins: each read tells all of them.
const PER_SET: u64 = 400;

/// Adds elements that nobody else adds, and reads the whole set: whatever was acknowledged is in every later read.
pub struct Set {
    sets: Rotation,
}

impl Default for Set {
    fn default() -> Set {
        Set {
            sets: Rotation::new("set/", 1, PER_SET),
        }
    }
}

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn about(&self) -> &'static str {
        "unique adds below a prefix, all of it read by scans"
    }

    fn share(&self) -> usize {
        3
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.turn().await {
                let set = self.sets.key(0);
                if client.once_in(20) {
                    client
                        .scan(&format!("{set}/"), &format!("{set}0"), false, 0)
                        .await;
                    continue;
                }
                let key = format!("{set}/{}", client.new_number());
                let value = client.new_value(0);
                client.write(&key, value).await;
            }
        })
    }
}
