use std::io::{self, BufWriter, Write};

use clap::Args;
use nezha_api::v1::{Row, ScanRequest};
use serde::Serialize;

use crate::args::{Consistency, Format};
use crate::context::Context;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::units::format_bytes;

const EXAMPLES: &str = "\
Examples:
  kvctl scan
  kvctl scan user/ --keys-only
  kvctl scan --from a --to b --reverse --limit 20
  kvctl scan -w jsonl > dump.jsonl

Prints rows as they arrive, from one consistent view. On a terminal it stops after 100 rows unless --limit
says otherwise (0: no limit); into a pipe or file it prints everything.
Simple format: key, tab, value; bytes that are no printable text are escaped, so that a row is a line.
JSON keys of a row: key, key_encoding, value, value_encoding, create_revision, mod_revision, version.";

/// Rows on a terminal when no limit is given.
const TERMINAL_LIMIT: u64 = 100;

/// Bytes of a value shown on a terminal.
const TERMINAL_VALUE_BYTES: usize = 200;

/// Arguments of `kvctl scan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ScanArgs {
    /// Only keys that begin with this
    prefix: Option<String>,
    /// Begin at this key, inclusive
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// End before this key
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// Rows at most; 0 means no limit
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only keys; values are not read
    #[arg(long)]
    keys_only: bool,
    /// Read level
    #[arg(long, value_enum, default_value_t)]
    consistency: Consistency,
}

#[derive(Serialize)]
struct RowJson {
    key: String,
    key_encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

/// Prints a range as it arrives.
pub async fn run(context: &Context, args: ScanArgs) -> Result<(), Failure> {
    let limit = match args.limit {
        Some(limit) => limit,
        None if context.stdout_is_terminal => TERMINAL_LIMIT,
        None => 0,
    };
    let decode = |text: &Option<String>| context.key(text.as_deref().unwrap_or_default());
    let request = ScanRequest {
        prefix: decode(&args.prefix)?.into(),
        start: decode(&args.from)?.into(),
        end: decode(&args.to)?.into(),
        reverse: args.reverse,
        limit_rows: limit,
        keys_only: args.keys_only,
        consistency: nezha_api::v1::Consistency::from(args.consistency).into(),
        ..ScanRequest::default()
    };
    let mut scan = context.client.scan(request);
    let mut printer = Printer::new(context, args.keys_only);
    let mut last_key = None;
    let result = loop {
        match scan.next().await {
            Ok(Some(row)) => {
                printer.row(&row)?;
                // What has arrived is shown before waiting for more.
                if scan.buffered() == 0 {
                    printer.flush()?;
                }
                last_key = Some(row.key);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = result {
        printer.flush()?;
        if let Some(key) = &last_key {
            eprintln!("to go on: {}", continuation(context, &args, key));
        }
        return Err(error.into());
    }
    printer.finish()?;
    if let Some(key) = last_key
        && scan.more() == Some(true)
    {
        eprintln!("more: {}", continuation(context, &args, &key));
    }
    Ok(())
}

/// Returns the options that continue after `last`: exclusive ends are exact in reverse; forward, the next possible
/// key is the last one with a zero byte behind it.
fn continuation(context: &Context, args: &ScanArgs, last: &[u8]) -> String {
    let mut key = last.to_vec();
    let option = if args.reverse { "--to" } else { "--from" };
    if !args.reverse {
        key.push(0);
    }
    let encoding = if context.encoding.reads_back(&key) {
        context.encoding
    } else {
        Encoding::Escape
    };
    let text = encoding.line(&key).replace('\'', r"'\''");
    if encoding == context.encoding {
        format!("{option} '{text}'")
    } else {
        format!("--encoding {} {option} '{text}'", encoding.name())
    }
}

/// Writes rows in one format, through a buffer.
struct Printer {
    out: BufWriter<io::Stdout>,
    format: Format,
    encoding: Encoding,
    keys_only: bool,
    value_bytes_max: usize,
    rows: u64,
}

impl Printer {
    fn new(context: &Context, keys_only: bool) -> Printer {
        Printer {
            out: BufWriter::with_capacity(64 << 10, io::stdout()),
            format: context.plain_format(),
            encoding: context.encoding,
            keys_only,
            value_bytes_max: if context.stdout_is_terminal {
                TERMINAL_VALUE_BYTES
            } else {
                usize::MAX
            },
            rows: 0,
        }
    }

    fn row(&mut self, row: &Row) -> Result<(), Failure> {
        self.write_row(row).map_err(Failure::local("write to stdout"))?;
        self.rows += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::local("write to stdout"))
    }

    /// Closes the document.
    fn finish(&mut self) -> Result<(), Failure> {
        let end: &[u8] = match (self.format, self.rows) {
            (Format::Json, 0) => b"[]\n",
            (Format::Json, _) => b"\n]\n",
            _ => b"",
        };
        self.out
            .write_all(end)
            .map_err(Failure::local("write to stdout"))?;
        self.flush()
    }

    fn write_row(&mut self, row: &Row) -> io::Result<()> {
        match self.format {
            Format::Simple if self.keys_only => writeln!(self.out, "{}", self.encoding.line(&row.key)),
            Format::Simple => {
                writeln!(
                    self.out,
                    "{}\t{}",
                    self.encoding.line(&row.key),
                    self.value_text(&row.value)
                )
            }
            // Rows of a stream cannot wait for the widest: columns have fixed widths and run over.
            Format::Table => {
                if self.rows == 0 {
                    let (size, value) = if self.keys_only {
                        ("", "")
                    } else {
                        ("SIZE", "VALUE")
                    };
                    let line = format!(
                        "{:<32} {:>12} {:>8} {size:>9}  {value}",
                        "KEY", "REVISION", "VERSION"
                    );
                    writeln!(self.out, "{}", line.trim_end())?;
                }
                let metadata = row.metadata.unwrap_or_default();
                let (size, value) = match self.keys_only {
                    true => (String::new(), String::new()),
                    false => (format_bytes(row.value.len() as u64), self.value_text(&row.value)),
                };
                let line = format!(
                    "{:<32} {:>12} {:>8} {size:>9}  {value}",
                    self.encoding.line(&row.key),
                    metadata.mod_revision,
                    metadata.version
                );
                writeln!(self.out, "{}", line.trim_end())
            }
            Format::Json => {
                self.out.write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
                let json = self.json(row);
                serde_json::to_writer(&mut self.out, &json).map_err(io::Error::from)
            }
            Format::Jsonl => {
                let json = self.json(row);
                serde_json::to_writer(&mut self.out, &json).map_err(io::Error::from)?;
                self.out.write_all(b"\n")
            }
        }
    }

    /// Returns a value on one line, cut short on a terminal.
    fn value_text(&self, value: &[u8]) -> String {
        match value.get(..self.value_bytes_max) {
            Some(head) if head.len() < value.len() => {
                format!(
                    "{}... ({})",
                    Encoding::Auto.line(head),
                    format_bytes(value.len() as u64)
                )
            }
            _ => Encoding::Auto.line(value),
        }
    }

    fn json(&self, row: &Row) -> RowJson {
        let (key, key_encoding) = self.encoding.json(&row.key);
        let (value, value_encoding) = Encoding::Auto.json(&row.value);
        let metadata = row.metadata.unwrap_or_default();
        RowJson {
            key,
            key_encoding,
            value: (!self.keys_only).then_some(value),
            value_encoding: (!self.keys_only).then_some(value_encoding),
            create_revision: metadata.create_revision,
            mod_revision: metadata.mod_revision,
            version: metadata.version,
        }
    }
}
