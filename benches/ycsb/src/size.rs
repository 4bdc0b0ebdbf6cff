//! Sizes as people write them: `256`, `64KiB`, `1MB`.

use std::fmt;

/// A size that could not be understood; displays with the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseSizeError {
    input: String,
}

impl fmt::Display for ParseSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a size; write bytes such as 256, 64KiB, 16MiB or 1MB",
            self.input
        )
    }
}

impl std::error::Error for ParseSizeError {}

/// Parses a whole number of bytes with an optional unit: B, kB, MB, GB (powers of 1000), KiB, MiB, GiB (powers of
/// 1024), in any case.
///
/// Errors: no digits, a fraction, an unknown unit, or more than `u64` can hold.
pub fn parse_size(input: &str) -> Result<u64, ParseSizeError> {
    let error = || ParseSizeError {
        input: input.to_owned(),
    };
    let text = input.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let count: u64 = digits.parse().map_err(|_| error())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(error()),
    };
    count.checked_mul(factor).ok_or_else(error)
}

/// Formats bytes with the largest binary unit that divides them: 65536 is `64 KiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_usual_forms() {
        for (text, bytes) in [
            ("0", 0),
            ("256", 256),
            ("256B", 256),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("16MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("1kB", 1_000),
            ("3MB", 3_000_000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        for text in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "64K",
            "1 TiB",
            "0x10",
            "99999999999999999999",
            "18446744073709551615KiB",
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.to_string().contains("64KiB"), "{error}");
        }
    }

    #[test]
    fn formats_with_the_largest_exact_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (256, "256 B"),
            (1024, "1 KiB"),
            (1500, "1500 B"),
            (65_536, "64 KiB"),
            (3 << 20, "3 MiB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
