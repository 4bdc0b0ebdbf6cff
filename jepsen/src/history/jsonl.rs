//! Our own format: one JSON document a line. The first names format, version, seed and the facts of the run; the others are
//! operations and faults in the order in which they ended, which nobody relies on.
//!
//! ```text
//! {"format":"nezha-jepsen-history","version":1,"seed":7,"run":{"nodes":3}}
//! {"operation":{"process":0,"invoked":1200,"ended":5300,"call":{"f":"read","key":"r1"},"outcome":{...}}}
//! {"fault":{"kind":"kill","members":["n1"],"detail":"SIGKILL","began":900,"ended":null}}
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::read::ReadError;
use super::{Fault, History, Operation};

/// What the first line calls the format.
pub const FORMAT: &str = "nezha-jepsen-history";
/// The only version so far.
pub const VERSION: u64 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u64,
    /// From which the run can be repeated.
    pub seed: u64,
    /// Whatever else is worth knowing about the run.
    #[serde(default)]
    pub run: Map<String, Value>,
}

impl Header {
    /// Of a history that is written now.
    pub fn new(seed: u64, run: Map<String, Value>) -> Header {
        Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            seed,
            run,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum LineRef<'a> {
    Operation(&'a Operation),
    Fault(&'a Fault),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Operation(Operation),
    Fault(Fault),
}

/// Appends to a history, from any number of threads.
#[derive(Debug)]
pub struct Writer {
    file: Mutex<BufWriter<File>>,
}

impl Writer {
    /// Creates the file and writes the first line.
    ///
    /// Errors: also when the file exists; no history is ever overwritten.
    pub fn create(path: &Path, header: &Header) -> io::Result<Writer> {
        let file = File::create_new(path)?;
        let writer = Writer {
            file: Mutex::new(BufWriter::with_capacity(1 << 18, file)),
        };
        writer.line(header)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Appends an operation that is over, or that was given up.
    pub fn operation(&self, operation: &Operation) -> io::Result<()> {
        self.line(&LineRef::Operation(operation))
    }

    /// Appends a fault that is over, or that was in force to the end.
    pub fn fault(&self, fault: &Fault) -> io::Result<()> {
        self.line(&LineRef::Fault(fault))
    }

    /// Hands everything to the kernel.
    pub fn flush(&self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }

    fn line<T: Serialize>(&self, line: &T) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        // A line is handed over whole, so that threads never mix theirs.
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&bytes)
    }
}

/// Whether `text` claims to be in this format, in whatever version.
pub fn detect(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.trim_start().starts_with('{') && first.contains("\"format\"")
}

/// Reads a history from the text of its file.
///
/// Errors: name the line. A last line without an end is `Unfinished`: whoever wrote it was killed, and what else is
/// missing is not known.
pub fn parse(text: &str) -> Result<(Header, History), ReadError> {
    let Some((first, _)) = text.split_once('\n') else {
        return Err(ReadError::Unfinished { line: 1 });
    };
    let header = header(first)?;
    let mut history = History::default();
    for (number, line) in text.split_inclusive('\n').enumerate().skip(1) {
        let number = number + 1;
        let Some(line) = line.strip_suffix('\n') else {
            return Err(ReadError::Unfinished { line: number });
        };
        match serde_json::from_str(line).map_err(|error| ReadError::line(number, &error))? {
            Line::Operation(operation) => history.operations.push(operation),
            Line::Fault(fault) => history.faults.push(fault),
        }
    }
    history.sort();
    Ok((header, history))
}

fn header(line: &str) -> Result<Header, ReadError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Name {
        format: String,
        version: u64,
    }
    let name: Name = serde_json::from_str(line).map_err(|error| ReadError::line(1, &error))?;
    if name.format != FORMAT || name.version != VERSION {
        return Err(ReadError::Version {
            format: name.format,
            version: name.version,
        });
    }
    serde_json::from_str(line).map_err(|error| ReadError::line(1, &error))
}

impl History {
    /// Puts operations in the order of their invocation, faults in the order of their begin.
    pub fn sort(&mut self) {
        self.operations
            .sort_by_key(|operation| (operation.invoked, operation.ended.unwrap_or(u64::MAX)));
        self.faults.sort_by_key(|fault| (fault.began, fault.ended));
    }
}
