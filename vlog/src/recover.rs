//! Recovery: from the files of a directory to a log, or to a refusal that names segment and offset.
//!
//! Order that recovery relies on: a group is written after the group before it was synced; a footer after the last
//! group; a segment file is created after the footer before it was synced, and its header and directory entry are synced
//! before its first group is written. So of the newest segment at most one write is unfinished, and everything before it
//! was durable. Only bytes of that write are ever cut (I9).
//!
//! | Case | Found | Done |
//! |---|---|---|
//! | `Fresh` | no segment | segment 1 is created |
//! | `CleanEnd` | the newest segment ends with a whole, verified group or with its header | goes on there |
//! | `NewSegmentEmpty` | the newest file has no byte | its header is written anew |
//! | `NewSegmentTorn` | the newest file is no longer than a header, and holds no valid one | its header is written anew |
//! | `SealedWithoutSuccessor` | the newest segment ends with the footer that its groups call for | the next one is created |
//! | `FooterTorn` | after the last group, bytes that begin a footer but are none | cut |
//! | `ZeroTail` | after the last group, only zeros | cut |
//! | `GroupHeaderTorn` | after the last group, bytes that are no group header, and no valid group after them | cut |
//! | `GroupCut` | the last group states more bytes than the file has | cut |
//! | `GroupTorn` | the last group ends the file, but a frame or record in it fails its checksum | cut |
//! | `TruncatedAcross` | a truncation removes entries of earlier segments | noted |
//! | `CommittedClamped` | the committed hint is beyond the last entry | set to the last entry (I3) |
//! | `ReclaimedGap` | a segment is gone, and everything in it is purged | noted |
//! | `DamageBeforeDurable` | a bad group, frame or record, and behind it a valid group, a footer, or other bytes | refused |
//! | `SegmentHeaderDamaged` | a bad header of a segment that is not the newest, or that holds more than it | refused |
//! | `FooterDamaged` | a segment that is not the newest does not end with a valid footer | refused |
//! | `Inconsistent` | valid bytes that contradict those before them | refused |
//! | `MissingSegment` | a segment is gone, and not everything in it is purged | refused |
//! | `UnknownVersion` | a segment of another format version | refused |
//! | `ForeignFile` | a file that is no segment | refused |
//!
//! A damaged final group cannot be told from a torn one: `GroupHeaderTorn` and `GroupTorn` cut both. Whoever opens the
//! log must say so where an operator sees it; [`Recovered::cut`] has the numbers. The same holds for a file cut short from outside.
//!
//! What survives a process is not yet durable: after a kill, or a failed sync, the tail may be in the page cache only,
//! and marked clean. So recovery writes the last group (or the header) again in place, and syncs file and directory,
//! before anything is reported as recovered.

mod active;
mod replay;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::content::Content;
use crate::error::Error;
use crate::format::{SEGMENT_HEADER_LEN, SegmentHeader, parse_segment_name, segment_path};
use crate::fs::{File, Fs};
use crate::ids::{LogId, SegmentId, Vote};
use crate::state::State;
use crate::view::View;
use crate::writer::create_segment;
use replay::Replay;

/// What recovery found; see the table in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table above documents them")]
pub enum RecoveryCase {
    Fresh,
    CleanEnd,
    NewSegmentEmpty,
    NewSegmentTorn,
    SealedWithoutSuccessor,
    FooterTorn,
    ZeroTail,
    GroupHeaderTorn,
    GroupCut,
    GroupTorn,
    TruncatedAcross,
    CommittedClamped,
    ReclaimedGap,
    DamageBeforeDurable,
    SegmentHeaderDamaged,
    FooterDamaged,
    Inconsistent,
    MissingSegment,
    UnknownVersion,
    ForeignFile,
}

impl RecoveryCase {
    /// Every case, in the order of the table.
    pub const ALL: [RecoveryCase; 20] = [
        RecoveryCase::Fresh,
        RecoveryCase::CleanEnd,
        RecoveryCase::NewSegmentEmpty,
        RecoveryCase::NewSegmentTorn,
        RecoveryCase::SealedWithoutSuccessor,
        RecoveryCase::FooterTorn,
        RecoveryCase::ZeroTail,
        RecoveryCase::GroupHeaderTorn,
        RecoveryCase::GroupCut,
        RecoveryCase::GroupTorn,
        RecoveryCase::TruncatedAcross,
        RecoveryCase::CommittedClamped,
        RecoveryCase::ReclaimedGap,
        RecoveryCase::DamageBeforeDurable,
        RecoveryCase::SegmentHeaderDamaged,
        RecoveryCase::FooterDamaged,
        RecoveryCase::Inconsistent,
        RecoveryCase::MissingSegment,
        RecoveryCase::UnknownVersion,
        RecoveryCase::ForeignFile,
    ];
}

impl fmt::Display for RecoveryCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes that recovery removed from the end of the newest segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub segment: SegmentId,
    /// Where it ends now.
    pub offset: u64,
    /// How many bytes are gone.
    pub bytes: u64,
}

/// What recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// How the newest segment ended.
    pub case: RecoveryCase,
    /// Other cases that applied.
    pub notes: Vec<RecoveryCase>,
    /// Bytes removed from a torn, or damaged, end.
    pub cut: Option<Cut>,
    /// The segments, oldest first.
    pub segments: Vec<crate::log::SegmentInfo>,
    /// The last entry, or else the purge point.
    pub last: Option<LogId>,
    /// The purge point.
    pub purged: Option<LogId>,
    /// The latest vote.
    pub vote: Option<Vote>,
    /// The committed hint, clamped to the durable log.
    pub committed: Option<LogId>,
}

/// A log as recovered.
pub(crate) struct Opened {
    pub(crate) view: View,
    /// The active segment, for writing.
    pub(crate) file: Arc<dyn File>,
    pub(crate) recovered: Recovered,
}

/// How the newest segment is left for the writer.
pub(crate) struct Active {
    file: Arc<dyn File>,
    content: Content,
    end: u64,
    case: RecoveryCase,
    cut: Option<Cut>,
}

/// Opens the log in `dir`.
pub(crate) fn open(fs: &dyn Fs, dir: &Path) -> Result<Opened, Error> {
    if !fs.exists(dir).map_err(Error::io("look for", dir))? {
        fs.create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    // Also when it was there: whoever made it may have crashed before this.
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs.sync_dir(parent).map_err(Error::io("sync", parent))?;
    }
    let ids = list_segments(fs, dir)?;
    let mut replay = Replay::new(dir);
    let active = match ids.split_last() {
        None => fresh(fs, dir)?,
        Some((newest, older)) => {
            for &id in older {
                replay.sealed(fs, id)?;
            }
            let active = active::recover(fs, &mut replay, *newest)?;
            fs.sync_dir(dir).map_err(Error::io("sync", dir))?;
            active
        }
    };
    replay.finish(active)
}

/// Says what `open` would recover, without changing anything; `None` if there is no segment.
pub(crate) fn examine(fs: &dyn Fs, dir: &Path) -> Result<Option<Recovered>, Error> {
    let ids = list_segments(fs, dir)?;
    let mut replay = Replay::new(dir);
    let Some((newest, older)) = ids.split_last() else {
        return Ok(None);
    };
    for &id in older {
        replay.sealed(fs, id)?;
    }
    let active = active::examine(fs, &mut replay, *newest)?;
    Ok(Some(replay.finish(active)?.recovered))
}

/// The segments of a directory, oldest first. Errors: `ForeignFile`.
pub(crate) fn list_segments(fs: &dyn Fs, dir: &Path) -> Result<Vec<SegmentId>, Error> {
    let names = fs.list(dir).map_err(Error::io("list", dir))?;
    let mut ids = Vec::new();
    for name in names {
        let foreign = || Error::ForeignFile {
            path: dir.join(&name),
        };
        ids.push(parse_segment_name(name.as_os_str()).ok_or_else(foreign)?);
    }
    ids.sort();
    Ok(ids)
}

fn fresh(fs: &dyn Fs, dir: &Path) -> Result<Active, Error> {
    let header = SegmentHeader {
        segment: SegmentId::new(1),
        previous: None,
        state: State::default(),
    };
    let file = create(fs, dir, &header)?;
    let content = Content::new(header.segment, header.state);
    Ok(Active {
        file,
        content,
        end: SEGMENT_HEADER_LEN,
        case: RecoveryCase::Fresh,
        cut: None,
    })
}

fn create(fs: &dyn Fs, dir: &Path, header: &SegmentHeader) -> Result<Arc<dyn File>, Error> {
    let path = segment_path(dir, header.segment);
    create_segment(fs, dir, header).map_err(|(action, e)| Error::io(action, &path)(e))
}
