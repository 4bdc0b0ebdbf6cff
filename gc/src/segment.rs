//! One complete sorted value segment, open for reading.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use nezha_vlog::format::RECORD_HEADER_LEN;
use nezha_vlog::fs::{File, Fs};
use nezha_vlog::{
    Fault, Record, SegmentBytes, SegmentId, ValueRef, decode_record, record_len, verify_record,
};

use crate::error::Error;
use crate::format::{self, HEADER_BYTES, Header, HeaderFault, TRAILER_BYTES, Table, Trailer};

/// A walk reads this many bytes at a time, or one record if that is longer.
const WINDOW_BYTES: u64 = 1 << 20;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Id of the segment.
    pub id: SegmentId,
    /// Level of the run it belongs to.
    pub level: u8,
    /// Number of records.
    pub records: u64,
    /// Sum of the record lengths in bytes.
    pub record_bytes: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// A sorted value segment. The open file stays readable after it is unlinked.
#[derive(Debug)]
pub struct ValueSegment {
    path: PathBuf,
    file: Arc<dyn File>,
    trailer: Trailer,
    /// First and last key, once somebody has asked.
    keys: OnceLock<(Bytes, Bytes)>,
}

impl ValueSegment {
    /// Opens the segment at `path`, whose name states `level` and `id`. Reads header and trailer only.
    pub(crate) fn open(fs: &dyn Fs, path: PathBuf, level: u8, id: SegmentId) -> Result<ValueSegment, Error> {
        let file = fs.open(&path).map_err(Error::io("open", &path))?;
        let len = file.len().map_err(Error::io("measure", &path))?;
        let least = (HEADER_BYTES + TRAILER_BYTES) as u64;
        if len < least {
            return Err(Error::damage(&path, len)(Fault::Short {
                needed: least,
                got: len,
            }));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)
            .map_err(Error::io("read", &path))?;
        let header = match format::decode_header(&header) {
            Ok(header) => header,
            Err(HeaderFault::Fault(fault)) => return Err(Error::damage(&path, 0)(fault)),
            Err(HeaderFault::Version(found)) => {
                return Err(Error::UnknownVersion {
                    path,
                    found,
                    supported: format::VERSION,
                });
            }
        };
        same(&path, 0, "segment id", id.get(), header.id.get())?;
        same(&path, 0, "level", level.into(), header.level.into())?;
        let at = len - TRAILER_BYTES as u64;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, at)
            .map_err(Error::io("read", &path))?;
        let trailer = format::decode_trailer(&trailer).map_err(Error::damage(&path, at))?;
        same(&path, at, "segment id", id.get(), trailer.header.id.get())?;
        same(&path, at, "level", level.into(), trailer.header.level.into())?;
        same(
            &path,
            at,
            "table end",
            at,
            trailer.table_offset.saturating_add(trailer.table_bytes),
        )?;
        if trailer.table_offset < HEADER_BYTES as u64 || trailer.records == 0 {
            let fault = Fault::Field {
                field: "records or table offset",
                value: trailer.table_offset,
            };
            return Err(Error::damage(&path, at)(fault));
        }
        // Gets read one record, scans and walks ask for what comes next themselves. The system would read megabytes more
        // for each run of records.
        file.no_readahead();
        Ok(ValueSegment {
            path,
            file,
            trailer,
            keys: OnceLock::new(),
        })
    }

    /// Returns what the segment says about itself.
    pub fn summary(&self) -> Summary {
        let Header { id, level } = self.trailer.header;
        Summary {
            id,
            level,
            records: self.trailer.records,
            record_bytes: self.trailer.table_offset - HEADER_BYTES as u64,
            file_bytes: self.trailer.table_offset + self.trailer.table_bytes + TRAILER_BYTES as u64,
        }
    }

    /// Returns the path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the first and the last key. Blocking: the first call reads the table. Errors: as [`ValueSegment::table`].
    pub fn key_range(&self) -> Result<(Bytes, Bytes), Error> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys.clone());
        }
        let Table {
            first_key, last_key, ..
        } = self.table()?;
        // Copies: the keys must not keep the whole table in memory.
        let copy = |key: Bytes| Bytes::copy_from_slice(&key);
        Ok(self
            .keys
            .get_or_init(|| (copy(first_key), copy(last_key)))
            .clone())
    }

    /// Reads key range and blocks.
    ///
    /// Errors: `Damage` if its checksum differs. Blocking: one read of a few hundred bytes per MiB of records.
    pub fn table(&self) -> Result<Table, Error> {
        let offset = self.trailer.table_offset;
        let bytes = self.read(offset, self.trailer.table_bytes)?;
        let (stored, computed) = (self.trailer.table_crc, crc32fast::hash(&bytes));
        if stored != computed {
            return Err(self.damage(
                offset,
                Fault::Checksum {
                    what: "table",
                    stored,
                    computed,
                },
            ));
        }
        format::decode_table(bytes, self.trailer.blocks).map_err(Error::damage(&self.path, offset))
    }

    /// Reads the value at `at`; see [`crate::ValueSegments::read_value`].
    pub(crate) fn read_value(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        let len = self.record_len(at, key)?;
        self.value_of(self.read(at.offset, len)?, at, key, revision)
    }

    /// Reads as `read_value` what is in memory.
    pub(crate) fn try_read_value(
        &self,
        at: ValueRef,
        key: &[u8],
        revision: u64,
    ) -> Result<Option<Bytes>, Error> {
        let mut bytes = self.zeroed(at.offset, self.record_len(at, key)?)?;
        let read = self
            .file
            .try_read_at(&mut bytes, at.offset)
            .map_err(Error::io("read", &self.path))?;
        // A short answer means that the rest is not in memory.
        if read != Some(bytes.len()) {
            return Ok(None);
        }
        self.value_of(bytes.freeze(), at, key, revision).map(Some)
    }

    /// Length of the record that `at` names, which must lie within the records.
    fn record_len(&self, at: ValueRef, key: &[u8]) -> Result<u64, Error> {
        let len = record_len(key.len(), at.value_len as usize);
        let end = at.offset.saturating_add(len);
        if at.offset < HEADER_BYTES as u64 || end > self.trailer.table_offset {
            return Err(self.damage(
                at.offset,
                Fault::Short {
                    needed: end,
                    got: self.trailer.table_offset,
                },
            ));
        }
        Ok(len)
    }

    /// Reads the whole record at `at`; see [`crate::ValueSegments::read_record`].
    pub(crate) fn read_record(&self, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        let bytes = self.read(at.offset, self.record_len(at, key)?)?;
        self.value_of(bytes.clone(), at, key, revision)?;
        Ok(bytes)
    }

    fn value_of(&self, bytes: Bytes, at: ValueRef, key: &[u8], revision: u64) -> Result<Bytes, Error> {
        verify_record(&bytes, key, revision).map_err(Error::damage(&self.path, at.offset))?;
        Ok(bytes.slice(bytes.len() - at.value_len as usize..))
    }

    /// The bytes of the file, for reading many records.
    pub(crate) fn bytes(&self) -> SegmentBytes {
        SegmentBytes::new(Arc::clone(&self.file))
    }

    /// Visits every record in order and verifies every byte of the segment on the way.
    ///
    /// Errors: `Damage` at the first record or part that is not as it was written.
    /// Blocking: reads the whole file; memory: one window or one record.
    pub fn walk(&self, visit: &mut dyn FnMut(ValueRef, Record)) -> Result<(), Error> {
        let table = self.table()?;
        let mut blocks = table.blocks.iter().peekable();
        let mut crc = crc32fast::Hasher::new();
        let mut last_key: Option<Bytes> = None;
        let mut records = 0;
        let mut window = Window {
            segment: self,
            start: HEADER_BYTES as u64,
            bytes: Bytes::new(),
        };
        while window.start < self.trailer.table_offset {
            let offset = window.start;
            let bytes = window.next_record()?;
            crc.update(bytes.get(..4).unwrap_or_default());
            let record = self.decode(bytes, offset)?;
            if last_key.as_ref().is_some_and(|last| *last >= record.key) {
                return Err(self.damage(offset, Fault::OtherKey));
            }
            if let Some(block) = blocks.next_if(|block| block.offset <= offset)
                && (block.offset != offset || block.first_key != record.key)
            {
                let fault = Fault::Mismatch {
                    field: "block offset",
                    expected: block.offset,
                    got: offset,
                };
                return Err(self.damage(offset, fault));
            }
            if records == 0 && table.first_key != record.key {
                return Err(self.damage(offset, Fault::OtherKey));
            }
            last_key = Some(Bytes::copy_from_slice(&record.key));
            records += 1;
            let value_len =
                u32::try_from(record.value.len()).expect("a record states its value length in 32 bits");
            visit(
                ValueRef {
                    segment: self.trailer.header.id,
                    offset,
                    value_len,
                },
                record,
            );
        }
        let end = self.trailer.table_offset;
        same(
            &self.path,
            end,
            "number of records",
            self.trailer.records,
            records,
        )?;
        same(
            &self.path,
            end,
            "records checksum",
            self.trailer.records_crc.into(),
            crc.finalize().into(),
        )?;
        same(&self.path, end, "blocks left", 0, blocks.count() as u64)?;
        match last_key {
            Some(key) if key == table.last_key => Ok(()),
            _ => Err(self.damage(end, Fault::OtherKey)),
        }
    }

    fn read(&self, offset: u64, len: u64) -> Result<Bytes, Error> {
        let mut bytes = self.zeroed(offset, len)?;
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(Error::io("read", &self.path))?;
        Ok(bytes.freeze())
    }

    /// Memory for `len` bytes that lie within the file: bounded by the file's length for a table, by 8 KiB + 4 GiB for
    /// a record.
    fn zeroed(&self, offset: u64, len: u64) -> Result<BytesMut, Error> {
        let len = usize::try_from(len).map_err(|_| {
            self.damage(
                offset,
                Fault::Field {
                    field: "length",
                    value: len,
                },
            )
        })?;
        Ok(BytesMut::zeroed(len))
    }

    fn decode(&self, bytes: Bytes, offset: u64) -> Result<Record, Error> {
        let record = decode_record(bytes).map_err(|error| match error {
            nezha_vlog::Error::Malformed(fault) => self.damage(offset, fault),
            other => panic!("decoding a record fails only on its bytes: {other}"),
        })?;
        if record.is_delete {
            return Err(self.damage(
                offset,
                Fault::Field {
                    field: "record kind",
                    value: 1,
                },
            ));
        }
        Ok(record)
    }

    fn damage(&self, offset: u64, fault: Fault) -> Error {
        Error::damage(&self.path, offset)(fault)
    }
}

/// Bytes of the record area from `start` on, read ahead.
struct Window<'a> {
    segment: &'a ValueSegment,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    fn next_record(&mut self) -> Result<Bytes, Error> {
        self.fill(RECORD_HEADER_LEN)?;
        let len = format::record_len_at(&self.bytes).expect("the window holds a record header");
        self.fill(len)?;
        self.start += len;
        Ok(self
            .bytes
            .split_to(usize::try_from(len).expect("the window holds it")))
    }

    /// Makes at least `len` bytes available.
    fn fill(&mut self, len: u64) -> Result<(), Error> {
        if self.bytes.len() as u64 >= len {
            return Ok(());
        }
        let left = self.segment.trailer.table_offset - self.start;
        if left < len {
            return Err(self.segment.damage(
                self.start,
                Fault::Short {
                    needed: len,
                    got: left,
                },
            ));
        }
        self.bytes = self.segment.read(self.start, left.min(WINDOW_BYTES.max(len)))?;
        let rest = left - self.bytes.len() as u64;
        let next = self.start + self.bytes.len() as u64;
        self.segment.file.prefetch(next, rest.min(WINDOW_BYTES));
        Ok(())
    }
}

fn same(path: &Path, offset: u64, field: &'static str, expected: u64, got: u64) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::damage(path, offset)(Fault::Mismatch {
        field,
        expected,
        got,
    }))
}
