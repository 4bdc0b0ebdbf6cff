//! Where the segments lie in the key space.

use std::ops::Range;

use bytes::Bytes;

use super::{KeyRange, LEVEL_BOTTOM, LEVEL_LOG, LEVEL_RUNS, SegmentStat};

/// A segment of L1 with live bytes.
pub(super) struct Run<'a> {
    pub(super) stat: &'a SegmentStat,
    pub(super) keys: &'a KeyRange,
    /// The groups of L2 that it intersects.
    pub(super) span: Range<usize>,
}

/// Segments of L2 that overlap each other, as a crash between two batches of relocation leaves them; else one alone.
///
/// Groups do not overlap, so all of them together are a partition of the key space.
pub(super) struct Group<'a> {
    pub(super) keys: KeyRange,
    pub(super) members: Vec<&'a SegmentStat>,
}

/// Sums over consecutive groups.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) live: u64,
    pub(super) garbage: u64,
    /// Segments that are not eligible.
    pub(super) held: u64,
}

/// All segments with live bytes, in order.
pub(super) struct Map<'a> {
    /// Eligible log segments, oldest first.
    pub(super) log: Vec<&'a SegmentStat>,
    /// L1 by first key.
    pub(super) runs: Vec<Run<'a>>,
    /// L2 by key.
    pub(super) groups: Vec<Group<'a>>,
    /// At `i`, the sums over the groups before `i`.
    prefix: Vec<Sums>,
}

impl<'a> Map<'a> {
    pub(super) fn new(stats: &'a [SegmentStat]) -> Map<'a> {
        // A file without live bytes may still be there, pinned; its keys are not in it any more.
        let mut live: Vec<&SegmentStat> = stats.iter().filter(|stat| stat.live_bytes > 0).collect();
        live.sort_by_key(|stat| stat.id);
        let mut log = Vec::new();
        let mut runs = Vec::new();
        let mut bottom = Vec::new();
        for stat in live {
            match (stat.level, &stat.keys) {
                (LEVEL_LOG, None) => log.push(stat),
                (LEVEL_RUNS, Some(keys)) => runs.push((stat, keys)),
                (LEVEL_BOTTOM, Some(keys)) => bottom.push((stat, keys)),
                (level, keys) => panic!("{} of level {level} with keys {keys:?}", stat.id),
            }
        }
        log.retain(|stat| stat.eligible);
        bottom.sort_by(|a, b| a.1.first.cmp(&b.1.first));
        runs.sort_by(|a, b| a.1.first.cmp(&b.1.first));
        let groups = group(bottom);
        let prefix = prefix(&groups);
        let runs = runs.into_iter().map(|(stat, keys)| Run {
            stat,
            keys,
            span: span(&groups, keys),
        });
        Map {
            runs: runs.collect(),
            log,
            groups,
            prefix,
        }
    }

    /// Sums over the groups of `span`.
    pub(super) fn sums(&self, span: &Range<usize>) -> Sums {
        let before = |at: usize| self.prefix.get(at).copied().unwrap_or_default();
        let (low, high) = (before(span.start), before(span.end));
        Sums {
            bytes: high.bytes - low.bytes,
            live: high.live - low.live,
            garbage: high.garbage - low.garbage,
            held: high.held - low.held,
        }
    }

    /// The segments of the groups of `span`.
    pub(super) fn members(&self, span: &Range<usize>) -> impl Iterator<Item = &'a SegmentStat> {
        let groups = self.groups.get(span.clone()).unwrap_or_default();
        groups.iter().flat_map(|group| group.members.iter().copied())
    }

    /// The groups from the first to the last of `span`, as a range of keys.
    pub(super) fn hull(&self, span: &Range<usize>) -> Option<KeyRange> {
        let groups = self.groups.get(span.clone())?;
        Some(KeyRange {
            first: groups.first()?.keys.first.clone(),
            last: groups.last()?.keys.last.clone(),
        })
    }

    /// Visits the keys at which the number of segments above can be largest: the first key of each segment. `visit`
    /// gets the segments of L1 that cover the key, and whether L2 does.
    pub(super) fn for_each_point(&self, mut visit: impl FnMut(&[&Run<'a>], bool)) {
        let mut firsts: Vec<&Bytes> = self.runs.iter().map(|run| &run.keys.first).collect();
        firsts.extend(self.groups.iter().map(|group| &group.keys.first));
        firsts.sort_unstable();
        firsts.dedup();
        let mut runs = self.runs.iter().peekable();
        let mut groups = self.groups.iter().peekable();
        let mut open: Vec<&Run<'a>> = Vec::new();
        for key in firsts {
            open.retain(|run| run.keys.last >= *key);
            while let Some(run) = runs.next_if(|run| run.keys.first <= *key) {
                open.push(run);
            }
            while groups.next_if(|group| group.keys.last < *key).is_some() {}
            let covered = groups.peek().is_some_and(|group| group.keys.first <= *key);
            visit(&open, covered);
        }
    }

    /// Sorted segments that cover one key, at most.
    pub(super) fn overlap(&self) -> u64 {
        let mut most = 0;
        self.for_each_point(|open, covered| most = most.max(open.len() as u64 + u64::from(covered)));
        most
    }

    /// Keys before which the outputs of L1 should end, so that each part intersects about `target` live bytes of L2.
    ///
    /// All lie between groups that `keys` intersects, `None` for everything. Where there is a choice, it is where fewest
    /// other segments of L1 have keys on both sides: parts of different runs that end together are merged together, without
    /// dragging their neighbours along.
    pub(super) fn cuts(&self, keys: Option<&KeyRange>, target: u64) -> Vec<Bytes> {
        let span = keys.map_or(0..self.groups.len(), |keys| span(&self.groups, keys));
        // Not before the first group: a cut there could be the inputs' own first key, and part nothing.
        let within = (span.start + 1).min(span.end)..span.end;
        let fences = self.fences(&within);
        let mut cuts: Vec<Bytes> = Vec::new();
        let mut from = span.start;
        let mut best: Option<(usize, u64, usize)> = None;
        let mut at = within.start;
        while at < within.end {
            let live = self.sums(&(from..at)).live;
            if live > target.saturating_add(target / 2)
                && let Some((_, _, cut)) = best.take()
            {
                cuts.extend(fences.get(cut - within.start).map(|(_, key)| (*key).clone()));
                (from, at) = (cut, cut + 1);
                continue;
            }
            if live >= target / 2 && live > 0 {
                let straddling = fences.get(at - within.start).map_or(0, |(runs, _)| *runs);
                let choice = (straddling, live.abs_diff(target), at);
                best = Some(best.map_or(choice, |best| best.min(choice)));
            }
            at += 1;
        }
        let last = best.filter(|(_, _, cut)| self.sums(&(*cut..within.end)).live >= target / 2);
        let last = last.and_then(|(_, _, cut)| fences.get(cut - within.start));
        cuts.extend(last.map(|(_, key)| (*key).clone()));
        cuts
    }

    /// For each of some groups, where to cut between it and the group before: at its first key, or before a segment of L1
    /// that begins between the two, wherever fewer segments of L1 have keys on both sides. Returns their number too.
    fn fences(&self, groups: &Range<usize>) -> Vec<(usize, &Bytes)> {
        let mut lasts: Vec<&Bytes> = self.runs.iter().map(|run| &run.keys.last).collect();
        lasts.sort_unstable();
        let begun = |key: &Bytes| self.runs.partition_point(|run| run.keys.first < *key);
        let straddling = |key: &Bytes| begun(key) - lasts.partition_point(|last| *last < key);
        let fence = |at: usize| {
            let first = &self.groups.get(at)?.keys.first;
            let before = at.checked_sub(1).and_then(|before| self.groups.get(before));
            let gap = before.map_or(0, |group| {
                self.runs.partition_point(|run| run.keys.first <= group.keys.last)
            });
            let between = self.runs.get(gap..begun(first)).unwrap_or_default();
            let keys = between.iter().map(|run| &run.keys.first).chain([first]);
            keys.map(|key| (straddling(key), key)).min()
        };
        groups.clone().filter_map(fence).collect()
    }
}

/// Puts together what overlaps. `bottom` is sorted by first key.
fn group<'a>(bottom: Vec<(&'a SegmentStat, &'a KeyRange)>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (stat, keys) in bottom {
        match groups.last_mut().filter(|group| group.keys.last >= keys.first) {
            Some(group) => {
                group.members.push(stat);
                if group.keys.last < keys.last {
                    group.keys.last = keys.last.clone();
                }
            }
            None => groups.push(Group {
                keys: keys.clone(),
                members: vec![stat],
            }),
        }
    }
    groups
}

fn prefix(groups: &[Group<'_>]) -> Vec<Sums> {
    let mut sums = Sums::default();
    let mut prefix = vec![sums];
    for group in groups {
        for stat in &group.members {
            sums.bytes += stat.bytes;
            sums.live += stat.live_bytes;
            sums.garbage += stat.garbage_bytes();
            sums.held += u64::from(!stat.eligible);
        }
        prefix.push(sums);
    }
    prefix
}

fn span(groups: &[Group<'_>], keys: &KeyRange) -> Range<usize> {
    let start = groups.partition_point(|group| group.keys.last < keys.first);
    let end = groups.partition_point(|group| group.keys.first <= keys.last);
    start..end.max(start)
}
