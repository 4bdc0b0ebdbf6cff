//! Writes one sorted value segment.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nezha_vlog::fs::{File, Fs};
use nezha_vlog::{Fault, SegmentId, ValueRef, decode_record};

use crate::error::Error;
use crate::format::{self, Block, Header, Table, Trailer};

/// Records are collected up to this many bytes before they are written.
const PENDING_BYTES: usize = 1 << 20;
/// What was written is synced each time that it is so much more: one sync of a whole segment would hold up those of the
/// log for as long as the disk takes for it.
const SYNC_BYTES: u64 = 2 << 20;

/// A segment being written, under a temporary name.
///
/// Dropping it leaves the temporary file, which the next opening of the directory removes.
#[derive(Debug)]
pub struct SegmentWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    header: Header,
    file: Arc<dyn File>,
    /// Bytes of the file written so far.
    written: u64,
    /// Bytes of it that were synced.
    synced: u64,
    /// Records that follow them. Shared with the caller's buffers: not copied.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    records: u64,
    records_crc: crc32fast::Hasher,
    table: Table,
}

impl SegmentWriter {
    /// Starts segment `id` of `level` in `dir`, which must exist.
    ///
    /// `id` must be a sorted segment's and never have been used in this directory.
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, level: u8, id: SegmentId) -> Result<SegmentWriter, Error> {
        assert!(!id.is_log(), "{id} cannot name a sorted value segment");
        let header = Header { level, id };
        let path = temporary_path(dir, header);
        let file = fs.create(&path).map_err(Error::io("create", &path))?;
        let head = Bytes::copy_from_slice(&format::encode_header(header));
        Ok(SegmentWriter {
            fs,
            dir: dir.to_path_buf(),
            header,
            file,
            written: 0,
            synced: 0,
            pending_bytes: head.len(),
            pending: vec![head],
            records: 0,
            records_crc: crc32fast::Hasher::new(),
            table: Table::default(),
        })
    }

    /// Appends a put record, whole and as it stands in the log, and returns its place.
    ///
    /// Errors: `Malformed` if it is damaged or a delete record, `OutOfOrder` if its key does not follow the last one.
    pub fn append(&mut self, bytes: &Bytes) -> Result<ValueRef, Error> {
        let record = decode_record(bytes.clone()).map_err(fault_of)?;
        if record.is_delete {
            return Err(Error::Malformed(Fault::Field {
                field: "record kind",
                value: 1,
            }));
        }
        if self.records > 0 && record.key <= self.table.last_key {
            return Err(Error::OutOfOrder {
                segment: self.header.id,
                records: self.records,
            });
        }
        let value_len =
            u32::try_from(record.value.len()).expect("a record states its value length in 32 bits");
        let offset = self.len();
        // Copies: a key must not keep the whole record in memory.
        let key = Bytes::copy_from_slice(&record.key);
        if self.records == 0 {
            self.table.first_key = key.clone();
        }
        if self
            .table
            .blocks
            .last()
            .is_none_or(|block| offset - block.offset >= format::BLOCK_BYTES)
        {
            self.table.blocks.push(Block {
                offset,
                first_key: key.clone(),
            });
        }
        self.table.last_key = key;
        self.records_crc.update(bytes.get(..4).unwrap_or_default());
        self.records += 1;
        self.pending.push(bytes.clone());
        self.pending_bytes += bytes.len();
        if self.pending_bytes >= PENDING_BYTES {
            self.write_pending()?;
            if self.written - self.synced >= SYNC_BYTES {
                self.sync()?;
            }
        }
        Ok(ValueRef {
            segment: self.header.id,
            offset,
            value_len,
        })
    }

    /// Length so far in bytes, without table and trailer.
    pub fn len(&self) -> u64 {
        self.written + self.pending_bytes as u64
    }

    /// True before the first record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Completes the segment and makes it durable under its name; returns its length in bytes.
    ///
    /// Blocking: two syncs, the first of 2 MiB or a record at most. Panics if no record was appended: a segment states a key range.
    pub fn finish(mut self) -> Result<u64, Error> {
        assert!(self.records > 0, "{} has no records", self.header.id);
        let table = format::encode_table(&self.table);
        let trailer = Trailer {
            header: self.header,
            records: self.records,
            table_offset: self.len(),
            table_bytes: table.len() as u64,
            blocks: u32::try_from(self.table.blocks.len()).expect("a segment has fewer than 2^32 blocks"),
            records_crc: self.records_crc.clone().finalize(),
            table_crc: crc32fast::hash(&table),
        };
        for bytes in [
            Bytes::from(table),
            Bytes::copy_from_slice(&format::encode_trailer(&trailer)),
        ] {
            self.pending_bytes += bytes.len();
            self.pending.push(bytes);
        }
        self.write_pending()?;
        let temporary = temporary_path(&self.dir, self.header);
        self.sync()?;
        // Crash before the rename: the temporary file goes at the next opening. Crash before the directory sync: the
        // name may be missing, and nothing refers to the segment yet. (I6)
        let path = self
            .dir
            .join(format::file_name(self.header.level, self.header.id));
        self.fs
            .rename(&temporary, &path)
            .map_err(Error::io("rename", &temporary))?;
        self.fs
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))?;
        Ok(self.written)
    }

    fn sync(&mut self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(Error::io("sync", &temporary_path(&self.dir, self.header)))?;
        self.synced = self.written;
        Ok(())
    }

    fn write_pending(&mut self) -> Result<(), Error> {
        let slices: Vec<IoSlice<'_>> = self.pending.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let written = self.file.write_all_vectored_at(&slices, self.written);
        written.map_err(Error::io("write", &temporary_path(&self.dir, self.header)))?;
        self.written += self.pending_bytes as u64;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }
}

fn temporary_path(dir: &Path, header: Header) -> PathBuf {
    let mut name = format::file_name(header.level, header.id).into_os_string();
    name.push(format::TEMPORARY_SUFFIX);
    dir.join(name)
}

/// The fault in bytes that are not in a file.
pub(crate) fn fault_of(error: nezha_vlog::Error) -> Error {
    match error {
        nezha_vlog::Error::Malformed(fault) => Error::Malformed(fault),
        other => panic!("decoding a record fails only on its bytes: {other}"),
    }
}
