//! Space that is set aside ahead of a file that grows.

use super::File;

/// Space is set aside in steps of this many bytes: large beside a group, so that it is rare, and small beside a disk.
const STEP_BYTES: u64 = 16 << 20;

/// How much of a file that grows is set aside.
#[derive(Debug, Default)]
pub struct Reservation {
    end: u64,
}

impl Reservation {
    /// Has space set aside up to `end` at least, which the next write will reach. Nothing more than that is set aside
    /// beyond `limit`, where the file is meant to end. Offsets in bytes.
    pub fn reach(&mut self, file: &dyn File, end: u64, limit: u64) {
        if end <= self.end {
            return;
        }
        let upto = limit.min(end + STEP_BYTES).max(end);
        file.reserve(self.end, upto - self.end);
        self.end = upto;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::{Fs, OsFs};
    use super::*;

    fn create(dir: &Path) -> (Arc<dyn File>, impl Fn() -> u64) {
        use std::os::unix::fs::MetadataExt;
        let path = dir.join("f");
        let file = OsFs.create(&path).unwrap();
        (file, move || std::fs::metadata(&path).unwrap().blocks() * 512)
    }

    #[test]
    fn space_is_set_aside_and_given_back_without_a_change_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, held) = create(dir.path());
        let mut reservation = Reservation::default();
        reservation.reach(file.as_ref(), 5000, 1 << 30);
        file.write_all_at(&[7; 5000], 0).unwrap();
        assert_eq!(file.len().unwrap(), 5000);
        // A file system that cannot set space aside does nothing.
        if held() > 8192 {
            assert!(held() >= STEP_BYTES, "{} bytes are held", held());
            let before = held();
            reservation.reach(file.as_ref(), 6000, 1 << 30);
            assert_eq!(held(), before, "one step serves many writes");
        }
        file.release_reserved();
        assert!(held() <= 8192, "{} bytes are held", held());
        let mut back = [0; 5000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!((back, file.len().unwrap()), ([7; 5000], 5000));
    }

    #[test]
    fn nothing_is_set_aside_beyond_the_planned_end() {
        let dir = tempfile::tempdir().unwrap();
        let (file, held) = create(dir.path());
        let mut reservation = Reservation::default();
        for end in [1, 4096, 64 << 10, 100 << 10] {
            reservation.reach(file.as_ref(), end, 64 << 10);
            file.write_all_at(&[1], end - 1).unwrap();
        }
        assert!(held() <= 112 << 10, "{} bytes are held", held());
        assert_eq!(reservation.end, 100 << 10);
    }
}
