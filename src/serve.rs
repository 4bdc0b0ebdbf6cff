//! A node as a process: options, logging, the node, its exit code.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Config, LogFormat, Options};
use crate::node::{self, Parts};
use crate::{exit, local};

/// Runs a node as `options`, environment and file say, and returns the exit code of the process, which is to end with it
/// at once.
///
/// `program` is named in what is printed; `parts` makes what the node stores its data with, once logging has begun.
/// Errors are printed or logged, see [`exit`]. Blocking: until the node is told to stop.
pub fn run(program: &str, options: Options, parts: impl FnOnce() -> Parts) -> i32 {
    let config = match options.resolve(|name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{program}: {error}");
            return exit::USAGE;
        }
    };
    if let Err(error) = start_logging(&config) {
        eprintln!("{program}: --log-level {}: {error}", config.log_level);
        return exit::USAGE;
    }
    end_on_panic();
    local::die_with_parent();
    let json = config.log_format == LogFormat::Json;
    let parts = parts();
    let Err(error) = node::run(config, parts) else {
        return 0;
    };
    let code = error.exit_code();
    // Once, in the form that is read here.
    match json {
        true => tracing::error!(%error, code, "stopping"),
        false => eprintln!("{program}: {error}"),
    }
    code
}

fn start_logging(config: &Config) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&config.log_level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Makes a panic anywhere the end of the process.
///
/// A task that vanishes would leave a node that looks alive: it would keep its leadership and answer nobody.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "a broken invariant: ending the process");
        std::process::abort();
    }));
}
