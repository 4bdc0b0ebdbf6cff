//! Goal: no cut and no flipped bit anywhere makes the log return wrong data or panic.
//! Method: a small log with every frame kind in a sealed and in an active segment; every length and every bit of both
//! files is tried, and each outcome is compared with what the recovery table says for that place.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::format::{FrameKind, segment_path};
use nezha_vlog::fs::{CrashFs, Fs};
use nezha_vlog::inspect::{self, Item};
use nezha_vlog::*;

const SEALED: SegmentId = SegmentId::new(1);
const ACTIVE: SegmentId = SegmentId::new(2);

/// What a log says.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    last: Option<LogId>,
    first: u64,
}

fn said(log: &Log) -> Said {
    Said {
        vote: log.vote(),
        purged: log.purged(),
        committed: log.committed(),
        last: log.last_log_id(),
        first: log.first_index(),
    }
}

/// The log under test, and what it says after each group of its two segments.
struct Subject {
    fs: CrashFs,
    dir: PathBuf,
    /// By segment and end of the group (or of the header).
    groups: BTreeMap<(SegmentId, u64), Said>,
    entries: BTreeMap<LogId, Entry>,
    items: Vec<Item>,
}

fn options() -> Options {
    Options::default().with_segment_bytes(4 << 10).with_cache_bytes(0)
}

fn open(fs: &CrashFs, dir: &Path) -> Result<(Log, Writer, Recovered), Error> {
    Log::open(Arc::new(fs.clone()), dir, options())
}

/// Writes every frame kind; `round` tells the segments apart.
fn write_round(subject: &mut Subject, log: &Log, writer: &mut Writer, round: u64, value_len: usize) {
    let nobody = || -> Done { Box::new(|result| result.unwrap()) };
    let id = |back: u64| LogId::new(round, 2, log.last_log_id().unwrap().index - back);
    let mut step = |subject: &mut Subject| {
        writer.step().unwrap();
        let segments = log.segments();
        let active = segments.last().unwrap();
        subject.groups.insert((active.id, active.bytes), said(log));
    };
    let append_of = |subject: &mut Subject, node: u64, payload: Payload| {
        let index = log.last_log_id().map_or(1, |last| last.index + 1);
        let entry = Entry {
            log_id: LogId::new(round, node, index),
            payload,
        };
        subject.entries.insert(entry.log_id, entry.clone());
        log.append(vec![entry], nobody()).unwrap();
    };
    let append = |subject: &mut Subject, payload: fn(u64, usize) -> Payload, len: usize| {
        let index = log.last_log_id().map_or(1, |last| last.index + 1);
        append_of(subject, 2, payload(index, len));
    };
    // Raft never writes another entry under the same log id: another leader wrote these.
    let append_again = |subject: &mut Subject| {
        let index = log.last_log_id().unwrap().index + 1;
        append_of(subject, 3, put_again(index));
    };
    let put = |index: u64, len: usize| {
        Payload::Command(
            Draft::put(b"key", &vec![index as u8; len], Precondition::ModRevision(3)).seal(index),
        )
    };
    let blank: fn(u64, usize) -> Payload = |_, _| Payload::Blank;
    let members: fn(u64, usize) -> Payload = |_, _| Payload::Membership(Bytes::from_static(b"n1, n2"));
    let delete: fn(u64, usize) -> Payload =
        |index, _| Payload::Command(Draft::delete(b"key", Precondition::Absent).seal(index));

    log.save_vote(
        Vote {
            term: round,
            node: 2,
            committed: round == 2,
        },
        nobody(),
    )
    .unwrap();
    append(subject, blank, 0);
    append(subject, put, value_len);
    step(subject);
    append(subject, members, 0);
    append(subject, delete, 0);
    append(subject, put, 70);
    log.save_committed(None).unwrap();
    step(subject);
    log.truncate_after(Some(id(1).index), nobody()).unwrap();
    log.save_committed(Some(id(0))).unwrap();
    log.purge(id(3), nobody()).unwrap();
    step(subject);
    append_again(subject);
    append_again(subject);
    step(subject);
}

/// Another value than the truncated entry at the same index had.
fn put_again(index: u64) -> Payload {
    Payload::Command(Draft::put(b"other key", &[0xee; 90], Precondition::None).seal(index))
}

fn subject() -> Subject {
    let (fs, dir) = (CrashFs::new(), PathBuf::from("/log"));
    let mut subject = Subject {
        fs: fs.clone(),
        dir: dir.clone(),
        groups: BTreeMap::new(),
        entries: BTreeMap::new(),
        items: vec![],
    };
    let (log, mut writer, _) = open(&fs, &dir).unwrap();
    subject.groups.insert((SEALED, 160), said(&log));
    write_round(&mut subject, &log, &mut writer, 1, 3000);
    assert!(
        log.segments()[0].bytes > 4 << 10,
        "the next group starts a new segment"
    );
    subject.groups.insert((ACTIVE, 160), said(&log));
    write_round(&mut subject, &log, &mut writer, 2, 200);
    assert_eq!(
        log.segments()
            .iter()
            .map(|segment| segment.sealed)
            .collect::<Vec<_>>(),
        [true, false]
    );
    let mut items = Vec::new();
    assert!(
        inspect::walk(&fs, &dir, &mut |item| items.push(item))
            .unwrap()
            .is_sound()
    );
    for segment in [SEALED, ACTIVE] {
        for kind in [
            FrameKind::Blank,
            FrameKind::Membership,
            FrameKind::Command,
            FrameKind::Vote,
            FrameKind::Committed,
            FrameKind::TruncateAfter,
            FrameKind::Purged,
        ] {
            let has = |item: &Item| matches!(item, Item::Frame { segment: s, head, .. } if *s == segment && head.kind == kind);
            assert!(items.iter().any(has), "{kind:?} in {segment}");
        }
    }
    subject.items = items;
    subject
}

/// Where a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    /// A group that is not the last of its segment; in a value, or not.
    Group {
        value: bool,
    },
    LastGroup {
        value: bool,
    },
    Table,
    Runs,
}

impl Subject {
    fn part(&self, segment: SegmentId, offset: u64) -> Part {
        let groups: Vec<_> = self
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Group(group) if group.segment == segment => Some(group),
                _ => None,
            })
            .collect();
        let value = self.items.iter().any(|item| match item {
            Item::Record { place, record, .. } if place.segment == segment => {
                let start = place.offset + 24 + record.key.len() as u64;
                (start..start + u64::from(place.value_len)).contains(&offset)
            }
            _ => false,
        });
        let Some(last) = groups.last() else {
            panic!("no groups")
        };
        let entries = self.items.iter().find_map(|item| match item {
            Item::Footer {
                segment: s, entries, ..
            } if *s == segment => Some(u64::from(*entries)),
            _ => None,
        });
        match offset {
            0..160 => Part::Header,
            _ if offset < last.offset => Part::Group { value },
            _ if offset < last.end() => Part::LastGroup { value },
            _ if offset < last.end() + 24 + 4 * entries.unwrap_or(0) => Part::Table,
            _ => Part::Runs,
        }
    }

    /// What the log said after the last group of `segment` that ends at or below `end`.
    fn said_by(&self, segment: SegmentId, end: u64) -> &Said {
        self.groups
            .range(..=(segment, end))
            .next_back()
            .expect("the header is there")
            .1
    }

    /// Reads everything; every answer is right or an error that names the segment. Returns whether all were right.
    fn read_everything(&self, log: &Log, damaged: SegmentId) -> bool {
        let end = log.last_log_id().map_or(0, |last| last.index + 1);
        let mut right = true;
        let mut named = |e: Error| {
            assert!(
                matches!(e, Error::Damage { segment, .. } if segment == damaged),
                "{e}"
            );
            right = false;
        };
        let ids = log.log_ids(log.first_index()..end);
        for id in ids {
            let expected = &self.entries[&id];
            match log.entries(id.index..id.index + 1, u64::MAX) {
                Ok(entries) => assert_eq!(entries, std::slice::from_ref(expected)),
                Err(e) => named(e),
            }
            match log.heads(id.index..id.index + 1, 0) {
                Ok(heads) => {
                    assert_eq!(heads[0].log_id, id);
                    let (HeadPayload::Command(ops), Payload::Command(command)) =
                        (&heads[0].payload, &expected.payload)
                    else {
                        continue;
                    };
                    let expected = command.ops().next().unwrap();
                    assert_eq!(ops[0].key, expected.key);
                    match log.read_value(ops[0].place, &ops[0].key, id.index) {
                        Ok(value) => assert_eq!(value, expected.value),
                        Err(e) => named(e),
                    }
                }
                Err(e) => named(e),
            }
        }
        right
    }

    /// A copy with only the sealed segment, as a crash before its successor leaves it.
    fn without_active(&self) -> CrashFs {
        let fs = self.fs.fork();
        fs.remove(&segment_path(&self.dir, ACTIVE)).unwrap();
        fs
    }
}

fn case_of(result: &Result<(Log, Writer, Recovered), Error>) -> RecoveryCase {
    match result {
        Ok((_, _, recovered)) => recovered.case,
        Err(e) => e
            .recovery_case()
            .unwrap_or_else(|| panic!("an error without a case: {e}")),
    }
}

#[test]
fn every_flipped_bit_is_refused_or_cut() {
    let subject = subject();
    for segment in [SEALED, ACTIVE] {
        let path = segment_path(&subject.dir, segment);
        let len = subject.fs.get(&path).unwrap().len() as u64;
        for offset in 0..len {
            let part = subject.part(segment, offset);
            for bit in 0..8 {
                let fs = subject.fs.fork();
                assert!(fs.flip_bit(&path, offset, bit));
                let what = format!("bit {bit} of byte {offset} of {segment}, {part:?}");
                let sound =
                    inspect::walk(&fs, &subject.dir, &mut |_| ()).is_ok_and(|summed| summed.is_sound());
                let opened = open(&fs, &subject.dir);
                let case = case_of(&opened);
                use RecoveryCase::*;
                match (segment, part) {
                    (_, Part::Header) => assert_eq!(case, SegmentHeaderDamaged, "{what}"),
                    (SEALED, Part::Runs) => assert_eq!(case, FooterDamaged, "{what}"),
                    (ACTIVE, Part::Group { value: false }) => assert_eq!(case, DamageBeforeDurable, "{what}"),
                    (ACTIVE, Part::LastGroup { .. }) => {
                        assert!(
                            matches!(case, GroupTorn | GroupHeaderTorn | GroupCut),
                            "{what}: {case}"
                        );
                        let (log, _, recovered) = opened.unwrap();
                        let cut = recovered.cut.unwrap();
                        assert_eq!(said(&log), *subject.said_by(segment, cut.offset), "{what}");
                        assert!(subject.read_everything(&log, segment), "{what}");
                        continue;
                    }
                    // Opening reads no values, and nothing of a sealed segment but header and summary.
                    _ => assert_eq!(case, CleanEnd, "{what}"),
                }
                assert!(!sound, "a walk finds {what}");
                if let Ok((log, _, _)) = opened {
                    assert_eq!(said(&log), *subject.groups.last_key_value().unwrap().1, "{what}");
                    subject.read_everything(&log, segment);
                }
            }
        }
    }
}

#[test]
fn every_cut_is_repaired_or_refused() {
    let subject = subject();
    for segment in [SEALED, ACTIVE] {
        let path = segment_path(&subject.dir, segment);
        let whole = subject.fs.get(&path).unwrap();
        for len in 0..whole.len() {
            let fs = subject.fs.fork();
            fs.put(&path, &whole[..len]);
            let what = format!("{segment} cut to {len}");
            let opened = open(&fs, &subject.dir);
            let case = case_of(&opened);
            use RecoveryCase::*;
            if segment == SEALED {
                let expected = if len < 160 {
                    SegmentHeaderDamaged
                } else {
                    FooterDamaged
                };
                assert_eq!(case, expected, "{what}");
                continue;
            }
            let at_edge = subject.groups.contains_key(&(segment, len as u64));
            let expected: &[RecoveryCase] = match len {
                0 => &[NewSegmentEmpty],
                1..160 => &[NewSegmentTorn],
                _ if at_edge => &[CleanEnd],
                _ => &[GroupHeaderTorn, GroupCut],
            };
            assert!(expected.contains(&case), "{what}: {case}");
            let (log, mut writer, _) = opened.unwrap();
            assert_eq!(
                said(&log),
                *subject.said_by(segment, (len as u64).max(160)),
                "{what}"
            );
            assert!(subject.read_everything(&log, segment), "{what}");
            // And it goes on from there.
            let vote = Vote {
                term: 9,
                node: 9,
                committed: true,
            };
            log.save_vote(vote, Box::new(|result| result.unwrap())).unwrap();
            writer.step().unwrap();
            drop((log, writer));
            assert_eq!(open(&fs, &subject.dir).unwrap().0.vote(), Some(vote), "{what}");
        }
    }
}

#[test]
fn a_sealed_segment_without_successor_is_repaired_or_refused() {
    let subject = subject();
    let fs = subject.without_active();
    let path = segment_path(&subject.dir, SEALED);
    let whole = fs.get(&path).unwrap();
    let complete = subject.said_by(SEALED, whole.len() as u64).clone();
    {
        let (log, _, recovered) = open(&fs.fork(), &subject.dir).unwrap();
        assert_eq!(
            (recovered.case, said(&log)),
            (RecoveryCase::SealedWithoutSuccessor, complete.clone())
        );
    }
    for len in 160..whole.len() {
        let fs = fs.fork();
        fs.put(&path, &whole[..len]);
        let (log, _, recovered) = open(&fs, &subject.dir).unwrap();
        assert_eq!(
            said(&log),
            *subject.said_by(SEALED, len as u64),
            "cut to {len}: {recovered:?}"
        );
        assert!(subject.read_everything(&log, SEALED));
    }
    for offset in 0..whole.len() as u64 {
        let part = subject.part(SEALED, offset);
        let fs = fs.fork();
        assert!(fs.flip_bit(&path, offset, (offset % 8) as u8));
        let opened = open(&fs, &subject.dir);
        let case = case_of(&opened);
        use RecoveryCase::*;
        match part {
            Part::Header => assert_eq!(case, SegmentHeaderDamaged),
            Part::Group { value: false } | Part::LastGroup { value: false } => {
                assert_eq!(case, DamageBeforeDurable)
            }
            Part::Group { value: true } | Part::LastGroup { value: true } => {
                assert_eq!(case, SealedWithoutSuccessor)
            }
            // The footer says nothing that the groups do not say: it is written anew.
            Part::Table | Part::Runs => {
                assert!(matches!(case, FooterTorn | GroupHeaderTorn), "{offset}: {case}")
            }
        }
        if let Ok((log, _, _)) = opened {
            assert_eq!(said(&log), complete, "byte {offset}");
            subject.read_everything(&log, SEALED);
        }
    }
}
