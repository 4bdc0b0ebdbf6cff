//! Walks a stopped log's files and verifies every byte that has a checksum; changes nothing.
//!
//! Used by offline checks and dumps, and by proofs. Unlike opening, a walk goes on after damage as far as the bytes
//! still say where the next thing is.

use std::path::Path;
use std::sync::Arc;

use crate::command::{OpKind, Precondition};
use crate::content::Content;
use crate::error::{Error, Fault};
use crate::format::{
    FrameHead, GROUP_HEADER_LEN, GroupHeader, SEGMENT_HEADER_LEN, SUMMARY_LEN, SegmentHeader, Summary,
    VERSION, segment_path,
};
use crate::fs::{File, Fs};
use crate::ids::{LogId, SegmentId, ValueRef};
use crate::record::{Record, decode_record};
use crate::recover::{self, Recovered, RecoveryCase};
use crate::scan::{Frame, FrameReader, ScanError};

/// One thing found by a walk, in the order of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A segment begins.
    Segment {
        /// Its id.
        segment: SegmentId,
        /// Bytes of its file.
        bytes: u64,
        /// The segment before it, as its header says.
        previous: Option<SegmentId>,
    },
    /// A group header.
    Group(GroupHeader),
    /// A frame, its checksum verified.
    Frame {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
        offset: u64,
        /// What it says.
        head: FrameHead,
    },
    /// A value record of the frame before it, its checksum verified.
    Record {
        /// Where it is.
        place: ValueRef,
        /// The entry it belongs to.
        log_id: LogId,
        /// What the op does.
        kind: OpKind,
        /// What must hold for the op.
        precondition: Precondition,
        /// The record.
        record: Record,
    },
    /// The footer of a sealed segment, verified against the groups before it.
    Footer {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
        offset: u64,
        /// Bytes of the footer.
        bytes: u64,
        /// Entries in its table.
        entries: u32,
    },
    /// Bytes at the end of the newest segment that opening would cut: a write that did not finish.
    Torn {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
        offset: u64,
        /// How many.
        bytes: u64,
        /// The case of the recovery table.
        case: RecoveryCase,
    },
    /// Damage.
    Damage {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the segment start.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
}

/// What a walk counted.
#[derive(Debug, Default)]
pub struct Summed {
    /// Segments.
    pub segments: u64,
    /// Groups.
    pub groups: u64,
    /// Frames.
    pub frames: u64,
    /// Value records.
    pub records: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Damaged places.
    pub damages: u64,
    /// What opening would recover, or why it would refuse; `None` if there is no segment.
    pub opening: Option<Result<Recovered, Error>>,
}

impl Summed {
    /// Whether nothing is damaged and the log would open.
    pub fn is_sound(&self) -> bool {
        self.damages == 0 && !matches!(self.opening, Some(Err(_)))
    }
}

/// Walks the log in `dir` and hands everything found to `visit`.
///
/// Errors: `Io`, `ForeignFile`, `UnknownVersion`; damage is no error but an item.
/// Blocking: reads every byte once.
pub fn walk(fs: &dyn Fs, dir: &Path, visit: &mut dyn FnMut(Item)) -> Result<Summed, Error> {
    let ids = recover::list_segments(fs, dir)?;
    let opening = match recover::examine(fs, dir) {
        Err(e) if !e.is_damage() => return Err(e),
        Err(e @ (Error::ForeignFile { .. } | Error::UnknownVersion { .. })) => return Err(e),
        other => other.transpose(),
    };
    let mut walker = Walker {
        fs,
        dir,
        visit,
        summed: Summed::default(),
    };
    let newest = ids.last().copied();
    for id in ids {
        let is_newest = Some(id) == newest;
        let recovered = opening
            .as_ref()
            .and_then(|opening| opening.as_ref().ok())
            .filter(|_| is_newest);
        walker.segment(id, is_newest, recovered)?;
    }
    let mut summed = walker.summed;
    summed.opening = opening;
    Ok(summed)
}

struct Walker<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    visit: &'a mut dyn FnMut(Item),
    summed: Summed,
}

impl Walker<'_> {
    fn damage(&mut self, segment: SegmentId, offset: u64, fault: Fault) {
        self.summed.damages += 1;
        (self.visit)(Item::Damage {
            segment,
            offset,
            fault,
        });
    }

    /// Reports bad bytes, passes on a failing file.
    fn bad(&mut self, segment: SegmentId, offset: u64, error: ScanError) -> Result<(), Error> {
        match error {
            ScanError::Bad(fault) => {
                self.damage(segment, offset, fault);
                Ok(())
            }
            io => Err(io.at(self.dir, segment, offset)),
        }
    }

    fn read(&self, file: &dyn File, id: SegmentId, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, at)
            .map_err(Error::io("read", &segment_path(self.dir, id)))?;
        Ok(bytes)
    }

    /// Walks one segment; `recovered` is what opening says of the newest one.
    fn segment(
        &mut self,
        id: SegmentId,
        is_newest: bool,
        recovered: Option<&Recovered>,
    ) -> Result<(), Error> {
        let path = segment_path(self.dir, id);
        let file = self.fs.open(&path).map_err(Error::io("open", &path))?;
        let len = file.len().map_err(Error::io("read", &path))?;
        self.summed.segments += 1;
        self.summed.bytes += len;
        let case = recovered.map(|recovered| recovered.case);
        if let Some(case @ (RecoveryCase::NewSegmentEmpty | RecoveryCase::NewSegmentTorn)) = case {
            (self.visit)(Item::Torn {
                segment: id,
                offset: 0,
                bytes: len,
                case,
            });
            return Ok(());
        }
        let bytes = self.read(file.as_ref(), id, 0, len.min(SEGMENT_HEADER_LEN))?;
        let header = match SegmentHeader::decode(&bytes, id) {
            Ok(header) => header,
            Err(fault) => {
                if let Ok(found) = SegmentHeader::decode_version(&bytes)
                    && found != VERSION
                {
                    return Err(Error::UnknownVersion {
                        path,
                        found,
                        supported: VERSION,
                    });
                }
                self.damage(id, 0, fault);
                return Ok(());
            }
        };
        (self.visit)(Item::Segment {
            segment: id,
            bytes: len,
            previous: header.previous,
        });

        let cut = recovered.and_then(|recovered| recovered.cut);
        let is_active = recovered.is_some() && case != Some(RecoveryCase::SealedWithoutSuccessor);
        let summary = if is_active {
            None
        } else {
            self.summary(file.as_ref(), id, len, is_newest)?
        };
        let end = summary
            .as_ref()
            .map_or(cut.map_or(len, |cut| cut.offset), |summary| summary.offset);
        let mut content = Content::new(id, header.state);
        let whole = self.groups(file.clone(), id, end, &mut content)?;
        if let Some(summary) = summary {
            self.footer(file.as_ref(), id, &summary, &content, whole)?;
        }
        if let (Some(cut), Some(case)) = (cut, case) {
            (self.visit)(Item::Torn {
                segment: id,
                offset: cut.offset,
                bytes: cut.bytes,
                case,
            });
        }
        Ok(())
    }

    /// The summary of a sealed segment; the newest one need not be sealed.
    fn summary(
        &mut self,
        file: &dyn File,
        id: SegmentId,
        len: u64,
        is_newest: bool,
    ) -> Result<Option<Summary>, Error> {
        let at = len.saturating_sub(SUMMARY_LEN);
        let bytes = self.read(file, id, at, len - at)?;
        match Summary::decode(&bytes, id, len) {
            Ok(summary) => Ok(Some(summary)),
            Err(_) if is_newest => Ok(None),
            Err(fault) => {
                self.damage(id, at, fault);
                Ok(None)
            }
        }
    }

    fn footer(
        &mut self,
        file: &dyn File,
        id: SegmentId,
        summary: &Summary,
        content: &Content,
        whole: bool,
    ) -> Result<(), Error> {
        let offset = summary.offset;
        let bytes = self.read(file, id, offset, summary.footer_len())?;
        let runs = bytes.get(summary.table_len() as usize..).unwrap_or_default();
        if let Err(fault) = summary
            .decode_table(&bytes)
            .map(drop)
            .and(summary.decode_runs(runs).map(drop))
        {
            self.damage(id, offset, fault);
        } else if whole && bytes != content.footer(offset).encode() {
            let fault = Fault::Field {
                field: "footer that its groups do not call for",
                value: offset,
            };
            self.damage(id, offset, fault);
        } else {
            let (bytes, entries) = (bytes.len() as u64, summary.count);
            (self.visit)(Item::Footer {
                segment: id,
                offset,
                bytes,
                entries,
            });
        }
        Ok(())
    }

    /// Walks the groups up to `end`; false if some frame could not be followed.
    fn groups(
        &mut self,
        file: Arc<dyn File>,
        id: SegmentId,
        end: u64,
        content: &mut Content,
    ) -> Result<bool, Error> {
        let mut reader = FrameReader::new(file, id, end);
        let mut at = SEGMENT_HEADER_LEN;
        let mut whole = true;
        while at < end {
            let header = reader.bytes(at, GROUP_HEADER_LEN);
            let group = header.and_then(|bytes| Ok(GroupHeader::decode(&bytes, id, at)?));
            let group = match group {
                Ok(group) if group.end() <= end => group,
                Ok(group) => {
                    self.damage(
                        id,
                        at,
                        Fault::Short {
                            needed: group.len,
                            got: end - at,
                        },
                    );
                    return Ok(false);
                }
                Err(e) => {
                    self.bad(id, at, e)?;
                    return Ok(false);
                }
            };
            self.summed.groups += 1;
            at = group.end();
            (self.visit)(Item::Group(group.clone()));
            whole &= self.frames(&mut reader, id, &group, content)?;
        }
        Ok(whole)
    }

    fn frames(
        &mut self,
        reader: &mut FrameReader,
        id: SegmentId,
        group: &GroupHeader,
        content: &mut Content,
    ) -> Result<bool, Error> {
        let mut at = group.offset + GROUP_HEADER_LEN;
        for _ in 0..group.frames {
            let frame = match reader.frame(at) {
                Ok(frame) => frame,
                Err(e) => {
                    self.bad(id, at, e)?;
                    return Ok(false);
                }
            };
            self.summed.frames += 1;
            (self.visit)(Item::Frame {
                segment: id,
                offset: at,
                head: frame.head.clone(),
            });
            if let Err(fault) = content.apply(&frame.head, at) {
                self.damage(id, at, fault);
                return Ok(false);
            }
            self.records(reader, id, &frame)?;
            at = frame.end();
        }
        if at != group.end() {
            let fault = Fault::Mismatch {
                field: "end of the group",
                expected: group.end(),
                got: at,
            };
            self.damage(id, group.offset, fault);
            return Ok(false);
        }
        Ok(true)
    }

    fn records(&mut self, reader: &mut FrameReader, id: SegmentId, frame: &Frame) -> Result<(), Error> {
        for op in &frame.ops {
            let offset = frame.body_at() + op.record_at;
            let bytes = match reader.bytes(offset, op.head.record_len()) {
                Ok(bytes) => bytes,
                Err(e) => {
                    self.bad(id, offset, e)?;
                    continue;
                }
            };
            match decode_record(bytes) {
                Ok(record) => {
                    self.summed.records += 1;
                    (self.visit)(Item::Record {
                        place: ValueRef {
                            segment: id,
                            offset,
                            value_len: op.value_len,
                        },
                        log_id: frame.head.log_id,
                        kind: op.kind,
                        precondition: op.precondition,
                        record,
                    });
                }
                Err(Error::Malformed(fault)) => self.damage(id, offset, fault),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}
