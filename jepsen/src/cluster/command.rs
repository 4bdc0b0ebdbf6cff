//! Commands of the operating system: one that fails is a failure of the harness, and says so with its own words.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end and answers its standard output.
///
/// Errors: it cannot be started, or does not succeed; with the command line and its standard error.
pub fn run<A: AsRef<OsStr>>(program: &str, args: &[A]) -> Result<String> {
    run_with_input(program, args, "")
}

/// The same with `input` on its standard input.
pub fn run_with_input<A: AsRef<OsStr>>(program: &str, args: &[A], input: &str) -> Result<String> {
    let line = || {
        let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        format!("{program} {}", args.join(" "))
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}; scripts/deps.sh test installs it", line()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {}", line()))?;
    if !output.status.success() {
        bail!(
            "{} failed with {}: {}{}",
            line(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            if input.is_empty() {
                String::new()
            } else {
                format!("; its input was: {input}")
            }
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path as an argument.
///
/// Errors: it is not UTF-8.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[test]
fn a_failing_command_is_named_with_its_own_words() {
    let error = run("ls", &["/nowhere/at/all"]).unwrap_err().to_string();
    assert!(
        error.contains("ls /nowhere/at/all") && error.contains("No such file"),
        "{error}"
    );
    let error = format!("{:#}", run("no-such-program", &["x"]).unwrap_err());
    assert!(
        error.contains("no-such-program x") && error.contains("deps.sh"),
        "{error}"
    );
    assert_eq!(run_with_input("cat", &["-"], "given").unwrap(), "given");
}
