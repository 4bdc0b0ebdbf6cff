//! How a workload is run: what YCSB's client takes from the command line and from properties.

use std::{path::Path, time::Duration};

use super::{
    properties::{Origin, Properties},
    workload::{BUILT_IN, Workload},
};
use crate::{args::YcsbArgs, errors::BenchError};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Inserts the records.
    Load,
    /// Runs the transactions.
    Run,
}

impl Phase {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Run => "run",
        }
    }
}

/// From when latencies count; the default depends on whether there is a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interval {
    /// From when an operation began.
    Operation,
    /// From when it should have begun.
    Intended,
    /// Both, under two names.
    Both,
}

/// Everything about a run but the store.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) phase: Phase,
    pub(crate) workload: Workload,
    pub(crate) threads: u32,
    /// Operations to begin per second; `None` for as many as the threads can.
    pub(crate) target: Option<f64>,
    pub(crate) max_execution: Option<Duration>,
    pub(crate) warmup: Duration,
    pub(crate) interval: Interval,
    pub(crate) percentiles: Vec<f64>,
    /// Period of the status line, where it was asked for.
    pub(crate) status: bool,
    pub(crate) status_interval: Duration,
    pub(crate) label: String,
    /// Every property with its last value.
    pub(crate) properties: std::collections::BTreeMap<String, String>,
}

impl Settings {
    /// Resolves arguments and property files; also returns notes about what has no effect.
    ///
    /// Errors: `Usage` for a file that cannot be read and for properties that cannot be run.
    pub(crate) fn resolve(args: &YcsbArgs) -> Result<(Settings, Vec<String>), BenchError> {
        let mut p = gather(args)?;
        let mut notes = Vec::new();
        let workload = Workload::from(&mut p, &mut notes)?;
        let run = p.flag("dotransactions")?.unwrap_or(true);
        let phase = match (args.load, args.run) {
            (true, _) => Phase::Load,
            (_, true) => Phase::Run,
            _ if run => Phase::Run,
            _ => Phase::Load,
        };
        let max_seconds = p.whole("maxexecutiontime", 0..=100_000_000)?.unwrap_or(0);
        if phase == Phase::Run && max_seconds == 0 && workload.operation_count == 0 {
            return Err(BenchError::Usage(format!(
                "the run would not end: {}; set it or maxexecutiontime above 0",
                p.place("operationcount")
            )));
        }
        let target = p.whole("target", 0..=100_000_000)?.unwrap_or(0);
        let target = (target > 0).then_some(target as f64);
        p.choice("measurementtype", &[("hdrhistogram", ()), ("histogram", ())])?;
        let intervals = [
            ("op", Interval::Operation),
            ("intended", Interval::Intended),
            ("both", Interval::Both),
        ];
        let interval = p.choice("measurement.interval", &intervals)?;
        let untold = if target.is_some() {
            Interval::Both
        } else {
            Interval::Operation
        };
        let threads = p.whole("threadcount", 1..=100_000)?.unwrap_or(1);
        let settings = Settings {
            phase,
            workload,
            // In range, as checked above.
            threads: threads as u32,
            target,
            max_execution: (max_seconds > 0).then(|| Duration::from_secs(max_seconds)),
            warmup: Duration::from_secs_f64(args.warmup),
            interval: interval.unwrap_or(untold),
            percentiles: percentiles(&mut p)?,
            status: p.flag("status")?.unwrap_or(false),
            status_interval: Duration::from_secs(p.whole("status.interval", 1..=86_400)?.unwrap_or(1)),
            label: p.text("label").unwrap_or_default(),
            properties: p.all(),
        };
        notes.extend(
            p.unread()
                .into_iter()
                .map(|place| format!("property {place} is not one of this runner and has no effect")),
        );
        Ok((settings, notes))
    }
}

/// Sets all properties: built-in workload, files in their order, options, `-p`.
fn gather(args: &YcsbArgs) -> Result<Properties, BenchError> {
    let mut properties = Properties::default();
    if let Some(letter) = &args.workload {
        let found = BUILT_IN.iter().find(|(known, ..)| known == letter);
        let (_, file, text) = found.ok_or_else(|| {
            BenchError::Usage(format!("no workload {letter:?} is built in; write one of a to f"))
        })?;
        properties.set_all(file, text)?;
    }
    for path in &args.files {
        properties.set_all(&path.display().to_string(), &read(path)?)?;
    }
    for (name, value) in &args.properties {
        properties.set(name, value, Origin::Option("-p"));
    }
    if let Some(threads) = args.threads {
        properties.set("threadcount", &threads.to_string(), Origin::Option("--threads"));
    }
    if let Some(target) = args.target {
        properties.set("target", &target.to_string(), Origin::Option("--target"));
    }
    if args.status {
        properties.set("status", "true", Origin::Option("-s"));
    }
    Ok(properties)
}

fn read(path: &Path) -> Result<String, BenchError> {
    std::fs::read_to_string(path).map_err(|error| {
        BenchError::Usage(format!(
            "cannot read the properties of {}: {error}",
            path.display()
        ))
    })
}

fn percentiles(p: &mut Properties) -> Result<Vec<f64>, BenchError> {
    let Some(text) = p.text("hdrhistogram.percentiles") else {
        return Ok(vec![50.0, 95.0, 99.0]);
    };
    text.split(',')
        .map(|part| part.trim().parse().ok().filter(|n| (0.0..=100.0).contains(n)))
        .collect::<Option<Vec<f64>>>()
        .ok_or_else(|| {
            let place = p.place("hdrhistogram.percentiles");
            BenchError::Usage(format!(
                "{place}: expected numbers from 0 to 100 with commas between"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: YcsbArgs,
    }

    fn resolve(line: &str) -> Result<(Settings, Vec<String>), BenchError> {
        let words = std::iter::once("ycsb").chain(line.split_whitespace());
        Settings::resolve(&<Cli as clap::Parser>::try_parse_from(words).unwrap().args)
    }

    fn settings(line: &str) -> Settings {
        resolve(line).unwrap().0
    }

    #[test]
    fn later_settings_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let one = file("one", "recordcount=10\nfieldcount=2\nthreadcount=3\ntarget=5");
        let two = file("two", "recordcount=20\nfieldlength=7\n");
        let all = settings(&format!(
            "--workload b -P {one} -P {two} -p fieldlength=9 --threads 8"
        ));
        assert_eq!(all.workload.record_count, 20);
        assert_eq!(all.workload.operation_count, 1_000);
        assert_eq!(
            (all.workload.layout.field_count, all.workload.layout.field_length),
            (2, 9)
        );
        assert_eq!((all.threads, all.target), (8, Some(5.0)));
        assert_eq!(all.properties["fieldlength"], "9");
        let error = resolve("-P /nowhere/at-all").unwrap_err().to_string();
        assert!(error.contains("/nowhere/at-all"), "{error}");
    }

    #[test]
    fn phases_are_told_by_option_or_property() {
        assert_eq!(settings("--workload a").phase, Phase::Run);
        assert_eq!(settings("--workload a --load").phase, Phase::Load);
        assert_eq!(
            settings("--workload a -p dotransactions=false").phase,
            Phase::Load
        );
        assert_eq!(
            settings("--workload a --run -p dotransactions=false").phase,
            Phase::Run
        );
        assert_eq!(settings("-p recordcount=1 --load").phase, Phase::Load);
        let endless = resolve("-p recordcount=1").unwrap_err().to_string();
        assert!(
            endless.contains("operationcount") && endless.contains("maxexecutiontime"),
            "{endless}"
        );
        assert_eq!(
            settings("-p recordcount=1 -p maxexecutiontime=9").max_execution,
            Some(Duration::from_secs(9))
        );
    }

    #[test]
    fn both_latencies_are_measured_under_a_target() {
        assert_eq!(settings("--workload a").interval, Interval::Operation);
        assert_eq!(settings("--workload a --target 100").interval, Interval::Both);
        let told = settings("--workload a --target 100 -p measurement.interval=op");
        assert_eq!(told.interval, Interval::Operation);
        let told =
            settings("--workload a -p measurement.interval=intended -p hdrhistogram.percentiles=50,99.9");
        assert_eq!(told.interval, Interval::Intended);
        assert_eq!(told.percentiles, [50.0, 99.9]);
        assert!(resolve("--workload a -p hdrhistogram.percentiles=50,x").is_err());
        assert!(resolve("--workload a -p measurementtype=raw").is_err());
    }

    #[test]
    fn unknown_properties_are_named() {
        let (_, notes) = resolve("--workload a -p zipfianconstant=0.5").unwrap();
        assert_eq!(
            notes,
            ["property zipfianconstant (-p) is not one of this runner and has no effect"]
        );
    }
}
