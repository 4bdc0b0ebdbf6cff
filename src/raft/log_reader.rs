//! `RaftLogReader` over the value log: whole entries for replication, keys and places for apply.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::{Arc, OnceLock};

use futures::Stream;
use futures::stream;
use nezha_vlog::{Log, Seq};
use openraft::OptionalSend;
use openraft::storage::RaftLogReader;
use tokio::sync::watch;

use super::convert::{entry_from_head, entry_from_vlog, invalid_data, log_id_from_vlog, vote_from_vlog};
use super::log_writer::to_io;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::machine::Threads;

/// Payload bytes of one replication request: large enough for a large group at the follower, small enough that a
/// window of several fits in memory. At least one entry is read, whatever its size.
pub const REPLICATION_BYTES: u64 = 1 << 20;

/// Entries that apply takes from the log at a time.
const APPLY_ENTRIES: u64 = 512;

/// Reads the log for replication and for apply. Cheap to clone.
#[derive(Clone)]
pub struct LogReader {
    log: Log,
    durable: watch::Receiver<Seq>,
    inline_max: u32,
    damage: Damage,
    threads: Threads,
}

/// What damage a reader has found in the log, once it has: openraft stops on it and keeps only a text.
#[derive(Clone, Default)]
pub(crate) struct Damage(Arc<OnceLock<String>>);

impl Damage {
    /// The first damage that was found, with file and offset.
    pub(crate) fn found(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn note(&self, error: nezha_vlog::Error) -> io::Error {
        use nezha_vlog::Error;
        if matches!(
            error,
            Error::Damage { .. } | Error::MissingSegment { .. } | Error::NoSuchSegment(_)
        ) {
            // Only the first one counts.
            drop(self.0.set(error.to_string()));
        }
        to_io(error)
    }
}

impl LogReader {
    pub(crate) fn new(log: Log, durable: watch::Receiver<Seq>, inline_max: u32, threads: Threads) -> Self {
        Self {
            log,
            durable,
            inline_max,
            damage: Damage::default(),
            threads,
        }
    }

    /// Damage that this reader or a clone of it has found.
    pub(crate) fn damage(&self) -> Damage {
        self.damage.clone()
    }

    /// Keys and places of the first entries of a range, once this node has the whole range durably. At least one, unless the
    /// range is empty; fewer than all where values that the index keeps would take much memory together.
    ///
    /// openraft applies what a quorum has flushed, which need not include this node, and RocksDB may flush at any time:
    /// without this wait a pointer could become durable before its value (I3). The wait compares submission sequences,
    /// because a log index can be truncated and written again.
    ///
    /// Errors: when the writer stopped, or when the first entry is missing: apply must never skip one.
    async fn durable_heads(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        #[cfg(feature = "planted-bugs")]
        if super::planted::planted(super::planted::Bug::FlushWithoutLog) {
            return super::planted::heads_now(&self.log, range);
        }
        let first = range.start;
        let seq = self.log.seq_of(range.clone()).map_err(to_io)?;
        let mut durable = self.durable.clone();
        durable.wait_for(|at| *at >= seq).await.map_err(|_| {
            io::Error::other("the log writer stopped before the entries to apply were durable")
        })?;
        let (log, inline_max) = (self.log.clone(), self.inline_max);
        let heads = if log.is_cached(range.start) {
            log.heads(range, inline_max)
        } else {
            self.blocking(move || log.heads(range, inline_max)).await?
        };
        let heads = heads.map_err(|error| self.damage.note(error))?;
        if heads.first().is_none_or(|head| head.log_id.index != first) {
            return Err(invalid_data(format!(
                "the log has no entry {first}: {} others follow it",
                heads.len()
            )));
        }
        heads.into_iter().map(entry_from_head).collect()
    }

    /// Runs a disk read off the async workers. Errors: only when the runtime is going down.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.threads.run(work).await.map_err(io::Error::other)
    }

    fn clamp(&self, range: impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n.saturating_add(1),
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        let start = start.max(self.log.first_index());
        let end = end.min(self.log.last_log_id().map_or(0, |id| id.index.saturating_add(1)));
        start..end.max(start)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut range = self.clamp(range);
        let mut entries = Vec::new();
        while !range.is_empty() {
            let some = self.durable_heads(range.clone()).await?;
            range.start += some.len() as u64;
            entries.extend(some);
        }
        Ok(entries)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = range.start_bound().cloned();
        let range = self.clamp(range);
        let reader = self.clone();
        // Apply must never skip an entry: a range that begins in what was purged is not for it.
        let purged = matches!(start, Bound::Included(start) if start < range.start && !range.is_empty());
        let refused = purged.then(|| Err(invalid_data(format!("entries before {} are purged", range.start))));
        let range = if purged { range.end..range.end } else { range };
        let chunks = stream::unfold((reader, range), |(reader, range)| async move {
            if range.is_empty() {
                return None;
            }
            let end = range.end.min(range.start.saturating_add(APPLY_ENTRIES));
            match reader.durable_heads(range.start..end).await {
                Ok(entries) => {
                    let next = range.start + entries.len() as u64;
                    Some((entries.into_iter().map(Ok).collect(), (reader, next..range.end)))
                }
                Err(error) => Some((vec![Err(error)], (reader, range.end..range.end))),
            }
        });
        let entries = futures::StreamExt::flat_map(chunks, stream::iter::<Vec<Result<Entry, io::Error>>>);
        futures::StreamExt::chain(stream::iter(refused), entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().map(vote_from_vlog))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let range = self.clamp(start..end);
        // What follows a purged start would not follow what the request says comes before it.
        if range.is_empty() || range.start != start {
            return Ok(Vec::new());
        }
        let log = self.log.clone();
        let entries = if log.is_cached(range.start) {
            log.entries(range, REPLICATION_BYTES)
        } else {
            self.blocking(move || log.entries(range, REPLICATION_BYTES))
                .await?
        };
        let entries = entries.map_err(|error| self.damage.note(error))?;
        entries.into_iter().map(entry_from_vlog).collect()
    }

    /// The last log id of each leader in the range: what openraft 0.10 keeps (its own documentation still says first).
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> Result<Vec<LogId>, io::Error> {
        let (first, last) = range.into_inner();
        let starts: Vec<LogId> = self.log.key_log_ids().into_iter().map(log_id_from_vlog).collect();
        let mut ids: Vec<LogId> = starts
            .windows(2)
            .filter(|pair| pair[0].leader_id != pair[1].leader_id)
            .map(|pair| LogId::new(pair[0].leader_id, pair[1].index - 1))
            .filter(|id| first.index <= id.index && id.index < last.index)
            .collect();
        ids.push(last);
        Ok(ids)
    }
}
