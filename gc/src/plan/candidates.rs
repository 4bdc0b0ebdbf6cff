//! The jobs that could be done, and the best of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use super::debt::Debt;
use super::draft::{Best, Draft};
use super::map::{Map, Run};
use super::pressure::Pressure;
use super::{LEVEL_BOTTOM, LEVEL_RUNS, Limits, SegmentStat, portion, share};

/// Makes jobs from the map within the limits.
pub(super) struct Candidates<'m, 'a> {
    map: &'m Map<'a>,
    limits: &'m Limits,
    debt: &'m Debt,
    allowed_bytes: u64,
    /// What a job should copy at most.
    budget_bytes: u64,
    /// What a job of the smallest kind may copy.
    least_bytes: u64,
    /// Segments with less garbage per 1000 bytes do not help against the bound.
    gain_per_mille: u64,
}

impl<'m, 'a> Candidates<'m, 'a> {
    pub(super) fn new(
        map: &'m Map<'a>,
        debt: &'m Debt,
        pressure: &Pressure,
        limits: &'m Limits,
    ) -> Candidates<'m, 'a> {
        let allowed = pressure.allowed_bytes();
        let room = pressure.headroom_bytes();
        let calm = pressure.slow_bytes.saturating_sub(pressure.file_bytes);
        let budget = portion(allowed, u64::from(limits.job_per_mille))
            .min(limits.job_bytes_max)
            .max(limits.segment_bytes.saturating_mul(4));
        let urgent = pressure.urgent_bytes;
        Candidates {
            map,
            limits,
            debt,
            allowed_bytes: allowed,
            // Not so much that writes would be slowed before the job ends, if it can be helped.
            budget_bytes: budget.min(room).min(calm.max(allowed / 32)),
            least_bytes: room,
            // Half of what the average file holds when gc gets priority: garbage that sits in files which may not be
            // collected must not make gc rewrite the others over and over.
            gain_per_mille: share(urgent - pressure.live_bytes, urgent) / 2,
        }
    }

    /// The job that frees most per byte copied.
    pub(super) fn best_gain(&self) -> Option<Draft<'a>> {
        self.best_of_garbage(self.gain_per_mille, 0, 0)
    }

    /// The best job for segments whose garbage exceeds the limit, if it is worth one.
    pub(super) fn garbage(&self) -> Option<Draft<'a>> {
        let least = u64::from(self.limits.garbage_per_mille.max(50));
        let worth = portion(self.allowed_bytes, u64::from(self.limits.garbage_batch_per_mille));
        // From the log only a whole batch: a run of its own for each segment would fill L1 with small runs.
        let log_batch = self.budget_bytes.min(self.debt.l0_bytes_max);
        self.best_of_garbage(least, worth, log_batch)
    }

    /// The best job for segments with `least` garbage per 1000 bytes, if it frees `worth` bytes.
    fn best_of_garbage(&self, least: u64, worth: u64, log_batch: u64) -> Option<Draft<'a>> {
        let mut best = Best::new(self.limits);
        let mut offer = |draft: Option<Draft<'a>>| {
            if let Some(draft) = draft.filter(|draft| draft.freed_bytes >= worth.max(1)) {
                best.offer(draft.freed_bytes, draft);
            }
        };
        offer(
            self.log_by_garbage(least)
                .filter(|draft| draft.input_bytes >= log_batch),
        );
        offer(self.runs_by_garbage(least));
        offer(self.bottom_by_garbage(least));
        self.map.for_each_point(|open, _| {
            offer(
                self.merged_down(open)
                    .filter(|draft| draft.garbage_per_mille() >= least),
            );
        });
        best.take()
    }

    /// Log segments, the most wasteful first.
    fn log_by_garbage(&self, least: u64) -> Option<Draft<'a>> {
        let mut draft = self.draft(LEVEL_RUNS);
        for (_, stat) in self.wasteful(self.map.log.iter().map(|stat| (0, *stat)), least) {
            if self.fits(&draft, stat.live_bytes) {
                draft.push(stat);
            }
        }
        (draft.len() > 0).then_some(draft)
    }

    /// Segments of L1, the most wasteful first, rewritten in L1.
    fn runs_by_garbage(&self, least: u64) -> Option<Draft<'a>> {
        let mut draft = self.draft(LEVEL_RUNS);
        let mut taken = Vec::new();
        let stats = self.map.runs.iter().enumerate();
        for (at, stat) in self.wasteful(stats.map(|(at, run)| (at, run.stat)), least) {
            if self.fits(&draft, stat.live_bytes) {
                draft.push(stat);
                taken.push(at);
            }
        }
        // No output may reach from one of them to another that does not overlap it: it would cover more keys than they.
        taken.sort_unstable();
        let mut taken = taken.into_iter().filter_map(|at| self.map.runs.get(at));
        let mut end = &taken.next()?.keys.last;
        for run in taken {
            if run.keys.first > *end {
                draft.cuts.push(run.keys.first.clone());
            }
            end = end.max(&run.keys.last);
        }
        Some(draft)
    }

    /// Segments of L2, the most wasteful first, rewritten in place together with neighbours that are small.
    fn bottom_by_garbage(&self, least: u64) -> Option<Draft<'a>> {
        let groups = &self.map.groups;
        let single = groups
            .iter()
            .enumerate()
            .filter_map(|(at, group)| match group.members.as_slice() {
                [stat] => Some((at, *stat)),
                _ => None,
            });
        let mut taken = BTreeSet::new();
        let mut copy = 0;
        for (at, stat) in self.wasteful(single, least) {
            if taken.is_empty() || copy + stat.live_bytes <= self.budget_bytes {
                copy += stat.live_bytes;
                taken.insert(at);
            }
        }
        let small = |at: usize| {
            let sums = self.map.sums(&(at..at + 1));
            at < groups.len() && sums.held == 0 && sums.live <= self.limits.segment_bytes / 4
        };
        for at in taken.clone() {
            let before = (0..at).rev().take_while(|at| small(*at));
            let after = (at + 1..groups.len()).take_while(|at| small(*at));
            for neighbours in [before.collect::<Vec<_>>(), after.collect()] {
                for next in neighbours {
                    let live = self.map.sums(&(next..next + 1)).live;
                    if taken.contains(&next) || copy + live > self.budget_bytes {
                        break;
                    }
                    copy += live;
                    taken.insert(next);
                }
            }
        }
        let mut draft = self.draft(LEVEL_BOTTOM);
        let mut next = *taken.first()?;
        for at in taken {
            self.map.members(&(at..at + 1)).for_each(|stat| draft.push(stat));
            // An output must not reach across a segment that stays.
            if at > next {
                draft
                    .cuts
                    .extend(groups.get(at).map(|group| group.keys.first.clone()));
            }
            next = at + 1;
        }
        Some(draft)
    }

    /// Eligible segments with at least `least` garbage and half as much as the first, the most wasteful first.
    fn wasteful(
        &self,
        stats: impl Iterator<Item = (usize, &'a SegmentStat)>,
        least: u64,
    ) -> Vec<(usize, &'a SegmentStat)> {
        let mut stats: Vec<_> = stats
            .filter(|(_, stat)| stat.eligible && stat.garbage_bytes() > 0)
            .collect();
        stats.sort_by_key(|(_, stat)| (Reverse(stat.garbage_per_mille()), stat.id));
        let most = stats.first().map_or(0, |(_, stat)| stat.garbage_per_mille());
        let least = least.max(most / 2);
        stats.retain(|(_, stat)| stat.garbage_per_mille() >= least);
        stats
    }

    /// Segments of L1 over one key, with all of L2 that they overlap, into L2. Narrow ones first, as many as fit.
    fn merged_down(&self, open: &[&Run<'a>]) -> Option<Draft<'a>> {
        let mut open: Vec<&Run<'a>> = open.iter().copied().filter(|run| run.stat.eligible).collect();
        open.sort_by_key(|run| (self.map.sums(&run.span).live, run.stat.id));
        let mut span: Option<Range<usize>> = None;
        let mut taken: Vec<&Run<'a>> = Vec::new();
        let mut copy = 0u64;
        for run in open {
            // All spans touch the same point of the key space, so their hull is their union.
            let wider = match &span {
                Some(span) if run.span.is_empty() => span.clone(),
                Some(span) if !span.is_empty() => span.start.min(run.span.start)..span.end.max(run.span.end),
                _ => run.span.clone(),
            };
            let bottom = self.map.sums(&wider);
            let all = copy.saturating_add(run.stat.live_bytes);
            let total = all.saturating_add(bottom.live);
            let smallest = taken.is_empty() && wider.len() <= 2 && total <= self.least_bytes;
            if bottom.held > 0 || !(smallest || total <= self.budget_bytes) {
                continue;
            }
            (span, copy) = (Some(wider), all);
            taken.push(run);
        }
        let span = span?;
        let mut draft = self.draft(LEVEL_BOTTOM);
        self.map.members(&span).for_each(|stat| draft.push(stat));
        taken.iter().for_each(|run| draft.push(run.stat));
        self.add_inside(&mut draft, &taken, &span);
        (draft.len() > 1).then_some(draft)
    }

    /// Adds the segments of L1 that lie inside what is rewritten anyway.
    fn add_inside(&self, draft: &mut Draft<'a>, taken: &[&Run<'a>], span: &Range<usize>) {
        let Some(hull) = self.map.hull(span) else {
            return;
        };
        let from = self.map.runs.partition_point(|run| run.keys.first < hull.first);
        let inside = self.map.runs.get(from..).unwrap_or_default();
        for run in inside.iter().take_while(|run| run.keys.first <= hull.last) {
            let new = taken.iter().all(|taken| taken.stat.id != run.stat.id);
            let fits = draft.copy_bytes.saturating_add(run.stat.live_bytes) <= self.budget_bytes;
            if new && fits && run.stat.eligible && run.keys.last <= hull.last {
                draft.push(run.stat);
            }
        }
    }

    /// The oldest log segments: a batch, or until the debt is half of what is allowed. What is left has time to become
    /// garbage by itself.
    pub(super) fn l0_debt_batch(&self) -> Option<Draft<'a>> {
        let mut rest = self.debt.l0_bytes;
        let mut draft = self.draft(LEVEL_RUNS);
        for stat in &self.map.log {
            if rest <= self.debt.l0_bytes_max / 2 || !self.fits(&draft, stat.live_bytes) {
                break;
            }
            rest -= stat.bytes;
            draft.push(stat);
        }
        (draft.len() > 0).then_some(draft)
    }

    /// The best merge where too many sorted segments cover one key.
    pub(super) fn overlap(&self) -> Option<Draft<'a>> {
        if let Some(draft) = self.tangled() {
            return Some(draft);
        }
        let mut down = Best::new(self.limits);
        let mut across = Best::new(self.limits);
        let mut split = Best::new(self.limits);
        self.map.for_each_point(|open, covered| {
            if open.len() as u64 + u64::from(covered) <= self.debt.overlap_max {
                return;
            }
            // What leaves L1 or the disk is the gain; what is rewritten in L2 is the cost.
            if let Some(draft) = self.merged_down(open) {
                down.offer(draft.input_bytes, draft);
            } else if let Some(draft) = self.across(open) {
                across.offer(draft.input_bytes, draft);
            } else if let Some(draft) = self.split(open) {
                split.offer(draft.input_bytes, draft);
            }
        });
        down.take().or(across.take()).or(split.take())
    }

    /// Segments of L2 that overlap each other.
    fn tangled(&self) -> Option<Draft<'a>> {
        let drafts = self.map.groups.iter().filter(|group| group.members.len() > 1);
        let mut drafts = drafts.filter(|group| group.members.iter().all(|stat| stat.eligible));
        drafts.find_map(|group| {
            let mut draft = self.draft(LEVEL_BOTTOM);
            group.members.iter().for_each(|stat| draft.push(stat));
            (draft.copy_bytes <= self.least_bytes).then_some(draft)
        })
    }

    /// Segments of L1 over one key merged within L1, where L2 cannot take them now: too much of it, or held.
    fn across(&self, open: &[&Run<'a>]) -> Option<Draft<'a>> {
        let mut open: Vec<&SegmentStat> = open.iter().map(|run| run.stat).collect();
        open.retain(|stat| stat.eligible);
        open.sort_by_key(|stat| (stat.live_bytes, stat.id));
        let mut draft = self.draft(LEVEL_RUNS);
        for stat in open {
            if !self.fits(&draft, stat.live_bytes) {
                break;
            }
            draft.push(stat);
        }
        (draft.len() > 1).then_some(draft)
    }

    /// One segment of L1 over too much of L2, cut into parts that L2 can take.
    ///
    /// Each part intersects less of L2 than the whole, so this ends.
    fn split(&self, open: &[&Run<'a>]) -> Option<Draft<'a>> {
        let wide = open.iter().filter(|run| run.stat.eligible && run.span.len() > 2);
        let widest = wide.max_by_key(|run| (self.map.sums(&run.span).live, run.stat.id))?;
        let mut draft = self.draft(LEVEL_RUNS);
        draft.push(widest.stat);
        draft.cuts = self.map.cuts(Some(widest.keys), self.part_bytes());
        if draft.cuts.is_empty() {
            // Less than two parts' worth of L2, and still too much at once.
            let middle = widest.span.start + widest.span.len() / 2;
            draft.cuts.push(self.map.groups.get(middle)?.keys.first.clone());
        }
        Some(draft)
    }

    fn draft(&self, output_level: u8) -> Draft<'a> {
        Draft::new(output_level, self.part_bytes())
    }

    /// Live bytes of L2 under one part of a run of L1: half of a usual job, so that the parts of all runs there fit in it.
    fn part_bytes(&self) -> u64 {
        let usual = self.budget_bytes.min(self.allowed_bytes / 8);
        (usual / 2).max(self.limits.segment_bytes.saturating_mul(2))
    }

    /// Whether `more` live bytes may join. One segment always may be collected.
    fn fits(&self, draft: &Draft<'_>, more: u64) -> bool {
        draft.len() == 0 || draft.copy_bytes.saturating_add(more) <= self.budget_bytes
    }
}
