//! Who proposed which entries: log ids without reading entries.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::Run;
use crate::ids::LogId;

/// Runs of consecutive entries of one leader, keyed by the first index of each.
///
/// Grows with the number of leader changes, not of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    runs: BTreeMap<u64, (u64, u64)>,
}

impl Runs {
    /// Adds the entry after the last one.
    pub(crate) fn push(&mut self, log_id: LogId) {
        if self.runs.last_key_value().map(|(_, leader)| *leader) != Some(log_id.leader()) {
            self.runs.insert(log_id.index, log_id.leader());
        }
    }

    /// Adds a run of a segment after the last one.
    pub(crate) fn push_run(&mut self, run: Run) {
        self.push(LogId {
            term: run.term,
            node: run.node,
            index: run.first,
        });
    }

    /// Removes entries from `cut` on.
    pub(crate) fn truncate(&mut self, cut: u64) {
        self.runs.split_off(&cut);
    }

    /// Forgets runs that end below `index`.
    pub(crate) fn trim(&mut self, index: u64) {
        if let Some((&covering, _)) = self.runs.range(..=index).next_back() {
            self.runs = self.runs.split_off(&covering);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    /// Id of the entry at `index`, which the caller knows to exist.
    pub(crate) fn log_id(&self, index: u64) -> Option<LogId> {
        let (_, &(term, node)) = self.runs.range(..=index).next_back()?;
        Some(LogId { term, node, index })
    }

    /// First entry of `range` and the first entry of each leader after it.
    pub(crate) fn firsts(&self, range: Range<u64>) -> Vec<LogId> {
        let mut firsts: Vec<LogId> = self
            .log_id(range.start)
            .filter(|_| !range.is_empty())
            .into_iter()
            .collect();
        let later = self
            .runs
            .range(range.start.saturating_add(1)..range.end.max(range.start.saturating_add(1)));
        firsts.extend(later.map(|(&index, &(term, node))| LogId { term, node, index }));
        firsts
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> {
        self.runs
            .iter()
            .map(|(&first, &(term, node))| Run { first, term, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_answer_ids_across_truncation_and_trim() {
        let mut runs = Runs::default();
        for (term, index) in [(1, 5), (1, 6), (2, 7), (2, 8), (3, 9)] {
            runs.push(LogId::new(term, 1, index));
        }
        assert_eq!(runs.log_id(8), Some(LogId::new(2, 1, 8)));
        assert_eq!(
            runs.firsts(6..10)
                .iter()
                .map(|id| (id.term, id.index))
                .collect::<Vec<_>>(),
            [(1, 6), (2, 7), (3, 9)]
        );
        runs.truncate(8);
        runs.push(LogId::new(4, 2, 8));
        assert_eq!(runs.log_id(8), Some(LogId::new(4, 2, 8)));
        runs.trim(7);
        assert_eq!(runs.log_id(6), None);
        assert_eq!(runs.log_id(7), Some(LogId::new(2, 1, 7)));
        assert!(runs.firsts(9..9).is_empty());
    }
}
