//! How a node gets its identity, and how the others learn it before they count on it.
//!
//! The rule behind all of it: a member that lost its disk must never come back under its old id, or what a majority
//! acknowledged could be lost. So each data directory has an incarnation, drawn when it is made. A node without an
//! identity asks the others whether they know its id under another incarnation, and a node that has never taken part
//! is recorded by others before it does. How many must answer and how many must record is chosen so that the two
//! always share a member: see [`answers_needed`] and [`records_needed`].

use std::collections::BTreeMap;
use std::time::Duration;

use nezha_api::peer::peer_service_client::PeerServiceClient;
use nezha_api::peer::{IdentifyRequest, IdentifyResponse};
use nezha_api::v1::cluster_service_client::ClusterServiceClient;
use nezha_api::v1::{Member, MemberListRequest};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;

use crate::config::{Config, InitialMember, Origin};
use crate::identity::{DataDir, Identity, IdentityError};
use crate::raft::{Node, NodeId};
use crate::server::{CLIENT_ADDR, NAME};

/// One attempt to reach a member.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);
/// Between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often waiting is logged.
const PATIENCE: Duration = Duration::from_secs(5);
/// Why a node may not take part. Texts name the reason and the next step.
#[derive(Debug, Error)]
pub enum BootError {
    /// The data directory is not this node's, damaged, or cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Neither an identity nor a way to get one.
    #[error(
        "{dir} has no identity: for a new cluster give --initial-cluster n1=HOST:PORT,... (the same on each member), to \
         join a running one `kvctl member add {name} ...` and then --join ENDPOINT"
    )]
    NoOrigin {
        /// The data directory.
        dir: String,
        /// Name of this node.
        name: String,
    },
    /// The cluster knows this id under another incarnation.
    #[error(
        "member {by} knows node {id} as incarnation {known:016x}, but this data directory is {ours:016x}: it was wiped or \
         replaced, and must not come back under this id. {}",
        next_commands(name)
    )]
    Wiped {
        /// Name of this node.
        name: String,
        /// The id.
        id: NodeId,
        /// Address of the member that knows better.
        by: String,
        /// What it knows.
        known: u64,
        /// What this directory has.
        ours: u64,
    },
    /// The member list says that this node took part before, but its directory is empty.
    #[error(
        "node {name} (id {id}) has taken part in the cluster before, but {dir} is empty. {}",
        next_commands(name)
    )]
    Emptied {
        /// Name of this node.
        name: String,
        /// Its id.
        id: NodeId,
        /// The data directory.
        dir: String,
    },
    /// Somebody else answers at a member's address.
    #[error("{addr} is answered by {found}, expected {wanted}: check --initial-cluster and the addresses")]
    Stranger {
        /// The address.
        addr: String,
        /// Who answers.
        found: String,
        /// Who should.
        wanted: String,
    },
    /// Nobody added this node.
    #[error(
        "the cluster has no member {name}; its members are: {known}. Next: `kvctl member add {name} --peer-addr {peer} \
         --client-addr {client}`, then start this node again"
    )]
    NotAdded {
        /// Name of this node.
        name: String,
        /// Names of the members.
        known: String,
        /// Peer address of this node.
        peer: String,
        /// Client address of this node.
        client: String,
    },
    /// This node was added under another address.
    #[error(
        "{name} was added with {what} {added}, but this node states {stated}; start it with --{option} {added}"
    )]
    OtherAddress {
        /// Name of this node.
        name: String,
        /// Which address.
        what: &'static str,
        /// As added.
        added: String,
        /// As configured here.
        stated: String,
        /// The option to set.
        option: &'static str,
    },
    /// The one that would form the cluster has lost its log.
    #[error(
        "the log of {name} is empty, but member {by} is part of a running cluster: the log was removed. {}",
        next_commands(name)
    )]
    LogLost {
        /// Name of this node.
        name: String,
        /// Address of a member that runs.
        by: String,
    },
}

/// What to do about a node that lost its data.
fn next_commands(name: &str) -> String {
    format!(
        "Next: `kvctl member remove {name}`, then `kvctl member add NEWNAME --peer-addr HOST:PORT --client-addr \
         HOST:PORT`, then start kvd with --name NEWNAME, --join ENDPOINT and an empty --data-dir"
    )
}

/// A node's identity and whom it shares the cluster with.
#[derive(Debug)]
pub struct Established {
    /// Who this node is.
    pub identity: Identity,
    /// Peer addresses of the other members, as far as known without Raft.
    pub others: Vec<String>,
}

/// What another node says about itself and about us.
#[derive(Debug, Clone)]
struct Met {
    addr: String,
    name: String,
    client_addr: String,
    answer: IdentifyResponse,
}

/// How many of the other members a node without an identity must ask: a majority of them.
pub fn answers_needed(others: usize) -> usize {
    if others == 0 { 0 } else { others / 2 + 1 }
}

/// How many of the other members must have recorded a node before it takes part: so many that any
/// [`answers_needed`] of them include one that has.
pub fn records_needed(others: usize) -> usize {
    others - answers_needed(others) + usize::from(others > 0)
}

/// The id of the cluster that these members form: FNV-1a over the list in name order and the token.
pub fn cluster_id(members: &[InitialMember], token: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut eat = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for member in members {
        eat(&member.name);
        eat(&member.peer_addr);
    }
    eat(token);
    // Zero means "no cluster yet" between members.
    hash.max(1)
}

/// The identity in `data`, checked against the configuration; `None` when the directory is new.
///
/// Errors: the directory belongs to another node or cluster; neither an identity nor a way to get one.
pub fn existing(config: &Config, data: &DataDir) -> Result<Option<Identity>, BootError> {
    let cluster = match &config.origin {
        Origin::InitialCluster(members) => Some(cluster_id(members, &config.cluster_token)),
        Origin::Join(_) | Origin::Unstated => None,
    };
    match (data.identity()?, &config.origin) {
        (Some(identity), _) => {
            data.expect(&identity, Some(&config.name), cluster)?;
            Ok(Some(identity))
        }
        (None, Origin::Unstated) => Err(BootError::NoOrigin {
            dir: config.data_dir.display().to_string(),
            name: config.name.clone(),
        }),
        (None, _) => Ok(None),
    }
}

/// Gets an identity for a new data directory, with `incarnation`, and makes it durable. Waits for the others as long as
/// it takes.
///
/// Errors: the cluster knows this node as another one, or not at all.
pub async fn establish(config: &Config, data: &DataDir, incarnation: u64) -> Result<Established, BootError> {
    let (identity, others) = match &config.origin {
        Origin::InitialCluster(members) => form(config, members, incarnation).await?,
        Origin::Join(endpoints) => join(config, endpoints, incarnation).await?,
        Origin::Unstated => {
            return Err(BootError::NoOrigin {
                dir: config.data_dir.display().to_string(),
                name: config.name.clone(),
            });
        }
    };
    data.create_identity(&identity)?;
    tracing::info!(
        cluster = format!("{:016x}", identity.cluster_id),
        node = identity.node_id,
        "identity written"
    );
    Ok(Established { identity, others })
}

/// Peer addresses of the other members as the configuration states them.
pub fn stated_others(config: &Config) -> Vec<String> {
    match &config.origin {
        Origin::InitialCluster(members) => other_members(config, members)
            .map(|m| m.peer_addr.clone())
            .collect(),
        Origin::Join(_) | Origin::Unstated => Vec::new(),
    }
}

fn other_members<'m>(
    config: &'m Config,
    members: &'m [InitialMember],
) -> impl Iterator<Item = &'m InitialMember> {
    members.iter().filter(|member| member.name != config.name)
}

/// First start of a member of a new cluster: everybody must answer, so that nobody's loss goes unnoticed.
async fn form(
    config: &Config,
    members: &[InitialMember],
    incarnation: u64,
) -> Result<(Identity, Vec<String>), BootError> {
    let position = members
        .iter()
        .position(|member| member.name == config.name)
        .unwrap_or(0);
    let identity = Identity {
        cluster_id: cluster_id(members, &config.cluster_token),
        node_id: position as u64 + 1,
        incarnation,
        name: config.name.clone(),
    };
    let question = question(&identity, false);
    for met in meet(config, members, &question).await {
        check(&identity, &met)?;
    }
    Ok((identity, stated_others(config)))
}

/// First start of a member that was added to a running cluster.
async fn join(
    config: &Config,
    endpoints: &[String],
    incarnation: u64,
) -> Result<(Identity, Vec<String>), BootError> {
    let (cluster_id, me, members) = find_member(config, endpoints).await?;
    for (what, option, added, stated) in [
        (
            "peer address",
            "advertise-peer",
            &me.peer_endpoint,
            &config.advertise_peer,
        ),
        (
            "client address",
            "advertise-client",
            &me.client_endpoint,
            &config.advertise_client,
        ),
    ] {
        if added != stated {
            return Err(BootError::OtherAddress {
                name: config.name.clone(),
                what,
                added: added.clone(),
                stated: stated.clone(),
                option,
            });
        }
    }
    if me.matched_index > 0 {
        return Err(BootError::Emptied {
            name: config.name.clone(),
            id: me.id,
            dir: config.data_dir.display().to_string(),
        });
    }
    let identity = Identity {
        cluster_id,
        node_id: me.id,
        incarnation,
        name: config.name.clone(),
    };
    let others: Vec<String> = members
        .into_iter()
        .filter(|member| member.id != me.id)
        .map(|member| member.peer_endpoint)
        .collect();
    let needed = answers_needed(others.len());
    let question = question(&identity, false);
    for met in collect(others.clone(), &question, needed, |_| Ok(())).await {
        check(&identity, &met)?;
    }
    Ok((identity, others))
}

/// Waits until so many others have recorded this node that it may take part. Only for a node whose log is empty: one
/// that has a log was recorded before.
///
/// Errors: it is known under another incarnation.
pub async fn introduce(identity: &Identity, others: &[String]) -> Result<(), BootError> {
    let needed = records_needed(others.len());
    let ours = identity.incarnation;
    let settled = |met: &Met| match met.answer.node_id != 0 && met.answer.known_incarnation != 0 {
        true => Ok(()),
        false => Err("it has no identity yet".to_owned()),
    };
    for met in collect(others.to_vec(), &question(identity, true), needed, settled).await {
        check(identity, &met)?;
        tracing::debug!(by = met.addr, incarnation = format!("{ours:016x}"), "recorded");
    }
    Ok(())
}

/// The members to form the cluster with, when this node is the one to do so: the lowest id of a new cluster.
///
/// Errors: the cluster runs already, so this node's empty log is a lost one; an address is answered by somebody else.
pub async fn founders(
    config: &Config,
    identity: &Identity,
) -> Result<Option<BTreeMap<NodeId, Node>>, BootError> {
    let Origin::InitialCluster(members) = &config.origin else {
        return Ok(None);
    };
    if identity.node_id != 1 {
        return Ok(None);
    }
    let mut met = BTreeMap::new();
    for other in meet(config, members, &question(identity, true)).await {
        check(identity, &other)?;
        if other.answer.initialized {
            return Err(BootError::LogLost {
                name: config.name.clone(),
                by: other.addr,
            });
        }
        met.insert(other.name.clone(), other);
    }
    let node = |member: &InitialMember| {
        let learned = match member.name == config.name {
            true => config.advertise_client.clone(),
            false => met
                .get(&member.name)
                .map(|m| m.client_addr.clone())
                .unwrap_or_default(),
        };
        Node {
            name: member.name.clone(),
            peer_addr: member.peer_addr.clone(),
            client_addr: member.client_addr.clone().unwrap_or(learned),
        }
    };
    Ok(Some((1..).zip(members.iter().map(node)).collect()))
}

fn question(identity: &Identity, is_member: bool) -> IdentifyRequest {
    IdentifyRequest {
        // Zero: the others must not record what is not durable here yet.
        cluster_id: if is_member { identity.cluster_id } else { 0 },
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        name: identity.name.clone(),
    }
}

fn check(identity: &Identity, met: &Met) -> Result<(), BootError> {
    let answer = &met.answer;
    if answer.cluster_id != 0 && answer.cluster_id != identity.cluster_id {
        return Err(BootError::Stranger {
            addr: met.addr.clone(),
            found: format!("node {} of cluster {:016x}", answer.node_id, answer.cluster_id),
            wanted: format!("a member of cluster {:016x}", identity.cluster_id),
        });
    }
    if answer.known_incarnation != 0 && answer.known_incarnation != identity.incarnation {
        return Err(BootError::Wiped {
            name: identity.name.clone(),
            id: identity.node_id,
            by: met.addr.clone(),
            known: answer.known_incarnation,
            ours: identity.incarnation,
        });
    }
    Ok(())
}

/// Asks all other members of a new cluster until each has answered under its own name.
async fn meet(config: &Config, members: &[InitialMember], question: &IdentifyRequest) -> Vec<Met> {
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
    collect(addrs, question, needed, right_name).await
}

/// Asks all `addrs` again and again until `needed` of them have given an answer that is `settled`.
async fn collect(
    addrs: Vec<String>,
    question: &IdentifyRequest,
    needed: usize,
    settled: impl Fn(&Met) -> Result<(), String>,
) -> Vec<Met> {
    let mut answers: Vec<Met> = Vec::new();
    let mut asked = JoinSet::new();
    let ask = |asked: &mut JoinSet<_>, addr: String, delay: Duration| {
        let question = question.clone();
        asked.spawn(async move {
            sleep(delay).await;
            let met = identify(&addr, question).await;
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

async fn identify(addr: &str, question: IdentifyRequest) -> Result<Met, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
    let endpoint = endpoint.connect_timeout(ATTEMPT_WAIT).timeout(ATTEMPT_WAIT);
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| format!("{e}: {}", root_cause(&e)))?;
    let answer = PeerServiceClient::new(channel)
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

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Finds this node in the member list of a running cluster: cluster id, itself, all members. Waits for a leader.
async fn find_member(config: &Config, endpoints: &[String]) -> Result<(u64, Member, Vec<Member>), BootError> {
    let mut logged = Instant::now();
    loop {
        let mut problem = String::new();
        for endpoint in endpoints {
            match list_members(endpoint).await {
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

async fn list_members(endpoint: &str) -> Result<(u64, Vec<Member>), String> {
    let target = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|e| e.to_string())?;
    let target = target.connect_timeout(ATTEMPT_WAIT).timeout(ATTEMPT_WAIT);
    let channel = target
        .connect()
        .await
        .map_err(|e| format!("{e}: {}", root_cause(&e)))?;
    let answer = ClusterServiceClient::new(channel)
        .member_list(MemberListRequest { local: true })
        .await;
    let answer = answer.map_err(|e| e.message().to_owned())?.into_inner();
    let cluster_id = answer
        .header
        .map(|header| header.cluster_id)
        .filter(|id| *id != 0);
    Ok((cluster_id.ok_or("the answer names no cluster")?, answer.members))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, addr: &str) -> InitialMember {
        InitialMember {
            name: name.into(),
            peer_addr: addr.into(),
            client_addr: None,
        }
    }

    /// Whoever must answer and whoever has recorded always have a member in common; and a majority of a cluster that
    /// is up is enough for both.
    #[test]
    fn answers_and_records_overlap() {
        for members in 1..=9 {
            let others = members - 1;
            let (answers, records) = (answers_needed(others), records_needed(others));
            if others > 0 {
                assert!(answers + records > others, "{members} members");
            }
            assert!(records <= members / 2, "{members} members: {records} records");
            assert!(
                answers <= others && answers <= members / 2 + 1,
                "{members} members: {answers} answers"
            );
        }
    }

    #[test]
    fn the_cluster_id_follows_from_list_and_token() {
        let a = [member("n1", "h:1"), member("n2", "h:2")];
        let b = [member("n1", "h:1"), member("n2", "h:3")];
        assert_eq!(cluster_id(&a, ""), cluster_id(&a, ""));
        assert_ne!(cluster_id(&a, ""), cluster_id(&b, ""));
        assert_ne!(cluster_id(&a, ""), cluster_id(&a, "t"));
        assert_ne!(cluster_id(&a[..1], ""), 0);
    }

    fn met(cluster_id: u64, known_incarnation: u64) -> Met {
        let answer = IdentifyResponse {
            cluster_id,
            known_incarnation,
            ..Default::default()
        };
        Met {
            addr: "h:2".into(),
            name: "n2".into(),
            client_addr: String::new(),
            answer,
        }
    }

    #[test]
    fn a_wiped_directory_is_refused_with_the_next_commands() {
        let identity = Identity {
            cluster_id: 7,
            node_id: 1,
            incarnation: 5,
            name: "n1".into(),
        };
        assert!(check(&identity, &met(0, 0)).is_ok());
        assert!(check(&identity, &met(7, 5)).is_ok());
        let error = check(&identity, &met(7, 4)).unwrap_err();
        assert!(
            matches!(
                error,
                BootError::Wiped {
                    id: 1,
                    known: 4,
                    ours: 5,
                    ..
                }
            ),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("kvctl member remove n1") && text.contains("kvctl member add"),
            "{text}"
        );
        let error = check(&identity, &met(8, 0)).unwrap_err();
        assert!(matches!(error, BootError::Stranger { .. }), "{error}");
    }
}
