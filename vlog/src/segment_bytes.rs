//! Bytes of one segment, for readers of many records.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::fs::File;

/// An open segment of the log or of sorted values. Its bytes come unverified: whoever takes records out of them calls
/// [`crate::verify_record`] for each. Stays readable after the file is unlinked.
#[derive(Clone, Debug)]
pub struct SegmentBytes {
    file: Arc<dyn File>,
}

impl SegmentBytes {
    /// Reads from `file`.
    pub fn new(file: Arc<dyn File>) -> SegmentBytes {
        SegmentBytes { file }
    }

    /// Reads `span`; `None` if not all of it can be read: reading a single record of it says why. Blocking.
    pub fn read(&self, span: Range<u64>) -> Option<Bytes> {
        let mut bytes = memory(&span)?;
        self.file.read_exact_at(&mut bytes, span.start).ok()?;
        Some(bytes.freeze())
    }

    /// As `read`, but only what is in memory: `None` also if it would have to wait for the disk.
    pub fn try_read(&self, span: Range<u64>) -> Option<Bytes> {
        let mut bytes = memory(&span)?;
        let read = self.file.try_read_at(&mut bytes, span.start).ok()?;
        (read == Some(bytes.len())).then(|| bytes.freeze())
    }

    /// Says that `span` will be read soon; see [`File::prefetch`].
    pub fn prefetch(&self, span: Range<u64>) {
        self.file
            .prefetch(span.start, span.end.saturating_sub(span.start));
    }
}

fn memory(span: &Range<u64>) -> Option<BytesMut> {
    let len = span.end.checked_sub(span.start)?;
    Some(BytesMut::zeroed(usize::try_from(len).ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::{CrashFs, Fs, OsFs};

    #[test]
    fn spans_are_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for (fs, dir) in [(&OsFs as &dyn Fs, dir.path()), (&CrashFs::new(), Path::new("/d"))] {
            fs.create_dir_all(dir).unwrap();
            let file = fs.create(&dir.join("f")).unwrap();
            let written: Vec<u8> = (0..200).collect();
            file.write_all_at(&written, 0).unwrap();
            let bytes = SegmentBytes::new(file);
            bytes.prefetch(10..50);
            bytes.prefetch(50..50);
            assert_eq!(bytes.read(10..50).unwrap(), written[10..50]);
            assert_eq!(bytes.read(0..200).unwrap(), written);
            assert_eq!(bytes.read(150..201), None);
            assert_eq!(bytes.try_read(150..201), None);
            if let Some(read) = bytes.try_read(10..50) {
                assert_eq!(read, written[10..50]);
            }
        }
    }
}
