//! As much of EDN as histories need: a reader that knows where it stands, and the writing of strings.

use std::fmt;

use super::read::ReadError;

/// Forms within forms, at most: input must not be able to exhaust the stack.
const DEPTH_MAX: usize = 32;

/// A form.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Edn {
    Nil,
    Int(i64),
    Text(String),
    /// Without its colon.
    Keyword(String),
    /// A vector, a list or a set.
    Many(Vec<Edn>),
    Map(Vec<(Edn, Edn)>),
    /// Whatever else stands for itself: a symbol, a boolean, a float, a character.
    Other(String),
}

impl Edn {
    /// Of a map: what the keyword stands for.
    pub(super) fn get(&self, keyword: &str) -> Option<&Edn> {
        let Edn::Map(pairs) = self else { return None };
        let is_it = |(key, _): &&(Edn, Edn)| matches!(key, Edn::Keyword(word) if word == keyword);
        pairs.iter().find(is_it).map(|(_, value)| value)
    }

    /// Two forms in a vector.
    pub(super) fn pair(&self) -> Option<(&Edn, &Edn)> {
        match self {
            Edn::Many(forms) => match forms.as_slice() {
                [first, second] => Some((first, second)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The name of a key or value: strings name themselves, everything else is named as it is written. Nil is absent.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Edn::Nil => None,
            Edn::Text(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl fmt::Display for Edn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edn::Nil => f.write_str("nil"),
            Edn::Int(number) => write!(f, "{number}"),
            Edn::Text(text) => quote(f, text),
            Edn::Keyword(word) => write!(f, ":{word}"),
            Edn::Other(text) => f.write_str(text),
            Edn::Many(forms) => {
                f.write_str("[")?;
                for (i, form) in forms.iter().enumerate() {
                    write!(f, "{}{form}", if i == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
            Edn::Map(pairs) => {
                f.write_str("{")?;
                for (i, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key} {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// Reads forms one after the other.
pub(super) struct Forms<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Forms<'a> {
    /// Of a text whose first line has the number `line`.
    pub(super) fn new(text: &'a str, line: usize) -> Forms<'a> {
        Forms { rest: text, line }
    }

    /// Where it stands.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The next form, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Edn>, ReadError> {
        match self.peek() {
            Some(_) => self.form(0).map(Some),
            None => Ok(None),
        }
    }

    /// Passes a bracket if it comes next.
    pub(super) fn pass(&mut self, brackets: &[char]) -> bool {
        let is_next = self.peek().is_some_and(|c| brackets.contains(&c));
        if is_next {
            self.take();
        }
        is_next
    }

    /// The next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let c = self.rest.chars().next()?;
            if c == ';' {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
            } else if c.is_whitespace() || c == ',' {
                self.take();
            } else {
                return Some(c);
            }
        }
    }

    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn unfinished(&self) -> ReadError {
        ReadError::Unfinished { line: self.line }
    }

    fn form(&mut self, depth: usize) -> Result<Edn, ReadError> {
        if depth > DEPTH_MAX {
            return Err(ReadError::line(self.line, &"forms are nested too deeply"));
        }
        match self.peek().ok_or_else(|| self.unfinished())? {
            '[' => self.many(']', depth).map(Edn::Many),
            '(' => self.many(')', depth).map(Edn::Many),
            '{' => self.map(depth),
            '"' => self.text(),
            '#' => self.tagged(depth),
            c @ (']' | ')' | '}') => Err(ReadError::line(self.line, &format!("{c:?} closes nothing"))),
            _ => Ok(self.word()),
        }
    }

    /// After its opening bracket, to `close`.
    fn many(&mut self, close: char, depth: usize) -> Result<Vec<Edn>, ReadError> {
        self.take();
        let mut forms = Vec::new();
        loop {
            if self.peek().ok_or_else(|| self.unfinished())? == close {
                self.take();
                return Ok(forms);
            }
            forms.push(self.form(depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Edn, ReadError> {
        let mut forms = self.many('}', depth)?.into_iter();
        let mut pairs = Vec::new();
        while let Some(key) = forms.next() {
            let value = forms
                .next()
                .ok_or_else(|| ReadError::line(self.line, &format!("{key} has no value in its map")))?;
            pairs.push((key, value));
        }
        Ok(Edn::Map(pairs))
    }

    /// A set, a form that is to be skipped, or a form with a tag, which tells nothing that matters here.
    fn tagged(&mut self, depth: usize) -> Result<Edn, ReadError> {
        self.take();
        match self.rest.chars().next().ok_or_else(|| self.unfinished())? {
            '{' => self.many('}', depth).map(Edn::Many),
            '_' => {
                self.take();
                self.form(depth + 1)?;
                self.form(depth + 1)
            }
            _ => {
                self.word();
                self.form(depth + 1)
            }
        }
    }

    fn text(&mut self) -> Result<Edn, ReadError> {
        self.take();
        let mut text = String::new();
        loop {
            match self.take().ok_or_else(|| self.unfinished())? {
                '"' => return Ok(Edn::Text(text)),
                '\\' => match self.take().ok_or_else(|| self.unfinished())? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => text.push(self.code_point()?),
                    c @ ('"' | '\\') => text.push(c),
                    c => return Err(ReadError::line(self.line, &format!("\\{c} in a string"))),
                },
                c => text.push(c),
            }
        }
    }

    fn code_point(&mut self) -> Result<char, ReadError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.take().ok_or_else(|| self.unfinished())?.to_digit(16);
            code = code * 16 + digit.ok_or_else(|| ReadError::line(self.line, &"bad \\u in a string"))?;
        }
        char::from_u32(code).ok_or_else(|| ReadError::line(self.line, &"bad \\u in a string"))
    }

    /// Everything up to the next delimiter.
    fn word(&mut self) -> Edn {
        let ends = |c: char| c.is_whitespace() || ",;[](){}\"".contains(c);
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word == "nil" {
            Edn::Nil
        } else if let Some(word) = word.strip_prefix(':') {
            Edn::Keyword(word.to_owned())
        } else if let Ok(number) = word.parse() {
            Edn::Int(number)
        } else {
            Edn::Other(word.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(text: &str) -> Result<Vec<String>, ReadError> {
        let mut reader = Forms::new(text, 1);
        let mut all = Vec::new();
        while let Some(form) = reader.next()? {
            all.push(form.to_string());
        }
        Ok(all)
    }

    #[test]
    fn forms_are_read_and_written() {
        let text = "{:a 1, :b [nil true -2.5]} ; a comment\n(x \"q\\\"\\\\\\n\\u00e9\") #{1} #inst \"2026\" #_ 3 4 #op{:f :r}";
        let expected = [
            "{:a 1, :b [nil true -2.5]}",
            "[x \"q\\\"\\\\\\n\u{e9}\"]",
            "[1]",
            "\"2026\"",
            "4",
            "{:f :r}",
        ];
        assert_eq!(forms(text).unwrap(), expected);
    }

    #[test]
    fn bad_forms_are_refused_with_their_line() {
        let error = |text: &str| forms(text).unwrap_err().to_string();
        assert_eq!(error("1\n]"), "line 2: ']' closes nothing");
        assert_eq!(error("\n{:a}"), "line 2: :a has no value in its map");
        assert_eq!(error("\"\\q\""), "line 1: \\q in a string");
        assert!(error("[1\n[2").starts_with("line 2 is unfinished"));
        assert!(error("\"abc").starts_with("line 1 is unfinished"));
        assert!(error(&"[".repeat(10_000)).contains("too deeply"));
    }
}
