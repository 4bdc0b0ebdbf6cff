//! Adds the segments up, oldest first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Active, Opened, Recovered, RecoveryCase};
use crate::content::Content;
use crate::error::{Error, Fault};
use crate::extents::{Extent, Extents};
use crate::format::{SEGMENT_HEADER_LEN, SUMMARY_LEN, SegmentHeader, Summary, VERSION, segment_path};
use crate::fs::{File, Fs};
use crate::ids::SegmentId;
use crate::runs::Runs;
use crate::state::State;
use crate::view::{Sealed, View};

/// The log up to some segment.
pub(super) struct Replay {
    pub(super) dir: PathBuf,
    pub(super) state: State,
    /// The segment before the next one.
    pub(super) previous: Option<SegmentId>,
    extents: Extents,
    runs: Runs,
    sealed: BTreeMap<SegmentId, Sealed>,
    gaps: Vec<Gap>,
    notes: Vec<RecoveryCase>,
}

/// Segments that are not there; allowed if `last` is purged in the end.
struct Gap {
    missing: SegmentId,
    successor: SegmentId,
    last: Option<u64>,
}

/// Refuses to open.
pub(super) fn refuse(case: RecoveryCase, segment: SegmentId, offset: u64) -> impl FnOnce(Fault) -> Error {
    move |fault| Error::Refused {
        case,
        segment,
        offset,
        fault,
    }
}

impl Replay {
    pub(super) fn new(dir: &Path) -> Replay {
        Replay {
            dir: dir.to_path_buf(),
            state: State::default(),
            previous: None,
            extents: Extents::default(),
            runs: Runs::default(),
            sealed: BTreeMap::new(),
            gaps: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn read(&self, file: &dyn File, id: SegmentId, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len as usize];
        let io = Error::io("read", &segment_path(&self.dir, id));
        file.read_exact_at(&mut bytes, at).map_err(io)?;
        Ok(bytes)
    }

    /// Decodes a segment's header from the first bytes of its file. Errors: `UnknownVersion`; the fault if it is bad.
    pub(super) fn header(&self, bytes: &[u8], id: SegmentId) -> Result<Result<SegmentHeader, Fault>, Error> {
        match SegmentHeader::decode_version(bytes) {
            Ok(found) if found != VERSION => Err(Error::UnknownVersion {
                path: segment_path(&self.dir, id),
                found,
                supported: VERSION,
            }),
            Ok(_) => Ok(SegmentHeader::decode(bytes, id)),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// Adds a segment that is not the newest: header and footer only.
    pub(super) fn sealed(&mut self, fs: &dyn Fs, id: SegmentId) -> Result<(), Error> {
        let path = segment_path(&self.dir, id);
        let file = fs.open(&path).map_err(Error::io("open", &path))?;
        let len = file.len().map_err(Error::io("read", &path))?;
        let bytes = self.read(file.as_ref(), id, 0, len.min(SEGMENT_HEADER_LEN))?;
        let damaged = refuse(RecoveryCase::SegmentHeaderDamaged, id, 0);
        let header = self.header(&bytes, id)?.map_err(damaged)?;
        self.link(&header)?;

        let at = len.saturating_sub(SUMMARY_LEN);
        let bytes = self.read(file.as_ref(), id, at, len - at)?;
        let damaged = |offset| refuse(RecoveryCase::FooterDamaged, id, offset);
        let summary = Summary::decode(&bytes, id, len).map_err(damaged(at))?;
        let runs_at = summary.offset + summary.table_len();
        let bytes = self.read(file.as_ref(), id, runs_at, summary.runs_len())?;
        let runs = summary.decode_runs(&bytes).map_err(damaged(runs_at))?;

        let extent = (summary.count > 0).then(|| Extent {
            segment: id,
            first: summary.first,
            last: summary.first + u64::from(summary.count) - 1,
        });
        let mut own = Runs::default();
        runs.into_iter().for_each(|run| own.push_run(run));
        self.add(extent, &own, summary.keep_below, summary.state);
        let sealed = Sealed {
            bytes: len,
            first: extent.map(|extent| extent.first),
            last: extent.map(|extent| extent.last),
            max_entry: summary.max_entry,
        };
        self.sealed.insert(id, sealed);
        self.previous = Some(id);
        Ok(())
    }

    /// Checks that a segment goes on where the one before it ended.
    pub(super) fn link(&mut self, header: &SegmentHeader) -> Result<(), Error> {
        if header.previous == self.previous {
            if header.state != self.state {
                let fault = Fault::Mismatch {
                    field: "last index of the segment before",
                    expected: self.state.last.map_or(0, |last| last.index),
                    got: header.state.last.map_or(0, |last| last.index),
                };
                return Err(refuse(RecoveryCase::Inconsistent, header.segment, 0)(fault));
            }
            return Ok(());
        }
        let Some(missing) = header.previous.filter(|&missing| Some(missing) > self.previous) else {
            let fault = Fault::Mismatch {
                field: "previous segment",
                expected: self.previous.map_or(0, SegmentId::get),
                got: header.previous.map_or(0, SegmentId::get),
            };
            return Err(refuse(RecoveryCase::Inconsistent, header.segment, 0)(fault));
        };
        let last = header.state.last.map(|last| last.index);
        self.gaps.push(Gap {
            missing,
            successor: header.segment,
            last,
        });
        // What the missing segments truncated is not known, but what was left is: nothing beyond `last`.
        let cut = last.map_or(0, |last| last + 1);
        self.extents.truncate(cut);
        self.runs.truncate(cut);
        self.state = header.state.clone();
        Ok(())
    }

    fn add(&mut self, extent: Option<Extent>, runs: &Runs, keep_below: Option<u64>, state: State) {
        if let Some(below) = keep_below {
            if self.extents.last_index().is_some_and(|last| last >= below) {
                self.notes.push(RecoveryCase::TruncatedAcross);
            }
            self.extents.truncate(below);
            self.runs.truncate(below);
        }
        if let Some(extent) = extent {
            self.extents.truncate(extent.first);
            self.runs.truncate(extent.first);
            self.extents.push(extent);
            runs.iter().for_each(|run| self.runs.push_run(run));
        }
        if state.last == state.purged {
            self.extents = Extents::default();
            self.runs.clear();
        }
        self.state = state;
    }

    /// Adds the content of the newest segment, which is sealed and will get a successor.
    pub(super) fn add_sealed(&mut self, content: &Content, bytes: u64) {
        let extent = self.add_content(content);
        let sealed = Sealed {
            bytes,
            first: extent.map(|extent| extent.first),
            last: extent.map(|extent| extent.last),
            max_entry: content.max_entry,
        };
        self.sealed.insert(content.segment, sealed);
        self.previous = Some(content.segment);
    }

    fn add_content(&mut self, content: &Content) -> Option<Extent> {
        let last = content.last();
        let extent = last.map(|last| Extent {
            segment: content.segment,
            first: content.first,
            last,
        });
        self.add(extent, &content.runs, content.keep_below, content.state.clone());
        extent
    }

    /// Adds the active segment and checks the whole.
    pub(super) fn finish(mut self, active: Active) -> Result<Opened, Error> {
        let Active {
            file,
            content,
            end,
            case,
            cut,
        } = active;
        self.add_content(&content);
        let first = self.state.first_possible();
        for Gap {
            missing,
            successor,
            last,
        } in &self.gaps
        {
            if last.is_some_and(|last| last >= first) {
                return Err(Error::MissingSegment {
                    segment: *missing,
                    successor: *successor,
                });
            }
            self.notes.push(RecoveryCase::ReclaimedGap);
        }
        self.extents.trim(first);
        self.runs.trim(first);
        if let Some((expected, got)) = self.extents.hole() {
            let fault = Fault::Mismatch {
                field: "log index",
                expected,
                got,
            };
            return Err(refuse(RecoveryCase::Inconsistent, content.segment, 0)(fault));
        }
        let hint = self.state.committed;
        let is_ahead = hint.is_some_and(|hint| self.state.last.is_none_or(|last| hint.index > last.index));
        // Entries are never committed before those below them, so the last one there is is committed too.
        let committed = if is_ahead { self.state.last } else { hint };
        let State {
            vote, purged, last, ..
        } = self.state;
        let mut view = View::new(content, end, self.runs, self.extents, self.sealed);
        if is_ahead {
            self.notes.push(RecoveryCase::CommittedClamped);
            view.clamp_committed(committed);
        }
        let segments = view.segments();
        let notes = self.notes;
        let recovered = Recovered {
            case,
            notes,
            cut,
            segments,
            last,
            purged,
            vote,
            committed,
        };
        Ok(Opened {
            view,
            file,
            recovered,
        })
    }
}
