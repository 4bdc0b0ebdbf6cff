//! Writes by which outages are measured.

use futures::future::BoxFuture;

use super::Workload;
use super::client::Client;

/// Bytes of each value.
const VALUE_BYTES: usize = 1024;

/// Writes one new key after the other: when clients were served is when these were acknowledged, and whatever was must
/// be there. No part of a mixed run, which has sets for that; see `run::attend`.
#[derive(Default)]
pub struct Probe;

impl Probe {
    /// Below which the client with this label writes.
    pub fn prefix(label: &str) -> String {
        format!("probe/{label}.")
    }
}

impl Workload for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn about(&self) -> &'static str {
        "unique writes without a pause, to measure outages by"
    }

    fn share(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.turn().await {
                // As `prefix` says.
                let key = format!("probe/{}", client.new_number());
                let value = client.new_value(VALUE_BYTES);
                client.write(&key, value).await;
            }
        })
    }
}
