//! YCSB's properties: files in Java's syntax, overrides from the command line, typed reading with errors that say where
//! a value was set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
};

use crate::errors::BenchError;

/// Where a property was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A line of a file, counted from 1.
    File { name: String, line: usize },
    /// The option of the command line that is named.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { name, line } => write!(f, "{name}:{line}"),
            Origin::Option(option) => f.write_str(option),
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    value: String,
    origin: Origin,
}

/// Properties by name. Those that are set later replace earlier ones; those that nobody reads can be listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties {
    entries: BTreeMap<String, Entry>,
    unread: BTreeSet<String>,
}

impl Properties {
    /// Sets one property.
    pub(crate) fn set(&mut self, name: &str, value: &str, origin: Origin) {
        let value = value.to_owned();
        self.entries.insert(name.to_owned(), Entry { value, origin });
        self.unread.insert(name.to_owned());
    }

    /// Sets the properties of a file with the contents `text`; `file` is its name in errors.
    ///
    /// Errors: `Usage` for an escape that is no character, with file and line.
    pub(crate) fn set_all(&mut self, file: &str, text: &str) -> Result<(), BenchError> {
        for Line { number, text } in logical_lines(text) {
            let origin = Origin::File {
                name: file.to_owned(),
                line: number,
            };
            let (name, value) = split(&text);
            let plain = |part| {
                unescape(part).map_err(|escape| {
                    BenchError::Usage(format!(
                        "{origin}: {escape:?} is not a character; write \\u and four hexadecimal digits"
                    ))
                })
            };
            let (name, value) = (plain(name)?, plain(value)?);
            self.set(&name, &value, origin);
        }
        Ok(())
    }

    /// Every property and its value.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.value.clone()))
            .collect()
    }

    /// The properties that were never read, each with its place: `name (file:line)`.
    pub(crate) fn unread(&self) -> Vec<String> {
        self.unread
            .iter()
            .map(|name| format!("{name} ({})", self.entries[name].origin))
            .collect()
    }

    /// The text of a property.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.unread.remove(name);
        // Java keeps blanks at the end of a value; no property of YCSB means them.
        self.entries.get(name).map(|entry| entry.value.trim().to_owned())
    }

    /// A whole number.
    ///
    /// Errors: `Usage` when the value is none, or outside of `range`.
    pub(crate) fn whole(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, BenchError> {
        self.parsed(name, |text| text.parse().ok().filter(|n| range.contains(n)))
            .map_err(|place| {
                let (from, to) = (range.start(), range.end());
                BenchError::Usage(format!("{place}: expected a whole number from {from} to {to}"))
            })
    }

    /// A number with a fraction.
    ///
    /// Errors: `Usage` when the value is none, or outside of `range`.
    pub(crate) fn fraction(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, BenchError> {
        self.parsed(name, |text| text.parse().ok().filter(|n| range.contains(n)))
            .map_err(|place| {
                let (from, to) = (range.start(), range.end());
                BenchError::Usage(format!("{place}: expected a number from {from} to {to}"))
            })
    }

    /// `true` or `false`, in any case.
    ///
    /// Errors: `Usage` for another value.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, BenchError> {
        self.parsed(name, |text| text.to_ascii_lowercase().parse().ok())
            .map_err(|place| BenchError::Usage(format!("{place}: expected true or false")))
    }

    /// One of `choices`, by its name.
    ///
    /// Errors: `Usage` for another name; it lists those that are supported.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, BenchError> {
        let find = |text: &str| choices.iter().find(|(known, _)| *known == text);
        self.parsed(name, |text| find(text).map(|(_, choice)| *choice))
            .map_err(|place| {
                let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
                BenchError::Usage(format!("{place} is not supported; write {}", known.join(" or ")))
            })
    }

    /// `name=value (where)` for errors about a property, or `name (not set)`.
    pub(crate) fn place(&self, name: &str) -> String {
        match self.entries.get(name) {
            Some(entry) => format!("property {name}={} ({})", entry.value, entry.origin),
            None => format!("property {name} (not set)"),
        }
    }

    /// Reads a property with `parse`; the error is its place.
    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, String> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => parse(&text).map(Some).ok_or_else(|| self.place(name)),
        }
    }
}

/// Parses `name=value` of the command line.
pub(crate) fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, such as recordcount=100000".to_owned()),
    }
}

/// One property with its continuation lines put together.
struct Line {
    /// Of its first line, counted from 1.
    number: usize,
    text: String,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Whether the line goes on in the next one: it ends with a backslash that is not itself escaped.
fn continues(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

fn logical_lines(text: &str) -> Vec<Line> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut natural = text.split('\n').zip(1..);
    let mut lines = Vec::new();
    while let Some((first, number)) = natural.next() {
        let mut text = first.trim_start_matches(is_blank).to_owned();
        if text.is_empty() || text.starts_with(['#', '!']) {
            continue;
        }
        while continues(&text) {
            text.pop();
            let Some((next, _)) = natural.next() else { break };
            text.push_str(next.trim_start_matches(is_blank));
        }
        lines.push(Line { number, text });
    }
    lines
}

/// Splits at the first `=`, `:` or blank that is not escaped; blanks around the separator belong to neither part.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (matches!(c, '=' | ':') || is_blank(c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, value.trim_start_matches(is_blank))
}

/// Resolves backslash escapes; the error is the escape that is none.
fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 4);
                let character = code.and_then(char::from_u32);
                plain.push(character.ok_or_else(|| format!("\\u{digits}"))?);
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Properties {
        let mut properties = Properties::default();
        properties.set_all("w", text).unwrap();
        properties
    }

    fn value(text: &str, name: &str) -> String {
        parse(text).all()[name].clone()
    }

    #[test]
    fn the_syntax_is_javas() {
        for text in [
            "a=b c",
            "a = b c",
            "a: b c",
            "a b c",
            "  a\t=\tb c",
            "\\u0061=b c",
            "a=b\\u0020c",
            "a=\\b c",
            "# no\n! no\n\na=b c\n",
            "a=b\\\n   \\ c",
            "x=1\r\na=b c\r\n",
            "x=1\ra=b c",
            "a=z\na=b c",
        ] {
            assert_eq!(value(text, "a"), "b c", "{text:?}");
        }
        assert_eq!(value("a==b", "a"), "=b");
        assert_eq!(value("a\\=b\\:\\ c = d", "a=b: c"), "d");
        assert_eq!(value("a", "a"), "");
        assert_eq!(value("a=1,\\\n\t2,\\\n3\nb=4", "a"), "1,2,3");
        assert_eq!(value("a=1\\\\\nb=2", "a"), "1\\");
        assert_eq!(value("a=1\\", "a"), "1");
        assert_eq!(value("a=1\\\n# not a comment", "a"), "1# not a comment");
        assert!(parse("# only\\\n! comments\n").all().is_empty());
    }

    #[test]
    fn bad_escapes_name_file_and_line() {
        for text in ["\n\na=\\u12g4", "\n\na=\\u12", "\n\n\\ud800=1"] {
            let error = Properties::default().set_all("dir/w", text).unwrap_err();
            assert!(error.to_string().starts_with("dir/w:3: "), "{error}");
        }
    }

    #[test]
    fn values_are_typed_and_refused_with_their_place() {
        let mut p = parse("n=12 \nf=0.5\nt=TRUE\nc=zipfian\n\\\n\nbad=x1");
        assert_eq!(p.whole("n", 1..=20), Ok(Some(12)));
        assert_eq!(p.whole("none", 1..=20), Ok(None));
        assert_eq!(p.fraction("f", 0.0..=1.0), Ok(Some(0.5)));
        assert_eq!(p.flag("t"), Ok(Some(true)));
        assert_eq!(p.choice("c", &[("uniform", 1), ("zipfian", 2)]), Ok(Some(2)));
        let text = |error: BenchError| error.to_string();
        assert_eq!(
            text(p.whole("bad", 1..=20).unwrap_err()),
            "property bad=x1 (w:7): expected a whole number from 1 to 20"
        );
        assert!(text(p.whole("n", 1..=11).unwrap_err()).contains("from 1 to 11"));
        assert!(text(p.fraction("bad", 0.0..=1.0).unwrap_err()).contains("w:7"));
        p.set("t", "yes", Origin::Option("-p"));
        assert_eq!(
            text(p.flag("t").unwrap_err()),
            "property t=yes (-p): expected true or false"
        );
        assert_eq!(
            text(p.choice("c", &[("uniform", 1), ("latest", 2)]).unwrap_err()),
            "property c=zipfian (w:4) is not supported; write uniform or latest"
        );
    }

    #[test]
    fn what_nobody_read_is_listed() {
        let mut p = parse("a=1\nb=2\nc=3");
        p.set("b", "9", Origin::Option("-p"));
        assert_eq!(p.whole("a", 0..=9), Ok(Some(1)));
        assert_eq!(p.unread(), ["b (-p)", "c (w:3)"]);
    }

    #[test]
    fn assignments_need_a_name() {
        assert_eq!(parse_assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_assignment("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_assignment("a").is_err() && parse_assignment("=b").is_err());
    }
}
