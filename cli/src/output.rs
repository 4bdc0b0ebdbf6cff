//! Tables and JSON on stdout.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use nezha_api::v1::ResponseHeader;
use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;

/// Writes to stdout and flushes.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(Failure::local("write to stdout"))
}

/// Writes one line to stdout.
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
}

/// Writes one JSON document: indented, or on one line for `jsonl`.
pub fn print_json<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    let text = match format {
        Format::Jsonl => serde_json::to_string(value),
        _ => serde_json::to_string_pretty(value),
    };
    print_line(&text.map_err(|error| Failure::local("write JSON")(error.into()))?)
}

/// Writes a list: one document for `json`, one per item for `jsonl`.
pub fn print_json_list<T: Serialize>(format: Format, items: &[T]) -> Result<(), Failure> {
    match format {
        Format::Jsonl => items.iter().try_for_each(|item| print_json(format, item)),
        _ => print_json(format, &items),
    }
}

/// Lays out a table: with lines for `table`, aligned columns for `simple`. Ends with a newline.
pub fn layout(format: Format, header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(if format == Format::Table {
        UTF8_FULL_CONDENSED
    } else {
        NOTHING
    });
    table.set_header(header.to_vec());
    table.add_rows(rows);
    if format != Format::Table {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The part of a response header that goes into JSON. Cluster ids are hexadecimal in every format.
#[derive(Debug, Serialize)]
pub struct HeaderJson {
    cluster_id: String,
    node_id: u64,
    leader_id: u64,
    term: u64,
    revision: u64,
}

impl From<&ResponseHeader> for HeaderJson {
    fn from(header: &ResponseHeader) -> HeaderJson {
        HeaderJson {
            cluster_id: cluster_id(header.cluster_id),
            node_id: header.node_id,
            leader_id: header.leader_id,
            term: header.term,
            revision: header.revision,
        }
    }
}

/// Formats a cluster id.
pub fn cluster_id(id: u64) -> String {
    format!("{id:016x}")
}
