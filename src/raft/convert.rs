//! Conversions between openraft's types, the log's types and the peer protocol's messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use nezha_api::peer;
use nezha_vlog as vlog;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use prost::Message;

use super::types::{Entry, LogId, Membership, Node, Proposal, StoredMembership, Vote};

/// Wraps damage found in bytes from disk or network.
pub(crate) fn invalid_data(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

pub(crate) fn log_id_to_vlog(id: &LogId) -> vlog::LogId {
    vlog::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_vlog(id: vlog::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node,
        },
        id.index,
    )
}

pub(crate) fn vote_to_vlog(vote: &Vote) -> vlog::Vote {
    vlog::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_vlog(vote: vlog::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    }
}

pub(crate) fn log_id_to_peer(id: &LogId) -> peer::LogId {
    peer::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_peer(id: peer::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node,
        },
        id.index,
    )
}

pub(crate) fn vote_to_peer(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// Terms above this are refused: a node could not count on from there, and would carry it for ever.
const TERM_MAX: u64 = u64::MAX >> 1;

/// Errors: `InvalidData` when the message lacks its vote, or its term is absurd.
pub(crate) fn vote_from_peer(vote: Option<peer::Vote>) -> io::Result<Vote> {
    let vote = vote.ok_or_else(|| invalid_data("message without a vote"))?;
    if vote.term > TERM_MAX {
        return Err(invalid_data(format!("term {} in a vote", vote.term)));
    }
    Ok(Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    })
}

/// Encodes a membership as it stands in log entries, the index and snapshots.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let message = peer::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|ids| peer::VoterSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| peer::MemberNode {
                id: *id,
                name: node.name.clone(),
                peer_addr: node.peer_addr.clone(),
                client_addr: node.client_addr.clone(),
            })
            .collect(),
    };
    Bytes::from(message.encode_to_vec())
}

/// Errors: `InvalidData` when the bytes are no membership, or name a voter without a node.
pub(crate) fn decode_membership(bytes: &Bytes) -> io::Result<Membership> {
    let message = peer::Membership::decode(bytes.clone()).map_err(invalid_data)?;
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Node> = message
        .nodes
        .into_iter()
        .map(|n| {
            (
                n.id,
                Node {
                    name: n.name,
                    peer_addr: n.peer_addr,
                    client_addr: n.client_addr,
                },
            )
        })
        .collect();
    Membership::new(configs, nodes).map_err(invalid_data)
}

/// Highest node id that a membership names; 0 when it cannot be read.
pub(crate) fn max_node_id(bytes: &Bytes) -> u64 {
    peer::Membership::decode(bytes.clone())
        .map(|m| m.nodes.iter().map(|n| n.id).max().unwrap_or(0))
        .unwrap_or(0)
}

/// Errors: `InvalidData` when the stored membership cannot be read.
pub(crate) fn stored_membership(at: Option<vlog::LogId>, bytes: &Bytes) -> io::Result<StoredMembership> {
    if at.is_none() && bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    Ok(StoredMembership::new(
        at.map(log_id_from_vlog),
        decode_membership(bytes)?,
    ))
}

fn check_revision(command: &vlog::Command, log_id: &LogId) -> io::Result<()> {
    if command.revision() == log_id.index {
        return Ok(());
    }
    let revision = command.revision();
    Err(invalid_data(format!(
        "entry {log_id} carries a command of revision {revision}"
    )))
}

/// From Raft to the log. A draft gets its revision and checksum here: the log index is known now.
///
/// Errors: `InvalidInput` for heads, which exist only on the way from the log to apply.
pub(crate) fn entry_to_vlog(entry: Entry) -> io::Result<vlog::Entry> {
    let log_id = log_id_to_vlog(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => vlog::Payload::Blank,
        EntryPayload::Membership(m) => vlog::Payload::Membership(encode_membership(&m)),
        EntryPayload::Normal(Proposal::Draft(draft)) => vlog::Payload::Command(draft.seal(log_id.index)),
        EntryPayload::Normal(Proposal::Sealed(command)) => {
            check_revision(&command, &entry.log_id)?;
            vlog::Payload::Command(command)
        }
        EntryPayload::Normal(Proposal::Heads(_)) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "heads cannot be appended",
            ));
        }
    };
    Ok(vlog::Entry { log_id, payload })
}

/// From the log to Raft, whole.
pub(crate) fn entry_from_vlog(entry: vlog::Entry) -> io::Result<Entry> {
    let payload = match entry.payload {
        vlog::Payload::Blank => EntryPayload::Blank,
        vlog::Payload::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
        vlog::Payload::Command(command) => EntryPayload::Normal(Proposal::Sealed(command)),
    };
    Ok(Entry {
        log_id: log_id_from_vlog(entry.log_id),
        payload,
    })
}

/// From the log to apply: keys and places only.
pub(crate) fn entry_from_head(head: vlog::Head) -> io::Result<Entry> {
    let payload = match head.payload {
        vlog::HeadPayload::Blank => EntryPayload::Blank,
        vlog::HeadPayload::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
        vlog::HeadPayload::Command(heads) => EntryPayload::Normal(Proposal::Heads(heads)),
    };
    Ok(Entry {
        log_id: log_id_from_vlog(head.log_id),
        payload,
    })
}

/// The inverse of [`entry_from_head`]. Errors: `InvalidInput` for a command that never was in the log.
pub(crate) fn entry_to_head(entry: Entry) -> io::Result<vlog::Head> {
    let payload = match entry.payload {
        EntryPayload::Blank => vlog::HeadPayload::Blank,
        EntryPayload::Membership(m) => vlog::HeadPayload::Membership(encode_membership(&m)),
        EntryPayload::Normal(Proposal::Heads(heads)) => vlog::HeadPayload::Command(heads),
        EntryPayload::Normal(other) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("apply needs places in the log, got a {other}"),
            ));
        }
    };
    Ok(vlog::Head {
        log_id: log_id_to_vlog(&entry.log_id),
        payload,
    })
}

/// From Raft to the wire. Errors: `InvalidInput` for an entry that was not read whole.
pub(crate) fn entry_to_peer(entry: Entry) -> io::Result<peer::Entry> {
    let log_id = Some(log_id_to_peer(&entry.log_id));
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Membership(m) => Some(peer::entry::Payload::Membership(encode_membership(&m))),
        EntryPayload::Normal(Proposal::Sealed(command)) => {
            Some(peer::entry::Payload::Command(command.as_bytes().clone()))
        }
        EntryPayload::Normal(other) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("replication needs whole entries, got a {other}"),
            ));
        }
    };
    Ok(peer::Entry { log_id, payload })
}

/// From the wire to Raft. Every record's checksum is verified.
///
/// Errors: `InvalidData` for bytes that are no entry or do not match their checksums.
pub(crate) fn entry_from_peer(entry: peer::Entry) -> io::Result<Entry> {
    let log_id = log_id_from_peer(
        entry
            .log_id
            .ok_or_else(|| invalid_data("entry without a log id"))?,
    );
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(peer::entry::Payload::Membership(bytes)) => EntryPayload::Membership(decode_membership(&bytes)?),
        Some(peer::entry::Payload::Command(bytes)) => {
            let command = vlog::Command::from_bytes(bytes).map_err(invalid_data)?;
            check_revision(&command, &log_id)?;
            EntryPayload::Normal(Proposal::Sealed(command))
        }
    };
    Ok(Entry { log_id, payload })
}

/// Checks that log ids which came under `vote` follow each other from `prev`, and are not newer than the vote: openraft
/// and the log take that for granted.
pub(crate) fn check_sequence(vote: &Vote, prev: Option<&LogId>, ids: &[LogId]) -> io::Result<()> {
    let mut last = prev;
    for id in ids {
        let expected = last.map_or(Some(0), |last| last.index.checked_add(1));
        if expected != Some(id.index) {
            return Err(invalid_data(format!("entry {id} follows {}", shown(last))));
        }
        last = Some(id);
    }
    if last.is_some_and(|last| last.leader_id > vote.leader_id || last.index >= vlog::format::INDEX_MAX) {
        return Err(invalid_data(format!(
            "entry {} under the vote {vote}",
            shown(last)
        )));
    }
    Ok(())
}

fn shown(id: Option<&LogId>) -> String {
    id.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

/// Bytes that an entry takes on the wire, roughly.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(Proposal::Sealed(command)) => command.as_bytes().len() as u64 + 64,
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: 1 }, index)
    }

    #[test]
    fn entries_that_openraft_would_trip_over_are_refused() {
        let vote = Vote {
            leader_id: LeaderId { term: 5, node_id: 1 },
            committed: true,
        };
        let check = |prev: Option<LogId>, ids: &[LogId]| check_sequence(&vote, prev.as_ref(), ids).is_ok();
        assert!(check(None, &[]) && check(None, &[id(1, 0), id(5, 1)]) && check(Some(id(2, 7)), &[id(3, 8)]));
        assert!(!check(None, &[id(1, 1)]), "a gap at the start");
        assert!(!check(Some(id(2, 7)), &[id(3, 9)]), "a gap after prev");
        assert!(!check(Some(id(2, 7)), &[id(3, 8), id(3, 8)]), "a repetition");
        assert!(!check(Some(id(2, 7)), &[id(6, 8)]), "newer than its vote");
        assert!(
            !check(Some(id(2, u64::MAX)), &[]),
            "an index that cannot be followed"
        );
        let absurd = peer::Vote {
            term: u64::MAX,
            node: 1,
            committed: true,
        };
        assert!(vote_from_peer(Some(absurd)).is_err());
    }
}
