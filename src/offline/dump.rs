//! Shows what a stopped node has on disk, in the order of the bytes.

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use nezha_vlog::format::{FrameHead, FrameKind, segment_path};
use nezha_vlog::inspect::{self, Item};
use nezha_vlog::{OpKind, Precondition, Record, ValueRef};
use serde::Serialize;

use super::{OfflineError, Stopped};
use crate::index::{Place, ScanItem, ScanRange};

/// How a dump is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFormat {
    /// One line of text per item.
    Text,
    /// One JSON object per line.
    JsonLines,
}

/// Writes every frame and record of the log, every record of the sorted value segments and every index entry to `out`.
///
/// Keys are escaped, values are shown by length and CRC-32. Damage is shown where it is met.
/// Blocking: takes the directory's lock, reads all files. Memory: constant.
pub fn dump(dir: &Path, format: DumpFormat, out: &mut dyn Write) -> Result<(), OfflineError> {
    let stopped = Stopped::open(dir)?;
    let mut printer = Printer {
        format,
        out,
        failed: None,
    };
    printer.line(&Line::Node {
        cluster_id: format!("{:016x}", stopped.identity.cluster_id),
        node_id: stopped.identity.node_id,
        name: stopped.identity.name.clone(),
        store: stopped.store,
    });
    let log_dir = stopped.data.log_dir();
    inspect::walk(stopped.data.fs().as_ref(), &log_dir, &mut |item| {
        printer.line(&log_line(&log_dir, item))
    })?;
    for error in &stopped.unreadable {
        printer.line(&Line::Damage {
            place: stopped.values.dir().display().to_string(),
            reason: error.to_string(),
        });
    }
    for segment in stopped.values.segments() {
        let summary = segment.summary();
        printer.line(&Line::Segment {
            file: segment.path().display().to_string(),
            bytes: summary.file_bytes,
        });
        let walked = segment.walk(&mut |at, record| printer.line(&record_line(at, &record, "put", None)));
        if let Err(error) = walked {
            printer.line(&Line::Damage {
                place: segment.path().display().to_string(),
                reason: error.to_string(),
            });
        }
    }
    stopped.index.scan(&ScanRange::all(), &mut |item| {
        printer.line(&index_line(item));
        if printer.failed.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    match printer.failed {
        Some(error) => Err(error.into()),
        None => Ok(out.flush()?),
    }
}

/// One line of a dump.
#[derive(Debug, Serialize)]
#[serde(tag = "item", rename_all = "snake_case")]
enum Line {
    Node {
        cluster_id: String,
        node_id: u64,
        name: String,
        store: u64,
    },
    Segment {
        file: String,
        bytes: u64,
    },
    Group {
        offset: u64,
        bytes: u64,
        frames: u32,
        durable_before: u64,
    },
    Frame {
        offset: u64,
        kind: &'static str,
        log_id: String,
        flag: bool,
        body_bytes: u32,
    },
    Record {
        offset: u64,
        op: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        precondition: Option<String>,
        key: String,
        revision: u64,
        value_bytes: usize,
        value_crc32: String,
    },
    Footer {
        offset: u64,
        bytes: u64,
        entries: u32,
    },
    Torn {
        offset: u64,
        bytes: u64,
        case: String,
    },
    Damage {
        place: String,
        reason: String,
    },
    Index {
        applied: Option<String>,
        keys: u64,
        live_bytes: u64,
        installed_at: Option<String>,
    },
    Entry {
        key: String,
        place: String,
        value_bytes: usize,
        create_revision: u64,
        mod_revision: u64,
        version: u64,
    },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "none".to_owned();
        match self {
            Line::Node {
                cluster_id,
                node_id,
                name,
                store,
            } => {
                write!(
                    f,
                    "node {name} (id {node_id}) of cluster {cluster_id}, store-{store}"
                )
            }
            Line::Segment { file, bytes } => write!(f, "segment {file}: {bytes} bytes"),
            Line::Group {
                offset,
                bytes,
                frames,
                durable_before,
            } => {
                write!(
                    f,
                    "{offset:>12} group of {bytes} bytes, {frames} frames, durable before {durable_before}"
                )
            }
            Line::Frame {
                offset,
                kind,
                log_id,
                flag,
                body_bytes,
            } => {
                let flag = if *flag { " (flag set)" } else { "" };
                write!(f, "{offset:>12}   {kind} {log_id}{flag}, {body_bytes} bytes")
            }
            Line::Record {
                offset,
                op,
                precondition,
                key,
                revision,
                value_bytes,
                value_crc32,
            } => {
                let only_if = precondition
                    .as_ref()
                    .map(|p| format!(" if {p}"))
                    .unwrap_or_default();
                write!(
                    f,
                    "{offset:>12}     {op} \"{key}\" at {revision}{only_if}: {value_bytes} bytes, crc32 {value_crc32}"
                )
            }
            Line::Footer {
                offset,
                bytes,
                entries,
            } => {
                write!(f, "{offset:>12} footer of {bytes} bytes, {entries} entries")
            }
            Line::Torn { offset, bytes, case } => {
                write!(f, "{offset:>12} unfinished write of {bytes} bytes ({case})")
            }
            Line::Damage { place, reason } => write!(f, "DAMAGE {place}: {reason}"),
            Line::Index {
                applied,
                keys,
                live_bytes,
                installed_at,
            } => {
                let (applied, installed) = (
                    applied.clone().unwrap_or_else(none),
                    installed_at.clone().unwrap_or_else(none),
                );
                write!(
                    f,
                    "index: applied {applied}, {keys} keys, {live_bytes} live bytes, installed at {installed}"
                )
            }
            Line::Entry {
                key,
                place,
                value_bytes,
                create_revision,
                mod_revision,
                version,
            } => write!(
                f,
                "             \"{key}\" {value_bytes} bytes {place}, created {create_revision}, modified {mod_revision}, version {version}"
            ),
        }
    }
}

struct Printer<'a> {
    format: DumpFormat,
    out: &'a mut dyn Write,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
}

impl Printer<'_> {
    fn line(&mut self, line: &Line) {
        if self.failed.is_some() {
            return;
        }
        let written = match self.format {
            DumpFormat::Text => writeln!(self.out, "{line}"),
            DumpFormat::JsonLines => serde_json::to_writer(&mut *self.out, line)
                .map_err(io::Error::from)
                .and_then(|()| self.out.write_all(b"\n")),
        };
        self.failed = written.err();
    }
}

fn log_line(log_dir: &Path, item: Item) -> Line {
    match item {
        Item::Segment { segment, bytes, .. } => Line::Segment {
            file: segment_path(log_dir, segment).display().to_string(),
            bytes,
        },
        Item::Group(group) => Line::Group {
            offset: group.offset,
            bytes: group.len,
            frames: group.frames,
            durable_before: group.durable_before,
        },
        Item::Frame { offset, head, .. } => frame_line(offset, &head),
        Item::Record {
            place,
            kind,
            precondition,
            record,
            ..
        } => {
            let op = match kind {
                OpKind::Put => "put",
                OpKind::Delete => "delete",
            };
            record_line(place, &record, op, Some(precondition))
        }
        Item::Footer {
            offset,
            bytes,
            entries,
            ..
        } => Line::Footer {
            offset,
            bytes,
            entries,
        },
        Item::Torn {
            offset, bytes, case, ..
        } => Line::Torn {
            offset,
            bytes,
            case: case.to_string(),
        },
        Item::Damage {
            segment,
            offset,
            fault,
        } => Line::Damage {
            place: format!("{} offset {offset}", segment_path(log_dir, segment).display()),
            reason: fault.to_string(),
        },
    }
}

fn frame_line(offset: u64, head: &FrameHead) -> Line {
    let kind = match head.kind {
        FrameKind::Blank => "blank",
        FrameKind::Membership => "membership",
        FrameKind::Command => "command",
        FrameKind::Vote => "vote",
        FrameKind::Committed => "committed",
        FrameKind::TruncateAfter => "truncate-after",
        FrameKind::Purged => "purged",
    };
    Line::Frame {
        offset,
        kind,
        log_id: head.log_id.to_string(),
        flag: head.flag,
        body_bytes: head.body_len,
    }
}

fn record_line(at: ValueRef, record: &Record, op: &'static str, precondition: Option<Precondition>) -> Line {
    let precondition = match precondition {
        None | Some(Precondition::None) => None,
        Some(Precondition::Absent) => Some("absent".to_owned()),
        Some(Precondition::ModRevision(revision)) => Some(format!("mod_revision is {revision}")),
    };
    Line::Record {
        offset: at.offset,
        op,
        precondition,
        key: record.key.escape_ascii().to_string(),
        revision: record.revision,
        value_bytes: record.value.len(),
        value_crc32: format!("{:08x}", crc32fast::hash(&record.value)),
    }
}

fn index_line(item: ScanItem) -> Line {
    match item {
        ScanItem::View(state) => Line::Index {
            applied: state.applied.map(|id| id.to_string()),
            keys: state.keys,
            live_bytes: state.live_bytes,
            installed_at: state.installed_at.map(|id| id.to_string()),
        },
        ScanItem::Row { key, entry } => Line::Entry {
            key: key.escape_ascii().to_string(),
            value_bytes: entry.value_len(),
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
            place: match &entry.place {
                Place::At(at) => format!("in {} at {}", at.segment, at.offset),
                Place::Inline(value) => format!("inline, crc32 {:08x}", crc32fast::hash(value)),
            },
        },
    }
}
