//! What always holds, looked at from outside while the cluster runs.
//!
//! Each look takes what is new: entries that were appended and those that were applied, against what any member had at
//! that place before (R8) and a model of the state; one row, against the model; the counters of log and index; and rows
//! of a held view, long after they were collected or overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use nezha::index::{Index, IndexEntry, ScanItem, ScanRange};
use nezha::raft::{Metrics, ServerState};
use nezha::store::View;
use nezha_vlog::fs::CrashFs;
use nezha_vlog::{Log, LogId, Payload, format};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::host::{CACHE_BYTES, Running};
use crate::model::{Model, Row};

/// What the cache of the log may hold beside its own limit, since it is not durable yet: what so few clients write, or
/// what a leader sends to a member that catches up, in a few messages at a time.
const UNSYNCED_BYTES: u64 = 8 << 20;
/// Looks after which a view is held for a while, on average; and for how many looks.
const HOLD_ONE_IN: u32 = 40;
const HOLD_LOOKS: std::ops::Range<u64> = 1..400;
/// Rows that are read of a held view.
const HELD_ROWS: usize = 4;

/// What was seen of one machine before.
#[derive(Default)]
struct Seen {
    /// Survives every crash.
    term: u64,
    /// As far as its log was looked at, in this life.
    last: u64,
    /// As far as what it applied was compared, in this life.
    applied: u64,
    committed: u64,
    held: Vec<Held>,
}

/// A view that is held as by a slow reader.
struct Held {
    until: u64,
    view: Arc<View>,
    rows: Vec<(Bytes, IndexEntry, Row)>,
}

/// Remembers what was seen, and compares.
pub struct Invariants {
    rng: StdRng,
    looks: u64,
    seen: BTreeMap<String, Seen>,
    /// Every entry that any log was seen to have.
    entries: BTreeMap<LogId, Payload>,
    /// Who was seen to lead: term and id. A term may have several leaders, the one with the higher id later.
    leaders: BTreeSet<(u64, u64)>,
    /// The state, as far as entries were committed.
    pub model: Model,
}

/// One node, and what it stands on.
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// The node.
    pub running: &'a Running,
    /// Its disk.
    pub disk: &'a CrashFs,
    /// Whether somebody damaged a file of it.
    pub rotten: bool,
}

/// Where a node stands, for the trace.
pub type Position = [u64; 6];

/// What is wrong, so far.
struct Wrong<'a> {
    name: &'a str,
    told: Vec<String>,
}

impl Wrong<'_> {
    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.told.push(format!("{}: {}", self.name, text()));
        }
    }
}

impl Invariants {
    /// What is looked at is drawn from `rng`.
    pub fn new(rng: StdRng) -> Invariants {
        Invariants {
            rng,
            looks: 0,
            seen: BTreeMap::new(),
            entries: BTreeMap::new(),
            leaders: BTreeSet::new(),
            model: Model::default(),
        }
    }

    /// Forgets what is true of one life only.
    pub fn forget(&mut self, name: &str) {
        let seen = self.seen.entry(name.to_owned()).or_default();
        *seen = Seen {
            term: seen.term,
            ..Seen::default()
        };
    }

    /// Looks at one node. Answers where it stands, and what is wrong.
    pub fn look(&mut self, subject: &Subject<'_>) -> (Position, Vec<String>) {
        self.looks += 1;
        let mut wrong = Wrong {
            name: subject.name,
            told: Vec::new(),
        };
        // The disk neither fails because of us, nor counts what we read.
        let position = subject.disk.quietly(|| {
            let metrics = subject.running.consensus.metrics();
            self.elections(subject, &metrics, &mut wrong);
            self.appended(subject, &mut wrong);
            self.applied(subject, &mut wrong);
            self.row(subject, &mut wrong);
            self.views(subject, &mut wrong);
            files(subject, &mut wrong);
            order(subject, &metrics, &mut wrong)
        });
        (position, wrong.told)
    }

    /// R4, R8: terms do not descend, a log has no entry of a leader above its vote, and a new leader has whatever was
    /// committed before.
    fn elections(&mut self, subject: &Subject<'_>, metrics: &Metrics, wrong: &mut Wrong<'_>) {
        let seen = self.seen.entry(subject.name.to_owned()).or_default();
        wrong.unless(metrics.term >= seen.term, || {
            format!("R4: its term was {} and is {}", seen.term, metrics.term)
        });
        seen.term = metrics.term;
        let log = subject.running.store.log();
        let voted = log.vote().map_or((0, 0), |vote| (vote.term, vote.node));
        let last = log.last_log_id().map_or((0, 0), |id| (id.term, id.node));
        wrong.unless(voted >= last, || {
            format!("R4: its vote is for {voted:?}, but its log has an entry of {last:?}")
        });
        wrong.unless(metrics.committed >= seen.committed, || {
            format!(
                "R8: it had committed {}, and now {}",
                seen.committed, metrics.committed
            )
        });
        seen.committed = metrics.committed;
        let leads = metrics.role == ServerState::Leader;
        let Some((leader, _)) = metrics
            .leader
            .as_ref()
            .filter(|(_, node)| leads && node.name == subject.name)
        else {
            return;
        };
        if self.leaders.insert((metrics.term, *leader)) {
            let wanted = self.model.last_before(metrics.term, *leader);
            wrong.unless(has(log, wanted), || {
                format!(
                    "R8: it leads term {} without the committed entry {wanted:?}; its log ends at {:?}",
                    metrics.term,
                    log.last_log_id()
                )
            });
        }
    }

    /// R5, R8: entries with the same id are the same everywhere, and there is none missing between two.
    fn appended(&mut self, subject: &Subject<'_>, wrong: &mut Wrong<'_>) {
        let log = subject.running.store.log();
        let seen = self.seen.entry(subject.name.to_owned()).or_default();
        let last = log.last_log_id().map_or(0, |id| id.index);
        let from = (seen.last.min(last) + 1).max(log.first_index());
        seen.last = last;
        if from > last {
            return;
        }
        let entries = match log.entries(from..last + 1, u64::MAX) {
            Ok(entries) => entries,
            Err(error) => {
                return wrong.unless(subject.rotten, || format!("R5: its log cannot be read: {error}"));
            }
        };
        wrong.unless(entries.len() as u64 == last + 1 - from, || {
            format!("R5: of the entries {from} to {last} there are {}", entries.len())
        });
        for entry in entries {
            let payload = self
                .entries
                .entry(entry.log_id)
                .or_insert_with(|| entry.payload.clone());
            wrong.unless(*payload == entry.payload, || {
                format!("R8: entry {} is another one elsewhere", entry.log_id)
            });
        }
    }

    /// R8: what was applied anywhere is what everybody applies. What is applied for the first time goes into the model.
    fn applied(&mut self, subject: &Subject<'_>, wrong: &mut Wrong<'_>) {
        let store = &subject.running.store;
        let Some(applied) = store.index().state().applied else {
            return;
        };
        let seen = self.seen.entry(subject.name.to_owned()).or_default();
        wrong.unless(applied.index >= seen.applied, || {
            format!("R12: it had applied {}, and now {applied}", seen.applied)
        });
        let mut ids = store.log().log_ids(seen.applied + 1..applied.index + 1);
        // After a snapshot the log need not have it.
        if ids.last().is_none_or(|id| id.index < applied.index) {
            ids.push(applied);
        }
        for id in ids {
            if id.index == self.model.applied() + 1 {
                // It may have come and been applied since the last look, in place of another one.
                let read = || store.log().entries(id.index..id.index + 1, u64::MAX);
                let payload = self.entries.get(&id).cloned().or_else(|| {
                    let entry = read().ok()?.pop().filter(|entry| entry.log_id == id)?;
                    Some(entry.payload)
                });
                if let Some(payload) = payload {
                    self.model.apply(id, &payload);
                }
            }
            let committed = self.model.committed(id.index);
            wrong.unless(committed.is_none_or(|committed| committed == id), || {
                format!("R8: it applies {id}, where {committed:?} was applied")
            });
        }
        seen.applied = applied.index;
    }

    /// R1, R9, R13: a row by chance, index and value, is what the model has.
    fn row(&mut self, subject: &Subject<'_>, wrong: &mut Wrong<'_>) {
        let store = &subject.running.store;
        let view = store.view();
        let state = view.index().state();
        let applied = state.applied.map_or(0, |id| id.index);
        if applied != self.model.applied() {
            return;
        }
        let rows = self.model.rows();
        wrong.unless(state.keys == rows.len() as u64, || {
            format!(
                "R13: it has {} keys and should have {}, at {applied}",
                state.keys,
                rows.len()
            )
        });
        if rows.is_empty() {
            return;
        }
        let nth = self.rng.random_range(0..rows.len());
        let (key, right) = rows.iter().nth(nth).expect("one of them");
        match view.get(key) {
            Ok(found) => {
                let found = found.map(|(entry, value)| Row::of(&entry, value));
                wrong.unless(found.as_ref() == Some(right), || {
                    let found = found.as_ref().map(Row::told);
                    let key = key.escape_ascii();
                    format!(
                        "R9: {key} is {found:?} and should be {}, at {applied}",
                        right.told()
                    )
                });
            }
            Err(error) => wrong.unless(subject.rotten, || format!("R1: {error}")),
        }
    }

    /// R10: what a held view leads to can be read, whatever was collected or installed meanwhile.
    fn views(&mut self, subject: &Subject<'_>, wrong: &mut Wrong<'_>) {
        let seen = self.seen.entry(subject.name.to_owned()).or_default();
        let looks = self.looks;
        for Held { view, rows, .. } in seen.held.extract_if(.., |held| held.until <= looks) {
            for (key, entry, right) in rows {
                match view.read(&entry, &key) {
                    Ok(value) => wrong.unless(Row::of(&entry, value) == right, || {
                        format!("R10: {} of a held view became another value", key.escape_ascii())
                    }),
                    Err(error) => wrong.unless(subject.rotten, || format!("R10: of a held view: {error}")),
                }
            }
        }
        if !self.rng.random_ratio(1, HOLD_ONE_IN) || self.model.rows().is_empty() {
            return;
        }
        let view = subject.running.store.view();
        let mut rows = Vec::new();
        for _ in 0..HELD_ROWS {
            let nth = self.rng.random_range(0..self.model.rows().len());
            let (key, _) = self.model.rows().iter().nth(nth).expect("one of them");
            // One that is damaged is told of elsewhere.
            if let Ok(Some((entry, value))) = view.get(key) {
                let row = Row::of(&entry, value);
                rows.push((key.clone(), entry, row));
            }
        }
        let until = looks + self.rng.random_range(HOLD_LOOKS);
        seen.held.push(Held { until, view, rows });
    }

    /// R13: everything that a node has, against the model, which has applied as much. Answers what is wrong.
    pub fn compare(&self, subject: &Subject<'_>) -> Vec<String> {
        let mut wrong = Wrong {
            name: subject.name,
            told: Vec::new(),
        };
        let applied = subject.running.store.index().state().applied;
        wrong.unless(applied.map_or(0, |id| id.index) == self.model.applied(), || {
            format!(
                "R13: it has applied {applied:?}, the model {}",
                self.model.applied()
            )
        });
        subject.disk.quietly(|| {
            let view = subject.running.store.view();
            let mut keys = 0;
            for (key, right) in self.model.rows() {
                let found = match view.get(key) {
                    Ok(found) => found.map(|(entry, value)| Row::of(&entry, value)),
                    Err(error) => {
                        wrong.unless(false, || format!("R1: {error}"));
                        continue;
                    }
                };
                keys += u64::from(found.is_some());
                wrong.unless(found.as_ref() == Some(right), || {
                    let found = found.as_ref().map(Row::told);
                    let key = key.escape_ascii();
                    format!("R13: {key} is {found:?} and should be {}", right.told())
                });
            }
            let all = count(view.index());
            wrong.unless(all == keys, || {
                format!("R13: it has {all} keys and should have {keys}")
            });
        });
        wrong.told
    }
}

fn count(index: &dyn Index) -> u64 {
    let mut keys = 0;
    let counted = index.scan(&ScanRange::all(), &mut |item| {
        keys += u64::from(matches!(item, ScanItem::Row { .. }));
        std::ops::ControlFlow::Continue(())
    });
    counted.map_or(0, |()| keys)
}

/// Whether a log has an entry, or has purged past it.
fn has(log: &Log, wanted: Option<LogId>) -> bool {
    let Some(wanted) = wanted else { return true };
    if log.purged().is_some_and(|purged| purged.index >= wanted.index) {
        return true;
    }
    log.log_ids(wanted.index..wanted.index + 1) == [wanted]
}

/// I5, R10: every segment that the index counts on is a file, and has so many bytes.
fn files(subject: &Subject<'_>, wrong: &mut Wrong<'_>) {
    let store = &subject.running.store;
    let view = store.view();
    for (segment, live) in view.index().live_bytes() {
        if live == 0 {
            continue;
        }
        let path = match segment.is_log() {
            true => Some(format::segment_path(&store.data().log_dir(), segment)),
            false => view
                .values()
                .get(segment)
                .map(|segment| segment.path().to_owned()),
        };
        let bytes = path.as_ref().and_then(|path| subject.disk.bytes(path));
        wrong.unless(bytes.is_some_and(|bytes| bytes >= live), || {
            format!("I5: {live} bytes are live in segment {segment:?}, whose file {path:?} has {bytes:?}")
        });
    }
}

/// I3, I4, I8, I12: the counters of log and index stand in their order, and the cache keeps to its limit.
fn order(subject: &Subject<'_>, metrics: &Metrics, wrong: &mut Wrong<'_>) -> Position {
    // Each line is read at another moment, the later ones last: what grows meanwhile only widens the gap.
    let store = &subject.running.store;
    let log = store.log();
    let index_of = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let purged = index_of(log.purged());
    let flushed = index_of(store.index().flushed());
    let state = store.index().state();
    let applied = index_of(state.applied);
    let durable = index_of(log.durable_log_id());
    let last = index_of(log.last_log_id());
    wrong.unless(purged <= flushed.max(applied), || {
        format!("I4: purged to {purged}, flushed to {flushed}")
    });
    wrong.unless(flushed <= applied, || {
        format!("I8: flushed to {flushed}, applied to {applied}")
    });
    // Of what is purged it is not known any more whether it was durable.
    wrong.unless(
        applied <= durable.max(purged) || state.installed_at == state.applied,
        || {
            format!(
                "I3: applied to {applied}, installed at {:?}, durable to {durable} of {last}, purged to {purged}",
                state.installed_at
            )
        },
    );
    wrong.unless(durable <= last, || {
        format!("I8: durable to {durable}, but the log ends at {last}")
    });
    let cached = log.cached_bytes();
    wrong.unless(cached <= CACHE_BYTES + UNSYNCED_BYTES, || {
        format!("I12: {cached} bytes of entries in memory, where {CACHE_BYTES} are allowed")
    });
    [metrics.term, last, metrics.committed, applied, flushed, purged]
}
