//! A log of acknowledged operations with wall-clock times, to find pauses such as that after a leader's death.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Mutex,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

/// Lines of `START END`, both in microseconds since 1970, in the order in which they were acknowledged, about.
#[derive(Debug)]
pub(crate) struct AckLog {
    file: Mutex<BufWriter<File>>,
    began: Instant,
    began_unix_us: u64,
}

/// Microseconds since 1970 by the system clock.
pub(crate) fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

impl AckLog {
    /// Creates the file, emptying an old one.
    pub(crate) fn create(path: &Path) -> anyhow::Result<AckLog> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(AckLog {
            file: Mutex::new(BufWriter::with_capacity(1 << 20, file)),
            began: Instant::now(),
            began_unix_us: unix_us(),
        })
    }

    /// Notes one acknowledged operation.
    pub(crate) fn record(&self, started: Instant, ended: Instant) -> std::io::Result<()> {
        let us = |at: Instant| {
            let since = at.saturating_duration_since(self.began).as_micros();
            self.began_unix_us + u64::try_from(since).unwrap_or(0)
        };
        let (started, ended) = (us(started), us(ended));
        self.with_file(|file| writeln!(file, "{started} {ended}"))
    }

    /// Makes what was recorded visible to readers of the file.
    pub(crate) fn flush(&self) -> std::io::Result<()> {
        self.with_file(BufWriter::flush)
    }

    fn with_file<T>(&self, act: impl FnOnce(&mut BufWriter<File>) -> T) -> T {
        // A panic while writing a line leaves at worst a torn line.
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut file)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_hold_start_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let before = unix_us();
        let log = AckLog::create(&path).unwrap();
        let started = log.began + Duration::from_millis(5);
        log.record(started, started + Duration::from_micros(250)).unwrap();
        log.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let times: Vec<u64> = text
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        assert_eq!(times.len(), 2);
        assert_eq!(times[1] - times[0], 250);
        assert!(times[0] >= before + 5_000);
    }
}
