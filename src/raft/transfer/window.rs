//! What the receiver has not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use nezha_api::peer::SnapshotChunk;

use crate::raft::snapshot::item_bytes;

/// Chunks that may be unacknowledged.
pub(super) const WINDOW_CHUNKS: usize = 8;
/// Bytes that may be unacknowledged before the next chunk is read; one chunk is always allowed, whatever its size.
pub(super) const WINDOW_BYTES: u64 = 8 << 20;

/// Chunks that were read and may have to be sent again, numbered without a gap.
#[derive(Debug, Default)]
pub(super) struct Window {
    chunks: VecDeque<SnapshotChunk>,
    bytes: u64,
    acknowledged: u64,
}

fn bytes(chunk: &SnapshotChunk) -> u64 {
    chunk.items.iter().map(|item| item_bytes(&item.record)).sum()
}

impl Window {
    /// Number of chunks that the receiver has.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Number of chunks that were read.
    pub(super) fn read(&self) -> u64 {
        self.acknowledged + self.chunks.len() as u64
    }

    /// Whether another chunk may be read.
    pub(super) fn has_room(&self) -> bool {
        self.chunks.len() < WINDOW_CHUNKS && self.bytes < WINDOW_BYTES
    }

    /// Takes the next chunk.
    pub(super) fn push(&mut self, chunk: SnapshotChunk) {
        assert!(self.has_room(), "I12: a chunk was read without room for it");
        assert_eq!(chunk.number, self.read(), "chunks are numbered without a gap");
        self.bytes += bytes(&chunk);
        self.chunks.push_back(chunk);
    }

    /// The chunk of a number, while it is unacknowledged.
    pub(super) fn chunk(&self, number: u64) -> Option<&SnapshotChunk> {
        let at = number.checked_sub(self.acknowledged)?;
        self.chunks.get(usize::try_from(at).ok()?)
    }

    /// Time that the next acknowledgement may take on a slow link: one second for each MiB of its chunk.
    pub(super) fn transit(&self) -> Duration {
        let oldest = self.chunks.front().map_or(0, bytes);
        Duration::from_secs(oldest.div_ceil(1 << 20))
    }

    /// Lets go of what the receiver has, and says whether that is more than before. Errors: false claims, in words.
    pub(super) fn acknowledge(&mut self, staged: u64) -> Result<bool, String> {
        if !(self.acknowledged..=self.read()).contains(&staged) {
            return Err(format!(
                "the receiver says that it has {staged} chunks; it had {}, and {} were sent",
                self.acknowledged,
                self.read()
            ));
        }
        let advanced = staged > self.acknowledged;
        while self.acknowledged < staged {
            let chunk = self.chunks.pop_front().expect("checked above");
            self.bytes -= bytes(&chunk);
            self.acknowledged += 1;
        }
        Ok(advanced)
    }
}

#[cfg(test)]
mod tests {
    use nezha_api::peer::SnapshotItem;

    use super::*;

    fn chunk(number: u64, len: usize) -> SnapshotChunk {
        SnapshotChunk {
            number,
            items: vec![SnapshotItem {
                record: vec![0; len].into(),
                ..SnapshotItem::default()
            }],
            checksum: 0,
        }
    }

    #[test]
    fn a_full_window_has_no_room_and_acknowledged_chunks_make_some() {
        let mut window = Window::default();
        for number in 0..WINDOW_CHUNKS as u64 {
            assert!(window.has_room());
            window.push(chunk(number, 10));
        }
        assert!(!window.has_room());
        assert_eq!(window.acknowledge(0), Ok(false));
        assert_eq!(window.acknowledge(3), Ok(true));
        assert!(window.has_room());
        assert_eq!((window.acknowledged(), window.read()), (3, WINDOW_CHUNKS as u64));
        assert!(window.chunk(2).is_none());
        assert_eq!(window.chunk(3).unwrap().number, 3);
        assert!(window.chunk(window.read()).is_none());
        assert!(window.acknowledge(2).is_err(), "it had three");
        assert!(window.acknowledge(9).is_err(), "never sent");
    }

    #[test]
    fn a_chunk_larger_than_the_window_goes_alone() {
        let mut window = Window::default();
        assert_eq!(window.transit(), Duration::ZERO);
        window.push(chunk(0, 2 * WINDOW_BYTES as usize - 64));
        assert!(!window.has_room());
        assert_eq!(window.transit(), Duration::from_secs(16));
        window.acknowledge(1).unwrap();
        assert!(window.has_room());
    }
}
