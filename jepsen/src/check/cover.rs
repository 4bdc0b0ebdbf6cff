//! Which keys the answer to a scan speaks about: those in its range, up to its last row if a limit ended it.

use std::collections::HashSet;

use super::facts::{Facts, answer};
use super::timeline::{Seen, Timeline};
use crate::history::{Answer, Call, Operation, Row};

/// A scan that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    start: &'a str,
    end: &'a str,
    reverse: bool,
    limit: u64,
    pub(super) rows: &'a [Row],
    pub(super) at: Option<u64>,
    more: bool,
}

impl<'a> Scan<'a> {
    /// If `operation` is one.
    pub(super) fn of(operation: &'a Operation) -> Option<Scan<'a>> {
        let (
            Call::Scan {
                start,
                end,
                reverse,
                limit,
            },
            Answer::Rows { rows, at, more },
        ) = (&operation.call, answer(operation)?)
        else {
            return None;
        };
        Some(Scan {
            start,
            end,
            reverse: *reverse,
            limit: *limit,
            rows,
            at: *at,
            more: *more,
        })
    }

    /// What is wrong with the answer whatever the keys held.
    pub(super) fn malformed(&self) -> Option<String> {
        let is_outside = |row: &&Row| {
            row.key.as_str() < self.start || (!self.end.is_empty() && row.key.as_str() >= self.end)
        };
        if let Some(row) = self.rows.iter().find(is_outside) {
            return Some(format!("row {} is outside of the range", row.key));
        }
        let mut keys = HashSet::new();
        if let Some(row) = self.rows.iter().find(|row| !keys.insert(&row.key)) {
            return Some(format!("row {} is there twice", row.key));
        }
        let disordered = self.rows.windows(2).find(|two| match two {
            [first, second] => (first.key > second.key) != self.reverse,
            _ => false,
        });
        if let Some([first, second]) = disordered {
            return Some(format!("row {} comes before row {}", first.key, second.key));
        }
        if self.limit != 0 && self.rows.len() as u64 > self.limit {
            return Some(format!("{} rows, more than the limit", self.rows.len()));
        }
        None
    }

    /// The keys that it speaks about, with what it says of each.
    pub(super) fn covered<'b>(
        &self,
        facts: &'b Facts<'a>,
    ) -> impl Iterator<Item = (&'b Timeline<'a>, Option<&'a Row>)> {
        let lines = facts.range(self.start, self.end);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        let last = if self.more {
            self.rows.last().map(|row| row.key.as_str())
        } else {
            None
        };
        let says_nothing = self.more && last.is_none();
        let reverse = self.reverse;
        let is_covered = move |key: &str| match last {
            Some(last) if reverse => key >= last,
            Some(last) => key <= last,
            None => !says_nothing,
        };
        let mut rows = rows.into_iter().peekable();
        let with_row = move |line: &'b Timeline<'a>| {
            while rows.next_if(|row| row.key.as_str() < line.key).is_some() {}
            (line, rows.next_if(|row| row.key == line.key))
        };
        lines
            .iter()
            .filter(move |line| is_covered(line.key))
            .map(with_row)
    }
}

/// What a row, or that there is none, says about its key.
pub(super) fn seen(row: Option<&Row>) -> Seen<'_> {
    row.map_or(Seen::Absent, |row| Seen::Value(&row.value, row.stamp))
}
