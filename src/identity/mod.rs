//! Who this node is, and that nobody else uses its directory.
//!
//! ```text
//! data-dir/  IDENTITY   cluster id, node id, incarnation, name; written once
//!            LOCK       held (flock) by the running process
//!            PEERS      incarnation of every node that was ever counted on
//!            CURRENT    names the live store (see store)
//!            log/  store-<n>/
//! ```

mod peers;
pub(crate) mod sealed;

#[cfg(test)]
mod identity_test;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nezha_vlog::fs::{Fs, OsFs};
use rustix::fs::{FlockOperation, flock};

pub use peers::{Peers, RecordError, Refused};

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";
const NAME_BYTES_MAX: usize = 128;

/// What to do about a node that lost its data: the one next step for all such refusals.
pub const REPLACE_NODE: &str = "replace the node: `kvctl member remove NAME`, then `kvctl member add NEWNAME \
    --peer-addr HOST:PORT --client-addr HOST:PORT`, then start it with an empty --data-dir, --name NEWNAME and --join ENDPOINT";

/// Identity of a node. Written once, when its directory is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The node's id in it; never reused.
    pub node_id: u64,
    /// Random; tells this directory from any other that claims the same id. Above 0.
    pub incarnation: u64,
    /// The node's name. 1 to 128 bytes, no control characters.
    pub name: String,
}

impl Identity {
    /// Makes an identity with a fresh incarnation.
    pub fn fresh(cluster_id: u64, node_id: u64, name: &str) -> Identity {
        let incarnation = rand::random_range(1..=u64::MAX);
        Identity {
            cluster_id,
            node_id,
            incarnation,
            name: name.to_owned(),
        }
    }

    fn validate(&self) -> Result<(), IdentityError> {
        let bad = self.name.is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || self.name.chars().any(char::is_control);
        if bad {
            return Err(IdentityError::BadName {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}

/// Why a directory cannot be used. The texts name reason and next step.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not as it was written.
    #[error("damage in {} at offset {offset}: {reason}. Restore the file from this node's own backup, or {REPLACE_NODE}", path.display())]
    Damage {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file has a format version this build does not know.
    #[error("{} has format version {found}, this build reads version {supported}. Start the version of kvd that wrote it", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version this build reads and writes.
        supported: u32,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process{}. Stop that kvd first, or choose another --data-dir", dir.display(), holder_text(*holder))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Process that holds it, as far as it can be read.
        holder: Option<u32>,
    },
    /// There is data but no identity.
    #[error("{} holds {found} but no IDENTITY: whose data this is cannot be told. Choose an empty --data-dir, or {REPLACE_NODE}", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// A piece of data that was found.
        found: String,
    },
    /// The directory belongs to another node.
    #[error("{} belongs to node {found} (id {found_id}), not to {wanted}. Start with --name {found}, or choose the directory of {wanted}", dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Name in it.
        found: String,
        /// Node id in it.
        found_id: u64,
        /// Name that was asked for.
        wanted: String,
    },
    /// The directory belongs to another cluster.
    #[error("{} belongs to cluster {found:016x}, not to {wanted:016x}. Check --initial-cluster and --cluster-token, or choose another --data-dir", dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Cluster id in it.
        found: u64,
        /// Cluster id that was asked for.
        wanted: u64,
    },
    /// The directory has an identity already.
    #[error("{} already has an identity", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The name cannot be a node's name.
    #[error("{name:?} cannot name a node: 1 to {NAME_BYTES_MAX} bytes without control characters")]
    BadName {
        /// The name.
        name: String,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// A node's directory, held for this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// The lock lives as long as this file is open; the kernel releases it when the process ends in any way.
    _lock: Option<fs::File>,
}

impl DataDir {
    /// Creates `path` if needed and takes its lock.
    ///
    /// Errors: `Locked` if another process, or another handle in this one, has it.
    pub fn open(path: &Path) -> Result<DataDir, IdentityError> {
        DataDir::open_on(Arc::new(OsFs), path)
    }

    /// As [`DataDir::open`], but what is in the directory is read and written through `on`, which must lead to the same
    /// files as the operating system does: the lock is taken there.
    pub fn open_on(on: Arc<dyn Fs>, path: &Path) -> Result<DataDir, IdentityError> {
        fs::create_dir_all(path).map_err(sealed::io_error("create", path))?;
        let lock = lock(path)?;
        // Only a hint for people: the lock itself is what counts, so nothing is synced.
        let noted = lock
            .set_len(0)
            .and_then(|()| writeln!(&lock, "{}", std::process::id()));
        noted.map_err(sealed::io_error("write", &path.join(LOCK)))?;
        Ok(DataDir {
            fs: on,
            path: path.into(),
            _lock: Some(lock),
        })
    }

    /// Takes the lock of a directory that must exist and changes nothing in it; for commands over a stopped node's files.
    pub fn open_existing(path: &Path) -> Result<DataDir, IdentityError> {
        if !path.is_dir() {
            return Err(sealed::io_error("open", path)(io::ErrorKind::NotFound.into()));
        }
        Ok(DataDir {
            fs: Arc::new(OsFs),
            path: path.into(),
            _lock: Some(lock(path)?),
        })
    }

    /// Creates `path` if needed, on a file system that no other process can see, and takes no lock: tests and simulations.
    pub fn unlocked(fs: Arc<dyn Fs>, path: &Path) -> Result<DataDir, IdentityError> {
        fs.create_dir_all(path)
            .map_err(sealed::io_error("create", path))?;
        Ok(DataDir {
            fs,
            path: path.into(),
            _lock: None,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system it is on.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Directory of the log.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Directory of store `number`.
    pub fn store_dir(&self, number: u64) -> PathBuf {
        self.path.join(format!("store-{number}"))
    }

    /// The file that names the live store.
    pub fn current_path(&self) -> PathBuf {
        self.path.join("CURRENT")
    }

    /// The stores there are, in no order.
    pub fn stores(&self) -> Result<Vec<u64>, IdentityError> {
        let names = self
            .fs
            .list(&self.path)
            .map_err(sealed::io_error("list", &self.path))?;
        let number = |name: &PathBuf| name.to_str()?.strip_prefix("store-")?.parse().ok();
        Ok(names.iter().filter_map(number).collect())
    }

    /// Reads the identity; `None` for a directory without data.
    ///
    /// Errors: `Missing` if there is data without an identity, `UnknownVersion`, `Damage`.
    pub fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let path = self.path.join(IDENTITY);
        let Some(fields) = sealed::read(self.fs.as_ref(), &path, "identity")? else {
            return match self.find_data()? {
                Some(found) => Err(IdentityError::Missing {
                    dir: self.path.clone(),
                    found,
                }),
                None => Ok(None),
            };
        };
        Ok(Some(Identity {
            cluster_id: sealed::field(&path, &fields, "cluster_id")?,
            node_id: sealed::field(&path, &fields, "node_id")?,
            incarnation: sealed::field(&path, &fields, "incarnation")?,
            name: sealed::field(&path, &fields, "name")?,
        }))
    }

    /// Writes the identity of a directory that has none; durable when it returns.
    pub fn create_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        identity.validate()?;
        if self.identity()?.is_some() {
            return Err(IdentityError::Exists {
                dir: self.path.clone(),
            });
        }
        let fields = vec![
            ("cluster_id".to_owned(), identity.cluster_id.to_string()),
            ("node_id".to_owned(), identity.node_id.to_string()),
            ("incarnation".to_owned(), identity.incarnation.to_string()),
            ("name".to_owned(), identity.name.clone()),
        ];
        sealed::write(self.fs.as_ref(), &self.path.join(IDENTITY), "identity", &fields)?;
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.fs
                .sync_dir(parent)
                .map_err(sealed::io_error("sync", parent))?;
        }
        Ok(())
    }

    /// Refuses the identity found here if it is not that of node `name` of cluster `cluster_id` (`None`: any).
    pub fn expect(
        &self,
        found: &Identity,
        name: Option<&str>,
        cluster_id: Option<u64>,
    ) -> Result<(), IdentityError> {
        if let Some(wanted) = cluster_id.filter(|wanted| *wanted != found.cluster_id) {
            return Err(IdentityError::OtherCluster {
                dir: self.path.clone(),
                found: found.cluster_id,
                wanted,
            });
        }
        if let Some(wanted) = name.filter(|wanted| *wanted != found.name) {
            return Err(IdentityError::OtherNode {
                dir: self.path.clone(),
                found: found.name.clone(),
                found_id: found.node_id,
                wanted: wanted.to_owned(),
            });
        }
        Ok(())
    }

    /// Opens the register of known peers.
    pub fn peers(&self) -> Result<Peers, IdentityError> {
        Peers::open(Arc::clone(&self.fs), &self.path)
    }

    fn find_data(&self) -> Result<Option<String>, IdentityError> {
        let names = self
            .fs
            .list(&self.path)
            .map_err(sealed::io_error("list", &self.path))?;
        let is_data = |name: &str| matches!(name, "CURRENT" | "PEERS" | "log") || name.starts_with("store-");
        Ok(names
            .iter()
            .filter_map(|name| name.to_str())
            .find(|name| is_data(name))
            .map(str::to_owned))
    }
}

/// Takes the lock of a directory.
fn lock(dir: &Path) -> Result<fs::File, IdentityError> {
    let path = dir.join(LOCK);
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = opened.map_err(sealed::io_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&path)
                .ok()
                .and_then(|pid| pid.trim().parse().ok());
            Err(IdentityError::Locked {
                dir: dir.into(),
                holder,
            })
        }
        Err(error) => Err(sealed::io_error("lock", &path)(error.into())),
    }
}
