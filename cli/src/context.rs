//! What every command needs: the client and the output settings.

use std::io::IsTerminal;
use std::time::Duration;

use nezha_api::client::{Client, ClientOptions};

use crate::args::{Format, Global, VERSION};
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::units::format_duration;

/// Time for a command to be answered where none is given; `--help` says so, too.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Resolved settings and the client.
pub struct Context {
    /// The client of the given endpoints.
    pub client: Client,
    /// As given, or the default.
    pub endpoints: Vec<String>,
    /// As asked for; commands choose when it is not.
    pub format: Option<Format>,
    /// Of keys.
    pub encoding: Encoding,
    /// Of the whole command: as given, or the default.
    pub timeout: Duration,
    /// Whether the time-out was given: one that was bounds also what waits without a bound by default.
    pub timeout_given: bool,
    /// Whether stdout is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether stderr is a terminal.
    pub stderr_is_terminal: bool,
    /// Whether to colour what goes to stdout.
    pub colour: bool,
}

impl Context {
    /// Makes the client; connects nothing. `endpoints_from` says where the endpoints come from, for `--debug`.
    pub fn new(global: &Global, endpoints_from: &str) -> Result<Context, Failure> {
        let timeout = global.timeout.unwrap_or(TIMEOUT);
        let client = Client::connect(&global.endpoints, options(timeout))?;
        let stdout_is_terminal = std::io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let context = Context {
            client,
            endpoints: global.endpoints.clone(),
            format: global.format,
            encoding: global.encoding,
            timeout,
            timeout_given: global.timeout.is_some(),
            stdout_is_terminal,
            stderr_is_terminal: std::io::stderr().is_terminal(),
            colour: stdout_is_terminal && !no_colour,
        };
        if global.debug {
            context.print_settings(endpoints_from);
        }
        Ok(context)
    }

    /// Returns a client of the same endpoints with another deadline.
    pub fn client_with_timeout(&self, timeout: Duration) -> Result<Client, Failure> {
        Ok(Client::connect(&self.endpoints, options(timeout))?)
    }

    /// Returns the format for commands whose natural output is a table.
    pub fn table_format(&self) -> Format {
        match self.format {
            Some(format) => format,
            None if self.stdout_is_terminal => Format::Table,
            None => Format::Simple,
        }
    }

    /// Returns the format for commands whose natural output is plain.
    pub fn plain_format(&self) -> Format {
        self.format.unwrap_or(Format::Simple)
    }

    /// Decodes a key of the command line.
    pub fn key(&self, text: &str) -> Result<Vec<u8>, Failure> {
        self.encoding.decode(text).map_err(Failure::Usage)
    }

    fn print_settings(&self, endpoints_from: &str) {
        eprintln!("debug: version {VERSION}");
        eprintln!(
            "debug: endpoints {} (from {endpoints_from})",
            self.endpoints.join(",")
        );
        eprintln!("debug: timeout {}", format_duration(self.timeout));
        eprintln!("debug: encoding {}", self.encoding.name());
        let format = match self.format {
            Some(format) => format!("{format:?}").to_lowercase(),
            None => "chosen by the command".into(),
        };
        eprintln!("debug: format {format}");
        eprintln!(
            "debug: terminal stdout={} stderr={}",
            self.stdout_is_terminal, self.stderr_is_terminal
        );
    }
}

/// A command lives shorter than the interval at which a client looks for new members.
fn options(timeout: Duration) -> ClientOptions {
    ClientOptions {
        timeout,
        sync_interval: None,
        ..ClientOptions::default()
    }
}
