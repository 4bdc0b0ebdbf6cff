//! What members say of themselves: that stored data is damaged is a finding, unless somebody damaged it.

use super::{Findings, Options};
use crate::history::{History, Outcome};

/// How kvd says it, to whoever asks for the value.
const DAMAGED: &str = " is damaged at offset ";
/// Faults after which it may.
const EXPLAINED_BY: [&str; 2] = ["bit-rot", "fsync-errors"];

pub(super) fn check(history: &History, options: &Options) -> Findings {
    let mut findings = Findings::new("answers", options);
    for (position, operation) in history.operations.iter().enumerate() {
        let (Outcome::Fail { why } | Outcome::Unknown { why }) = &operation.outcome else {
            continue;
        };
        let explains = |fault: &crate::history::Fault| {
            EXPLAINED_BY.contains(&fault.kind.as_str())
                && operation.ended.is_none_or(|ended| fault.began <= ended)
                && fault
                    .members
                    .iter()
                    .any(|member| why.contains(&format!("{member}: ")))
        };
        if why.contains(DAMAGED) && !history.faults.iter().any(explains) {
            findings.add(
                format!("nobody damaged anything, and a member says: {why}"),
                [position],
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Fault, Operation};

    fn found(fault: Option<(&str, &str, u64)>) -> usize {
        let why = "DataLoss: n2: /d/log/7.log is damaged at offset 12: CRC differs; the value was not served";
        let history = History {
            operations: vec![Operation {
                process: 0,
                invoked: 10,
                ended: Some(20),
                endpoint: String::new(),
                call: Call::Read { key: "k".into() },
                outcome: Outcome::Fail { why: why.into() },
            }],
            faults: fault
                .map(|(kind, member, began)| Fault {
                    kind: kind.into(),
                    members: vec![member.into()],
                    detail: String::new(),
                    began,
                    ended: None,
                })
                .into_iter()
                .collect(),
        };
        check(&history, &Options::default()).told.len()
    }

    #[test]
    fn damage_needs_somebody_who_did_it_before_and_there() {
        assert_eq!(found(None), 1);
        assert_eq!(found(Some(("bit-rot", "n2", 5))), 0);
        assert_eq!(found(Some(("bit-rot", "n1", 5))), 1);
        assert_eq!(found(Some(("bit-rot", "n2", 25))), 1);
        assert_eq!(found(Some(("kill", "n2", 5))), 1);
    }
}
