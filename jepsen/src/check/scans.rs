//! Scans, whatever revision they claim: each row, and each key of the range without a row, fits some revisions. A scan is
//! right if some revision fits all of them, not below what was reached before it and below what began after it.

use super::cover::{self, Scan};
use super::facts::{Facts, written};
use super::timeline::{Seen, Timeline, Window};
use super::witness::explain;
use super::{Findings, Options};

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Findings {
    let mut findings = Findings::new("scans", options);
    let ceiling = Ceiling::of(facts);
    for (position, operation) in facts.operations.iter().enumerate() {
        let Some(scan) = Scan::of(operation) else {
            continue;
        };
        if let Some(what) = scan.malformed() {
            findings.add(what, [position]);
            continue;
        }
        if !facts.revisioned {
            // `keys` takes each row for a read.
            continue;
        }
        let (lo, reached_by) = facts.floor.before(operation.invoked);
        let (hi, begun) = operation
            .ended
            .map_or((u64::MAX, None), |ended| ceiling.after(ended));
        let Some(within) = (Window { lo, hi: u64::MAX }).and(Window { lo: 0, hi }) else {
            // Two others contradict each other, which is found where they are looked at.
            continue;
        };
        if let Err((text, others)) = one_revision(facts, &scan, within) {
            let others = others.into_iter().chain(reached_by).chain(begun);
            findings.add(text, others.chain([position]));
        }
    }
    findings
}

/// What certainly lay ahead, by time.
struct Ceiling {
    /// When it was invoked, the lowest revision of a write invoked then or later, and which.
    steps: Vec<(u64, u64, usize)>,
}

impl Ceiling {
    fn of(facts: &Facts<'_>) -> Ceiling {
        let writes = facts.operations.iter().enumerate();
        let mut steps: Vec<(u64, u64, usize)> = writes
            .filter_map(|(position, operation)| {
                let revision = written(operation).or_else(|| facts.resolved.get(&position).copied());
                Some((operation.invoked, revision?, position))
            })
            .collect();
        steps.sort_unstable();
        for i in (1..steps.len()).rev() {
            if steps[i].1 < steps[i - 1].1 {
                (steps[i - 1].1, steps[i - 1].2) = (steps[i].1, steps[i].2);
            }
        }
        Ceiling { steps }
    }

    /// The highest revision that may have been reached at `time`, and who wrote the next.
    fn after(&self, time: u64) -> (u64, Option<usize>) {
        let next = self.steps.partition_point(|(invoked, ..)| *invoked <= time);
        match self.steps.get(next) {
            Some((_, revision, position)) => (revision.saturating_sub(1), Some(*position)),
            None => (u64::MAX, None),
        }
    }
}

/// Whether one revision within `within` fits all keys; else which keys do not fit together.
fn one_revision(facts: &Facts<'_>, scan: &Scan<'_>, within: Window) -> Result<(), (String, Vec<usize>)> {
    let mut common = vec![within];
    let mut earlier: Vec<(&Timeline<'_>, Seen<'_>)> = Vec::new();
    for (line, row) in scan.covered(facts) {
        let seen = cover::seen(row);
        let hull = Window {
            lo: common.first().map_or(0, |window| window.lo),
            hi: common.last().map_or(0, |window| window.hi),
        };
        let fits: Vec<Window> = line.windows(seen, hull).collect();
        let both = intersect(&common, &fits);
        if both.is_empty() {
            return Err(blame(facts, within, &earlier, line, seen));
        }
        common = both;
        earlier.push((line, seen));
    }
    Ok(())
}

/// Both are in order.
fn intersect(a: &[Window], b: &[Window]) -> Vec<Window> {
    let (mut i, mut j) = (0, 0);
    let mut both = Vec::with_capacity(a.len());
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both.extend(x.and(*y));
        if x.hi < y.hi {
            i += 1;
        } else {
            j += 1;
        }
    }
    both
}

fn blame(
    facts: &Facts<'_>,
    within: Window,
    earlier: &[(&Timeline<'_>, Seen<'_>)],
    line: &Timeline<'_>,
    seen: Seen<'_>,
) -> (String, Vec<usize>) {
    let fits: Vec<Window> = line.windows(seen, within).collect();
    if fits.is_empty() {
        return explain(facts, line, seen, within);
    }
    let conflicting = earlier.iter().find(|(line, seen)| {
        let others: Vec<Window> = line.windows(*seen, within).collect();
        intersect(&others, &fits).is_empty()
    });
    let Some((other, other_seen)) = conflicting else {
        let text = format!("no one revision fits {} and the keys before it", line.key);
        return (text, Vec::new());
    };
    let text = format!(
        "no one revision fits both {} and {}: {} and {}",
        other.key,
        line.key,
        stand(other, *other_seen, within),
        stand(line, seen, within)
    );
    let mut operations = neighbours(other, *other_seen, within);
    operations.extend(neighbours(line, seen, within));
    (text, operations)
}

/// Where a key stood as it was seen.
fn stand(line: &Timeline<'_>, seen: Seen<'_>, within: Window) -> String {
    let windows = line.windows(seen, within);
    let windows: Vec<String> = windows
        .map(|window| match window {
            Window { lo, hi: u64::MAX } => format!("from {lo}"),
            Window { lo, hi } => format!("{lo}..={hi}"),
        })
        .collect();
    let what = match seen {
        Seen::Value(value, _) => format!("{} is {value:?} at", line.key),
        _ => format!("{} is absent at", line.key),
    };
    format!("{what} {}", windows.join(", "))
}

/// The writes that begin and end the first stretch in which a key stood as it was seen.
fn neighbours(line: &Timeline<'_>, seen: Seen<'_>, within: Window) -> Vec<usize> {
    let Some(window) = line.windows(seen, within).next() else {
        return Vec::new();
    };
    let gap = line.gap(window.lo);
    let around = [line.base(gap), line.base(gap + 1)];
    around.iter().filter_map(|effect| (*effect)?.operation).collect()
}
