//! Keys and values as text, and back.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;

/// How keys are read from the command line and printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// Read as typed; print as text if printable, else escaped (base64 in JSON)
    Auto,
    /// Text as it is
    Utf8,
    /// Hexadecimal digits
    Hex,
    /// Standard base64
    Base64,
    /// Text with \xNN, \n, \r, \t and \\
    Escape,
}

impl Encoding {
    /// Returns the name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Auto => "auto",
            Encoding::Utf8 => "utf8",
            Encoding::Hex => "hex",
            Encoding::Base64 => "base64",
            Encoding::Escape => "escape",
        }
    }

    /// Decodes a key from the command line.
    pub fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        let wrong = |what: &str| format!("{text:?} is not valid {}: {what}", self.name());
        match self {
            Encoding::Auto | Encoding::Utf8 => Ok(text.as_bytes().to_vec()),
            Encoding::Hex => decode_hex(text).ok_or_else(|| wrong("give an even number of digits 0-9 a-f")),
            Encoding::Base64 => BASE64_STANDARD
                .decode(text)
                .map_err(|error| wrong(&error.to_string())),
            Encoding::Escape => unescape(text).map_err(wrong),
        }
    }

    /// Prints bytes on a line of text.
    pub fn line(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Auto => match printable(bytes) {
                Some(text) => text.to_owned(),
                None => escape(bytes),
            },
            Encoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Encoding::Hex => encode_hex(bytes),
            Encoding::Base64 => BASE64_STANDARD.encode(bytes),
            Encoding::Escape => escape(bytes),
        }
    }

    /// Whether the line printed for `bytes` can be typed and means the same bytes.
    pub fn reads_back(self, bytes: &[u8]) -> bool {
        let line = self.line(bytes);
        printable(line.as_bytes()).is_some() && self.decode(&line).is_ok_and(|decoded| decoded == bytes)
    }

    /// Prints bytes for JSON: the text, and the name of its encoding, which is never `auto`.
    pub fn json(self, bytes: &[u8]) -> (String, &'static str) {
        match self {
            Encoding::Auto | Encoding::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => (text.to_owned(), Encoding::Utf8.name()),
                Err(_) => (Encoding::Base64.line(bytes), Encoding::Base64.name()),
            },
            Encoding::Hex | Encoding::Base64 | Encoding::Escape => (self.line(bytes), self.name()),
        }
    }
}

/// Returns the text if it is UTF-8 without control characters.
fn printable(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn unescape(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        match chars.next() {
            Some('\\') => bytes.push(b'\\'),
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('0') => bytes.push(0),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                let byte = decode_hex(&digits).filter(|byte| byte.len() == 1);
                bytes.extend(byte.ok_or("\\x needs two hexadecimal digits")?);
            }
            _ => return Err("after \\ comes one of \\ n r t 0 xNN"),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_round_trips_what_it_prints() {
        let samples: [&[u8]; 6] = [
            b"plain",
            b"a\\b\n",
            b"\x00\xff\x7f",
            "caf\u{e9}\u{85}".as_bytes(),
            b"",
            b"\xe2\x82",
        ];
        for encoding in [Encoding::Hex, Encoding::Base64, Encoding::Escape] {
            for sample in samples {
                assert_eq!(
                    encoding.decode(&encoding.line(sample)).unwrap(),
                    sample,
                    "{encoding:?}"
                );
            }
        }
    }

    #[test]
    fn auto_prints_text_as_it_is_and_escapes_the_rest() {
        assert_eq!(Encoding::Auto.line("caf\u{e9} \\x".as_bytes()), "caf\u{e9} \\x");
        assert_eq!(Encoding::Auto.line(b"a\x00\xffb"), "a\\x00\\xffb");
        assert_eq!(Encoding::Auto.json(b"a\nb"), ("a\nb".to_owned(), "utf8"));
        assert_eq!(Encoding::Auto.json(b"\xff"), ("/w==".to_owned(), "base64"));
        assert_eq!(Encoding::Hex.json(b"\xff"), ("ff".to_owned(), "hex"));
    }

    #[test]
    fn only_what_can_be_typed_reads_back() {
        assert!(Encoding::Auto.reads_back(b"user/7"));
        assert!(!Encoding::Auto.reads_back(b"a\x00"));
        assert!(!Encoding::Auto.reads_back(b"\xff"));
        assert!(!Encoding::Utf8.reads_back(b"a\n"));
        assert!(Encoding::Hex.reads_back(b"a\x00"));
        assert!(Encoding::Escape.reads_back(b"a\x00\xff\\"));
    }

    #[test]
    fn wrong_input_is_refused() {
        for (encoding, text) in [
            (Encoding::Hex, "abc"),
            (Encoding::Hex, "zz"),
            (Encoding::Base64, "a"),
            (Encoding::Escape, "\\x1"),
            (Encoding::Escape, "\\q"),
            (Encoding::Escape, "\\"),
        ] {
            let error = encoding.decode(text).unwrap_err();
            assert!(error.contains(encoding.name()), "{error}");
        }
    }
}
