//! Log, index and value segments of a node, driven without Raft.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use nezha::identity::DataDir;
use nezha::index::{RocksEngine, RocksOptions, ScanItem, ScanRange};
use nezha::node::Parts;
use nezha::store::{Pace, Reader, Store, StoreError, StoreOptions};
use nezha_gc::plan::{Limits, plan};
use nezha_vlog::{Draft, Entry, LogId, Payload, Precondition, Writer};
use std::ops::{Bound, ControlFlow};

use crate::data::DataSet;
use crate::scans::Sink;

/// Entries that are written, synced and applied together: what many clients at once make of it.
const GROUP_ENTRIES: usize = 256;
/// Length of the values that fill up the last segment of the log.
const FILLER_BYTES: usize = 1 << 20;
/// Behind every key of a data set.
const FILLER_KEY: &[u8] = b"zzz/filler";

/// The storage of one node.
pub struct NodeStore {
    store: Store,
    writer: Writer,
}

impl NodeStore {
    /// Opens or creates it in `dir`, with the node's own settings.
    pub fn open(dir: &Path, cache_bytes: usize) -> anyhow::Result<NodeStore> {
        let options = RocksOptions {
            block_cache_bytes: cache_bytes,
            ..RocksOptions::default()
        };
        let parts = Parts {
            engine: Arc::new(RocksEngine::new(&options)),
            ..Parts::default()
        };
        NodeStore::with(dir, parts, nezha_vlog::Options::default())
    }

    /// Opens or creates it in `dir`, with other parts than the node's own, and applies what only the log has.
    pub fn with(dir: &Path, parts: Parts, log: nezha_vlog::Options) -> anyhow::Result<NodeStore> {
        fs::create_dir_all(dir)?;
        let data = DataDir::open_on(parts.fs, dir)?;
        let options = StoreOptions {
            inline_value_max: parts.inline_value_max,
            log,
            ..StoreOptions::default()
        };
        let (store, writer, _) = Store::open(Arc::new(data), parts.engine, options)
            .with_context(|| format!("cannot open the store in {}", dir.display()))?;
        let opened = NodeStore { store, writer };
        opened.apply()?;
        Ok(opened)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes `data` in random order, and then as much of a key that is deleted again as seals the last segment with data.
    pub fn fill(&mut self, data: &DataSet) -> anyhow::Result<()> {
        for group in data.write_order().chunks(GROUP_ENTRIES) {
            let drafts = group
                .iter()
                .map(|&number| Draft::put(&data.key(number), &data.value(number), Precondition::None));
            self.write(drafts.collect())?;
        }
        let segments = self.store.log().segments().len();
        while self.store.log().segments().len() == segments {
            self.write(vec![Draft::put(
                FILLER_KEY,
                &[0; FILLER_BYTES],
                Precondition::None,
            )])?;
        }
        self.write(vec![Draft::delete(FILLER_KEY, Precondition::None)])?;
        self.store.flush()?;
        let keys = self.store.index().state().keys;
        ensure!(keys == data.keys, "{keys} keys were written, not {}", data.keys);
        Ok(())
    }

    /// Appends, syncs and applies one group.
    pub fn write(&mut self, drafts: Vec<Draft>) -> anyhow::Result<()> {
        let first = self.store.log().last_log_id().map_or(1, |last| last.index + 1);
        let entries: Vec<Entry> = (first..)
            .zip(drafts)
            .map(|(index, draft)| Entry {
                log_id: LogId {
                    term: 1,
                    node: 1,
                    index,
                },
                payload: Payload::Command(draft.seal(index)),
            })
            .collect();
        self.store.log().append(entries, Box::new(|_| {}))?;
        while self.writer.step()?.is_some() {}
        self.apply()
    }

    /// Applies what the log has beyond what is applied.
    fn apply(&self) -> anyhow::Result<()> {
        let inline_max = self.store.options().inline_value_max;
        loop {
            let next = self
                .store
                .index()
                .state()
                .applied
                .map_or(0, |applied| applied.index + 1);
            let heads = self.store.log().heads(next..u64::MAX, inline_max)?;
            if heads.is_empty() {
                return Ok(());
            }
            self.store.apply(heads, &|_| 0)?;
        }
    }

    /// Collects until no record in the log is live. The last segment must hold none, as after [`NodeStore::fill`].
    pub fn collect(&mut self) -> anyhow::Result<()> {
        self.purge_and_collect()?;
        let left = self.store.index().live_bytes();
        match left.keys().find(|segment| segment.is_log()) {
            Some(segment) => bail!("live records are left in {segment}"),
            None => Ok(()),
        }
    }

    /// Purges the log and collects as a run ordered by an operator does, until nothing is left to do.
    pub fn purge_and_collect(&mut self) -> anyhow::Result<()> {
        let applied = self.store.flush()?.context("nothing was written")?;
        self.store.log().purge(applied, Box::new(|_| {}))?;
        while self.writer.step()?.is_some() {}
        let limits = Limits::default().thorough();
        loop {
            let found = self.store.segment_stats(applied.index)?;
            let Some(job) = plan(&found.segments, found.usage, &limits) else {
                break;
            };
            let done = self.store.collect(&job, found.store, &mut |_| Pace::Go)?;
            ensure!(done.finished, "a collection did not finish: {done:?}");
            self.store.sweep()?;
        }
        Ok(())
    }

    /// Hands the rows from `start` on to `sink`, `limit` of them at most, as the server's scans read them.
    pub fn scan(&self, start: Option<&Bytes>, limit: u64, sink: &mut Sink) -> anyhow::Result<()> {
        let range = ScanRange {
            start: start.map_or(Bound::Unbounded, |key| Bound::Included(key.clone())),
            ..ScanRange::all()
        };
        let view = self.store.view();
        let mut reader = Reader::new(Arc::clone(&view));
        let mut left = limit;
        let mut failed = None;
        view.index().scan(&range, &mut |item| {
            let ScanItem::Row { key, entry } = item else {
                return ControlFlow::Continue(());
            };
            reader.push(key, entry);
            left -= 1;
            match drain(&mut reader, sink) {
                Ok(()) if left > 0 => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        reader.hurry();
        failed.map_or(Ok(()), Err)?;
        Ok(drain(&mut reader, sink)?)
    }
}

fn drain(reader: &mut Reader, sink: &mut Sink) -> Result<(), StoreError> {
    while let Some(row) = reader.pop()? {
        let value = row.value();
        sink.row(row.key, value);
    }
    Ok(())
}

/// Copies a directory with everything in it.
pub fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
