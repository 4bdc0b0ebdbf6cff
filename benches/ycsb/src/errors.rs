//! Why operations failed, counted by kind.

use std::collections::BTreeMap;

/// One operation that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpError {
    /// Short name, such as `NOT_LEADER` or `deadline`.
    pub(crate) kind: String,
    /// A write that may or may not have taken effect.
    pub(crate) unknown: bool,
    /// The address of the leader, when the answer named one.
    pub(crate) leader: Option<String>,
    /// What the other side said.
    pub(crate) message: String,
}

/// Failures counted by kind, with one example of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct ErrorCounts {
    kinds: BTreeMap<String, Kind>,
    unknown: u64,
}

#[derive(Debug, Clone, Default)]
struct Kind {
    count: u64,
    example: String,
}

impl ErrorCounts {
    /// Counts one failure.
    pub(crate) fn record(&mut self, error: OpError) {
        self.unknown += u64::from(error.unknown);
        let kind = self.kinds.entry(error.kind).or_default();
        kind.count += 1;
        if kind.example.is_empty() {
            kind.example = error.message;
        }
    }

    /// Adds the counts of `other`.
    pub(crate) fn merge(&mut self, other: ErrorCounts) {
        self.unknown += other.unknown;
        for (name, kind) in other.kinds {
            let entry = self.kinds.entry(name).or_default();
            entry.count += kind.count;
            if entry.example.is_empty() {
                entry.example = kind.example;
            }
        }
    }

    /// Writes that may or may not have taken effect.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Count by kind.
    pub(crate) fn by_kind(&self) -> BTreeMap<String, u64> {
        self.kinds
            .iter()
            .map(|(name, kind)| (name.clone(), kind.count))
            .collect()
    }

    /// Each kind with its count and an example.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.kinds
            .iter()
            .map(|(name, kind)| format!("{} x {name}: {}", kind.count, kind.example))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: &str, unknown: bool) -> OpError {
        OpError {
            kind: kind.to_owned(),
            unknown,
            leader: None,
            message: format!("{kind} happened"),
        }
    }

    #[test]
    fn unknown_outcomes_are_counted_apart() {
        let mut counts = ErrorCounts::default();
        counts.record(error("NOT_LEADER", false));
        counts.record(error("deadline", true));
        let mut others = ErrorCounts::default();
        others.record(error("deadline", true));
        others.record(error("deadline", false));
        counts.merge(others);
        assert_eq!(counts.by_kind()["NOT_LEADER"], 1);
        assert_eq!(counts.unknown(), 2);
        assert_eq!(counts.by_kind()["deadline"], 3);
        assert_eq!(
            counts.lines(),
            [
                "1 x NOT_LEADER: NOT_LEADER happened",
                "3 x deadline: deadline happened"
            ]
        );
    }
}
