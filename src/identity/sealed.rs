//! Small durable text files with a checksum: IDENTITY, PEERS, CURRENT.
//!
//! ```text
//! nezha <kind> <format version>\n
//! <field> <value>\n            any number
//! crc32 <8 hex digits>\n       CRC-32 of everything before this line
//! ```
//! People may read them; nobody may edit them.

use std::io;
use std::path::{Path, PathBuf};

use nezha_vlog::fs::Fs;

use super::IdentityError;

/// Format version of all of these files.
pub(crate) const VERSION: u32 = 1;
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Far above what any of these files can hold.
const BYTES_MAX: u64 = 16 << 20;

/// Fields of a file in order; a name may occur more than once.
pub(crate) type Fields = Vec<(String, String)>;

/// Replaces `path` atomically: afterwards, and after any crash, it holds the old content or the new one.
pub(crate) fn write(fs: &dyn Fs, path: &Path, kind: &str, fields: &Fields) -> Result<(), IdentityError> {
    let bytes = encode(kind, fields);
    remove_temporary(fs, path)?;
    let temporary = temporary_path(path);
    let file = fs.create(&temporary).map_err(io_error("create", &temporary))?;
    file.write_all_at(&bytes, 0)
        .map_err(io_error("write", &temporary))?;
    file.sync_data().map_err(io_error("sync", &temporary))?;
    fs.rename(&temporary, path)
        .map_err(io_error("rename", &temporary))?;
    // Crash before this: the directory names the old file or the new one, both whole.
    let dir = path.parent().unwrap_or(Path::new("."));
    fs.sync_dir(dir).map_err(io_error("sync", dir))
}

/// Removes what a crash may have left of an unfinished [`write`] of `path`.
pub(crate) fn remove_temporary(fs: &dyn Fs, path: &Path) -> Result<(), IdentityError> {
    let temporary = temporary_path(path);
    if fs.exists(&temporary).map_err(io_error("look for", &temporary))? {
        fs.remove(&temporary).map_err(io_error("remove", &temporary))?;
    }
    Ok(())
}

/// Reads `path`; `None` if there is no such file.
pub(crate) fn read(fs: &dyn Fs, path: &Path, kind: &str) -> Result<Option<Fields>, IdentityError> {
    let file = match fs.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let len = file.len().map_err(io_error("measure", path))?;
    if len > BYTES_MAX {
        return Err(damage(path, 0, format!("{len} bytes are no {kind} file")));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("bounded above")];
    file.read_exact_at(&mut bytes, 0)
        .map_err(io_error("read", path))?;
    decode(path, kind, &bytes).map(Some)
}

fn encode(kind: &str, fields: &Fields) -> Vec<u8> {
    let mut text = format!("nezha {kind} {VERSION}\n");
    for (name, value) in fields {
        assert!(
            !value.contains('\n'),
            "field {name} of a {kind} file has a line break"
        );
        text.push_str(&format!("{name} {value}\n"));
    }
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc32 {crc:08x}\n"));
    text.into_bytes()
}

fn decode(path: &Path, kind: &str, bytes: &[u8]) -> Result<Fields, IdentityError> {
    // The last line first: nothing else is believed before the checksum holds.
    let body_len = bytes.len().saturating_sub("crc32 00000000\n".len());
    let (body, seal) = bytes.split_at(body_len);
    let computed = crc32fast::hash(body);
    if seal != format!("crc32 {computed:08x}\n").as_bytes() {
        return Err(damage(
            path,
            body_len as u64,
            format!("checksum differs, computed {computed:08x}"),
        ));
    }
    let text =
        str::from_utf8(body).map_err(|e| damage(path, e.valid_up_to() as u64, "not text".to_owned()))?;
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(version) = head.strip_prefix(&format!("nezha {kind} ")) else {
        return Err(damage(
            path,
            0,
            format!("first line is {head:?}, not that of a {kind} file"),
        ));
    };
    match version.parse() {
        Ok(VERSION) => {}
        Ok(found) => {
            return Err(IdentityError::UnknownVersion {
                path: path.into(),
                found,
                supported: VERSION,
            });
        }
        Err(_) => return Err(damage(path, 0, format!("version {version:?}"))),
    }
    lines
        .map(|line| match line.split_once(' ') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(damage(path, 0, format!("line {line:?} has no value"))),
        })
        .collect()
}

/// Returns the one field `name`, parsed.
pub(crate) fn field<T: std::str::FromStr>(
    path: &Path,
    fields: &Fields,
    name: &str,
) -> Result<T, IdentityError> {
    let value = fields
        .iter()
        .find(|(field, _)| field == name)
        .map(|(_, value)| value);
    let value = value.ok_or_else(|| damage(path, 0, format!("field {name} is missing")))?;
    value
        .parse()
        .map_err(|_| damage(path, 0, format!("field {name} holds {value:?}")))
}

pub(crate) fn damage(path: &Path, offset: u64, reason: String) -> IdentityError {
    IdentityError::Damage {
        path: path.into(),
        offset,
        reason,
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { action, path, source }
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    //! Goal: every cut and every flipped bit is refused. Method: all of them.

    use super::*;

    #[test]
    fn golden_text() {
        let fields = vec![("id".to_owned(), "7".to_owned())];
        assert_eq!(
            String::from_utf8(encode("peers", &fields)).unwrap(),
            "nezha peers 1\nid 7\ncrc32 22b76b64\n"
        );
    }

    #[test]
    fn every_cut_and_every_flip_is_refused() {
        let path = Path::new("IDENTITY");
        let fields = vec![
            ("node_id".to_owned(), "3".to_owned()),
            ("name".to_owned(), "n 3".to_owned()),
        ];
        let bytes = encode("identity", &fields);
        assert_eq!(decode(path, "identity", &bytes).unwrap(), fields);
        assert!(decode(path, "peers", &bytes).is_err(), "another kind");
        for len in 0..bytes.len() {
            assert!(decode(path, "identity", &bytes[..len]).is_err(), "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(path, "identity", &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut text = "nezha identity 9\n".to_owned();
        let crc = crc32fast::hash(text.as_bytes());
        text.push_str(&format!("crc32 {crc:08x}\n"));
        let error = decode(Path::new("IDENTITY"), "identity", text.as_bytes()).unwrap_err();
        assert!(
            matches!(
                error,
                IdentityError::UnknownVersion {
                    found: 9,
                    supported: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
}
