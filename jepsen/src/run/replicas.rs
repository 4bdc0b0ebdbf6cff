//! Whether all members hold the same: hashes of everything, after one and the same log index.

use std::time::Duration;

use anyhow::{Context, Result};
use nezha_api::client::ClientError;
use nezha_api::v1::{HashRequest, HashResponse};
use nezha_api::{Client, ClientOptions};
use tokio::runtime::Handle;

/// How often members are asked for a common index.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a member waits for the index.
const INDEX_WAIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// What a comparison shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// All hold the same.
    Equal {
        /// How many keys.
        keys: u64,
    },
    /// Two hold something else after the same index.
    Different(String),
    /// Not all answered about one index.
    Undecided(String),
}

/// Compares `members`, by name and endpoint.
pub fn compare(runtime: &Handle, members: &[(String, String)]) -> Result<Replicas> {
    let _inside = runtime.enter();
    let options = ClientOptions {
        timeout: PATIENCE,
        sync_interval: None,
        ..ClientOptions::default()
    };
    let endpoints: Vec<&String> = members.iter().map(|(_, endpoint)| endpoint).collect();
    let client = Client::connect(&endpoints, options).context("make a client for hashes")?;
    runtime.block_on(async {
        let mut last = Replicas::Undecided("nobody was asked".into());
        for _ in 0..ATTEMPTS {
            last = ask(&client, members).await;
            if !matches!(last, Replicas::Undecided(_)) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(last)
    })
}

async fn ask(client: &Client, members: &[(String, String)]) -> Replicas {
    let statuses =
        futures::future::join_all(members.iter().map(|(_, endpoint)| client.status(endpoint))).await;
    let furthest = statuses
        .iter()
        .flatten()
        .map(|(_, status)| status.applied_index)
        .max();
    let request = HashRequest {
        applied_index: furthest.unwrap_or(0).max(1),
        wait_ms: INDEX_WAIT.as_millis() as u64,
        ..HashRequest::default()
    };
    let hashed = members
        .iter()
        .map(|(_, endpoint)| client.hash(endpoint, request.clone()));
    let answers = futures::future::join_all(hashed).await;
    let answers: Vec<Result<HashResponse, ClientError>> = answers
        .into_iter()
        .map(|answer| answer.map(|(_, answer)| answer))
        .collect();
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    judge(&names, &answers)
}

fn judge(names: &[&str], answers: &[Result<HashResponse, ClientError>]) -> Replicas {
    let told = |(name, answer): (&&str, &Result<HashResponse, ClientError>)| match answer {
        Ok(answer) => {
            let hash: String = answer
                .hash
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let (index, keys, bytes) = (answer.applied_index, answer.keys, answer.bytes);
            format!("{name}: {hash} of {keys} keys, {bytes} bytes at index {index}")
        }
        Err(error) => format!("{name}: {error}"),
    };
    let text = names.iter().zip(answers).map(told).collect::<Vec<_>>().join("; ");
    let hashed: Vec<&HashResponse> = answers.iter().flatten().collect();
    let Some(first) = hashed.first() else {
        return Replicas::Undecided(text);
    };
    let same_index = hashed
        .iter()
        .all(|answer| answer.applied_index == first.applied_index);
    if same_index && hashed.iter().any(|answer| answer.hash != first.hash) {
        Replicas::Different(text)
    } else if !same_index || hashed.len() < answers.len() {
        Replicas::Undecided(text)
    } else {
        Replicas::Equal { keys: first.keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(hash: u8, applied_index: u64) -> Result<HashResponse, ClientError> {
        Ok(HashResponse {
            hash: vec![hash; 32].into(),
            applied_index,
            keys: 5,
            ..HashResponse::default()
        })
    }

    fn silent() -> Result<HashResponse, ClientError> {
        Err(ClientError::Unavailable { failures: Vec::new() })
    }

    #[test]
    fn only_hashes_after_one_index_are_compared() {
        let names = ["n1", "n2"];
        assert_eq!(
            judge(&names, &[hashed(1, 9), hashed(1, 9)]),
            Replicas::Equal { keys: 5 }
        );
        assert!(matches!(
            judge(&names, &[hashed(1, 9), hashed(2, 9)]),
            Replicas::Different(_)
        ));
        assert!(matches!(
            judge(&names, &[hashed(1, 9), hashed(2, 8)]),
            Replicas::Undecided(_)
        ));
        assert!(matches!(
            judge(&names, &[hashed(1, 9), silent()]),
            Replicas::Undecided(_)
        ));
        assert!(matches!(
            judge(&names, &[silent(), silent()]),
            Replicas::Undecided(_)
        ));
    }

    #[test]
    fn a_difference_counts_although_a_third_is_silent() {
        let names = ["n1", "n2", "n3"];
        assert!(matches!(
            judge(&names, &[hashed(1, 9), silent(), hashed(2, 9)]),
            Replicas::Different(_)
        ));
    }
}
