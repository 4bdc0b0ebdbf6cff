//! `RaftLogStorage` over the value log.
//!
//! Runs on RaftCore: nothing here waits for the disk, except `save_vote`, which must.

use std::io;
use std::sync::Arc;

use nezha_vlog::{Done, Log, Seq};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use tokio::sync::{oneshot, watch};

use super::convert::{entry_to_vlog, log_id_from_vlog, log_id_to_vlog, vote_to_vlog};
use super::log_reader::{Damage, LogReader};
use super::log_writer::to_io;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::store::Store;

/// The log as openraft writes it.
pub struct LogStore {
    log: Log,
    reader: LogReader,
    /// Store whose flushed applied id bounds every purge (I4); None only in tests that purge without applying.
    guard: Option<Arc<Store>>,
    purged: watch::Sender<Option<u64>>,
}

impl LogStore {
    /// `durable` reports the highest durable submission sequence; `inline_max` is the largest value, in bytes, that
    /// apply stores in the index.
    pub fn new(log: Log, durable: watch::Receiver<Seq>, inline_max: u32, guard: Option<Arc<Store>>) -> Self {
        let (purged, _) = watch::channel(log.purged().map(|id| id.index));
        let threads = guard.as_ref().map(|store| store.threads().clone());
        Self {
            reader: LogReader::new(log.clone(), durable, inline_max, threads.unwrap_or_default()),
            log,
            guard,
            purged,
        }
    }

    /// Damage that its readers have found.
    pub(crate) fn damage(&self) -> Damage {
        self.reader.damage()
    }

    /// Watches the highest log index whose purge record is durable.
    pub fn durable_purge(&self) -> watch::Receiver<Option<u64>> {
        self.purged.subscribe()
    }
}

fn ignore() -> Done {
    Box::new(|_| {})
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(log_id_from_vlog),
            last_log_id: self.log.last_log_id().map(log_id_from_vlog),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (tx, rx) = oneshot::channel();
        self.log
            .save_vote(vote_to_vlog(vote), Box::new(move |result| drop(tx.send(result))))
            .map_err(to_io)?;
        rx.await
            .map_err(|_| io::Error::other("the log writer stopped"))?
            .map_err(to_io)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log
            .save_committed(committed.as_ref().map(log_id_to_vlog))
            .map_err(to_io)?;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // The log clamps the hint to what is durable (I3).
        Ok(self.log.committed().map(log_id_from_vlog))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(entry_to_vlog)
            .collect::<io::Result<Vec<_>>>()?;
        let done: Done = Box::new(move |result| callback.io_completed(result.map_err(to_io)));
        #[cfg(feature = "planted-bugs")]
        let early = entries.clone();
        self.log.append(entries, done).map_err(to_io)?;
        #[cfg(feature = "planted-bugs")]
        if let Some(store) = &self.guard
            && super::planted::planted(super::planted::Bug::ApplyBeforeCommit)
        {
            super::planted::apply_now(store, early)?;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let kept = last_log_id.map(|id| log_id_to_vlog(&id));
        if let Some(last) = self.log.last_log_id().filter(|last| Some(*last) > kept) {
            // Rare, and worth knowing: entries of a leader that lost its followers.
            tracing::info!(%last, ?kept, "entries that were never committed are cut off");
        }
        // Ordered before whatever is appended next; durable with it (I1).
        self.log
            .truncate_after(last_log_id.map(|id| id.index), ignore())
            .map_err(to_io)?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        if let Some(store) = &self.guard {
            let flushed = store.index().flushed().map(|id| id.index);
            #[cfg(feature = "planted-bugs")]
            let flushed = match super::planted::planted(super::planted::Bug::PurgePastFlushed) {
                true => Some(log_id.index),
                false => flushed,
            };
            assert!(
                flushed >= Some(log_id.index),
                "I4: purge up to {} passes the flushed applied index {flushed:?}",
                log_id.index
            );
        }
        let purged = self.purged.clone();
        let upto = log_id.index;
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                purged.send_modify(|at| *at = (*at).max(Some(upto)));
            }
        });
        self.log.purge(log_id_to_vlog(&log_id), done).map_err(to_io)?;
        Ok(())
    }
}
