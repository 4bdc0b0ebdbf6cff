//! How long a cluster answers no write after its leader was taken away.

use std::collections::BTreeMap;

use crate::history::{History, Outcome};
use crate::nemesis::OF_THE_LEADER;
use crate::report::{Failover, percentile};

/// Every time that the leader, and nobody else, was taken away.
pub fn of(history: &History) -> Vec<Failover> {
    let taken = history
        .faults
        .iter()
        .filter(|fault| fault.members.len() == 1 && fault.detail.contains(OF_THE_LEADER));
    let acknowledged = |began: u64| {
        history
            .operations
            .iter()
            .filter(|operation| operation.invoked >= began && operation.call.mutates())
            .filter(|operation| matches!(operation.outcome, Outcome::Ok { .. }))
            .filter_map(|operation| operation.ended)
            .min()
    };
    taken
        .map(|fault| Failover {
            fault: fault.kind.clone(),
            member: fault.members[0].clone(),
            began: fault.began,
            first_write: acknowledged(fault.began),
        })
        .collect()
}

/// Median and 99th percentile by kind, for people.
pub fn describe(failovers: &[Failover]) -> Vec<String> {
    let mut by_kind: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for failover in failovers {
        if let Some(first) = failover.first_write {
            by_kind
                .entry(&failover.fault)
                .or_default()
                .push(first - failover.began);
        }
    }
    let line = |(kind, mut times): (&str, Vec<u64>)| {
        times.sort_unstable();
        let at = |percent| percentile(&times, percent).unwrap_or_default() as f64 / 1e9;
        let (median, p99, count) = (at(50.0), at(99.0), times.len());
        format!(
            "after {kind} of the leader: first write in {median:.2} s (median), {p99:.2} s (p99), {count} times"
        )
    };
    by_kind.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, Fault, Operation};

    fn write(invoked: u64, ended: u64, ok: bool) -> Operation {
        Operation {
            process: 0,
            invoked,
            ended: Some(ended),
            endpoint: String::new(),
            call: Call::Write {
                key: "k".into(),
                value: format!("v{invoked}"),
            },
            outcome: match ok {
                true => Outcome::Ok {
                    answer: Answer::Written { revision: None },
                },
                false => Outcome::Unknown { why: "time".into() },
            },
        }
    }

    fn fault(kind: &str, members: &[&str], detail: &str) -> Fault {
        Fault {
            kind: kind.into(),
            members: members.iter().map(ToString::to_string).collect(),
            detail: detail.into(),
            began: 100,
            ended: None,
        }
    }

    #[test]
    fn the_first_write_counts_that_was_invoked_afterwards() {
        let second = 1_000_000_000;
        let history = History {
            operations: vec![
                write(90, 200, true),
                write(110, 300, false),
                write(120, 100 + 2 * second, true),
                write(130, 100 + second, true),
            ],
            faults: vec![
                fault("kill", &["n1"], "SIGKILL of the leader"),
                fault("kill", &["n1"], "SIGKILL"),
                fault("kill", &["n1", "n2"], "SIGKILL of the leader"),
            ],
        };
        let found = of(&history);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].first_write, Some(100 + second));
        let text = describe(&found);
        assert!(
            text[0].starts_with("after kill of the leader: first write in 1.00 s"),
            "{text:?}"
        );
    }
}
