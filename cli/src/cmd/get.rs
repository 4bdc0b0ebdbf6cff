use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nezha_api::client::Found;
use serde::Serialize;

use crate::args::{Consistency, Format};
use crate::context::Context;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::output::{HeaderJson, layout, print, print_json};
use crate::units::format_bytes;

const EXAMPLES: &str = "\
Examples:
  kvctl get greeting
  kvctl get photo -o photo.jpg
  kvctl get greeting --with-key
  kvctl get greeting -w json
  kvctl --encoding hex get 00ff

Prints the value's bytes untouched; on a terminal a newline follows. An absent key exits with 1.
JSON keys: found, key, key_encoding, value, value_encoding, create_revision, mod_revision, version,
cluster_id, node_id, leader_id, term, revision.";

/// Arguments of `kvctl get`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GetArgs {
    /// Key
    key: String,
    /// Print the key on a line before the value
    #[arg(long)]
    with_key: bool,
    /// Write the value to a file instead of stdout
    #[arg(short, long, value_name = "FILE", conflicts_with = "with_key")]
    output: Option<PathBuf>,
    /// Exit with 0 if the key is absent
    #[arg(long)]
    allow_missing: bool,
    /// Read level
    #[arg(long, value_enum, default_value_t)]
    consistency: Consistency,
}

#[derive(Serialize)]
struct GetJson {
    found: bool,
    key: String,
    key_encoding: &'static str,
    #[serde(flatten)]
    row: Option<FoundJson>,
    #[serde(flatten)]
    header: HeaderJson,
}

#[derive(Serialize)]
struct FoundJson {
    value: String,
    value_encoding: &'static str,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

/// Reads one key.
pub async fn run(context: &Context, args: GetArgs) -> Result<(), Failure> {
    let key = context.key(&args.key)?;
    let answer = context.client.get(key.clone(), args.consistency.into()).await?;
    let format = context.plain_format();
    match (&answer.found, format) {
        (Some(found), _) if args.output.is_some() => {
            let path = args.output.as_deref().unwrap_or(Path::new("-"));
            write_file(path, &found.value)?;
        }
        (found, Format::Json | Format::Jsonl) => {
            let (key, key_encoding) = context.encoding.json(&key);
            let row = found.as_ref().map(found_json);
            let header = (&answer.header).into();
            print_json(
                format,
                &GetJson {
                    found: row.is_some(),
                    key,
                    key_encoding,
                    row,
                    header,
                },
            )?;
        }
        (Some(found), Format::Table) => {
            let row = vec![
                context.encoding.line(&key),
                found.metadata.mod_revision.to_string(),
                found.metadata.version.to_string(),
                format_bytes(found.value.len() as u64),
                Encoding::Auto.line(&found.value),
            ];
            print(
                layout(
                    format,
                    &["KEY", "REVISION", "VERSION", "SIZE", "VALUE"],
                    vec![row],
                )
                .as_bytes(),
            )?;
        }
        (Some(found), Format::Simple) => print_value(context, &args, &key, found)?,
        (None, _) => {}
    }
    match answer.found {
        None if !args.allow_missing => Err(Failure::Condition("key not found".into())),
        _ => Ok(()),
    }
}

fn print_value(context: &Context, args: &GetArgs, key: &[u8], found: &Found) -> Result<(), Failure> {
    if args.with_key {
        print(format!("{}\n", context.encoding.line(key)).as_bytes())?;
    }
    print(&found.value)?;
    if context.stdout_is_terminal {
        print(b"\n")?;
    }
    Ok(())
}

fn found_json(found: &Found) -> FoundJson {
    let (value, value_encoding) = Encoding::Auto.json(&found.value);
    FoundJson {
        value,
        value_encoding,
        create_revision: found.metadata.create_revision,
        mod_revision: found.metadata.mod_revision,
        version: found.metadata.version,
    }
}

/// Writes beside the target and renames, so that an interrupted command leaves no half file under its name.
fn write_file(path: &Path, value: &[u8]) -> Result<(), Failure> {
    let what = || format!("write {}", path.display());
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(value)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|error| {
        // The target was never touched; the leftover is of no use to anyone.
        let _ = std::fs::remove_file(&partial);
        Failure::local(what())(error)
    })
}
