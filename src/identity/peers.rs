//! Which incarnation of each node this node has counted on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nezha_vlog::fs::Fs;

use super::{IdentityError, REPLACE_NODE, sealed};

const PEERS: &str = "PEERS";

/// Register of incarnations. A node that comes back under a known id with another incarnation has lost its data, votes
/// and acknowledged entries included; counting on it could lose what a majority had acknowledged.
#[derive(Debug)]
pub struct Peers {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    known: Mutex<BTreeMap<u64, u64>>,
}

/// Why a call from a node is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The node never identified itself here.
    #[error("node {id} has not identified itself here yet; it calls Identify first")]
    Unknown {
        /// Its id.
        id: u64,
    },
    /// The node came back without its data.
    #[error(
        "node {id} is known here as incarnation {known:016x} and calls as {got:016x}: its data directory was wiped or replaced. To go on, {REPLACE_NODE}"
    )]
    OtherIncarnation {
        /// Its id.
        id: u64,
        /// Incarnation on record.
        known: u64,
        /// Incarnation it claims.
        got: u64,
    },
}

/// Why an incarnation was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another one is on record.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The file could not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Peers {
    pub(super) fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<Peers, IdentityError> {
        let path = dir.join(PEERS);
        let mut known = BTreeMap::new();
        for (name, value) in sealed::read(fs.as_ref(), &path, "peers")?.unwrap_or_default() {
            let parsed = value
                .split_once(' ')
                .and_then(|(id, incarnation)| Some((id.parse().ok()?, incarnation.parse().ok()?)));
            match parsed {
                Some((id, incarnation)) if name == "peer" => known.insert(id, incarnation),
                _ => return Err(sealed::damage(&path, 0, format!("line {name} {value:?}"))),
            };
        }
        Ok(Peers {
            fs,
            path,
            known: Mutex::new(known),
        })
    }

    /// Incarnation on record for node `id`.
    pub fn known(&self, id: u64) -> Option<u64> {
        self.lock().get(&id).copied()
    }

    /// Accepts a call from node `from` only as the incarnation on record.
    ///
    /// Errors: `Unknown` before the first [`Peers::record`], `OtherIncarnation` for a wiped node. Never blocks on disk.
    pub fn check(&self, from: u64, incarnation: u64) -> Result<(), Refused> {
        judge(from, self.known(from), incarnation)
    }

    /// Puts the incarnation of node `id` on record; durable when it returns. No effect if it is there already.
    ///
    /// Errors: `Refused` if another incarnation is on record: a record is never replaced.
    /// Blocking: two syncs when it is new.
    pub fn record(&self, id: u64, incarnation: u64) -> Result<(), RecordError> {
        let mut known = self.lock();
        match judge(id, known.get(&id).copied(), incarnation) {
            Ok(()) => return Ok(()),
            Err(Refused::Unknown { .. }) => {}
            Err(refused) => return Err(refused.into()),
        }
        let mut next = known.clone();
        next.insert(id, incarnation);
        let fields = next
            .iter()
            .map(|(id, incarnation)| ("peer".to_owned(), format!("{id} {incarnation}")))
            .collect();
        sealed::write(self.fs.as_ref(), &self.path, "peers", &fields)?;
        *known = next;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // The map is replaced only after the file was written, so it is whole even behind a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(id: u64, known: Option<u64>, got: u64) -> Result<(), Refused> {
    match known {
        None => Err(Refused::Unknown { id }),
        Some(known) if known == got => Ok(()),
        Some(known) => Err(Refused::OtherIncarnation { id, known, got }),
    }
}
