//! Goal: the storage half of Raft keeps what openraft relies on, also across crashes.
//!
//! Method: openraft's own suite on fresh stores, with both index engines; then our suite, which reopens and crashes:
//! seeded operations through openraft's traits on [`CrashFs`] and [`MapEngine`], the power cut, and a model. Each seed is
//! printed when it fails; `NEZHA_SEED=n` replays one.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use nezha_vlog::fs::{CrashFs, Fs};
use nezha_vlog::{Draft, Options, Precondition, Writer};
use openraft::EntryPayload;
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use super::log_store::LogStore;
use super::log_writer::LogWriter;
use super::state_machine::{FlushPolicy, StateMachine};
use super::types::{Entry, LogId, Proposal, TypeConfig, Vote};
use crate::identity::DataDir;
use crate::index::{Engine, MapEngine, RocksEngine, RocksOptions};
use crate::seed::{Named, seeds};
use crate::store::{Store, StoreOptions};

fn small_segments() -> StoreOptions {
    StoreOptions {
        log: Options::default()
            .with_segment_bytes(16 << 10)
            .with_cache_bytes(4 << 10),
        ..StoreOptions::default()
    }
}

/// A disk and what is open on it.
pub(super) struct Node {
    pub(super) fs: CrashFs,
    engine: Arc<MapEngine>,
    pub(super) store: Arc<Store>,
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
}

impl Node {
    pub(super) fn open(fs: CrashFs, engine: Arc<MapEngine>) -> Node {
        let (node, writer) = Node::open_unwritten(fs, engine, None);
        drop(writer);
        node
    }

    /// With `durable`, nobody writes the log: the caller steps the returned writer.
    fn open_unwritten(
        fs: CrashFs,
        engine: Arc<MapEngine>,
        durable: Option<watch::Receiver<u64>>,
    ) -> (Node, Option<Writer>) {
        let port: Arc<dyn Fs> = Arc::new(fs.clone());
        port.create_dir_all(Path::new("/node")).unwrap();
        let data = Arc::new(DataDir::unlocked(port, Path::new("/node")).unwrap());
        let (store, writer, _) = Store::open(data, engine.clone(), small_segments()).unwrap();
        let store = Arc::new(store);
        let (durable, writer) = match durable {
            Some(durable) => (durable, Some(writer)),
            None => (
                LogWriter::spawn(store.log(), writer, store.threads())
                    .unwrap()
                    .durable(),
                None,
            ),
        };
        let inline = store.options().inline_value_max;
        let log = LogStore::new(store.log().clone(), durable, inline, Some(store.clone()));
        let machine = StateMachine::new(store.clone(), FlushPolicy::default());
        (
            Node {
                fs,
                engine,
                store,
                log,
                machine,
            },
            writer,
        )
    }

    /// Cuts the power and opens what is left.
    pub(super) fn crash(self, seed: u64) -> Node {
        let fs = self.fs.crash(seed);
        self.engine.crash();
        Node::open(fs, self.engine)
    }

    pub(super) async fn append(
        &mut self,
        entries: Vec<Entry>,
    ) -> OneshotReceiverOf<TypeConfig, Result<(), std::io::Error>> {
        let (tx, rx) = TypeConfig::oneshot();
        self.log.append(entries, IOFlushed::signal(tx)).await.unwrap();
        rx
    }

    /// Applies everything in the log up to `index`.
    pub(super) async fn apply_to(&mut self, index: u64) {
        let from = self.store.index().state().applied.map_or(0, |id| id.index + 1);
        let mut reader = self.log.get_log_reader().await;
        let entries = reader.entries_stream(from..index + 1).await;
        let entries = pin!(entries.map(|entry| entry.map(|entry| (entry, None))));
        self.machine.apply(entries).await.unwrap();
    }

    pub(super) fn values(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        values(&self.store.view())
    }
}

pub(super) fn values(view: &crate::store::View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut keys = Vec::new();
    let all = crate::index::ScanRange::all();
    view.index()
        .scan(&all, &mut |item| {
            if let crate::index::ScanItem::Row { key, .. } = item {
                keys.push(key);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    keys.into_iter()
        .map(|key| (key.to_vec(), view.get(&key).unwrap().unwrap().1.to_vec()))
        .collect()
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

pub(super) fn put(term: u64, index: u64, key: &[u8], value: &[u8]) -> Entry {
    let draft = Draft::put(key, value, Precondition::None);
    Entry::new(log_id(term, index), EntryPayload::Normal(Proposal::Draft(draft)))
}

pub(super) fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

struct Builder {
    rocks: bool,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(dir.path()).unwrap());
        let engine: Arc<dyn Engine> = match self.rocks {
            true => Arc::new(RocksEngine::new(&RocksOptions::default())),
            false => Arc::new(MapEngine::default()),
        };
        let (store, writer, _) = Store::open(data, engine, small_segments()).unwrap();
        let durable = LogWriter::spawn(store.log(), writer, store.threads())
            .unwrap()
            .durable();
        let store = Arc::new(store);
        // No guard: the suite purges entries that it never applied.
        let log = LogStore::new(store.log().clone(), durable, 128, None);
        Ok((dir, log, StateMachine::new(store, FlushPolicy::default())))
    }
}

#[test]
fn openrafts_suite_passes_with_the_map() {
    run(Suite::test_all(Builder { rocks: false })).unwrap();
}

#[test]
fn openrafts_suite_passes_with_rocksdb() {
    run(Suite::test_all(Builder { rocks: true })).unwrap();
}

/// I1, I2: what was acknowledged is there after a power cut, the rest is a prefix, and nothing comes back that was cut.
#[test]
fn acknowledged_votes_and_entries_survive_power_cuts() {
    for seed in seeds(60) {
        let _named = Named(seed);
        run(async {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut node = Node::open(CrashFs::new(), Arc::default());
            let mut term = 1;
            let mut vote: Option<Vote> = None;
            // What each index was last submitted as, and up to where it is acknowledged.
            let mut submitted: BTreeMap<u64, LogId> = BTreeMap::new();
            for round in 0..6 {
                let mut acked: Option<u64> = None;
                for _ in 0..40 {
                    let next = submitted.last_key_value().map_or(0, |(index, _)| index + 1);
                    match rng.random_range(0..10) {
                        0 => {
                            term += 1;
                            let new = Vote::new_committed(term, 1);
                            node.log.save_vote(&new).await.unwrap();
                            vote = Some(new);
                        }
                        1 if next > 0 => {
                            let keep = rng.random_range(0..=next);
                            let after = keep.checked_sub(1).map(|index| submitted[&index]);
                            node.log.truncate_after(after).await.unwrap();
                            submitted.split_off(&keep);
                            acked = acked.min(keep.checked_sub(1));
                            term += 1;
                        }
                        _ => {
                            let count = rng.random_range(1..5);
                            let entries: Vec<Entry> = (next..next + count)
                                .map(|index| {
                                    let value = vec![index as u8; rng.random_range(0..3000)];
                                    put(term, index, format!("key{}", index % 17).as_bytes(), &value)
                                })
                                .collect();
                            submitted.extend(entries.iter().map(|entry| (entry.index(), entry.log_id())));
                            let done = node.append(entries).await;
                            if rng.random_bool(0.5) {
                                done.await.unwrap().unwrap();
                                acked = Some(next + count - 1);
                            }
                        }
                    }
                }
                node = node.crash(seed * 100 + round);
                let mut reader = node.log.get_log_reader().await;
                assert_eq!(
                    reader.read_vote().await.unwrap(),
                    vote,
                    "the vote after round {round}"
                );
                let found = reader.try_get_log_entries(0..u64::MAX).await.unwrap();
                for (at, entry) in found.iter().enumerate() {
                    assert_eq!(entry.index(), at as u64, "a hole after round {round}");
                }
                if let Some(acked) = acked {
                    let ids: Vec<LogId> = found
                        .iter()
                        .take(acked as usize + 1)
                        .map(|e| e.log_id())
                        .collect();
                    let expected: Vec<LogId> = submitted.range(..=acked).map(|(_, id)| *id).collect();
                    assert_eq!(ids, expected, "acknowledged entries after round {round}");
                }
                submitted = found
                    .iter()
                    .map(|entry| (entry.index(), entry.log_id()))
                    .collect();
            }
        });
    }
}

/// I3, I8: the index after a crash is the state at its flushed applied id; replaying the log gives the rest.
#[test]
fn replay_from_the_flushed_applied_id_gives_the_same_state() {
    for seed in seeds(40) {
        let _named = Named(seed);
        run(async {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut node = Node::open(CrashFs::new(), Arc::default());
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut states: BTreeMap<u64, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
            let (mut next, mut committed) = (0, None);
            for round in 0..5 {
                for _ in 0..30 {
                    let key = format!("key{}", rng.random_range(0..20)).into_bytes();
                    let value = vec![rng.random::<u8>(); rng.random_range(0..2000)];
                    let done = node.append(vec![put(1, next, &key, &value)]).await;
                    model.insert(key, value);
                    states.insert(next, model.clone());
                    done.await.unwrap().unwrap();
                    committed = Some(next);
                    next += 1;
                    match rng.random_range(0..6) {
                        0 => node.apply_to(next - 1).await,
                        1 => {
                            node.store.flush().unwrap();
                        }
                        _ => {}
                    }
                }
                let flushed = node.store.index().flushed();
                node = node.crash(seed * 100 + round);
                let (applied, _) = node.machine.applied_state().await.unwrap();
                assert_eq!(
                    applied.map(|id| id.index),
                    flushed.map(|id| id.index),
                    "round {round}"
                );
                let expected = flushed.map_or_else(BTreeMap::new, |id| states[&id.index].clone());
                assert_eq!(node.values(), expected, "state at the flushed id, round {round}");
                node.apply_to(committed.unwrap()).await;
                assert_eq!(node.values(), model, "state after replay, round {round}");
            }
        });
    }
}

/// I3: apply gets no entry before this node has it durably, whatever a quorum says.
#[test]
fn apply_waits_for_the_local_flush() {
    run(async {
        let (durable_tx, durable) = watch::channel(0);
        let (mut node, writer) = Node::open_unwritten(CrashFs::new(), Arc::default(), Some(durable));
        let mut writer = writer.unwrap();
        let done = node.append(vec![put(1, 0, b"k", &[7; 1000])]).await;
        let mut reader = node.log.get_log_reader().await;
        {
            let mut read = pin!(reader.try_get_log_entries(0..1));
            assert!(
                futures::poll!(read.as_mut()).is_pending(),
                "an entry reached apply before it was durable"
            );
            // Written, not yet told: still nothing.
            let seq = writer.step().unwrap().unwrap();
            done.await.unwrap().unwrap();
            assert!(futures::poll!(read.as_mut()).is_pending());
            durable_tx.send_replace(seq);
            assert_eq!(read.await.unwrap().len(), 1);
        }
        // Replication does not wait: it runs in parallel with the local flush.
        node.append(vec![put(1, 1, b"k", &[8; 1000])]).await;
        assert_eq!(reader.limited_get_log_entries(1, 2).await.unwrap().len(), 1);
    });
}

/// I2 under failure: a failed sync reaches every waiter as an error, and nothing is accepted afterwards.
#[test]
fn a_failed_sync_is_reported_and_final() {
    run(async {
        let (_tx, durable) = watch::channel(0);
        let (mut node, writer) = Node::open_unwritten(CrashFs::new(), Arc::default(), Some(durable));
        let mut writer = writer.unwrap();
        let done = node.append(vec![put(1, 0, b"k", b"v")]).await;
        node.fs
            .fail(nezha_vlog::fs::FailKind::Sync, 0, nezha_vlog::fs::FailWith::Eio);
        assert!(writer.step().is_err());
        assert!(done.await.unwrap().is_err());
        let (tx, _rx) = TypeConfig::oneshot();
        assert!(
            node.log
                .append(vec![put(1, 1, b"k", b"v")], IOFlushed::signal(tx))
                .await
                .is_err()
        );
        assert!(node.log.save_vote(&Vote::new(2, 1)).await.is_err());
    });
}

/// I4: the log is never purged past the flushed applied id.
#[test]
#[should_panic(expected = "I4")]
fn purging_past_the_flushed_index_is_a_broken_invariant() {
    run(async {
        let mut node = Node::open(CrashFs::new(), Arc::default());
        node.append(vec![put(1, 0, b"k", b"v")])
            .await
            .await
            .unwrap()
            .unwrap();
        node.apply_to(0).await;
        let _ = node.log.purge(log_id(1, 0)).await;
    });
}

/// I8: a snapshot is never ahead of what is flushed, so that the purge it allows is not either.
#[test]
fn a_built_snapshot_is_metadata_at_a_flushed_id() {
    run(async {
        let mut node = Node::open(CrashFs::new(), Arc::default());
        assert!(node.machine.get_current_snapshot().await.unwrap().is_none());
        let entries = (0..10).map(|index| put(1, index, b"k", &[1; 500])).collect();
        node.append(entries).await.await.unwrap().unwrap();
        node.apply_to(9).await;
        let mut builder = node.machine.get_snapshot_builder().await;
        let built = builder.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id, Some(log_id(1, 9)));
        assert_eq!(node.store.index().flushed().map(|id| id.index), Some(9));
        node.log.purge(log_id(1, 9)).await.unwrap();
        let mut purged = node.log.durable_purge();
        purged.wait_for(|at| *at == Some(9)).await.unwrap();
        let mut node = node.crash(1);
        let state = node.log.get_log_state().await.unwrap();
        assert_eq!(
            (state.last_purged_log_id, state.last_log_id),
            (Some(log_id(1, 9)), Some(log_id(1, 9)))
        );
        assert_eq!(
            node.values().len(),
            1,
            "purging is logical: the value is still there"
        );
    });
}

/// A view that is sent and installed elsewhere gives the same state, on the live store and after a power cut.
#[test]
fn an_installed_snapshot_is_the_senders_state() {
    run(async {
        let mut sender = Node::open(CrashFs::new(), Arc::default());
        let entries = (0..300)
            .map(|index| {
                put(
                    1,
                    index,
                    format!("key{:03}", index % 90).as_bytes(),
                    &vec![index as u8; 40 * index as usize],
                )
            })
            .collect();
        sender.append(entries).await.await.unwrap().unwrap();
        sender.apply_to(299).await;
        let snapshot = sender.machine.get_current_snapshot().await.unwrap().unwrap();

        let mut receiver = Node::open(CrashFs::new(), Arc::default());
        receiver.log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        receiver
            .append(vec![put(1, 0, b"old", b"state")])
            .await
            .await
            .unwrap()
            .unwrap();
        receiver.apply_to(0).await;
        receiver
            .machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await
            .unwrap();
        assert_eq!(receiver.values(), sender.values());
        let mut receiver = receiver.crash(7);
        assert_eq!(receiver.values(), sender.values());
        let (applied, _) = receiver.machine.applied_state().await.unwrap();
        assert_eq!(applied, Some(log_id(1, 299)));
    });
}

/// Several readers at once see whole entries while the log is written, rotated and evicted from the cache.
#[test]
fn readers_beside_the_writer_get_whole_entries() {
    run(async {
        let mut node = Node::open(CrashFs::new(), Arc::default());
        let expected = Arc::new(Mutex::new(Vec::new()));
        for index in 0..400 {
            let value = vec![index as u8; 700];
            expected.lock().unwrap().push(value.clone());
            node.append(vec![put(1, index, b"key", &value)]).await;
            if index % 20 == 19 {
                let mut reader = node.log.get_log_reader().await;
                let expected = expected.clone();
                tokio::spawn(async move {
                    let mut at = 0;
                    while at <= index {
                        let entries = reader.limited_get_log_entries(at, index + 1).await.unwrap();
                        assert!(!entries.is_empty());
                        for entry in entries {
                            let EntryPayload::Normal(Proposal::Sealed(command)) = entry.payload else {
                                panic!()
                            };
                            let op = command.ops().next().unwrap();
                            assert_eq!(op.value.as_ref(), expected.lock().unwrap()[at as usize]);
                            at += 1;
                        }
                    }
                })
                .await
                .unwrap();
            }
        }
    });
}
