//! What each member answers about itself: for scripts that wait for a start or look for the leader.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use nezha_api::v1::{StatusRequest, maintenance_service_client::MaintenanceServiceClient};
use serde::Serialize;
use tonic::transport::Channel;

use crate::{
    acks::unix_us,
    args::{DriverKind, StatusArgs, Target},
    driver::{Routes, etcd, nezha},
    errors::BenchError,
};

/// A member that does not answer within this time counts as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds of questions while waiting.
const POLL_PERIOD: Duration = Duration::from_millis(5);

/// One member. Field names are those of the JSON line.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct MemberStatus {
    pub(crate) reachable: bool,
    error: Option<String>,
    pub(crate) ready: bool,
    pub(crate) leads: bool,
    member_id: u64,
    leader_id: u64,
    term: u64,
    applied_index: u64,
    keys: Option<u64>,
    live_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    version: String,
    /// When this member was first seen ready, in microseconds since 1970.
    ready_at_us: Option<u64>,
}

/// All members. Field names are those of the JSON line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ClusterStatus {
    driver: &'static str,
    /// Every endpoint is ready and names the same leader.
    pub(crate) ready: bool,
    /// Endpoint of the member that leads, if it was asked.
    pub(crate) leader: Option<String>,
    pub(crate) members: BTreeMap<String, MemberStatus>,
}

enum Connections {
    Nezha(Vec<MaintenanceServiceClient<Channel>>),
    Etcd(Vec<etcd_client::Client>),
}

/// Asks every endpoint as `args` say and prints one JSON line.
///
/// Errors: bad endpoints, or not all ready in time (the line is printed first).
pub(crate) async fn run(args: &StatusArgs, endpoints: &[String]) -> anyhow::Result<()> {
    let status = collect(args, endpoints).await?;
    println!("{}", serde_json::to_string(&status)?);
    if args.wait.is_none() || status.ready {
        return Ok(());
    }
    ensure!(
        status.members.values().any(|member| member.reachable),
        BenchError::Unreachable("no member answers".to_owned())
    );
    bail!("not every member was ready in time")
}

/// Asks every endpoint, until all are ready or the wait is over.
pub(crate) async fn collect(args: &StatusArgs, endpoints: &[String]) -> anyhow::Result<ClusterStatus> {
    let routes = Routes::new(endpoints, Target::All)?;
    let mut connections = connect(args.driver, routes.endpoints()).await?;
    let deadline = Instant::now() + Duration::from_secs_f64(args.wait.unwrap_or(0.0));
    let mut ready_at = BTreeMap::new();
    loop {
        let mut status = ask(args.driver, &mut connections, routes.endpoints()).await;
        let now = unix_us();
        for (endpoint, member) in &mut status.members {
            if member.ready {
                member.ready_at_us = Some(*ready_at.entry(endpoint.clone()).or_insert(now));
            }
        }
        if status.ready || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

async fn connect(driver: DriverKind, endpoints: &[String]) -> anyhow::Result<Connections> {
    Ok(match driver {
        DriverKind::Nezha | DriverKind::NezhaUnary => Connections::Nezha(
            endpoints
                .iter()
                .map(|endpoint| {
                    let channel = nezha::connector(endpoint)?.connect_lazy();
                    Ok(MaintenanceServiceClient::new(channel))
                })
                .collect::<anyhow::Result<_>>()?,
        ),
        DriverKind::Etcd => {
            let mut clients = Vec::new();
            for endpoint in endpoints {
                clients.push(etcd::connect(endpoint).await?);
            }
            Connections::Etcd(clients)
        }
    })
}

async fn ask(driver: DriverKind, connections: &mut Connections, endpoints: &[String]) -> ClusterStatus {
    let mut members = BTreeMap::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let answer = async {
            match connections {
                Connections::Nezha(clients) => ask_nezha(&mut clients[at]).await,
                Connections::Etcd(clients) => ask_etcd(&mut clients[at]).await,
            }
        };
        let member = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(member)) => member,
            Ok(Err(error)) => unreachable_member(error),
            Err(_) => unreachable_member("no answer in time".to_owned()),
        };
        members.insert(endpoint.clone(), member);
    }
    summarize(driver, members)
}

fn unreachable_member(error: String) -> MemberStatus {
    MemberStatus {
        error: Some(error),
        ..MemberStatus::default()
    }
}

fn summarize(driver: DriverKind, members: BTreeMap<String, MemberStatus>) -> ClusterStatus {
    let leader = members
        .iter()
        .filter(|(_, member)| member.leads)
        .max_by_key(|(_, member)| member.term)
        .map(|(endpoint, _)| endpoint.clone());
    let mut leaders = members.values().map(|member| member.leader_id);
    let first = leaders.next().unwrap_or(0);
    let agreed = first != 0 && leaders.all(|id| id == first);
    ClusterStatus {
        driver: driver.name(),
        ready: agreed && members.values().all(|member| member.ready),
        leader,
        members,
    }
}

async fn ask_nezha(client: &mut MaintenanceServiceClient<Channel>) -> Result<MemberStatus, String> {
    let status = client
        .status(StatusRequest {})
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let header = status.header.unwrap_or_default();
    Ok(MemberStatus {
        reachable: true,
        error: None,
        ready: status.ready,
        leads: header.leader_id != 0 && header.leader_id == header.node_id,
        member_id: header.node_id,
        leader_id: header.leader_id,
        term: header.term,
        applied_index: status.applied_index,
        keys: Some(status.keys),
        live_bytes: Some(status.live_bytes),
        disk_bytes: Some(status.disk_bytes),
        version: status.version,
        ready_at_us: None,
    })
}

async fn ask_etcd(client: &mut etcd_client::Client) -> Result<MemberStatus, String> {
    let status = client.status().await.map_err(|error| error.to_string())?;
    let member_id = status.header().map_or(0, |header| header.member_id());
    Ok(MemberStatus {
        reachable: true,
        error: None,
        // etcd opens its client port after it has replayed its log.
        ready: status.leader() != 0,
        leads: status.leader() != 0 && status.leader() == member_id,
        member_id,
        leader_id: status.leader(),
        term: status.raft_term(),
        applied_index: status.raft_applied_index(),
        keys: None,
        live_bytes: None,
        disk_bytes: u64::try_from(status.db_size()).ok(),
        version: status.version().to_owned(),
        ready_at_us: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, leader: u64, term: u64) -> MemberStatus {
        MemberStatus {
            reachable: true,
            ready: true,
            leads: id == leader,
            member_id: id,
            leader_id: leader,
            term,
            ..MemberStatus::default()
        }
    }

    fn cluster(members: Vec<MemberStatus>) -> ClusterStatus {
        let members = members
            .into_iter()
            .enumerate()
            .map(|(n, member)| (format!("h:{n}"), member))
            .collect();
        summarize(DriverKind::Nezha, members)
    }

    #[test]
    fn a_cluster_is_ready_when_all_agree() {
        let status = cluster(vec![member(1, 2, 5), member(2, 2, 5), member(3, 2, 5)]);
        assert!(status.ready);
        assert_eq!(status.leader.as_deref(), Some("h:1"));
    }

    #[test]
    fn disagreement_silence_or_no_leader_is_not_ready() {
        assert!(!cluster(vec![member(1, 2, 5), member(2, 1, 5)]).ready);
        assert!(!cluster(vec![member(1, 0, 5), member(2, 0, 5)]).ready);
        let silent = unreachable_member("refused".to_owned());
        assert!(!cluster(vec![member(1, 1, 5), silent]).ready);
        let mut starting = member(1, 1, 5);
        starting.ready = false;
        assert!(!cluster(vec![starting]).ready);
    }

    #[test]
    fn of_two_leaders_the_newer_counts() {
        let status = cluster(vec![member(1, 1, 4), member(2, 2, 5)]);
        assert_eq!(status.leader.as_deref(), Some("h:1"));
    }
}
