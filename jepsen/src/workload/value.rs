//! Values: a name, and bytes that follow from it.
//!
//! A name is `<writer>.<number>~<length>`, unique in a run. The bytes are the name, a line break, and filling up to the
//! length that only this name gives, so that every byte of an answer is verified without remembering what was written.

use std::fmt::Write;

/// Ends the name within the bytes.
const END: u8 = b'\n';
/// A name is never longer.
const NAME_BYTES_MAX: usize = 128;

/// Makes the name of a value of `len` bytes; `label` is unique in the run and has neither `~` nor line breaks.
pub fn name(label: &str, len: usize) -> String {
    debug_assert!(!label.contains(['~', '\n']) && label.len() + 24 < NAME_BYTES_MAX);
    format!("{label}~{len}")
}

/// The bytes of the value `name`; a length that is too short for the name means the name alone.
pub fn bytes(name: &str) -> Vec<u8> {
    let len = length(name);
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(END);
    let mut state = seed(name);
    while bytes.len() < len {
        state = next(state);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Length of the value `name`, in bytes.
fn length(name: &str) -> usize {
    let stated = name.rsplit_once('~').and_then(|(_, len)| len.parse().ok());
    stated.unwrap_or(0).max(name.len() + 1)
}

/// The name of the value that `found` is, or `corrupt:...` if no value has these bytes: no write has that name, so every
/// checker takes it for what nobody wrote.
pub fn identify(found: &[u8]) -> String {
    let head = &found[..found.len().min(NAME_BYTES_MAX)];
    let end = head.iter().position(|byte| *byte == END);
    let name = end.and_then(|end| std::str::from_utf8(&head[..end]).ok());
    let Some(name) = name else {
        return corrupt(found, "no name");
    };
    if length(name) != found.len() {
        return corrupt(found, &format!("as if {name}, of another length"));
    }
    let right = bytes(name);
    if right == found {
        return name.to_owned();
    }
    let differs = right.iter().zip(found).position(|(right, found)| right != found);
    let differs = differs.unwrap_or(0);
    corrupt(found, &format!("as if {name}, from byte {differs} on"))
}

fn corrupt(found: &[u8], what: &str) -> String {
    let mut text = format!("corrupt:{} bytes, {what}: ", found.len());
    for byte in found.iter().take(16) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// FNV-1a, never 0.
fn seed(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash.max(1)
}

/// Xorshift: a few GB/s, and good enough that no two values are alike.
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_bytes() {
        for len in [0, 5, 40, 4096, 1 << 20] {
            let name = name("register.3.17", len);
            let bytes = bytes(&name);
            assert_eq!(bytes.len(), len.max(name.len() + 1));
            assert_eq!(identify(&bytes), name);
        }
    }

    #[test]
    fn any_wrong_byte_makes_it_corrupt() {
        let bytes = bytes(&name("a.1", 200));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            let found = identify(&wrong);
            assert!(found.starts_with("corrupt:"), "byte {at}: {found}");
        }
        for end in 0..bytes.len() {
            assert!(identify(&bytes[..end]).starts_with("corrupt:"), "{end} bytes");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(identify(&longer).starts_with("corrupt:"));
        assert!(identify(b"").starts_with("corrupt:"));
        assert!(identify(&[0xff, END]).starts_with("corrupt:"));
    }

    #[test]
    fn a_name_that_claims_a_huge_length_costs_no_memory() {
        // Damaged bytes may name any length.
        assert!(identify(b"a.1~99999999999999\n").starts_with("corrupt:"));
    }
}
