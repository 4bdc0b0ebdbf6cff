//! Writes past the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

/// Offset, length and memory of a direct write are multiples of this: no disk and no file system asks for more.
const BLOCK_BYTES: u64 = 4 << 10;
/// Bytes of one direct write at most.
const CHUNK_BYTES: usize = 1 << 20;

/// How one file is written past the page cache.
///
/// Whole blocks go to the disk from a buffer of their own, which is reused; the bytes before the first and after the last
/// one go through the page cache. So the file is as long as what was written, and a file that only grows has no block that
/// is written in both ways.
#[derive(Debug, Default)]
pub(super) struct Uncached(Mutex<Option<Direct>>);

#[derive(Debug)]
enum Direct {
    Open(File, Buffer),
    /// The file system cannot do it.
    Refused,
}

impl Uncached {
    /// Writes all of `bufs`, one after the other, at `offset` of `cached`. False: there is no whole block, or the file
    /// system cannot do it; any part may be written, and all has to be written otherwise.
    ///
    /// Blocking: until the disk has the blocks, in its own cache at least.
    pub(super) fn write_all(&self, cached: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<bool> {
        let end = offset + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
        let blocks = offset.next_multiple_of(BLOCK_BYTES)..end / BLOCK_BYTES * BLOCK_BYTES;
        if blocks.is_empty() {
            return Ok(false);
        }
        // What a panic may leave is a buffer with any bytes.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Direct::Open(direct, buffer) = state.get_or_insert_with(|| Direct::open(cached)) else {
            return Ok(false);
        };
        let mut source = Source { bufs, used: 0 };
        cached.write_all_at(source.fill(buffer.piece(blocks.start - offset)), offset)?;
        let mut at = blocks.start;
        while at < blocks.end {
            let piece = source.fill(buffer.piece(blocks.end - at));
            match direct.write_all_at(piece, at) {
                Ok(()) => at += piece.len() as u64,
                // Also after a short write, where the rest is not aligned: the other way says what is wrong.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    *state = Some(Direct::Refused);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        cached.write_all_at(source.fill(buffer.piece(end - at)), at)?;
        Ok(true)
    }
}

impl Direct {
    /// Opens the same file once more, whatever its name is now.
    fn open(cached: &File) -> Direct {
        let again = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", cached.as_raw_fd()));
        match again {
            Ok(file) => Direct::Open(file, Buffer::new()),
            Err(_) => Direct::Refused,
        }
    }
}

/// Memory that begins at a block's boundary.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Buffer {
        let bytes = vec![0; CHUNK_BYTES + BLOCK_BYTES as usize];
        // Where no boundary is found, writes from here are refused, and no worse.
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES as usize);
        Buffer {
            bytes,
            start: start.min(BLOCK_BYTES as usize),
        }
    }

    /// `len` bytes, or as many as there are.
    fn piece(&mut self, len: u64) -> &mut [u8] {
        let len = usize::try_from(len).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        self.bytes
            .get_mut(self.start..self.start + len)
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// What is left to write.
struct Source<'a, 'b> {
    bufs: &'a [IoSlice<'b>],
    /// Bytes of the first buffer that are taken.
    used: usize,
}

impl Source<'_, '_> {
    /// Fills `piece` with the next bytes, which there are.
    fn fill<'p>(&mut self, piece: &'p mut [u8]) -> &'p [u8] {
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let (first, others) = self
                .bufs
                .split_first()
                .expect("the caller knows the length of its buffers");
            let left = first.get(self.used..).unwrap_or_default();
            let len = left.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..len), left.get(..len)) {
                to.copy_from_slice(from);
            }
            filled += len;
            self.used += len;
            if self.used == first.len() {
                (self.bufs, self.used) = (others, 0);
            }
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::super::{Fs, OsFs};
    use super::*;

    /// Bytes that differ from block to block and from place to place.
    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i.wrapping_mul(31) / 7 + i / 4096 + seed) as u8)
            .collect()
    }

    #[test]
    fn a_file_that_grows_in_either_way_holds_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFs.create(&dir.path().join("f")).unwrap();
        let mut whole = Vec::new();
        let lens = [
            1,
            4095,
            4096,
            10_000,
            3 << 20,
            0,
            8191,
            8192,
            1 << 20,
            5,
            (1 << 20) + 12_345,
        ];
        for (turn, len) in lens.into_iter().cycle().take(40).enumerate() {
            let more = bytes(len, turn);
            let bufs: Vec<IoSlice<'_>> = more.chunks(1 + len / 3).map(IoSlice::new).collect();
            let at = whole.len() as u64;
            match turn % 3 {
                0 => file.write_all_vectored_at(&bufs, at).unwrap(),
                _ => file.write_all_uncached_at(&bufs, at).unwrap(),
            }
            whole.extend(more);
            assert_eq!(file.len().unwrap(), whole.len() as u64);
        }
        file.sync_data().unwrap();
        let mut back = vec![0; whole.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == whole, "other bytes than were written");
    }

    #[test]
    fn whole_blocks_go_past_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (path, more) = (dir.path().join("f"), bytes(1 << 20, 0));
        let file = std::fs::File::create_new(&path).unwrap();
        let write = |uncached: &Uncached, len: usize| {
            let bufs = [IoSlice::new(more.get(..len).unwrap())];
            uncached.write_all(&file, &bufs, 100).unwrap()
        };
        let uncached = Uncached::default();
        assert!(!write(&uncached, 3000), "no whole block");
        assert!(write(&uncached, 1 << 20), "a disk that knows direct writes");
        let mut back = [0; 4096];
        let read = OsFs.open(&path).unwrap().try_read_at(&mut back, 8192).unwrap();
        assert_eq!(read, None, "bytes in the page cache");
        assert!(!write(&Uncached(Mutex::new(Some(Direct::Refused))), 1 << 20));
    }
}
