//! Damage that no crash explains: refused by name, never wrong data.

use std::collections::BTreeMap;
use std::sync::Arc;

use nezha_vlog::format::{SegmentHeader, segment_path};
use nezha_vlog::fs::{CrashFs, Fs};
use nezha_vlog::inspect::{self, Item};
use nezha_vlog::{Error, Log, LogId, RecoveryCase, SegmentId, SegmentInfo};
use rand::RngExt;

use super::check::read_all;
use super::history::History;

/// Plants each kind of damage into a copy of the files of a settled history.
pub fn check_damage(history: &mut History) {
    history.settle();
    let mut items = Vec::new();
    let summed = inspect::walk(&history.fs, &history.dir, &mut |item| items.push(item)).expect("readable");
    assert!(summed.is_sound(), "{summed:?}");
    let recovered = summed.opening.expect("there are segments").expect("sound");
    let (newest, sealed) = recovered.segments.split_last().expect("there are segments");

    damage_before_durable(history, newest.id, &items);
    for header in sealed
        .iter()
        .map(|segment| segment.id)
        .chain([newest.id])
        .step_by(2)
    {
        let has_groups = header != newest.id || newest.bytes > 160;
        if has_groups {
            let (offset, bit) = (history.rng.random_range(0..160), history.rng.random_range(0..8));
            let expect = RecoveryCase::SegmentHeaderDamaged;
            refused(history, expect, |fs, at| fs.flip_bit(&at(header), offset, bit));
            unknown_version(history, header);
        }
    }
    if let Some(segment) = pick(history, sealed) {
        let back = history.rng.random_range(1..=216);
        let bit = history.rng.random_range(0..8);
        refused(history, RecoveryCase::FooterDamaged, |fs, at| {
            fs.flip_bit(&at(segment.id), segment.bytes - back, bit)
        });
        inconsistent(history, newest.id);
        missing(history, sealed, recovered.purged);
        value_damage(history, &items);
    }
    refused(history, RecoveryCase::ForeignFile, |fs, at| {
        fs.put(&at(SegmentId::new(1)).with_extension("tmp"), b"?");
        true
    });
}

fn pick(history: &mut History, sealed: &[SegmentInfo]) -> Option<SegmentInfo> {
    (!sealed.is_empty()).then(|| sealed[history.rng.random_range(0..sealed.len())].clone())
}

type PathOf<'a> = &'a dyn Fn(SegmentId) -> std::path::PathBuf;

/// Damages a copy and expects that opening refuses it by the name of the case.
fn refused(history: &mut History, case: RecoveryCase, damage: impl FnOnce(&CrashFs, PathOf<'_>) -> bool) {
    let fs = history.fs.fork();
    let dir = history.dir.clone();
    if !damage(&fs, &|segment| segment_path(&dir, segment)) {
        return;
    }
    match Log::open(Arc::new(fs), &history.dir, history.options.clone()) {
        Err(e) => assert_eq!(e.recovery_case(), Some(case), "{e}"),
        Ok((_, _, recovered)) => panic!("{case:?} was not refused: {recovered:?}"),
    }
    history.tally.case(case);
}

/// A bad bit in a group of the newest segment that is not the last.
fn damage_before_durable(history: &mut History, newest: SegmentId, items: &[Item]) {
    let groups: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::Group(group) if group.segment == newest => Some(group),
            _ => None,
        })
        .collect();
    let Some((_, earlier)) = groups.split_last().filter(|(_, earlier)| !earlier.is_empty()) else {
        return;
    };
    let group = earlier[history.rng.random_range(0..earlier.len())];
    // The group header, or the header of its first frame.
    let offset = group.offset + history.rng.random_range(0..88);
    let bit = history.rng.random_range(0..8);
    refused(history, RecoveryCase::DamageBeforeDurable, |fs, at| {
        fs.flip_bit(&at(newest), offset, bit)
    });
}

fn unknown_version(history: &mut History, segment: SegmentId) {
    refused(history, RecoveryCase::UnknownVersion, |fs, at| {
        let mut bytes = fs.get(&at(segment)).expect("exists");
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        fs.put(&at(segment), &bytes);
        true
    });
}

/// The newest segment's header is in order, but tells another story than the segment before it.
fn inconsistent(history: &mut History, newest: SegmentId) {
    refused(history, RecoveryCase::Inconsistent, |fs, at| {
        let mut bytes = fs.get(&at(newest)).expect("exists");
        let mut header = SegmentHeader::decode(&bytes[..160], newest).expect("sound");
        header.state.last = Some(LogId::new(
            99,
            9,
            header.state.last.map_or(0, |last| last.index) + 1,
        ));
        bytes[..160].copy_from_slice(&header.encode());
        fs.put(&at(newest), &bytes);
        true
    });
}

/// A sealed segment is gone: refused, or noted if everything in it is purged.
fn missing(history: &mut History, sealed: &[SegmentInfo], purged: Option<LogId>) {
    for segment in sealed {
        let all_purged = segment
            .max_entry
            .is_none_or(|max| purged.is_some_and(|purged| max.index <= purged.index));
        let remove = |fs: &CrashFs| fs.remove(&segment_path(&history.dir, segment.id)).is_ok();
        if all_purged {
            let fs = history.fs.fork();
            assert!(remove(&fs));
            let (log, _, recovered) = Log::open(Arc::new(fs), &history.dir, history.options.clone())
                .expect("only purged entries are gone");
            assert_eq!(recovered.last, history.acked.last);
            assert_eq!(read_all(&log).len(), history.acked.entries.len());
            recovered.notes.iter().for_each(|note| history.tally.case(*note));
        } else if segment
            .last
            .is_some_and(|last| purged.is_none_or(|purged| last > purged.index))
            && history
                .acked
                .last
                .is_some_and(|end| segment.last.is_some_and(|last| last <= end.index))
        {
            refused(history, RecoveryCase::MissingSegment, |fs, at| {
                fs.remove(&at(segment.id)).is_ok()
            });
        }
    }
}

/// A bad bit in a value: opens (values are not read), but no read ever returns other bytes.
fn value_damage(history: &mut History, items: &[Item]) {
    let places: BTreeMap<u64, _> = items
        .iter()
        .filter_map(|item| match item {
            Item::Record {
                place,
                log_id,
                record,
                ..
            } if place.value_len > 0 => {
                let live = history.acked.entries.get(&log_id.index)?;
                (live.log_id == *log_id).then(|| (log_id.index, (*place, record.clone())))
            }
            _ => None,
        })
        .collect();
    let Some(at) = (!places.is_empty()).then(|| history.rng.random_range(0..places.len())) else {
        return;
    };
    let (index, (place, record)) = places.into_iter().nth(at).expect("in range");
    let fs = history.fs.fork();
    let offset =
        place.offset + 24 + record.key.len() as u64 + history.rng.random_range(0..u64::from(place.value_len));
    assert!(fs.flip_bit(
        &segment_path(&history.dir, place.segment),
        offset,
        history.rng.random_range(0..8)
    ));
    let summed = inspect::walk(&fs, &history.dir, &mut |_| ()).expect("readable");
    let (log, _, recovered) = match Log::open(Arc::new(fs), &history.dir, history.options.clone()) {
        Ok(opened) => opened,
        Err(e) => panic!("a bad value does not keep the log from opening: {e}"),
    };
    if recovered.cut.is_some() {
        // It was in the last group, where damage and a torn write look the same.
        assert_eq!(recovered.case, RecoveryCase::GroupTorn);
        assert!(log.last_log_id().is_none_or(|last| last.index < index));
        history.tally.count("damaged values cut with the last group");
        return;
    }
    assert!(!summed.is_sound(), "a walk finds the bad value");
    let named = |e: &Error| matches!(e, Error::Damage { segment, offset, .. } if *segment == place.segment && *offset == place.offset);
    let read = log.read_value(place, &record.key, record.revision);
    assert!(
        read.as_ref().is_err_and(named),
        "damaged value at {place:?} read as {read:?}"
    );
    let read = log.entries(index..index + 1, u64::MAX);
    assert!(
        read.as_ref().is_err_and(named),
        "damaged entry at {place:?} read as {read:?}"
    );
    history.tally.count("damaged values refused");
}
