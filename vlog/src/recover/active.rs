//! The newest segment: the only one that a crash can have left unfinished.

use std::sync::Arc;

use super::replay::{Replay, refuse};
use super::{Active, Cut, RecoveryCase, create};
use crate::content::Content;
use crate::error::{Error, Fault};
use crate::format::{
    FOOTER_MAGIC, GROUP_HEADER_LEN, GROUP_MAGIC, GroupHeader, SEGMENT_HEADER_LEN, SUMMARY_LEN, SegmentHeader,
    Summary, segment_path,
};
use crate::fs::{File, Fs};
use crate::ids::SegmentId;
use crate::scan::{Frame, FrameReader, ScanError};

/// Bytes moved at once where the whole of something is read.
const COPY_LEN: u64 = 1 << 20;

/// The newest segment while it is looked at.
struct Newest<'a> {
    replay: &'a Replay,
    file: Arc<dyn File>,
    id: SegmentId,
    len: u64,
    content: Content,
}

/// Where the valid part of the segment ends, and why.
struct End {
    at: u64,
    /// Start of the last group, or 0 if there is none: bytes from here on may not be durable yet.
    last_write: u64,
    case: RecoveryCase,
}

/// The newest segment as found; nothing is changed yet.
enum Found<'a> {
    /// No valid header, and nothing after it.
    NoHeader,
    Scanned(Box<Newest<'a>>, End),
}

fn look<'a>(
    replay: &'a mut Replay,
    file: Arc<dyn File>,
    id: SegmentId,
    len: u64,
) -> Result<Found<'a>, Error> {
    let bytes = replay.read(file.as_ref(), id, 0, len.min(SEGMENT_HEADER_LEN))?;
    let header = match replay.header(&bytes, id)? {
        Ok(header) => header,
        Err(_) if len <= SEGMENT_HEADER_LEN => {
            let expected = replay.previous.map_or(1, |previous| previous.get() + 1);
            if id.get() == expected {
                return Ok(Found::NoHeader);
            }
            return Err(Error::MissingSegment {
                segment: SegmentId::new(id.get() - 1),
                successor: id,
            });
        }
        Err(fault) => return Err(refuse(RecoveryCase::SegmentHeaderDamaged, id, 0)(fault)),
    };
    replay.link(&header)?;
    let content = Content::new(id, header.state);
    let mut newest = Newest {
        replay,
        file,
        id,
        len,
        content,
    };
    let end = newest.scan()?;
    Ok(Found::Scanned(Box::new(newest), end))
}

fn no_header_case(len: u64) -> RecoveryCase {
    if len == 0 {
        RecoveryCase::NewSegmentEmpty
    } else {
        RecoveryCase::NewSegmentTorn
    }
}

/// Recovers the newest segment and makes it ready for the writer.
pub(super) fn recover(fs: &dyn Fs, replay: &mut Replay, id: SegmentId) -> Result<Active, Error> {
    let path = segment_path(&replay.dir, id);
    let file = fs.open_write(&path).map_err(Error::io("open", &path))?;
    let len = file.len().map_err(Error::io("read", &path))?;
    let (newest, end) = match look(replay, file.clone(), id, len)? {
        Found::NoHeader => return rewrite_header(replay, file, id, len),
        Found::Scanned(newest, end) => (newest, end),
    };
    newest.settle(&end)?;
    let content = newest.content;
    if end.case == RecoveryCase::SealedWithoutSuccessor {
        return start_successor(fs, replay, content, len);
    }
    let cut = (end.at < len).then(|| Cut {
        segment: id,
        offset: end.at,
        bytes: len - end.at,
    });
    Ok(Active {
        file,
        content,
        end: end.at,
        case: end.case,
        cut,
    })
}

/// What `recover` would find, without changing anything.
pub(super) fn examine(fs: &dyn Fs, replay: &mut Replay, id: SegmentId) -> Result<Active, Error> {
    let path = segment_path(&replay.dir, id);
    let file = fs.open(&path).map_err(Error::io("open", &path))?;
    let len = file.len().map_err(Error::io("read", &path))?;
    match look(replay, file.clone(), id, len)? {
        Found::NoHeader => {
            let content = Content::new(id, replay.state.clone());
            Ok(Active {
                file,
                content,
                end: len,
                case: no_header_case(len),
                cut: None,
            })
        }
        Found::Scanned(newest, End { at, case, .. }) => {
            let content = newest.content;
            let sealed = case == RecoveryCase::SealedWithoutSuccessor;
            let cut = (at < len && !sealed).then(|| Cut {
                segment: id,
                offset: at,
                bytes: len - at,
            });
            Ok(Active {
                file,
                content,
                end: at,
                case,
                cut,
            })
        }
    }
}

/// Writes the header of a segment anew whose creation did not finish.
fn rewrite_header(replay: &Replay, file: Arc<dyn File>, id: SegmentId, len: u64) -> Result<Active, Error> {
    let path = segment_path(&replay.dir, id);
    let header = SegmentHeader {
        segment: id,
        previous: replay.previous,
        state: replay.state.clone(),
    };
    file.write_all_at(&header.encode(), 0)
        .map_err(Error::io("write header of", &path))?;
    file.sync_data().map_err(Error::io("sync header of", &path))?;
    let case = if len == 0 {
        RecoveryCase::NewSegmentEmpty
    } else {
        RecoveryCase::NewSegmentTorn
    };
    let content = Content::new(id, header.state);
    Ok(Active {
        file,
        content,
        end: SEGMENT_HEADER_LEN,
        case,
        cut: None,
    })
}

fn start_successor(fs: &dyn Fs, replay: &mut Replay, content: Content, len: u64) -> Result<Active, Error> {
    replay.add_sealed(&content, len);
    let next = SegmentId::new(content.segment.get() + 1);
    let header = SegmentHeader {
        segment: next,
        previous: Some(content.segment),
        state: content.state,
    };
    let file = create(fs, &replay.dir, &header)?;
    let content = Content::new(next, header.state);
    let case = RecoveryCase::SealedWithoutSuccessor;
    Ok(Active {
        file,
        content,
        end: SEGMENT_HEADER_LEN,
        case,
        cut: None,
    })
}

impl Newest<'_> {
    fn refuse<T>(&self, case: RecoveryCase, offset: u64, error: ScanError) -> Result<T, Error> {
        match error {
            ScanError::Bad(fault) => Err(refuse(case, self.id, offset)(fault)),
            io => Err(io.at(&self.replay.dir, self.id, offset)),
        }
    }

    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        self.replay.read(self.file.as_ref(), self.id, at, len)
    }

    /// Hops from group to group, following their frames, up to the end of what is valid.
    fn scan(&mut self) -> Result<End, Error> {
        let mut reader = FrameReader::new(self.file.clone(), self.id, self.len);
        let (mut at, mut last_write) = (SEGMENT_HEADER_LEN, 0);
        while at < self.len {
            let header_len = GROUP_HEADER_LEN.min(self.len - at);
            let bytes = match reader.bytes(at, header_len) {
                Ok(bytes) => bytes,
                Err(e) => return self.refuse(RecoveryCase::DamageBeforeDurable, at, e),
            };
            let group = match GroupHeader::decode(&bytes, self.id, at) {
                Ok(group) => group,
                Err(fault) => {
                    return Ok(End {
                        at,
                        last_write,
                        case: self.classify_rest(at, fault)?,
                    });
                }
            };
            if group.end() > self.len {
                return Ok(End {
                    at,
                    last_write,
                    case: RecoveryCase::GroupCut,
                });
            }
            let is_last = group.end() == self.len;
            match read_group(&mut reader, &group, is_last) {
                Ok(frames) => self.follow(&frames)?,
                // Nothing follows: this is the write that the crash interrupted.
                Err((_, ScanError::Bad(_))) if is_last => {
                    return Ok(End {
                        at,
                        last_write,
                        case: RecoveryCase::GroupTorn,
                    });
                }
                // Something follows, so this group was durable once.
                Err((offset, e)) => return self.refuse(RecoveryCase::DamageBeforeDurable, offset, e),
            }
            last_write = at;
            at = group.end();
        }
        Ok(End {
            at,
            last_write,
            case: RecoveryCase::CleanEnd,
        })
    }

    fn follow(&mut self, frames: &[Frame]) -> Result<(), Error> {
        for frame in frames {
            let followed = self.content.apply(&frame.head, frame.offset);
            followed.map_err(refuse(RecoveryCase::Inconsistent, self.id, frame.offset))?;
        }
        Ok(())
    }

    /// Says what the bytes from `at` on are, given that they are no group header because of `fault`.
    fn classify_rest(&self, at: u64, fault: Fault) -> Result<RecoveryCase, Error> {
        let damage = || refuse(RecoveryCase::DamageBeforeDurable, self.id, at);
        let summary_at = self.len.saturating_sub(SUMMARY_LEN);
        let summary = Summary::decode(&self.read(summary_at, self.len - summary_at)?, self.id, self.len);
        if let Ok(summary) = summary {
            if summary.offset != at {
                // A footer is written after everything before it was synced.
                return Err(damage()(fault));
            }
            let footer = self.content.footer(at).encode();
            if self.read(at, self.len - at)? == footer {
                return Ok(RecoveryCase::SealedWithoutSuccessor);
            }
            return Ok(RecoveryCase::FooterTorn);
        }
        let head = self.read(at, (self.len - at).min(FOOTER_MAGIC.len() as u64))?;
        // One byte is not enough: groups and footers begin alike.
        if head.len() > 1 && FOOTER_MAGIC.starts_with(&head) {
            return Ok(RecoveryCase::FooterTorn);
        }
        match self.find_group_after(at)? {
            Rest::Group => Err(damage()(fault)),
            Rest::Zeros => Ok(RecoveryCase::ZeroTail),
            Rest::Other => Ok(RecoveryCase::GroupHeaderTorn),
        }
    }

    /// Looks for a group that was written after the bytes at `at` were durable.
    fn find_group_after(&self, at: u64) -> Result<Rest, Error> {
        let mut zeros = true;
        let mut from = at;
        while from < self.len {
            // Windows overlap by one header, so that none is missed.
            let bytes = self.read(from, (COPY_LEN + GROUP_HEADER_LEN).min(self.len - from))?;
            zeros &= bytes.iter().all(|&byte| byte == 0);
            for (skip, _) in bytes
                .windows(GROUP_MAGIC.len())
                .enumerate()
                .filter(|(_, w)| *w == GROUP_MAGIC)
            {
                let header = bytes.get(skip..).unwrap_or_default();
                let found = GroupHeader::decode(header, self.id, from + skip as u64);
                if found.is_ok_and(|group| group.durable_before > at) {
                    return Ok(Rest::Group);
                }
            }
            from += COPY_LEN;
        }
        Ok(if zeros { Rest::Zeros } else { Rest::Other })
    }

    /// Cuts what is not valid, and makes the rest durable for sure.
    fn settle(&self, end: &End) -> Result<(), Error> {
        let path = segment_path(&self.replay.dir, self.id);
        let keep = match end.case {
            RecoveryCase::SealedWithoutSuccessor => self.len,
            _ => end.at,
        };
        if keep < self.len {
            self.file.set_len(keep).map_err(Error::io("cut", &path))?;
        }
        // A sync that failed before may have left these pages clean but not on disk: write them again, so that the
        // sync below writes them out.
        let mut at = end.last_write;
        while at < keep {
            let bytes = self.read(at, COPY_LEN.min(keep - at))?;
            self.file
                .write_all_at(&bytes, at)
                .map_err(Error::io("rewrite the end of", &path))?;
            at += bytes.len() as u64;
        }
        // Crash here: the cut or the rewrite is lost in part; recovery does the same again.
        self.file.sync_data().map_err(Error::io("sync", &path))
    }
}

/// What follows a bad group header.
enum Rest {
    Group,
    Zeros,
    Other,
}

/// Reads the frames of a group, and the values too if it may not have been durable.
fn read_group(
    reader: &mut FrameReader,
    group: &GroupHeader,
    values: bool,
) -> Result<Vec<Frame>, (u64, ScanError)> {
    let mut frames = Vec::new();
    let mut at = group.offset + GROUP_HEADER_LEN;
    for _ in 0..group.frames {
        let frame = reader.frame(at).map_err(|e| (at, e))?;
        if values {
            reader.verify_records(&frame)?;
        }
        at = frame.end();
        frames.push(frame);
    }
    if at != group.end() {
        let fault = Fault::Mismatch {
            field: "end of the group",
            expected: group.end(),
            got: at,
        };
        return Err((group.offset, fault.into()));
    }
    Ok(frames)
}
