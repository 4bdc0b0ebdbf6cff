//! Verifies everything a stopped node has on disk.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use nezha_vlog::format::{FrameKind, segment_path};
use nezha_vlog::inspect::{self, Item};
use nezha_vlog::{LogId, SegmentId};

use super::records::Records;
use super::{CheckReport, IndexReport, LogReport, OfflineError, Stopped, ValuesReport};
use crate::index::{AppliedState, IndexEntry, IndexError, Place, ScanItem, ScanRange};
use crate::store::{LogFacts, check_order, check_segments, index_dir};

/// Verifies the data directory of a stopped node, every byte of it, without changing any.
///
/// Every frame, record and checksum of the log; every sorted value segment; every index entry, whose place must hold
/// the intact record of the same key and revision; and keys, live bytes and live bytes per segment, counted anew.
/// Errors: what keeps it from looking at all; damage is in the report.
/// Blocking: takes the directory's lock, reads all files. Memory: constant, whatever the data.
pub fn check(dir: &Path) -> Result<CheckReport, OfflineError> {
    let stopped = Stopped::open(dir)?;
    let mut report = CheckReport {
        dir: dir.to_path_buf(),
        cluster_id: format!("{:016x}", stopped.identity.cluster_id),
        node_id: stopped.identity.node_id,
        name: stopped.identity.name.clone(),
        store: stopped.store,
        log: LogReport::default(),
        values: ValuesReport::default(),
        index: IndexReport::default(),
        problems: Vec::new(),
        problems_total: 0,
    };
    let state = stopped.index.state();
    let log = check_log(&stopped, state.applied, &mut report)?;
    check_values(&stopped, &mut report);
    let index_dir = index_dir(&stopped.data, stopped.store);
    if let Some(facts) = &log.facts
        && let Err(breach) = check_order(&state, facts)
    {
        report.problem(&index_dir, 0, breach);
    }
    let bytes_of = |segment: SegmentId| match segment.is_log() {
        true => log.ends.get(&segment).copied(),
        false => stopped
            .values
            .get(segment)
            .map(|segment| segment.summary().record_bytes),
    };
    if let Err(breach) = check_segments(stopped.index.live_bytes(), bytes_of) {
        report.problem(&index_dir, 0, breach);
    }
    check_index(&stopped, log.ends, &index_dir, &mut report);
    Ok(report)
}

/// What the index is compared with.
struct LogFound {
    /// Where the sound bytes of each segment end.
    ends: BTreeMap<SegmentId, u64>,
    /// `None` if the log would not open.
    facts: Option<LogFacts>,
}

fn check_log(
    stopped: &Stopped,
    applied: Option<LogId>,
    report: &mut CheckReport,
) -> Result<LogFound, OfflineError> {
    let log_dir = stopped.data.log_dir();
    let mut ends = BTreeMap::new();
    let mut at_applied = None;
    let mut damages = Vec::new();
    let mut torn_bytes = 0;
    let summed = inspect::walk(stopped.data.fs().as_ref(), &log_dir, &mut |item| match item {
        Item::Segment { segment, bytes, .. } => drop(ends.insert(segment, bytes)),
        Item::Frame { head, .. }
            if head.kind.is_entry() && applied.is_some_and(|a| a.index == head.log_id.index) =>
        {
            at_applied = Some(head.log_id);
        }
        Item::Frame { head, .. } if head.kind == FrameKind::TruncateAfter => {
            // The flag says that no entry is kept.
            if applied.is_some_and(|a| head.flag || a.index > head.log_id.index) {
                at_applied = None;
            }
        }
        Item::Footer { segment, offset, .. } => drop(ends.insert(segment, offset)),
        Item::Torn {
            segment,
            offset,
            bytes,
            ..
        } => {
            torn_bytes += bytes;
            ends.insert(segment, offset);
        }
        Item::Damage {
            segment,
            offset,
            fault,
        } => damages.push((segment_path(&log_dir, segment), offset, fault)),
        Item::Frame { .. } | Item::Group(_) | Item::Record { .. } => {}
    })?;
    for (path, offset, fault) in damages {
        report.problem(&path, offset, fault);
    }
    let recovered = match summed.opening {
        Some(Ok(recovered)) => Some(recovered),
        Some(Err(error)) => {
            report.problem(&log_dir, 0, format!("the log would not open: {error}"));
            None
        }
        None => None,
    };
    report.log = LogReport {
        segments: summed.segments,
        groups: summed.groups,
        frames: summed.frames,
        records: summed.records,
        bytes: summed.bytes,
        last: recovered.as_ref().and_then(|r| r.last).map(|id| id.to_string()),
        purged: recovered.as_ref().and_then(|r| r.purged).map(|id| id.to_string()),
        vote: recovered
            .as_ref()
            .and_then(|r| r.vote)
            .map(|vote| vote.to_string()),
        torn_bytes,
    };
    let facts = recovered.map(|recovered| LogFacts {
        purged: recovered.purged,
        last: recovered.last,
        // Purged entries are no longer asked about.
        at_applied: at_applied.filter(|at| recovered.purged.is_none_or(|purged| purged.index < at.index)),
        has_vote: recovered.vote.is_some(),
    });
    Ok(LogFound { ends, facts })
}

fn check_values(stopped: &Stopped, report: &mut CheckReport) {
    let dir = stopped.values.dir().to_path_buf();
    let problem = |report: &mut CheckReport, error: &nezha_gc::Error| match error {
        nezha_gc::Error::Damage { path, offset, fault } => report.problem(path, *offset, fault),
        other => report.problem(&dir, 0, other),
    };
    for error in &stopped.unreadable {
        problem(report, error);
    }
    for segment in stopped.values.segments() {
        let summary = segment.summary();
        report.values.segments += 1;
        report.values.bytes += summary.file_bytes;
        match segment.walk(&mut |_, _| report.values.records += 1) {
            Ok(()) => {}
            Err(error) => problem(report, &error),
        }
    }
}

fn check_index(stopped: &Stopped, log_ends: BTreeMap<SegmentId, u64>, dir: &Path, report: &mut CheckReport) {
    let mut records = Records {
        fs: stopped.data.fs().as_ref(),
        log_dir: stopped.data.log_dir(),
        log_ends,
        values: &stopped.values,
        files: BTreeMap::new(),
    };
    let mut state = AppliedState::default();
    let mut live = BTreeMap::new();
    let mut found = IndexReport::default();
    let scanned = stopped.index.scan(&ScanRange::all(), &mut |item| {
        let (key, entry) = match item {
            ScanItem::View(view) => {
                state = view;
                return ControlFlow::Continue(());
            }
            ScanItem::Row { key, entry } => (key, entry),
        };
        let bytes = entry.record_len(&key);
        found.keys += 1;
        found.live_bytes += bytes;
        if let Err(reason) = sensible(&entry, &state) {
            report.problem(
                dir,
                0,
                format!("entry of key \"{}\": {reason}", key.escape_ascii()),
            );
        }
        match entry.place {
            Place::Inline(_) => found.inline += 1,
            Place::At(at) => {
                *live.entry(at.segment).or_insert(0) += bytes;
                match at.segment.is_log() {
                    true => found.live_bytes_log += bytes,
                    false => found.live_bytes_values += bytes,
                }
                if let Err(problem) = records.verify(at, &key, entry.mod_revision) {
                    report.problem(&problem.file, problem.offset, problem.reason);
                }
            }
        }
        ControlFlow::Continue(())
    });
    match scanned {
        Ok(()) => compare_counts(&state, &found, &live, &stopped.index.live_bytes(), dir, report),
        // The counts of half an index say nothing.
        Err(IndexError::Corrupt { file, offset, reason }) => report.problem(&file, offset, reason),
        Err(other) => report.problem(dir, 0, other),
    }
    found.applied = state.applied.map(|id| id.to_string());
    report.index = found;
}

/// Judges an entry by itself.
fn sensible(entry: &IndexEntry, state: &AppliedState) -> Result<(), String> {
    let IndexEntry {
        create_revision,
        mod_revision,
        version,
        ..
    } = *entry;
    if create_revision > mod_revision || version == 0 {
        return Err(format!(
            "created at {create_revision}, modified at {mod_revision}, version {version}"
        ));
    }
    match state.applied {
        Some(applied) if mod_revision <= applied.index => Ok(()),
        applied => Err(format!("modified at {mod_revision}, applied is {applied:?}")),
    }
}

fn compare_counts(
    state: &AppliedState,
    found: &IndexReport,
    counted: &BTreeMap<SegmentId, u64>,
    stated: &BTreeMap<SegmentId, u64>,
    dir: &Path,
    report: &mut CheckReport,
) {
    if state.keys != found.keys {
        report.problem(
            dir,
            0,
            format!("the index states {} keys and holds {}", state.keys, found.keys),
        );
    }
    if state.live_bytes != found.live_bytes {
        let reason = format!(
            "the index states {} live bytes and holds {}",
            state.live_bytes, found.live_bytes
        );
        report.problem(dir, 0, reason);
    }
    let segments: std::collections::BTreeSet<_> = counted.keys().chain(stated.keys()).collect();
    for segment in segments {
        let (counted, stated) = (counted.get(segment).copied(), stated.get(segment).copied());
        if counted != stated {
            let (counted, stated) = (counted.unwrap_or(0), stated.unwrap_or(0));
            report.problem(
                dir,
                0,
                format!("the index states {stated} live bytes in {segment}, counted {counted}"),
            );
        }
    }
}
