use std::time::Duration;

use super::dial::Dialer;

/// How a [`Client`](super::Client) behaves. `Default` gives the stated defaults.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Total time for one call with all its attempts. Default 10 s. For a scan: the longest wait for one more chunk.
    pub timeout: Duration,
    /// Time for the first attempt of a read; doubles with each further attempt, within `timeout`. Default 2500 ms.
    ///
    /// A write that was sent is never sent again, so cutting its attempt short would only turn answers into unknown
    /// outcomes: a write waits until `timeout` once it is sent, and only connecting is cut short.
    pub attempt_timeout: Duration,
    /// Time to make a connection. Default 2 s.
    pub connect_timeout: Duration,
    /// Upper bound of the first pause between rounds of attempts; doubles up to `backoff_max`. The pause is drawn
    /// evenly between zero and the bound. Default 20 ms.
    pub backoff_base: Duration,
    /// Highest bound of a pause. Default 1 s.
    pub backoff_max: Duration,
    /// How often the member list is fetched again, in the background of calls, to learn endpoints that were not
    /// given. `None`: only leaders that answers name are learned. Default 60 s.
    pub sync_interval: Option<Duration>,
    /// Puts, deletes and gets of all callers share one stream per connection: many times the throughput of calls of
    /// their own. Values above 1 MiB, and servers without pipelines, get calls all the same. Default true.
    pub pipelined: bool,
    /// Makes the connections. Default: TCP.
    pub dialer: Dialer,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_millis(2500),
            connect_timeout: Duration::from_secs(2),
            backoff_base: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            sync_interval: Some(Duration::from_secs(60)),
            pipelined: true,
            dialer: Dialer::default(),
        }
    }
}
