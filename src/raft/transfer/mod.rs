//! Snapshots on their way from one member to another.
//!
//! The sender ([`Sender`]) streams a view in key order as numbered chunks with checksums, and keeps those that the
//! receiver has not acknowledged: a [`window::Window`] is the flow control and bounds the memory of both sides. The
//! receiver ([`Inbox`]) verifies each chunk, stages it beside the live store and says how many it has. When a connection
//! breaks or falls silent, the sender opens another one within the same call, and goes on after what is staged.
//!
//! Nothing here switches stores: a complete staged store is handed to Raft.

mod inbox;
mod intake;
mod sender;
mod window;

#[cfg(test)]
mod transfer_test;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nezha_api::peer;

use crate::pace::{Pace, UNBOUNDED};

pub(super) use inbox::{Answers, Inbox, Target};
pub(super) use sender::Sender;

/// How long the two sides of a transfer wait for each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Longest silence of the receiver, beyond the time that a chunk may take to arrive; then another connection is tried.
    pub(super) stall: Duration,
    /// How often each side says that it is there while it has nothing to say.
    pub(super) alive: Duration,
    /// The sender gives up when nothing has advanced for this long, beyond that time.
    pub(super) progress: Duration,
    /// The receiver gives up what it has staged when it has heard nothing for this long.
    pub(super) idle: Duration,
}

impl Patience {
    pub(super) const DEFAULT: Patience = Patience {
        stall: Duration::from_secs(10),
        alive: Duration::from_secs(2),
        progress: Duration::from_secs(60),
        // Longer than the sender tries, a chunk of 64 MiB included, so that it never comes back in vain.
        idle: Duration::from_secs(150),
    };
}

/// What the transfers of one node share on the sending side.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    patience: Patience,
    rate: u64,
    pace: Arc<Mutex<Pace>>,
}

impl Sending {
    /// `bytes_per_second`: of all transfers together; 0 for no bound.
    pub(super) fn new(bytes_per_second: u64, patience: Patience) -> Sending {
        let rate = match bytes_per_second {
            0 => UNBOUNDED,
            rate => rate,
        };
        Sending {
            patience,
            rate,
            pace: Arc::new(Mutex::new(Pace::new(Instant::now()))),
        }
    }

    /// Takes `bytes`, and returns when the next ones may be taken.
    fn take(&self, bytes: u64) -> Instant {
        // Every change of it is one assignment.
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(Instant::now(), bytes, self.rate);
        pace.paid_until()
    }
}

/// Checksum of a chunk; the format is that of `SnapshotChunk` in peer.proto. None: an item has no record.
fn chunk_checksum(number: u64, items: &[peer::SnapshotItem]) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    for item in items {
        hasher.update(&item.create_revision.to_le_bytes());
        hasher.update(&item.version.to_le_bytes());
        hasher.update(item.record.get(..4)?);
    }
    Some(hasher.finalize())
}

fn part(part: peer::snapshot_part::Part) -> peer::SnapshotPart {
    peer::SnapshotPart { part: Some(part) }
}

fn answer(answer: peer::snapshot_answer::Answer) -> peer::SnapshotAnswer {
    peer::SnapshotAnswer { answer: Some(answer) }
}
