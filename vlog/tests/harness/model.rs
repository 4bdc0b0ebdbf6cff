//! What the log must hold, as plainly as possible.

use std::collections::BTreeMap;

use nezha_vlog::{Entry, LogId, Vote};

/// A submission.
#[derive(Clone, Debug)]
pub enum Submission {
    Append(Vec<Entry>),
    Vote(Vote),
    Committed(Option<LogId>),
    TruncateAfter(Option<u64>),
    Purge(LogId),
}

/// The state of a log after some submissions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    pub last: Option<LogId>,
    pub entries: BTreeMap<u64, Entry>,
}

impl Model {
    pub fn apply(&mut self, submission: &Submission) {
        match submission {
            Submission::Append(entries) => {
                for entry in entries {
                    self.entries.insert(entry.log_id.index, entry.clone());
                    self.last = Some(entry.log_id);
                }
            }
            Submission::Vote(vote) => self.vote = Some(*vote),
            Submission::Committed(committed) => self.committed = *committed,
            Submission::TruncateAfter(index) => {
                let cut = index.map_or(0, |index| index + 1);
                self.entries.split_off(&cut);
                let last = self.entries.last_key_value().map(|(_, entry)| entry.log_id);
                self.last = last.or(self.purged);
            }
            Submission::Purge(upto) => {
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                    self.entries = self.entries.split_off(&(upto.index + 1));
                    let last = self.entries.last_key_value().map(|(_, entry)| entry.log_id);
                    self.last = last.or(self.purged);
                }
            }
        }
    }

    /// As a reopened log reports it: no committed hint beyond the last entry (I3).
    pub fn reopened(&self) -> Model {
        let mut model = self.clone();
        if self
            .committed
            .is_some_and(|hint| self.last.is_none_or(|last| last.index < hint.index))
        {
            model.committed = self.last;
        }
        model
    }

    pub fn next_index(&self) -> Option<u64> {
        self.last
            .filter(|_| !self.entries.is_empty())
            .map(|last| last.index + 1)
    }
}
