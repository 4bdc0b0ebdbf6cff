//! Why operations failed, counted by kind, and the failures of a whole run that callers tell apart.

use std::{collections::BTreeMap, fmt};

/// Kind of a failure to connect.
pub(crate) const NOT_CONNECTED: &str = "not connected";

/// Kinds of failures to find a member that leads.
const UNREACHABLE: [&str; 3] = [NOT_CONNECTED, "NO_LEADER", "NOT_LEADER"];

/// Failures of a run that callers tell apart: `downcast_ref` finds them in what [`run`](crate::run) returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BenchError {
    /// Arguments that do not go together.
    Usage(String),
    /// No member was connected, or none leads.
    Unreachable(String),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchError::Usage(text) | BenchError::Unreachable(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for BenchError {}

/// The exit code for what [`run`](crate::run) returns, as in `kvctl --help`: 2 for wrong usage or a local file that cannot
/// be used, 3 without a connection or a leader, else 4.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<BenchError>() {
        Some(BenchError::Usage(_)) => 2,
        Some(BenchError::Unreachable(_)) => 3,
        None if error.is::<std::io::Error>() => 2,
        None => 4,
    }
}

/// The error of a run that failures of these kinds, and nothing else, brought to its end.
pub(crate) fn error_of_run<'a>(kinds: impl IntoIterator<Item = &'a str>, text: String) -> anyhow::Error {
    let mut kinds = kinds.into_iter().peekable();
    if kinds.peek().is_some() && kinds.all(|kind| UNREACHABLE.contains(&kind)) {
        BenchError::Unreachable(text).into()
    } else {
        anyhow::Error::msg(text)
    }
}

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
    fn a_run_without_a_leader_is_told_apart() {
        let unreachable = |kinds: &[&str]| {
            let error = error_of_run(kinds.iter().copied(), "nothing".to_owned()).context("cannot run");
            error.downcast_ref::<BenchError>() == Some(&BenchError::Unreachable("nothing".to_owned()))
        };
        assert!(unreachable(&["not connected"]));
        assert!(unreachable(&["NOT_LEADER", "NO_LEADER", "not connected"]));
        assert!(!unreachable(&["not connected", "NO_SPACE"]));
        assert!(!unreachable(&[]));
    }

    #[test]
    fn exit_codes_are_kvctls() {
        let code = |error: anyhow::Error| exit_code(&error.context("cannot run"));
        assert_eq!(code(BenchError::Usage(String::new()).into()), 2);
        assert_eq!(code(BenchError::Unreachable(String::new()).into()), 3);
        assert_eq!(code(std::io::Error::other("x").into()), 2);
        assert_eq!(code(anyhow::anyhow!("x")), 4);
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
