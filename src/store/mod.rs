//! Log, index and value segments of one node as one thing.
//!
//! The log is one and stays. Index and value segments live together in `store-<n>/`; a received snapshot becomes
//! `store-<n+1>/`, and replacing CURRENT switches between them atomically: a crash leaves the one or the other whole.

mod check;
mod collect;
mod damage;
mod error;
mod halts;
mod hash;
mod pins;
mod planted;
mod reader;
mod reclaim;
mod staging;
mod statistics;
mod view;

#[cfg(test)]
mod collect_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod hash_test;
#[cfg(test)]
mod metamorphic_test;
#[cfg(test)]
mod reader_test;
#[cfg(test)]
mod staging_test;
#[cfg(test)]
mod steps_test;
#[cfg(test)]
mod store_test;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use nezha_gc::ValueSegments;
use nezha_vlog::fs::{DiskSpace, Fs};
use nezha_vlog::{Log, LogId, Recovered, Writer};
use tokio::sync::watch;

use crate::identity::{DataDir, sealed};
use crate::index::{Engine, Index, IndexEntry};
use crate::machine::Threads;

pub use check::{Breach, LogFacts, check_order, check_segments};
pub use collect::{Collected, Pace};
pub use damage::DamagedFile;
pub use error::StoreError;
pub use hash::{HashError, HashOrder, Hashed, StateHash};
pub use pins::{TransferPin, Transfers};
pub use reader::{ReadRow, Reader};
pub use reclaim::{Holder, Swept};
pub use staging::{SnapshotMeta, Staged, Staging};
pub use statistics::Statistics;
pub use view::View;

use damage::Damages;
use halts::Halts;
use planted::{Bug, planted};
use reclaim::Retired;
use staging::Leftovers;

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Values up to this length are kept in the index. Changes only where values are, never what clients see, so it
    /// may differ between nodes and over time. Bytes; default 128; any. The product's engine is made for short ones: each
    /// write of a key reads what the index has of it.
    pub inline_value_max: u32,
    /// A sorted value segment is completed when it has reached this length, and when it was collected its keys are
    /// relocated: bounds the keys that a job holds in memory, and what a crash makes it do again. Bytes; default 64 MiB;
    /// 64 KiB and up.
    pub value_segment_bytes: u64,
    /// Keys that a job relocates at a time, between applies: bounds how long an apply waits for a job. A staging, which
    /// nobody waits for, commits eight times as many at a time. Default 64; 1 and up.
    pub relocate_keys: usize,
    /// Settings of the log.
    pub log: nezha_vlog::Options,
    /// What does its work beside the async workers.
    pub threads: Threads,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            inline_value_max: 128,
            value_segment_bytes: 64 << 20,
            relocate_keys: 64,
            log: nezha_vlog::Options::default(),
            threads: Threads::default(),
        }
    }
}

/// The storage of one node, open.
pub struct Store {
    data: Arc<DataDir>,
    engine: Arc<dyn Engine>,
    options: StoreOptions,
    log: Log,
    view: ArcSwap<View>,
    /// What all views have found damaged.
    damages: Damages,
    /// Taken by whoever changes the index, or which index is live: apply, relocation, install. (I6)
    commits: Mutex<()>,
    /// Applies that wait for it: a relocation lets them go first.
    applies: AtomicUsize,
    /// Indices at which apply halts for a view.
    halts: Halts,
    /// Replaced views that somebody may still read from, oldest first, and what goes with them.
    retired: Mutex<Retired>,
    /// Lowest id that a new value segment may have.
    next_value: AtomicU64,
    /// Bytes that the running collection has still to write, at most: their space is spoken for.
    to_write: AtomicU64,
    transfers: Transfers,
    /// Whether there is room for what other members append.
    takes_appends: watch::Sender<bool>,
    /// Directories of stagings that were given up.
    leftovers: Leftovers,
    next_store: AtomicU64,
}

impl Store {
    /// Opens log, index and value segments of `data`, creating them in a directory without any.
    ///
    /// Checks first of all that they belong together (I3, I4, I5): what cannot be used is refused, never repaired.
    /// Errors: `Refused`, `NoStore`, `Damage`, or those of the parts.
    pub fn open(
        data: Arc<DataDir>,
        engine: Arc<dyn Engine>,
        options: StoreOptions,
    ) -> Result<(Store, Writer, Recovered), StoreError> {
        let current = find(&data)?;
        let log_dir = data.log_dir();
        let opened = Log::open(Arc::clone(data.fs()), &log_dir, options.log.clone());
        let (log, writer, recovered) = opened.map_err(|e| StoreError::log(&log_dir, e))?;
        let number = match current {
            Some(number) => number,
            None => create_first(&data, engine.as_ref(), &recovered)?,
        };
        let damages = Damages::default();
        let view = open_view(&data, engine.as_ref(), number, &log, &damages)?;
        let breach = judge(&view);
        breach.map_err(|breach| StoreError::Refused {
            dir: data.path().to_path_buf(),
            breach,
        })?;
        if let Some(applied) = view.index.state().applied
            && log.last_log_id().is_none_or(|last| last.index < applied.index)
        {
            // An installed snapshot whose purge record a crash has prevented: the log goes on after it.
            log.purge(applied, Box::new(|_| {}))
                .map_err(|e| StoreError::log(&log_dir, e))?;
        }
        // Whatever a crash has left that nobody needs.
        for other in data.stores()?.into_iter().filter(|other| *other != number) {
            remove_store(&data, engine.as_ref(), other)?;
        }
        sealed::remove_temporary(data.fs().as_ref(), &data.current_path())?;
        reclaim::remove_dead(&view)?;
        let store = Store {
            data,
            engine,
            options,
            log,
            next_value: AtomicU64::new(collect::first_free_id(&view)),
            view: ArcSwap::from_pointee(view),
            damages,
            commits: Mutex::default(),
            applies: AtomicUsize::new(0),
            halts: Halts::default(),
            retired: Mutex::default(),
            to_write: AtomicU64::new(0),
            transfers: Transfers::default(),
            takes_appends: watch::Sender::new(true),
            leftovers: Leftovers::default(),
            next_store: AtomicU64::new(number + 1),
        };
        Ok((store, writer, recovered))
    }

    /// What does its work beside the async workers.
    pub fn threads(&self) -> &Threads {
        &self.options.threads
    }

    /// The store that is live now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The index that is live now. To read values as well, take [`Store::view`].
    pub fn index(&self) -> Arc<dyn Index> {
        Arc::clone(&self.view.load().index)
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Says whether there is room for what other members append.
    pub fn take_appends(&self, room: bool) {
        self.takes_appends
            .send_if_modified(|now| std::mem::replace(now, room) != room);
    }

    /// Whether there is room for what other members append, now and from now on.
    pub fn takes_appends(&self) -> watch::Receiver<bool> {
        self.takes_appends.subscribe()
    }

    /// What transfers rely on.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// The data directory.
    pub fn data(&self) -> &Arc<DataDir> {
        &self.data
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Reads the value of `key`, whose entry was read from the live index a moment ago; see [`View::read`].
    pub fn read(&self, entry: &IndexEntry, key: &[u8]) -> Result<Bytes, StoreError> {
        self.view.load().read(entry, key)
    }

    /// Flushes the live index and returns the applied id that is durable now. Blocking.
    pub fn flush(&self) -> Result<Option<LogId>, StoreError> {
        Ok(self.index().flush()?)
    }

    /// Length of all log, value and index files in bytes. Blocking: asks the file system per index file.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let view = self.view();
        let log: u64 = self.log.segments().iter().map(|segment| segment.bytes).sum();
        let fs = self.data.fs();
        let dir = index_dir(&self.data, view.number);
        let mut bytes = log + view.values.bytes();
        for name in fs.list(&dir).map_err(sealed::io_error("list", &dir))? {
            // A file that compaction has just removed counts as nothing.
            bytes += fs.len(&dir.join(name)).unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Room on its disk. Blocking.
    pub fn disk_space(&self) -> Result<DiskSpace, StoreError> {
        let dir = self.data.path();
        Ok(self
            .data
            .fs()
            .space(dir)
            .map_err(sealed::io_error("ask for the space of", dir))?)
    }

    /// Makes a staged store the live one. Afterwards, and after any crash, the node has the old store or the new one.
    ///
    /// The caller has made durable every log change that the new store relies on. The replaced store stays readable for
    /// whoever holds its view; [`Store::sweep`] removes it.
    /// Errors: `BadSnapshot` if the live store is further already. Blocking: three syncs of small files.
    pub fn install(&self, staged: Staged) -> Result<(), StoreError> {
        let _commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, old) = (staged.applied(), self.index().state().applied);
        if let Some(old) = old.filter(|old| old.index > applied.index) {
            let reason = format!("it ends at {applied}, and {old} is applied here already");
            return Err(StoreError::BadSnapshot { reason });
        }
        let view = staged.view();
        let purged = self.log.purged();
        assert!(
            purged.is_none_or(|purged| purged.index <= applied.index),
            "I8: a snapshot at {applied} behind the purge point {purged:?} is to be installed"
        );
        // Crash before the rename in here: the old store is live and the new one is removed at the next open. Crash
        // after it: the new one is live, its installed-at marker excuses a log that ends before it.
        write_current(&self.data, view.number)?;
        staged.keep();
        self.next_value
            .fetch_max(collect::first_free_id(&view), Ordering::Relaxed);
        let old = self.view.swap(view);
        self.retired().push(old, Vec::new());
        self.halts.reached(applied.index);
        Ok(())
    }

    fn claim_number(&self) -> u64 {
        self.next_store.fetch_add(1, Ordering::Relaxed)
    }
}

fn judge(view: &View) -> Result<(), Breach> {
    let state = view.index.state();
    let at_applied = state.applied.and_then(|applied| {
        let range = applied.index..applied.index.saturating_add(1);
        view.log
            .log_ids(range)
            .into_iter()
            .find(|id| id.index == applied.index)
    });
    let log = &view.log;
    let facts = LogFacts {
        purged: log.purged(),
        last: log.last_log_id(),
        at_applied,
        has_vote: log.vote().is_some(),
    };
    check::check_order(&state, &facts)?;
    check::check_segments(view.index.live_bytes(), |segment| view.segment_bytes(segment))
}

fn open_view(
    data: &DataDir,
    engine: &dyn Engine,
    number: u64,
    log: &Log,
    damages: &Damages,
) -> Result<View, StoreError> {
    let values_dir = values_dir(data, number);
    let values =
        ValueSegments::open(data.fs(), &values_dir).map_err(|e| StoreError::values(&values_dir, e))?;
    let index = engine.open(&index_dir(data, number))?;
    Ok(View {
        number,
        index,
        values: Arc::new(values),
        log: log.clone(),
        log_dir: data.log_dir(),
        damages: damages.clone(),
    })
}

/// Returns the number of the live store; `None` in a directory that never had one. Refuses one that has lost its store
/// or its log: a log that is made anew would have forgotten votes and acknowledged entries.
fn find(data: &DataDir) -> Result<Option<u64>, StoreError> {
    let fs = data.fs().as_ref();
    let look = |dir: &Path| fs.exists(dir).map_err(sealed::io_error("look for", dir));
    let Some(number) = read_current(fs, data)? else {
        if data.stores()?.iter().any(|number| *number != 1) {
            return Err(no_store(data, "CURRENT is missing although there is data"));
        }
        return Ok(None);
    };
    if !look(&data.store_dir(number))? {
        let reason = format!("CURRENT names store-{number}, which is missing");
        return Err(no_store(data, &reason));
    }
    let log_dir = data.log_dir();
    let has_log = look(&log_dir)?
        && !fs
            .list(&log_dir)
            .map_err(sealed::io_error("list", &log_dir))?
            .is_empty();
    if !has_log {
        return Err(no_store(data, "the log is missing although there is a store"));
    }
    Ok(Some(number))
}

/// Makes the first store. CURRENT comes last: without it, and with an empty log, the directory is one whose creation a
/// crash has ended.
fn create_first(data: &DataDir, engine: &dyn Engine, log: &Recovered) -> Result<u64, StoreError> {
    if log.last.is_some() || log.vote.is_some() {
        return Err(no_store(data, "CURRENT is missing although there is data"));
    }
    remove_store(data, engine, 1)?;
    create_store_dir(data, 1)?;
    drop(engine.open(&index_dir(data, 1))?);
    sync_store_dir(data, 1)?;
    write_current(data, 1)?;
    Ok(1)
}

fn no_store(data: &DataDir, reason: &str) -> StoreError {
    StoreError::NoStore {
        dir: data.path().to_path_buf(),
        reason: reason.to_owned(),
    }
}

/// Number in CURRENT; `None` if there is no such file.
pub(crate) fn read_current(fs: &dyn Fs, data: &DataDir) -> Result<Option<u64>, StoreError> {
    let path = data.current_path();
    match sealed::read(fs, &path, "current")? {
        Some(fields) => Ok(Some(sealed::field(&path, &fields, "store")?)),
        None => Ok(None),
    }
}

fn write_current(data: &DataDir, number: u64) -> Result<(), StoreError> {
    let (fs, path) = (data.fs().as_ref(), data.current_path());
    if planted(Bug::InstallNotAtomic) && number > 1 {
        fs.remove(&path).map_err(sealed::io_error("remove", &path))?;
    }
    let fields = vec![("store".to_owned(), number.to_string())];
    Ok(sealed::write(fs, &path, "current", &fields)?)
}

fn create_store_dir(data: &DataDir, number: u64) -> Result<(), StoreError> {
    let values = values_dir(data, number);
    Ok(data
        .fs()
        .create_dir_all(&values)
        .map_err(sealed::io_error("create", &values))?)
}

/// Makes the names of a store's directories durable.
fn sync_store_dir(data: &DataDir, number: u64) -> Result<(), StoreError> {
    let dir = data.store_dir(number);
    for dir in [values_dir(data, number).as_path(), &dir, data.path()] {
        data.fs().sync_dir(dir).map_err(sealed::io_error("sync", dir))?;
    }
    Ok(())
}

fn remove_store(data: &DataDir, engine: &dyn Engine, number: u64) -> Result<(), StoreError> {
    let dir = data.store_dir(number);
    if data
        .fs()
        .exists(&dir)
        .map_err(sealed::io_error("look for", &dir))?
    {
        data.fs()
            .remove_dir_all(&dir)
            .map_err(sealed::io_error("remove", &dir))?;
    }
    engine.removed(&index_dir(data, number));
    Ok(())
}

/// Directory of a store's index.
pub(crate) fn index_dir(data: &DataDir, number: u64) -> PathBuf {
    data.store_dir(number).join("index")
}

/// Directory of a store's sorted value segments.
pub(crate) fn values_dir(data: &DataDir, number: u64) -> PathBuf {
    data.store_dir(number).join("values")
}
