//! How a node gets its identity, and how the others learn it before they count on it.
//!
//! The rule behind all of it: a member that lost its disk must never come back under its old id, or what a majority
//! acknowledged could be lost. So each data directory has an incarnation, drawn when it is made. A node without an
//! identity asks the others whether they know its id under another incarnation, and a node that has never taken part
//! is recorded by others before it does. How many must answer and how many must record is chosen so that the two
//! always share a member: see [`answers_needed`] and [`records_needed`].

mod error;
mod meet;

use std::collections::BTreeMap;

use nezha_api::client::Dialer;
use nezha_api::peer::IdentifyRequest;
use nezha_api::v1::Member;

use crate::config::{Config, InitialMember, Origin};
use crate::identity::{DataDir, Identity};
use crate::raft::{Node, NodeId};

pub use error::BootError;

use meet::{Met, collect, find_member, meet};

/// A node's identity and whom it shares the cluster with.
#[derive(Debug)]
pub struct Established {
    /// Who this node is.
    pub identity: Identity,
    /// Peer addresses of the other members, as far as known without Raft.
    pub others: Vec<String>,
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
pub async fn establish(
    dialer: &Dialer,
    config: &Config,
    data: &DataDir,
    incarnation: u64,
) -> Result<Established, BootError> {
    let (identity, others) = match &config.origin {
        Origin::InitialCluster(members) => form(dialer, config, members, incarnation).await?,
        Origin::Join(endpoints) => join(dialer, config, endpoints, incarnation).await?,
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

/// Peer addresses of the other members, as the configuration states them or the cluster that is joined. Waits for the
/// latter as long as it takes.
///
/// Errors: the configuration names neither; the cluster does not know this node.
pub async fn others(dialer: &Dialer, config: &Config) -> Result<Vec<String>, BootError> {
    match &config.origin {
        Origin::InitialCluster(members) => Ok(stated_others(config, members)),
        Origin::Join(endpoints) => {
            let (_, me, members) = find_member(dialer, config, endpoints).await?;
            Ok(all_but(&me, members))
        }
        Origin::Unstated => Err(BootError::NoOrigin {
            dir: config.data_dir.display().to_string(),
            name: config.name.clone(),
        }),
    }
}

fn stated_others(config: &Config, members: &[InitialMember]) -> Vec<String> {
    other_members(config, members)
        .map(|m| m.peer_addr.clone())
        .collect()
}

fn all_but(me: &Member, members: Vec<Member>) -> Vec<String> {
    let others = members.into_iter().filter(|member| member.id != me.id);
    others.map(|member| member.peer_endpoint).collect()
}

fn other_members<'m>(
    config: &'m Config,
    members: &'m [InitialMember],
) -> impl Iterator<Item = &'m InitialMember> {
    members.iter().filter(|member| member.name != config.name)
}

/// First start of a member of a new cluster: everybody must answer, so that nobody's loss goes unnoticed.
async fn form(
    dialer: &Dialer,
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
    for met in meet(dialer, config, members, &question).await {
        check(&identity, &met)?;
    }
    Ok((identity, stated_others(config, members)))
}

/// First start of a member that was added to a running cluster.
async fn join(
    dialer: &Dialer,
    config: &Config,
    endpoints: &[String],
    incarnation: u64,
) -> Result<(Identity, Vec<String>), BootError> {
    let (cluster_id, me, members) = find_member(dialer, config, endpoints).await?;
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
    let others = all_but(&me, members);
    let needed = answers_needed(others.len());
    let question = question(&identity, false);
    for met in collect(dialer, others.clone(), &question, needed, |_| Ok(())).await {
        check(&identity, &met)?;
    }
    Ok((identity, others))
}

/// Waits until so many others have recorded this node that it may take part. Only for a node whose log is empty: one
/// that has a log was recorded before.
///
/// Errors: it is known under another incarnation.
pub async fn introduce(dialer: &Dialer, identity: &Identity, others: &[String]) -> Result<(), BootError> {
    let needed = records_needed(others.len());
    let ours = identity.incarnation;
    let settled = |met: &Met| match met.answer.node_id != 0 && met.answer.known_incarnation != 0 {
        true => Ok(()),
        false => Err("it has no identity yet".to_owned()),
    };
    for met in collect(
        dialer,
        others.to_vec(),
        &question(identity, true),
        needed,
        settled,
    )
    .await
    {
        check(identity, &met)?;
        tracing::debug!(by = met.addr, incarnation = format!("{ours:016x}"), "recorded");
    }
    Ok(())
}

/// The members to form the cluster with, when this node is the one to do so: the lowest id of a new cluster.
///
/// Errors: the cluster runs already, so this node's empty log is a lost one; an address is answered by somebody else.
pub async fn founders(
    dialer: &Dialer,
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
    for other in meet(dialer, config, members, &question(identity, true)).await {
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

#[cfg(test)]
mod tests {
    use nezha_api::peer::IdentifyResponse;

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
