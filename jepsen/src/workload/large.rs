use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rand::RngExt;

use super::Workload;
use super::client::Client;
use super::rotation::Rotation;

/// Keys at a time, of either kind.
const SLOTS: usize = 3;
const PER_KEY: u64 = 400;
/// From one operation with a large value to the next, of all clients together: it is about their length, not the disk's.
const LARGE_INTERVAL: Duration = Duration::from_millis(400);

/// Values of up to 4 MiB beside tiny ones.
pub struct Large {
    large: Rotation,
    tiny: Rotation,
    next: Mutex<Instant>,
}

impl Default for Large {
    fn default() -> Large {
        Large {
            large: Rotation::new("large/l", SLOTS, PER_KEY),
            tiny: Rotation::new("large/t", SLOTS, PER_KEY),
            next: Mutex::new(Instant::now()),
        }
    }
}

impl Large {
    /// Whether it is time for a large value.
    fn is_due(&self) -> bool {
        let mut next = self.next.lock().expect("no panic while held");
        let due = *next <= Instant::now();
        if due {
            *next = Instant::now() + LARGE_INTERVAL;
        }
        due
    }
}

impl Workload for Large {
    fn name(&self) -> &'static str {
        "large"
    }

    fn about(&self) -> &'static str {
        "values of 64 KiB to 4 MiB beside tiny ones"
    }

    fn share(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.turn().await {
                let slot = client.rng.random_range(0..SLOTS);
                let due = self.is_due();
                let (keys, len) = match due {
                    true => {
                        let len: u32 = client.rng.random_range(16..=22);
                        (&self.large, (1usize << len) - client.rng.random_range(0..3))
                    }
                    false => (&self.tiny, 0),
                };
                let key = keys.key(slot);
                match client.rng.random_range(0..10) {
                    0..4 => client.read(&key).await,
                    4..9 => {
                        let value = client.new_value(len);
                        client.write(&key, value).await
                    }
                    _ => client.delete(&key, None).await,
                };
            }
        })
    }
}
