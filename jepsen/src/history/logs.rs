//! Logs of Jepsen, as text: one event a line, after whatever the logger puts before it.
//!
//! ```text
//! INFO  jepsen.util - 3  :invoke  :cas  [1 4]
//! INFO  jepsen.util - 3  :info  :cas  :timed-out
//! ```
//!
//! A cas that fails was refused, which is an answer. Reads that fail tell nothing. `:info` is unknown: it may take effect
//! at any time after its invocation, or never.

use super::History;
use super::edn_text::{Edn, Forms};
use super::events::{Event, FailedCas, Kind, pair};
use super::read::ReadError;

/// Whether the first line of `text` that is not empty is an event.
pub fn detect(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty());
    first.is_some_and(|line| matches!(event(line, 1), Ok(Some(_))))
}

/// Reads a history from the text of its file. Lines of the log that are no events are passed over.
pub fn parse(text: &str) -> Result<History, ReadError> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        events.extend(event(line, number + 1)?);
    }
    pair(events, FailedCas::Refused)
}

fn event(text: &str, line: usize) -> Result<Option<Event>, ReadError> {
    let Some((_, text)) = text.split_once(" - ") else {
        return Ok(None);
    };
    let mut forms = Forms::new(text, line);
    // Other lines of the log need not be EDN.
    let (Ok(process), Ok(kind)) = (forms.next(), forms.next()) else {
        return Ok(None);
    };
    let Some(kind) = Kind::named(kind.as_ref()) else {
        return Ok(None);
    };
    let process = match process {
        Some(Edn::Int(process)) => Some(u64::try_from(process).map_err(|e| ReadError::line(line, &e))?),
        Some(Edn::Keyword(word)) if word == "nemesis" => None,
        _ => {
            return Err(ReadError::line(
                line,
                &"an event of neither a process nor the nemesis",
            ));
        }
    };
    let Some(Edn::Keyword(f)) = forms.next()? else {
        return Err(ReadError::line(line, &"an event without a function"));
    };
    let value = forms.next()?.unwrap_or(Edn::Nil);
    let error = forms.next()?;
    let why = match (kind, &value, error) {
        (_, _, Some(error)) => error.to_string(),
        (Kind::Fail | Kind::Info, Edn::Keyword(word), None) => word.clone(),
        _ => String::new(),
    };
    Ok(Some(Event {
        line,
        process,
        kind,
        f,
        key: None,
        value,
        time: None,
        why,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, Expected, Outcome};

    #[test]
    fn events_become_operations() {
        let log = "\
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:invoke\t:cas\t[1 4]
INFO  jepsen.core - nothing of interest
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:ok\t:read\tnil
INFO  jepsen.util - 1\t:fail\t:cas\t[1 4]
INFO  jepsen.util - 2\t:invoke\t:read\tnil
INFO  jepsen.util - 2\t:fail\t:read\t:timed-out
INFO  jepsen.util - 3\t:invoke\t:write\t7
INFO  jepsen.util - 3\t:info\t:write\t:timed-out
INFO  jepsen.util - 4\t:invoke\t:write\t8
";
        assert!(detect(log));
        let history = parse(log).unwrap();
        let [read, cas, failed, unknown, open] = history.operations.as_slice() else {
            panic!("{history:?}");
        };
        let absent = Answer::Read {
            found: None,
            at: None,
        };
        assert_eq!(read.outcome, Outcome::Ok { answer: absent });
        let expected = Expected::Value("1".to_owned());
        let (key, value) = (String::new(), "4".to_owned());
        assert_eq!(cas.call, Call::Cas { key, expected, value });
        let refused = Answer::Refused {
            current: None,
            revision: None,
        };
        assert_eq!(cas.outcome, Outcome::Ok { answer: refused });
        let timed_out = || "timed-out".to_owned();
        assert_eq!(failed.outcome, Outcome::Fail { why: timed_out() });
        assert_eq!(unknown.outcome, Outcome::Unknown { why: timed_out() });
        assert!(unknown.is_open() && open.is_open());
        assert_eq!(open.ended, None);
        assert_eq!(history.faults.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_line() {
        let twice = "a - 0 :invoke :read nil\na - 0 :invoke :read nil\n";
        assert!(
            parse(twice)
                .unwrap_err()
                .to_string()
                .starts_with("line 2: process 0")
        );
        let strange = "a - 0 :invoke :transfer nil\n";
        assert!(parse(strange).unwrap_err().to_string().contains(":f :transfer"));
        assert!(!detect("hello - world\n"));
    }
}
