//! From a list of invocations and completions, as Jepsen records them, to operations.

use std::collections::HashMap;

use super::edn_text::Edn;
use super::read::ReadError;
use super::{Answer, Call, Expected, Fault, Found, History, Operation, Outcome};

/// What an event tells of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

/// One line of such a list.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) line: usize,
    /// `None`: not a client but the nemesis.
    pub(super) process: Option<u64>,
    pub(super) kind: Kind,
    pub(super) f: String,
    pub(super) key: Option<String>,
    pub(super) value: Edn,
    pub(super) time: Option<u64>,
    pub(super) why: String,
}

/// What `:fail` means for a cas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedCas {
    /// The value was not as expected: an answer, which may be wrong.
    Refused,
    /// It was not carried out, for whatever reason.
    Failed,
}

impl Kind {
    pub(super) fn named(form: Option<&Edn>) -> Option<Kind> {
        match form {
            Some(Edn::Keyword(word)) => match word.as_str() {
                "invoke" => Some(Kind::Invoke),
                "ok" => Some(Kind::Ok),
                "fail" => Some(Kind::Fail),
                "info" => Some(Kind::Info),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Pairs invocations with completions. An operation that was never completed is open.
///
/// The order of the list is the order of events: times that stand still are moved on, so that they agree with it.
pub(super) fn pair(events: Vec<Event>, failed_cas: FailedCas) -> Result<History, ReadError> {
    let mut history = History::default();
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut faults = Faults::default();
    let mut now = 0;
    for event in events {
        now = event.time.unwrap_or(0).max(now + 1);
        let Some(process) = event.process else {
            faults.add(&mut history.faults, &event, now);
            continue;
        };
        if event.kind == Kind::Invoke {
            if open.insert(process, history.operations.len()).is_some() {
                let what = format!("process {process} invokes before its last operation was completed");
                return Err(ReadError::line(event.line, &what));
            }
            history.operations.push(invoked(process, &event, now)?);
        } else {
            let Some(position) = open.remove(&process) else {
                let what = format!("process {process} completes what it has not invoked");
                return Err(ReadError::line(event.line, &what));
            };
            let operation = &mut history.operations[position];
            operation.ended = Some(now);
            operation.outcome = outcome(&operation.call, &event, failed_cas)?;
        }
    }
    history.sort();
    Ok(history)
}

fn invoked(process: u64, event: &Event, now: u64) -> Result<Operation, ReadError> {
    let (key, value) = split(event);
    let key = key.unwrap_or_default();
    let bad = |what: &str| ReadError::line(event.line, &format!(":{} {what}: {value}", event.f));
    let call = match event.f.as_str() {
        "read" | "get" => Call::Read { key },
        "write" | "put" => match value.name() {
            Some(value) => Call::Write { key, value },
            None => Call::Delete { key, expected: None },
        },
        "append" => match value.name() {
            Some(value) => Call::Append { key, value },
            None => return Err(bad("of nothing")),
        },
        "cas" => {
            let (old, new) = value.pair().ok_or_else(|| bad("without [old new]"))?;
            let expected = old.name().map_or(Expected::Absent, Expected::Value);
            match new.name() {
                Some(value) => Call::Cas { key, expected, value },
                None => Call::Delete {
                    key,
                    expected: Some(expected),
                },
            }
        }
        other => {
            let what = format!(":f :{other} is not known; read, write, cas, put, get and append are");
            return Err(ReadError::line(event.line, &what));
        }
    };
    Ok(Operation {
        process,
        invoked: now,
        ended: None,
        endpoint: String::new(),
        call,
        outcome: Outcome::Unknown {
            why: "never completed".to_owned(),
        },
    })
}

/// Key and value of an event. Without a key of its own, a value `[k v]` names it.
fn split(event: &Event) -> (Option<String>, &Edn) {
    if event.key.is_some() {
        return (event.key.clone(), &event.value);
    }
    match event.value.pair() {
        // The value of a cas is a pair anyway.
        Some((_, value)) if event.f == "cas" && value.pair().is_none() => (None, &event.value),
        Some((key, value)) => (key.name(), value),
        None => (None, &event.value),
    }
}

fn outcome(call: &Call, event: &Event, failed_cas: FailedCas) -> Result<Outcome, ReadError> {
    let why = || event.why.clone();
    Ok(match event.kind {
        Kind::Info => Outcome::Unknown { why: why() },
        Kind::Ok => Outcome::Ok {
            answer: answer(call, event),
        },
        _ if event.f == "cas" && failed_cas == FailedCas::Refused && event.why.is_empty() => Outcome::Ok {
            answer: Answer::Refused {
                current: None,
                revision: None,
            },
        },
        _ => Outcome::Fail { why: why() },
    })
}

fn answer(call: &Call, event: &Event) -> Answer {
    match call {
        Call::Read { .. } | Call::Scan { .. } => {
            let (_, value) = split(event);
            let found = value.name().map(|value| Found { value, stamp: None });
            Answer::Read { found, at: None }
        }
        Call::Delete {
            expected: Some(expected),
            ..
        } => Answer::Deleted {
            existed: *expected != Expected::Absent,
            revision: None,
        },
        // Writing nil does not tell whether there was something.
        Call::Delete { expected: None, .. } | Call::Write { .. } | Call::Cas { .. } | Call::Append { .. } => {
            Answer::Written { revision: None }
        }
    }
}

/// Begins and ends of faults: the nemesis reports each with two events of the same name, unless it needs no undoing.
#[derive(Default)]
struct Faults {
    /// By name and number: the position of the fault that is in force.
    open: HashMap<(String, Option<i64>), usize>,
}

impl Faults {
    fn add(&mut self, faults: &mut Vec<Fault>, event: &Event, now: u64) {
        let number = match event.value.get("fault") {
            Some(Edn::Int(number)) => Some(*number),
            _ => None,
        };
        let name = (event.f.clone(), number);
        if let Some(position) = self.open.remove(&name) {
            faults[position].ended = Some(now);
            return;
        }
        self.open.insert(name, faults.len());
        let members = match event.value.get("members").unwrap_or(&event.value) {
            Edn::Many(members) => members.iter().filter_map(Edn::name).collect(),
            _ => Vec::new(),
        };
        let detail = event.value.get("detail").unwrap_or(&event.value);
        faults.push(Fault {
            kind: event.f.clone(),
            members,
            detail: detail.name().unwrap_or_default(),
            began: now,
            ended: None,
        });
    }
}
