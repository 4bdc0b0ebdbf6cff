//! Goal: no byte of the format changes unnoticed.
//! Method: one log with known content; each layout of `format` is compared with its golden file in `testdata/`, which
//! names the bytes field by field. `NEZHA_REWRITE=1` writes the files anew; that is a format change.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of tests for library code"
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::format::{FrameKind, segment_path};
use nezha_vlog::fs::CrashFs;
use nezha_vlog::inspect::{self, Item};
use nezha_vlog::*;

type Fields = &'static [(&'static str, usize)];

const STATE: Fields = &[
    ("vote flags", 8),
    ("vote term", 8),
    ("vote node", 8),
    ("purged present", 8),
    ("purged term", 8),
    ("purged node", 8),
    ("purged index", 8),
    ("committed present", 8),
    ("committed term", 8),
    ("committed node", 8),
    ("committed index", 8),
    ("last present", 8),
    ("last term", 8),
    ("last node", 8),
    ("last index", 8),
];
const SEGMENT_HEADER: Fields = &[
    ("magic", 8),
    ("format version", 4),
    ("crc32 0..12", 4),
    ("segment id", 8),
    ("previous segment", 8),
];
const SEGMENT_HEADER_END: Fields = &[("reserved", 4), ("crc32 0..156", 4)];
const GROUP_HEADER: Fields = &[
    ("magic", 4),
    ("frames", 4),
    ("segment id", 8),
    ("offset", 8),
    ("durable before", 8),
    ("length", 8),
    ("reserved", 4),
    ("crc32 0..44", 4),
];
const FRAME: Fields = &[
    ("crc32", 4),
    ("body length", 4),
    ("kind", 1),
    ("flag", 1),
    ("reserved", 2),
    ("raft group", 4),
    ("term", 8),
    ("node", 8),
    ("index", 8),
];
const COMMAND: Fields = &[
    ("op count", 2),
    ("op kind", 1),
    ("precondition", 1),
    ("precondition revision", 8),
];
const RECORD: Fields = &[
    ("crc32", 4),
    ("flags", 1),
    ("reserved", 3),
    ("revision", 8),
    ("key length", 4),
    ("value length", 4),
];
const FOOTER: Fields = &[
    ("magic", 8),
    ("segment id", 8),
    ("offset", 8),
    ("offset of entry 5", 4),
    ("offset of entry 6", 4),
    ("run first", 8),
    ("run term", 8),
    ("run node", 8),
    ("segment id", 8),
    ("footer offset", 8),
    ("first index", 8),
    ("entries", 4),
    ("runs", 4),
    ("keep below", 8),
    ("max entry present", 8),
    ("max entry term", 8),
    ("max entry node", 8),
    ("max entry index", 8),
];
const FOOTER_END: Fields = &[
    ("table crc32", 4),
    ("runs crc32", 4),
    ("reserved", 4),
    ("summary crc32", 4),
    ("end magic", 8),
];

/// One line a field: offset, hex, name. Bytes behind the named fields are called `rest`.
fn render(bytes: &[u8], fields: &[Fields], rest: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    let mut line = |at: usize, bytes: &[u8], name: &str| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{at:4}  {hex:<48}  {name}").unwrap();
    };
    for (name, len) in fields.iter().copied().flatten() {
        line(at, &bytes[at..at + len], name);
        at += len;
    }
    for chunk in bytes[at..].chunks(24) {
        line(at, chunk, rest);
        at += chunk.len();
    }
    out
}

fn check(name: &str, rendered: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(format!("{name}.hex"));
    if std::env::var_os("NEZHA_REWRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, rendered).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(rendered, golden, "{} differs", path.display());
}

/// A log whose first segment is sealed and holds every frame kind.
fn known_log() -> CrashFs {
    let fs = CrashFs::new();
    let options = Options::default().with_segment_bytes(4 << 10);
    let (log, mut writer, _) = Log::open(Arc::new(fs.clone()), Path::new("/log"), options).unwrap();
    let nobody = || -> Done { Box::new(|result| result.unwrap()) };
    let id = |index| LogId::new(2, 7, index);
    let put = |key: &[u8], value: &[u8], index| Entry {
        log_id: id(index),
        payload: Payload::Command(Draft::put(key, value, Precondition::ModRevision(0x1234)).seal(index)),
    };
    log.save_vote(
        Vote {
            term: 2,
            node: 7,
            committed: true,
        },
        nobody(),
    )
    .unwrap();
    let delete = Draft::delete(b"gone", Precondition::Absent).seal(3);
    let entries = vec![
        Entry {
            log_id: id(1),
            payload: Payload::Blank,
        },
        Entry {
            log_id: id(2),
            payload: Payload::Membership(Bytes::from_static(b"members")),
        },
        Entry {
            log_id: id(3),
            payload: Payload::Command(delete),
        },
        put(b"key", b"value", 4),
        put(b"cut", b"off", 5),
    ];
    log.append(entries, nobody()).unwrap();
    log.save_committed(Some(id(3))).unwrap();
    log.truncate_after(Some(4), nobody()).unwrap();
    log.purge(id(1), nobody()).unwrap();
    writer.step().unwrap();
    log.purge(id(4), nobody()).unwrap();
    log.append(vec![put(b"big", &[0; 4000], 5), put(b"next", b"", 6)], nobody())
        .unwrap();
    writer.step().unwrap();
    log.save_vote(
        Vote {
            term: 3,
            node: 8,
            committed: false,
        },
        nobody(),
    )
    .unwrap();
    writer.step().unwrap();
    fs
}

#[test]
fn layouts_equal_their_golden_files() {
    let fs = known_log();
    let path = |segment| segment_path(Path::new("/log"), SegmentId::new(segment));
    let [first, second] = [1, 2].map(|segment| fs.get(&path(segment)).unwrap());
    let slice = |at: u64, len: u64| &first[at as usize..(at + len) as usize];
    let mut items = Vec::new();
    assert!(
        inspect::walk(&fs, Path::new("/log"), &mut |item| items.push(item))
            .unwrap()
            .is_sound()
    );

    check(
        "segment_header_first",
        &render(&first[..160], &[SEGMENT_HEADER, STATE, SEGMENT_HEADER_END], ""),
    );
    check(
        "segment_header",
        &render(&second[..160], &[SEGMENT_HEADER, STATE, SEGMENT_HEADER_END], ""),
    );
    let mut seen = Vec::new();
    for item in &items {
        match item {
            Item::Group(group) if group.offset == 160 && group.segment.get() == 1 => {
                check("group_header", &render(slice(160, 48), &[GROUP_HEADER], ""));
            }
            Item::Frame {
                segment,
                offset,
                head,
            } if segment.get() == 1 && !seen.contains(&(head.kind, head.log_id)) => {
                seen.push((head.kind, head.log_id));
                let bytes = slice(*offset, head.frame_len());
                let name = format!("frame_{:?}_{}", head.kind, head.log_id.index).to_lowercase();
                match head.kind {
                    FrameKind::Command if head.log_id.index == 5 => {}
                    FrameKind::Command => {
                        check(&name, &render(bytes, &[FRAME, COMMAND, RECORD], "key and value"))
                    }
                    FrameKind::Membership => check(&name, &render(bytes, &[FRAME], "membership")),
                    _ => check(&name, &render(bytes, &[FRAME], "")),
                }
            }
            Item::Record { place, record, .. } if record.key == "key" => {
                check(
                    "record",
                    &render(
                        slice(place.offset, 32),
                        &[RECORD, &[("key", 3), ("value", 5)]],
                        "",
                    ),
                );
            }
            Item::Footer { offset, bytes, .. } => {
                check(
                    "footer",
                    &render(slice(*offset, *bytes), &[FOOTER, STATE, FOOTER_END], ""),
                );
            }
            _ => {}
        }
    }
    let kinds: std::collections::BTreeSet<FrameKind> = seen.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds.len(), 7, "every frame kind has a golden file");
}
