//! Reading entries, heads and values.

use std::ops::Range;

use bytes::Bytes;

use crate::entry::{Entry, Head};
use crate::error::{Error, Fault};
use crate::extents::Extent;
use crate::format::{FRAME_HEADER_LEN, segment_path};
use crate::ids::{LogId, SegmentId, ValueRef};
use crate::log::Log;
use crate::record::{record_len, verify_record};
use crate::scan::FrameReader;
use crate::segment_bytes::SegmentBytes;
use crate::tail::Place;

/// Entries looked up under one lock; bounds how long the lock is held.
const CHUNK: u64 = 2048;
/// Bytes of values that one answer of heads takes along.
const INLINE_BYTES: u64 = 4 << 20;

/// Part of a range, as found under one lock.
struct Chunk {
    /// Where the entries that are not cached are; before the cached ones.
    on_disk: Vec<OnDisk>,
    cached: Vec<(Entry, Option<Place>)>,
    /// Index after the last entry found.
    end: u64,
    /// The chunk's last entry; says whether the next chunk goes on with the same log.
    last: Option<LogId>,
}

/// Entries of one segment.
struct OnDisk {
    extent: Extent,
    /// Their offsets and the end of the groups, if the segment is the active one.
    active: Option<(Vec<u64>, u64)>,
}

impl Log {
    /// Reads whole entries.
    ///
    /// Shape: consecutive entries of `range`, at least one if any exists, then as many as fit in `max_bytes` of frames.
    /// Entries missing at either end (purged, truncated, not yet appended) make the answer shorter, never an error.
    /// Errors: `Damage`, `Io`. Blocking: none for cached entries, otherwise positioned reads.
    pub fn entries(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut left = max_bytes;
        let mut full = |entry: &Entry, first: bool| {
            let fits = entry.encoded_len() <= left;
            left = left.saturating_sub(entry.encoded_len());
            !fits && !first
        };
        let mut next = range.start;
        let mut before = None;
        while next < range.end {
            let Some(chunk) = self.chunk(next..range.end, before, max_bytes) else {
                break;
            };
            for part in &chunk.on_disk {
                let mut reader = self.reader(part)?;
                for offset in self.offsets(part)? {
                    let read = reader.entry(offset);
                    let entry =
                        read.map_err(|(at, e)| e.at(&self.shared.files.dir, part.extent.segment, at))?;
                    if full(&entry, entries.is_empty()) {
                        return Ok(entries);
                    }
                    entries.push(entry);
                }
            }
            for (entry, _) in chunk.cached {
                if full(&entry, entries.is_empty()) {
                    return Ok(entries);
                }
                entries.push(entry);
            }
            (next, before) = (chunk.end, chunk.last);
        }
        check_consecutive(entries.iter().map(|entry| entry.log_id), range.start);
        Ok(entries)
    }

    /// Reads heads: ids, keys, places, and values up to `inline_max` bytes.
    ///
    /// Shape: all entries of `range` that exist; missing ones at either end make the answer shorter. It also ends after
    /// the entry with which its inline values reach 4 MiB: ask again from there.
    /// Errors: `NotDurable` if one of them is not durable yet; `Damage`, `Io`.
    /// Blocking: none for cached entries; otherwise reads that jump over longer values.
    pub fn heads(&self, range: Range<u64>, inline_max: u32) -> Result<Vec<Head>, Error> {
        let heads = self.heads_of(range.clone(), inline_max)?;
        check_consecutive(heads.iter().map(|head| head.log_id), range.start);
        Ok(heads)
    }

    fn heads_of(&self, range: Range<u64>, inline_max: u32) -> Result<Vec<Head>, Error> {
        let mut heads: Vec<Head> = Vec::new();
        let mut inline = 0;
        let mut full = |head: &Head| {
            inline += head.inline_bytes();
            inline >= INLINE_BYTES
        };
        let mut next = range.start;
        let mut before = None;
        while next < range.end {
            let Some(chunk) = self.chunk(next..range.end, before, u64::MAX) else {
                break;
            };
            for part in &chunk.on_disk {
                let mut reader = self.reader(part)?;
                for offset in self.offsets(part)? {
                    let read = reader.head(offset, inline_max);
                    let head =
                        read.map_err(|(at, e)| e.at(&self.shared.files.dir, part.extent.segment, at))?;
                    let full = full(&head);
                    heads.push(head);
                    if full {
                        return Ok(heads);
                    }
                }
            }
            for (entry, place) in chunk.cached {
                let place = place.ok_or(Error::NotDurable {
                    index: entry.log_id.index,
                })?;
                let head = entry.head(place.segment, place.offset, inline_max);
                let full = full(&head);
                heads.push(head);
                if full {
                    return Ok(heads);
                }
            }
            (next, before) = (chunk.end, chunk.last);
        }
        Ok(heads)
    }

    /// Whether every entry from `index` on is in memory, so that reading it waits for no disk.
    pub fn is_cached(&self, index: u64) -> bool {
        self.shared
            .view()
            .tail
            .first()
            .is_some_and(|first| first <= index)
    }

    /// Looks up the start of `range`; `None` if nothing of it exists, or if the log before it is no longer `before`'s.
    fn chunk(&self, range: Range<u64>, before: Option<LogId>, max_bytes: u64) -> Option<Chunk> {
        let view = self.shared.view();
        // The same entry before it means the same log up to it: no chunk mixes two histories.
        if before.is_some_and(|before| view.log_id(before.index) != Some(before)) {
            return None;
        }
        let start = range.start.max(view.first_index());
        if before.is_some() && start != range.start {
            return None;
        }
        let end = range.end.min(view.end_index()).min(start.saturating_add(CHUNK));
        if start >= end {
            return None;
        }
        let tail_first = view.tail.first().unwrap_or(end).clamp(start, end);
        let on_disk = view.extents.parts(start..tail_first);
        let on_disk = on_disk.map(|extent| OnDisk {
            extent,
            active: (extent.segment == view.active.segment).then(|| {
                let offsets = (extent.first..=extent.last).filter_map(|index| view.active.offset(index));
                (offsets.map(u64::from).collect(), view.active_bytes)
            }),
        });
        let on_disk: Vec<OnDisk> = on_disk.collect();
        let mut chunk = Chunk {
            on_disk,
            cached: Vec::new(),
            end: tail_first,
            last: None,
        };
        let mut bytes = 0;
        for slot in view.tail.from(tail_first).take((end - tail_first) as usize) {
            chunk.cached.push((slot.entry.clone(), slot.place));
            chunk.end += 1;
            bytes += slot.entry.encoded_len();
            if bytes > max_bytes {
                break;
            }
        }
        chunk.last = view.log_id(chunk.end - 1);
        Some(chunk)
    }

    fn reader(&self, part: &OnDisk) -> Result<FrameReader, Error> {
        let segment = part.extent.segment;
        let end = match &part.active {
            Some((_, end)) => *end,
            None => self.shared.files.table(segment)?.end,
        };
        Ok(FrameReader::new(self.shared.files.file(segment)?, segment, end))
    }

    fn offsets(&self, part: &OnDisk) -> Result<Vec<u64>, Error> {
        let Extent { segment, first, last } = part.extent;
        if let Some((offsets, _)) = &part.active {
            assert_eq!(
                offsets.len() as u64,
                last - first + 1,
                "offsets of {first}..={last} in {segment}"
            );
            return Ok(offsets.clone());
        }
        let table = self.shared.files.table(segment)?;
        (first..=last)
            .map(|index| self.shared.files.frame_offset(&table, segment, index))
            .collect()
    }

    /// Reads the value at `at`, which the caller knows as the value of `key` written at `revision`.
    ///
    /// Shape: exactly `at.value_len` bytes.
    /// Errors: `Damage` if the checksum, the key or the revision differs; `NoSuchSegment`; `Io`.
    /// Blocking: none if the entry is cached, otherwise one positioned read.
    pub fn read_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        if let Some(value) = self.cached_value(at, key, revision) {
            return Ok(value);
        }
        verify_value(self.record_at(at, key)?, at, key, revision)
    }

    /// Reads the whole record at `at`, as it stands there, for copying it on.
    ///
    /// Errors: as `read_value`. Blocking: one positioned read.
    pub fn read_record(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        let bytes = self.record_at(at, key)?;
        verify_value(bytes.clone(), at, key, revision)?;
        Ok(bytes)
    }

    fn record_at(&self, at: ValueRef, key: &[u8]) -> Result<Bytes, Error> {
        let file = self.shared.files.file(at.segment)?;
        let mut bytes = vec![0; record_len(key.len(), at.value_len as usize) as usize];
        file.read_exact_at(&mut bytes, at.offset)
            .map_err(|e| self.read_failed(at, bytes.len(), e))?;
        Ok(bytes.into())
    }

    /// As `read_value`, but only from memory (the tail cache, or the system's page cache): `None` if it would block.
    pub fn try_read_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Option<Bytes>, Error> {
        if let Some(value) = self.cached_value(at, key, revision) {
            return Ok(Some(value));
        }
        let file = self.shared.files.file(at.segment)?;
        let mut bytes = vec![0; record_len(key.len(), at.value_len as usize) as usize];
        match file.try_read_at(&mut bytes, at.offset) {
            Ok(Some(n)) if n == bytes.len() => verify_value(bytes.into(), at, key, revision).map(Some),
            // A part only: the blocking read says whether the rest is missing or just not in memory.
            Ok(_) => Ok(None),
            Err(e) => Err(self.read_failed(at, bytes.len(), e)),
        }
    }

    /// The bytes of a segment, for reading many records of it.
    ///
    /// Errors: `NoSuchSegment`; `Io`. Blocking: may open the file.
    pub fn segment_bytes(&self, segment: SegmentId) -> Result<SegmentBytes, Error> {
        self.shared.files.file(segment).map(SegmentBytes::new)
    }

    fn read_failed(&self, at: ValueRef, len: usize, e: std::io::Error) -> Error {
        match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::damage(at.segment, at.offset)(Fault::Short {
                needed: len as u64,
                got: 0,
            }),
            _ => Error::io("read", &segment_path(&self.shared.files.dir, at.segment))(e),
        }
    }

    /// The value from the tail cache: the revision of a record is the index of its entry.
    fn cached_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Option<Bytes> {
        let (entry, offset) = {
            let view = self.shared.view();
            let slot = view.tail.get(revision)?;
            let place = slot.place.filter(|place| place.segment == at.segment)?;
            (slot.entry.clone(), place.offset)
        };
        let crate::entry::Payload::Command(command) = &entry.payload else {
            return None;
        };
        let in_body = at.offset.checked_sub(offset + FRAME_HEADER_LEN)?;
        let span = command
            .spans()
            .into_iter()
            .find(|span| span.record_at == in_body)?;
        let end = span.record_end() as usize;
        (span.key == key && span.value_len == at.value_len)
            .then(|| command.as_bytes().slice(end - span.value_len as usize..end))
    }
}

/// Verifies a record read for `at`, that it is the one asked for, and returns its value.
fn verify_value(bytes: Bytes, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
    verify_record(&bytes, key, revision).map_err(Error::damage(at.segment, at.offset))?;
    Ok(bytes.slice(bytes.len() - at.value_len as usize..))
}

fn check_consecutive(ids: impl Iterator<Item = LogId>, start: u64) {
    let mut expected = None;
    for id in ids {
        assert!(
            expected.is_none_or(|expected| expected == id.index),
            "read of {start}.. has a hole before {id}"
        );
        expected = Some(id.index + 1);
    }
}
