//! Goal: values that are read ahead are the values, in order, whatever lies between them on disk; and not a byte more is
//! read than was asked for. Method: random stores before and after collections, every way of pushing and popping; a file
//! system that counts reads and has nothing in memory.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nezha_gc::plan::{Job, Reason};
use nezha_vlog::fs::{CrashFs, DiskSpace, File};
use nezha_vlog::{Draft, Payload, Precondition};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::store_test::{Node, Rows};
use super::*;
use crate::index::{MapEngine, ScanItem, ScanRange};

/// What was asked of the files of values.
#[derive(Debug, Default)]
struct Counts {
    opens: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    prefetches: AtomicU64,
    prefetch_bytes: AtomicU64,
    /// Nothing is in memory: every read has to wait.
    cold: AtomicBool,
}

impl Counts {
    fn reset(&self, cold: bool) {
        for count in [
            &self.opens,
            &self.reads,
            &self.read_bytes,
            &self.prefetches,
            &self.prefetch_bytes,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        self.cold.store(cold, Ordering::Relaxed);
    }

    fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

/// A file system that counts.
#[derive(Debug, Clone)]
struct CountingFs {
    fs: CrashFs,
    counts: Arc<Counts>,
}

impl CountingFs {
    fn count(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        self.counts.opens.fetch_add(1, Ordering::Relaxed);
        Arc::new(CountingFile {
            file,
            counts: Arc::clone(&self.counts),
        })
    }
}

impl Fs for CountingFs {
    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        self.fs.space(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.create(path).map(|file| self.count(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open(path).map(|file| self.count(file))
    }
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open_write(path).map(|file| self.count(file))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.fs.list(dir)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.fs.len(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.fs.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fs.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.remove_dir_all(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn File>,
    counts: Arc<Counts>,
}

impl File for CountingFile {
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(bufs, offset)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        let read = self.file.read_at(buf, offset)?;
        self.counts.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        match self.counts.cold.load(Ordering::Relaxed) {
            true => Ok(None),
            false => self.read_at(buf, offset).map(Some),
        }
    }
    fn prefetch(&self, _offset: u64, len: u64) {
        self.counts.prefetches.fetch_add(1, Ordering::Relaxed);
        self.counts.prefetch_bytes.fetch_add(len, Ordering::Relaxed);
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

struct Setup {
    fs: CrashFs,
    counts: Arc<Counts>,
    node: Node,
}

fn setup() -> Setup {
    let (fs, counts) = (CrashFs::new(), Arc::<Counts>::default());
    let counting = CountingFs {
        fs: fs.clone(),
        counts: Arc::clone(&counts),
    };
    let engine = Arc::new(MapEngine::default()) as Arc<dyn Engine>;
    let node = Node::open(Arc::new(counting), engine).unwrap();
    Setup { fs, counts, node }
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number:05}").into_bytes()
}

/// `rows` keys with values of `len` bytes, written in random order and applied.
fn scattered(rows: u64, len: usize) -> Setup {
    let mut setup = setup();
    let mut numbers: Vec<u64> = (0..rows).collect();
    numbers.shuffle(&mut StdRng::seed_from_u64(rows));
    for (index, number) in (1..).zip(numbers) {
        let draft = Draft::put(&key(number), &vec![number as u8; len], Precondition::None);
        setup.node.append(index, Payload::Command(draft.seal(index)));
    }
    setup.node.apply();
    setup
}

/// Pushes the rows of the first `rows` keys, calls `pushed` after each, and hurries.
fn push_first(node: &Node, rows: usize, mut pushed: impl FnMut(&mut Reader)) -> Reader {
    let view = node.store.view();
    let mut reader = Reader::new(Arc::clone(&view));
    let mut left = rows;
    let mut visit = |item| {
        if let ScanItem::Row { key, entry } = item {
            reader.push(key, entry);
            pushed(&mut reader);
            left -= 1;
        }
        match left {
            0 => std::ops::ControlFlow::Break(()),
            _ => std::ops::ControlFlow::Continue(()),
        }
    };
    view.index().scan(&ScanRange::all(), &mut visit).unwrap();
    reader.hurry();
    reader
}

/// Pops what is due.
fn pop_due(reader: &mut Reader) -> usize {
    let mut rows = 0;
    while reader.pop().unwrap().is_some() {
        rows += 1;
    }
    rows
}

/// Everything that is sealed, in key order.
fn collect(node: &Node, level: u8) {
    let logs = node.store.log().segments().into_iter();
    let values = node.store.view().values().segments();
    let inputs = logs
        .filter(|segment| segment.sealed)
        .map(|segment| segment.id)
        .chain(values.iter().map(|segment| segment.summary().id));
    let job = Job {
        reason: Reason::Overlap,
        inputs: inputs.collect(),
        output_level: level,
        keys: None,
        cuts: Vec::new(),
        input_bytes: 0,
        copy_bytes: 0,
        freed_bytes: 0,
    };
    let done = node
        .store
        .collect(&job, node.store.view().number, &mut |_| Pace::Go);
    assert!(done.unwrap().finished);
}

/// Rows in the order of a scan; after how many pushed ones `hurry` is called, if at all.
fn read_all(node: &Node, reverse: bool, hurry_after: Option<usize>) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    let view = node.store.view();
    let mut reader = Reader::new(Arc::clone(&view));
    let (mut pushed, mut rows) = (Vec::new(), Vec::new());
    let mut take = |reader: &mut Reader| {
        while let Some(row) = reader.pop().unwrap() {
            let value = row.value();
            assert_eq!(row.record, view.read_record(&row.entry, &row.key).unwrap());
            assert_eq!(value, view.read(&row.entry, &row.key).unwrap());
            rows.push((row.key.to_vec(), value.to_vec(), row.entry.mod_revision));
        }
        rows.len()
    };
    let mut visit = |item| {
        if let ScanItem::Row { key, entry } = item {
            pushed.push(key.clone());
            reader.push(key, entry);
            if hurry_after.is_some_and(|after| pushed.len() % after == 0) {
                reader.hurry();
                assert_eq!(take(&mut reader), pushed.len(), "all are due");
            }
            take(&mut reader);
        }
        std::ops::ControlFlow::Continue(())
    };
    let range = ScanRange {
        reverse,
        ..ScanRange::all()
    };
    view.index().scan(&range, &mut visit).unwrap();
    reader.hurry();
    take(&mut reader);
    assert!(pushed.iter().eq(rows.iter().map(|(key, ..)| key)));
    rows
}

fn assert_reads(node: &Node, expected: &Rows) {
    for reverse in [false, true] {
        for hurry_after in [None, Some(1), Some(3)] {
            let mut rows = read_all(node, reverse, hurry_after);
            if reverse {
                rows.reverse();
            }
            let expected = expected.iter();
            assert!(
                expected
                    .map(|(key, (value, revision))| (key.clone(), value.clone(), *revision))
                    .eq(rows),
                "reverse {reverse}, hurry after {hurry_after:?}"
            );
        }
    }
}

#[test]
fn every_order_of_places_reads_as_written() {
    for seed in 0..6 {
        let Setup { counts, mut node, .. } = setup();
        let mut rng = StdRng::seed_from_u64(seed);
        // Inline values, garbage in between, sorted segments of two levels and log segments at once.
        for level in [0, 1, 2, 1] {
            if level > 0 {
                collect(&node, level);
            }
            for _ in 0..120 {
                let number = rng.random_range(0..150);
                let len = [3, rng.random_range(17..400), rng.random_range(4000..9000)];
                match rng.random_range(0..6) {
                    0 => node.delete(&key(number)),
                    _ => node.put(&key(number), &vec![rng.random(); len[rng.random_range(0..3)]]),
                }
            }
            node.apply();
            let expected = node.history.last_key_value().unwrap().1.clone();
            for cold in [false, true] {
                counts.reset(cold);
                assert_reads(&node, &expected);
            }
        }
    }
}

#[test]
fn values_larger_than_a_batch_are_read_one_at_a_time() {
    let Setup { counts, mut node, .. } = setup();
    for (number, len) in [100, 300 << 10, 200 << 10, 100 << 10, 1 << 20, 50]
        .into_iter()
        .enumerate()
    {
        node.put(&key(number as u64), &vec![number as u8; len]);
    }
    node.apply();
    let expected = node.history.last_key_value().unwrap().1.clone();
    for cold in [false, true] {
        counts.reset(cold);
        assert_reads(&node, &expected);
    }
}

#[test]
fn sorted_values_come_with_few_reads_and_nothing_more() {
    const ROWS: usize = 1000;
    let Setup { counts, node, .. } = scattered(ROWS as u64, 1000);
    let record_bytes = node.store.index().state().live_bytes;
    let count = |cold| {
        counts.reset(cold);
        let mut rows = 0;
        let mut reader = push_first(&node, ROWS, |reader| rows += pop_due(reader));
        assert_eq!(rows + pop_due(&mut reader), ROWS);
        Counts::get(&counts.reads)
    };
    let before = count(false);
    assert!(before > 300, "scattered: {before} reads");
    collect(&node, 2);
    for cold in [false, true] {
        // Some of the reads are for the rows of the active log segment, which is not collected.
        let reads = count(cold);
        assert!(reads < 40, "sorted: {reads} reads");
        let bytes = Counts::get(&counts.read_bytes);
        // Rows that lie side by side in the active segment come with the frames between them.
        assert!(
            bytes <= record_bytes + record_bytes / 100,
            "{bytes} bytes read for {record_bytes}"
        );
        assert_eq!(Counts::get(&counts.prefetches), if cold { reads } else { 0 });
    }
    assert_eq!(
        Counts::get(&counts.prefetch_bytes),
        Counts::get(&counts.read_bytes)
    );
}

#[test]
fn scattered_values_are_asked_for_before_the_first_is_waited_for() {
    let Setup { counts, node, .. } = scattered(2000, 2000);
    counts.reset(true);
    let mut reader = push_first(&node, 100, |_| ());
    assert_eq!(Counts::get(&counts.reads), 0);
    let asked = Counts::get(&counts.prefetches);
    assert!(asked > 80, "{asked} places");
    assert_eq!(pop_due(&mut reader), 100);
    assert_eq!(Counts::get(&counts.reads), asked);
    let bytes = Counts::get(&counts.read_bytes);
    assert!(bytes < 110 * 2100, "{bytes} bytes for 100 rows");
}

#[test]
fn a_long_cold_scan_keeps_the_disk_busy_and_few_rows_waiting() {
    let Setup { counts, node, .. } = scattered(3000, 3000);
    counts.reset(true);
    let (mut pushed, mut popped, mut most) = (0, 0, 0);
    let mut ahead = u64::MAX;
    let mut reader = push_first(&node, 3000, |reader| {
        pushed += 1;
        popped += pop_due(reader);
        most = most.max(pushed - popped);
        let reads = Counts::get(&counts.reads);
        if reads > 0 {
            ahead = ahead.min(Counts::get(&counts.prefetches) - reads);
        }
    });
    assert!(popped > 0, "rows come before the scan ends");
    assert!(
        ahead > 500,
        "{ahead} reads were asked for and not waited for, at the least"
    );
    assert!(most < 2000, "{most} rows waited");
    assert_eq!(popped + pop_due(&mut reader), 3000);
}

#[test]
fn keys_alone_open_and_read_no_file_of_values() {
    let Setup { counts, node, .. } = scattered(300, 1000);
    collect(&node, 2);
    counts.reset(false);
    let mut keys = 0;
    let mut visit = |item| {
        keys += u64::from(matches!(item, ScanItem::Row { .. }));
        std::ops::ControlFlow::Continue(())
    };
    let view = node.store.view();
    view.index().scan(&ScanRange::all(), &mut visit).unwrap();
    assert_eq!(keys, 300);
    assert_eq!((Counts::get(&counts.opens), Counts::get(&counts.reads)), (0, 0));
    // The counters do see what reads values.
    view.get(&key(5)).unwrap().unwrap();
    assert_eq!(Counts::get(&counts.reads), 1);
}

#[test]
fn damage_fails_its_own_row_and_says_where() {
    let Setup { fs, counts, node } = scattered(200, 1000);
    collect(&node, 2);
    let view = node.store.view();
    let entry = view.index().get(&key(70)).unwrap().unwrap();
    let crate::index::Place::At(at) = entry.place else {
        panic!("{entry:?}")
    };
    let file = match at.segment.is_log() {
        true => nezha_vlog::format::segment_path(&node.store.data().log_dir(), at.segment),
        false => view.values().get(at.segment).unwrap().path().to_path_buf(),
    };
    assert!(fs.flip_bit(&file, at.offset + 300, 5));
    for cold in [false, true] {
        counts.reset(cold);
        let mut reader = Reader::new(Arc::clone(&view));
        for number in 0..200 {
            let entry = view.index().get(&key(number)).unwrap().unwrap();
            reader.push(key(number).into(), entry);
        }
        reader.hurry();
        for number in 0..200 {
            match reader.pop() {
                Ok(Some(row)) => assert_eq!((&row.key[..], row.value()[0]), (&key(number)[..], number as u8)),
                Err(StoreError::Damage {
                    file: named, offset, ..
                }) => assert_eq!((number, &named, offset), (70, &file, at.offset)),
                other => panic!("{number}: {other:?}"),
            }
        }
        assert!(reader.pop().unwrap().is_none());
    }
}
