use std::time::Duration;

use nezha_api::client::{Client, ClientError, EndpointFailure, FailureKind};
use nezha_api::errors::Reason;
use nezha_api::v1::{HashRequest, HashResponse, ResponseHeader};
use tokio::time::{Instant, sleep};

use crate::each::each;

/// How often members are asked for a common index before they are taken as not comparable.
const ATTEMPTS: u32 = 6;
/// How far ahead the index lies that is asked for, in time, if entries are applied: at first, and doubled each time.
const LEAD: Duration = Duration::from_millis(250);
/// Between the two looks that tell how fast entries are applied.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a member waits for the index.
const INDEX_WAIT: Duration = Duration::from_secs(5);

/// A member to compare.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it was reached, or should be.
    pub endpoint: String,
}

/// What a member answered.
pub type Answer = Result<HashResponse, ClientError>;

/// How members are asked.
pub struct Comparer {
    /// For hashes, which take long.
    pub client: Client,
    /// For everything else.
    pub quick: Client,
    /// Who is asked.
    pub replicas: Vec<Replica>,
}

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All members answered the same.
    Equal,
    /// Two members answered differently about the same index.
    Different,
    /// Not all answered, and those that did answered the same; or there was no common index.
    Undecided,
}

impl Comparer {
    /// Has all members hash a range at one index. The answers are in the order of the members.
    ///
    /// Members apply at their own pace: they are asked for an index that none has passed, a little ahead of the furthest
    /// if entries are applied, further ahead if that was too late.
    pub async fn hashes(&self, range: &HashRequest) -> Vec<Answer> {
        let mut lead = LEAD;
        let mut answers = Vec::new();
        let mut look = self.look().await;
        for _ in 0..ATTEMPTS {
            let before = look;
            sleep(LOOK_INTERVAL).await;
            look = self.look().await;
            let index = look.aim(&before, lead);
            lead *= 2;
            answers = self.ask(range, index).await;
            if !answers.iter().any(may_do_better) {
                break;
            }
        }
        answers
    }

    async fn ask(&self, range: &HashRequest, index: u64) -> Vec<Answer> {
        let request = HashRequest {
            applied_index: index,
            wait_ms: INDEX_WAIT.as_millis() as u64,
            ..range.clone()
        };
        let ask = |endpoint: String| {
            let (client, request) = (self.client.clone(), request.clone());
            async move { client.hash(&endpoint, request).await.map(|(_, answer)| answer) }
        };
        each(&self.endpoints(), ask).await
    }

    /// Looks at how far the furthest member is.
    async fn look(&self) -> Look {
        let ask = |endpoint: String| {
            let client = self.quick.clone();
            async move { client.status(&endpoint).await }
        };
        let statuses = each(&self.endpoints(), ask).await;
        let applied = statuses.iter().flatten().map(|(_, status)| status.applied_index);
        Look {
            applied: applied.max().unwrap_or(0),
            at: Instant::now(),
        }
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self.replicas.iter().map(|replica| replica.endpoint.clone());
        endpoints.collect()
    }
}

/// How far the furthest member was at a time.
#[derive(Clone, Copy, Debug)]
struct Look {
    applied: u64,
    at: Instant,
}

impl Look {
    /// The index that will be reached after `lead` at the pace since `before`; the one of now if nothing moves.
    fn aim(&self, before: &Look, lead: Duration) -> u64 {
        let entries = self.applied.saturating_sub(before.applied);
        let elapsed = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        let ahead = (entries as f64 / elapsed * lead.as_secs_f64()).ceil();
        // An index of 0 asks for no index at all.
        self.applied.saturating_add(ahead as u64).max(1)
    }
}

/// Whether another index, or a little later, may be answered better.
fn may_do_better(answer: &Answer) -> bool {
    match answer {
        Ok(_) => false,
        Err(ClientError::Unavailable { failures }) => failures.iter().any(|failure: &EndpointFailure| {
            matches!(failure.kind, FailureKind::TimedOut | FailureKind::NotServing)
        }),
        Err(error) => error.reason() == Some(Reason::MemberState),
    }
}

/// Judges the answers about one range.
pub fn judge(answers: &[Answer]) -> Verdict {
    let mut hashed = answers.iter().flatten();
    let Some(first) = hashed.next() else {
        return Verdict::Undecided;
    };
    if hashed.any(|other| other.hash != first.hash) {
        Verdict::Different
    } else if answers.iter().any(Result::is_err) {
        Verdict::Undecided
    } else {
        Verdict::Equal
    }
}

/// Learns the members from the given endpoints: the list of whoever has applied most counts. A member is asked where it
/// answered, else at the address that the list has.
pub async fn members(client: &Client, given: &[String]) -> Result<Vec<Replica>, ClientError> {
    let ask = |endpoint: String| {
        let client = client.clone();
        async move {
            let list = client.member_list_from(&endpoint).await;
            (endpoint, list)
        }
    };
    let mut lists = Vec::new();
    let mut failed = None;
    for (endpoint, list) in each(given, ask).await {
        match list {
            Ok((header, members)) => lists.push((endpoint, header, members)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let newest = lists
        .iter()
        .max_by_key(|(_, header, _)| (header.term, header.revision));
    let Some((_, newest, members)) = newest else {
        return Err(failed.unwrap_or(ClientError::Unavailable { failures: Vec::new() }));
    };
    let is = |header: &ResponseHeader, id| (header.cluster_id, header.node_id) == (newest.cluster_id, id);
    let replica = |member: &nezha_api::v1::Member| Replica {
        id: member.id,
        name: member.name.clone(),
        endpoint: lists
            .iter()
            .find(|(_, header, _)| is(header, member.id))
            .map_or_else(
                || member.client_endpoint.clone(),
                |(endpoint, ..)| endpoint.clone(),
            ),
    };
    Ok(members.iter().map(replica).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_that_is_asked_for() {
        let start = Instant::now();
        let look = |applied, ms| Look {
            applied,
            at: start + Duration::from_millis(ms),
        };
        assert_eq!(look(70, 100).aim(&look(70, 0), LEAD), 70, "nothing moves");
        // 1000 per second.
        assert_eq!(look(200, 100).aim(&look(100, 0), LEAD), 450);
        assert_eq!(look(200, 100).aim(&look(100, 0), LEAD * 2), 700);
        assert_eq!(
            look(0, 100).aim(&look(0, 0), LEAD),
            1,
            "nobody has applied anything"
        );
        assert_eq!(look(50, 100).aim(&look(70, 0), LEAD), 50, "the furthest has gone");
    }
}
