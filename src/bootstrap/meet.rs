//! Asking the other members, again and again until enough of them have answered.

use std::collections::BTreeMap;
use std::time::Duration;

use nezha_api::client::Dialer;
use nezha_api::peer::peer_service_client::PeerServiceClient;
use nezha_api::peer::{IdentifyRequest, IdentifyResponse};
use nezha_api::v1::cluster_service_client::ClusterServiceClient;
use nezha_api::v1::{Member, MemberListRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::{BootError, other_members};
use crate::config::{Config, InitialMember};
use crate::server::{CLIENT_ADDR, NAME};

/// One attempt to reach a member.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);
/// Between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often waiting is logged.
const PATIENCE: Duration = Duration::from_secs(5);

/// What another node says about itself and about us.
#[derive(Debug, Clone)]
pub(super) struct Met {
    pub(super) addr: String,
    pub(super) name: String,
    pub(super) client_addr: String,
    pub(super) answer: IdentifyResponse,
}

/// Asks all other members of a new cluster until each has answered under its own name.
pub(super) async fn meet(
    dialer: &Dialer,
    config: &Config,
    members: &[InitialMember],
    question: &IdentifyRequest,
) -> Vec<Met> {
    let names: BTreeMap<&str, &str> = other_members(config, members)
        .map(|m| (m.peer_addr.as_str(), m.name.as_str()))
        .collect();
    let addrs: Vec<String> = names.keys().map(|addr| (*addr).to_owned()).collect();
    let needed = addrs.len();
    // Not refused: it may be right some seconds later, when a stopped node's port was taken over by the right one.
    let right_name = |met: &Met| match names.get(met.addr.as_str()) {
        Some(wanted) if met.name != *wanted => Err(format!(
            "node '{}' answers there, expected '{wanted}': check --initial-cluster",
            met.name
        )),
        _ => Ok(()),
    };
    collect(dialer, addrs, question, needed, right_name).await
}

/// Asks all `addrs` again and again until `needed` of them have given an answer that is `settled`.
pub(super) async fn collect(
    dialer: &Dialer,
    addrs: Vec<String>,
    question: &IdentifyRequest,
    needed: usize,
    settled: impl Fn(&Met) -> Result<(), String>,
) -> Vec<Met> {
    let mut answers: Vec<Met> = Vec::new();
    let mut asked = JoinSet::new();
    let ask = |asked: &mut JoinSet<_>, addr: String, delay: Duration| {
        let (dialer, question) = (dialer.clone(), question.clone());
        asked.spawn(async move {
            sleep(delay).await;
            let met = identify(&dialer, &addr, question).await;
            (addr, met)
        });
    };
    for addr in addrs {
        ask(&mut asked, addr, Duration::ZERO);
    }
    let mut logged = Instant::now();
    while answers.len() < needed {
        let Some(joined) = asked.join_next().await else {
            break;
        };
        let Ok((addr, met)) = joined else { continue };
        match met.and_then(|met| settled(&met).map(|()| met)) {
            Ok(met) => answers.push(met),
            Err(reason) => {
                if logged.elapsed() > PATIENCE {
                    logged = Instant::now();
                    tracing::info!(
                        addr,
                        reason,
                        answered = answers.len(),
                        needed,
                        "waiting for the other members"
                    );
                }
                ask(&mut asked, addr, RETRY_DELAY);
            }
        }
    }
    answers
}

/// Finds this node in the member list of a running cluster: cluster id, itself, all members. Waits for a leader.
pub(super) async fn find_member(
    dialer: &Dialer,
    config: &Config,
    endpoints: &[String],
) -> Result<(u64, Member, Vec<Member>), BootError> {
    let mut logged = Instant::now();
    loop {
        let mut problem = String::new();
        for endpoint in endpoints {
            match list_members(dialer, endpoint).await {
                Ok((cluster_id, members)) => {
                    if let Some(me) = members.iter().find(|member| member.name == config.name) {
                        return Ok((cluster_id, me.clone(), members));
                    }
                    // The leader's list, confirmed by a majority: waiting would not change it.
                    return Err(BootError::NotAdded {
                        name: config.name.clone(),
                        known: members
                            .iter()
                            .map(|m| m.name.as_str())
                            .collect::<Vec<_>>()
                            .join(", "),
                        peer: config.advertise_peer.clone(),
                        client: config.advertise_client.clone(),
                    });
                }
                Err(reason) => problem = format!("{endpoint}: {reason}"),
            }
        }
        if logged.elapsed() > PATIENCE {
            logged = Instant::now();
            tracing::info!(problem, "waiting for the cluster to list this node");
        }
        sleep(RETRY_DELAY * 3).await;
    }
}

async fn identify(dialer: &Dialer, addr: &str, question: IdentifyRequest) -> Result<Met, String> {
    let answer = PeerServiceClient::new(connect(dialer, addr).await?)
        .identify(question)
        .await
        .map_err(|e| e.message().to_owned())?;
    let text = |metadata: &MetadataMap, key| {
        metadata
            .get(key)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Met {
        addr: addr.to_owned(),
        name: text(answer.metadata(), NAME),
        client_addr: text(answer.metadata(), CLIENT_ADDR),
        answer: answer.into_inner(),
    })
}

async fn list_members(dialer: &Dialer, endpoint: &str) -> Result<(u64, Vec<Member>), String> {
    let answer = ClusterServiceClient::new(connect(dialer, endpoint).await?)
        .member_list(MemberListRequest { local: false })
        .await;
    let answer = answer.map_err(|e| e.message().to_owned())?.into_inner();
    let cluster_id = answer
        .header
        .map(|header| header.cluster_id)
        .filter(|id| *id != 0);
    Ok((cluster_id.ok_or("the answer names no cluster")?, answer.members))
}

async fn connect(dialer: &Dialer, addr: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
    let endpoint = endpoint.connect_timeout(ATTEMPT_WAIT).timeout(ATTEMPT_WAIT);
    dialer
        .connect(endpoint)
        .await
        .map_err(|e| format!("{e}: {}", root_cause(&e)))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
