//! Histories as Jepsen keeps them, in EDN: a map for each event, one a line or all in one vector.
//!
//! Read: `:process` (a number or `:nemesis`), `:type`, `:f`, `:value`, and if there are `:key`, `:time`, `:error`. Without
//! `:key`, a value `[k v]` names its key, as `jepsen.independent` has it. Nil is absent. An operation that was completed
//! with `:info`, or never, is unknown; one with `:fail` did not happen.
//!
//! Written: `:read`, `:write` and `:cas` on values `[k v]`, so that `(jepsen.independent/checker
//! (jepsen.checker/linearizable {:model (knossos.model/cas-register)}))` takes them; `:append` where there are appends.
//! Deletes write nil. Conditions on a revision become conditions on the value that was written there; where nobody knows
//! it they are left out, which makes a history easier to satisfy, never harder. A refused condition is `:fail`. Scans and
//! what answers say about revisions have no place here: our own format keeps them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::edn_text::{Edn, Forms};
use super::events::{Event, FailedCas, Kind, pair};
use super::read::ReadError;
use super::{Answer, Call, Expected, Fault, History, Operation, Outcome};

/// Whether `text` begins with a map or a vector of them.
pub fn detect(text: &str) -> bool {
    let mut forms = Forms::new(text, 1);
    forms.pass(&['[', '(']);
    matches!(forms.next(), Ok(Some(map)) if map.get("type").is_some())
}

/// Reads a history from the text of its file.
pub fn parse(text: &str) -> Result<History, ReadError> {
    let mut forms = Forms::new(text, 1);
    let bracketed = forms.pass(&['[', '(']);
    let mut events = Vec::new();
    loop {
        if bracketed && forms.pass(&[']', ')']) {
            break;
        }
        let Some(form) = forms.next()? else {
            if bracketed {
                return Err(ReadError::Unfinished { line: forms.line() });
            }
            break;
        };
        events.push(event(&form, forms.line())?);
    }
    if let Some(form) = forms.next()? {
        return Err(ReadError::line(
            forms.line(),
            &format!("{form} after the history's end"),
        ));
    }
    pair(events, FailedCas::Failed)
}

fn event(form: &Edn, line: usize) -> Result<Event, ReadError> {
    let missing = |what: &str| ReadError::line(line, &format!("no {what} in {form}"));
    let process = match form.get("process") {
        Some(Edn::Int(process)) => Some(u64::try_from(*process).map_err(|e| ReadError::line(line, &e))?),
        Some(Edn::Keyword(word)) if word == "nemesis" => None,
        _ => return Err(missing(":process")),
    };
    let kind = Kind::named(form.get("type")).ok_or_else(|| missing(":type"))?;
    let Some(Edn::Keyword(f)) = form.get("f") else {
        return Err(missing(":f"));
    };
    let time = match form.get("time") {
        Some(Edn::Int(time)) => u64::try_from(*time).ok(),
        _ => None,
    };
    Ok(Event {
        line,
        process,
        kind,
        f: f.clone(),
        key: form.get("key").and_then(Edn::name),
        value: form.get("value").cloned().unwrap_or(Edn::Nil),
        time,
        why: form.get("error").and_then(Edn::name).unwrap_or_default(),
    })
}

/// Writes `history`, one event a line.
pub fn write(history: &History, out: &mut impl Write) -> io::Result<()> {
    let names = Names::of(history);
    let mut marks = Vec::new();
    for (position, operation) in history.operations.iter().enumerate() {
        if operation.call.key().is_some() {
            marks.push((operation.invoked, Mark::Invoked(position)));
            marks.extend(operation.ended.map(|ended| (ended, Mark::Ended(position))));
        }
    }
    for (position, fault) in history.faults.iter().enumerate() {
        marks.push((fault.began, Mark::Fault(position)));
        marks.extend(fault.ended.map(|ended| (ended, Mark::Fault(position))));
    }
    marks.sort_by_key(|(time, _)| *time);
    let mut index = 0;
    for same in marks.chunk_by_mut(|(a, _), (b, _)| a == b) {
        concurrent(history, same);
        for (time, mark) in same {
            let rest = match mark {
                Mark::Invoked(position) => names.event(&history.operations[*position], true),
                Mark::Ended(position) => names.event(&history.operations[*position], false),
                Mark::Fault(position) => fault(*position, &history.faults[*position]),
            };
            writeln!(out, "{{:index {index}, :time {time}, {rest}}}")?;
            index += 1;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Mark {
    Invoked(usize),
    Ended(usize),
    Fault(usize),
}

/// Orders events of one time: what overlaps must go on doing so, but a process ends one operation before the next.
fn concurrent(history: &History, marks: &mut [(u64, Mark)]) {
    let late = |mark: &Mark, time: u64| match mark {
        Mark::Fault(_) => 0,
        Mark::Ended(position) => {
            let begun_now = history.operations[*position].invoked == time;
            if begun_now { 4 } else { 2 }
        }
        Mark::Invoked(position) => {
            let process = history.operations[*position].process;
            let waits = |other: &Operation| {
                other.process == process && other.ended == Some(time) && other.invoked < time
            };
            let from = position.saturating_sub(1);
            // The last operation of the process was invoked before: look back no further than it takes.
            let before = history.operations[..=from].iter().rev();
            if before
                .clone()
                .find(|other| other.process == process)
                .is_some_and(waits)
            {
                3
            } else {
                1
            }
        }
    };
    if marks.len() > 1 {
        marks.sort_by_cached_key(|(time, mark)| late(mark, *time));
    }
}

fn fault(number: usize, fault: &Fault) -> String {
    let members = fault.members.iter().cloned().map(Edn::Text).collect();
    let word = |word: &str| Edn::Keyword(word.to_owned());
    let value = Edn::Map(vec![
        (word("fault"), Edn::Int(i64::try_from(number).unwrap_or(i64::MAX))),
        (word("members"), Edn::Many(members)),
        (word("detail"), Edn::Text(fault.detail.clone())),
    ]);
    let kind = fault.kind.replace(char::is_whitespace, "-");
    format!(":process :nemesis, :type :info, :f :{kind}, :value {value}")
}

/// Names of values by key and revision.
struct Names<'a> {
    values: HashMap<(&'a str, u64), &'a str>,
}

impl<'a> Names<'a> {
    fn of(history: &'a History) -> Names<'a> {
        let mut values = HashMap::new();
        for operation in &history.operations {
            let Outcome::Ok { answer } = &operation.outcome else {
                continue;
            };
            match (answer, operation.call.key(), operation.call.value()) {
                (Answer::Written { revision: Some(at) }, Some(key), Some(value)) => {
                    values.insert((key, *at), value);
                }
                (
                    Answer::Read {
                        found: Some(found), ..
                    },
                    Some(key),
                    _,
                ) => {
                    let stamp = found.stamp.iter();
                    values.extend(stamp.map(|stamp| ((key, stamp.revision), found.value.as_str())));
                }
                (Answer::Rows { rows, .. }, _, _) => {
                    let stamped = rows.iter().filter_map(|row| Some((row, row.stamp?)));
                    let named = |(row, stamp): (&'a super::Row, super::Stamp)| {
                        ((row.key.as_str(), stamp.revision), row.value.as_str())
                    };
                    values.extend(stamped.map(named));
                }
                _ => {}
            }
        }
        Names { values }
    }

    fn event(&self, operation: &Operation, invocation: bool) -> String {
        let (kind, error) = match &operation.outcome {
            _ if invocation => ("invoke", None),
            Outcome::Ok {
                answer: Answer::Refused { .. },
            } => ("fail", Some("refused")),
            Outcome::Ok { .. } => ("ok", None),
            Outcome::Fail { why } => ("fail", Some(why.as_str())),
            Outcome::Unknown { why } => ("info", Some(why.as_str())),
        };
        let (f, value) = self.value(operation, invocation);
        let key = Edn::Text(operation.call.key().unwrap_or_default().to_owned());
        let value = Edn::Many(vec![key, value]);
        let mut text = format!(
            ":process {}, :type :{kind}, :f :{f}, :value {value}",
            operation.process
        );
        if let Some(error) = error.filter(|error| !error.is_empty()) {
            // A String takes everything.
            let _ = write!(text, ", :error {}", Edn::Text(error.to_owned()));
        }
        text
    }

    fn value(&self, operation: &Operation, invocation: bool) -> (&'static str, Edn) {
        let text = |value: &str| Edn::Text(value.to_owned());
        match &operation.call {
            Call::Read { .. } | Call::Scan { .. } => match &operation.outcome {
                Outcome::Ok {
                    answer:
                        Answer::Read {
                            found: Some(found), ..
                        },
                } if !invocation => ("read", text(&found.value)),
                _ => ("read", Edn::Nil),
            },
            Call::Append { value, .. } => ("append", text(value)),
            Call::Write { value, .. } => ("write", text(value)),
            Call::Cas { key, expected, value } => self.condition(key, Some(expected), text(value)),
            Call::Delete { key, expected } => self.condition(key, expected.as_ref(), Edn::Nil),
        }
    }

    fn condition(&self, key: &str, expected: Option<&Expected>, new: Edn) -> (&'static str, Edn) {
        let old = match expected {
            Some(Expected::Absent) => Some(Edn::Nil),
            Some(Expected::Value(value)) => Some(Edn::Text(value.clone())),
            Some(Expected::Revision(revision)) => {
                let value = self.values.get(&(key, *revision));
                value.map(|value| Edn::Text((*value).to_owned()))
            }
            None => None,
        };
        match old {
            Some(old) => ("cas", Edn::Many(vec![old, new])),
            None => ("write", new),
        }
    }
}
