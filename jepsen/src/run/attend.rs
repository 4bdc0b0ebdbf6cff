//! Clients of a cluster that somebody else breaks. They work all the time, are stopped for a check alone, and tell how
//! long they were not served.
//!
//! Orders are lines on stdin, each is answered by a line of JSON on stdout; the end of stdin ends it:
//!
//! ```text
//! mark                        from now on outages count
//! outage                      the longest one since then
//! check n1=n1:7379,...        every member is asked for everything, and the whole history is judged; from then on the
//!                             clients use these endpoints
//! ```

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nezha_api::client::Dialer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::finals::{self, Extent};
use super::load::{Load, Plan, collector};
use crate::check;
use crate::history::jsonl::{Header, Writer};
use crate::history::{Call, History, Outcome};
use crate::workload::connection::Connection;
use crate::workload::probe::Probe;
use crate::workload::{self, Client, Parts, Recorder, Workload};

/// What the probes' clients are; all of it is what a program would choose that wants to notice a dead member.
const PROBES: usize = 4;
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// How long a probe waits for an answer before it tries its next write, at whoever serves.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Options of `nezha-jepsen attend`.
#[derive(Clone, Debug, Args)]
pub struct AttendOptions {
    /// Members at first: NAME=HOST:PORT,...
    #[arg(long, required = true, value_name = "LIST")]
    pub members: String,
    /// Workloads beside the probes
    #[arg(long, default_value = "register,set", value_name = "NAMES")]
    pub workload: String,
    /// Operations per second of these workloads
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rate: u32,
    /// Their clients
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub clients: usize,
    /// Draws clients and operations
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub seed: u64,
    /// Writes the history there when a check has found something
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// Attends until stdin ends.
///
/// Errors: options and orders that make no sense; clients that do not end.
pub fn attend(options: &AttendOptions) -> Result<()> {
    let runtime = super::runtime()?;
    let mut workloads = workload::named(&options.workload).map_err(anyhow::Error::msg)?;
    let mut attendant = Attendant {
        options,
        recorder: Arc::default(),
        members: parse_members(&options.members)?,
        marked: 0,
        checks: 0,
        workloads: workloads.clone(),
    };
    workloads.push(Arc::new(Probe));
    let mut at_work = Some(attendant.start(runtime.handle())?);
    for order in std::io::stdin().lock().lines() {
        let order = order.context("read an order")?;
        let answer = match order.split_whitespace().collect::<Vec<_>>()[..] {
            ["mark"] => {
                attendant.marked = attendant.recorder.now();
                json!({})
            }
            ["outage"] => attendant.outage(),
            ["check", members] => {
                let members = parse_members(members)?;
                if let Some(at_work) = at_work.take() {
                    at_work.stop(runtime.handle())?;
                }
                let answer = attendant.check(runtime.handle(), &workloads, &members)?;
                attendant.members = members;
                at_work = Some(attendant.start(runtime.handle())?);
                answer
            }
            _ => bail!("{order:?} is no order"),
        };
        println!("{answer}");
    }
    Ok(())
}

struct Attendant<'a> {
    options: &'a AttendOptions,
    recorder: Arc<Recorder>,
    members: Vec<(String, String)>,
    /// When outages began to count, on the recorder's clock.
    marked: u64,
    checks: u64,
    workloads: Vec<Arc<dyn Workload>>,
}

/// Clients that work.
struct AtWork {
    load: Load,
    stop: Arc<AtomicBool>,
    probes: Vec<JoinHandle<()>>,
}

impl AtWork {
    fn stop(self, runtime: &Handle) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for probe in self.probes {
            runtime.block_on(probe).context("a probe panicked")?;
        }
        runtime.block_on(self.load.stop())
    }
}

fn probe_label(check: u64, number: usize) -> String {
    format!("{check}p{number}")
}

impl Attendant<'_> {
    fn start(&self, runtime: &Handle) -> Result<AtWork> {
        let _inside = runtime.enter();
        let (names, endpoints): (Vec<String>, Vec<String>) = self.members.iter().cloned().unzip();
        let plan = Plan {
            seed: self.options.seed + self.checks,
            names: &names,
            endpoints: &endpoints,
            workloads: &self.workloads,
            clients: self.options.clients,
            rate: self.options.rate,
            label: format!("{}", self.checks),
            dialer: Dialer::default(),
        };
        let load = Load::start(runtime, &plan, &self.recorder)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut probes = Vec::new();
        for number in 0..PROBES {
            let mut client = Client::new(Parts {
                recorder: self.recorder.clone(),
                connection: Connection::client(&endpoints, true, PROBE_PATIENCE, &Dialer::default())?,
                endpoint: String::new(),
                rng: StdRng::seed_from_u64(self.options.seed + number as u64),
                label: probe_label(self.checks, number),
                interval: PROBE_INTERVAL,
                stop: stop.clone(),
                collect: collector(&endpoints, &Dialer::default())?,
            });
            probes.push(tokio::spawn(async move { Probe.run(&mut client).await }));
        }
        Ok(AtWork { load, stop, probes })
    }

    fn outage(&self) -> Value {
        let (history, now) = (self.recorder.history(), self.recorder.now());
        let prefixes = (0..PROBES).map(|number| Probe::prefix(&probe_label(self.checks, number)));
        let longest = prefixes
            .map(|prefix| longest_gap(&history, &prefix, self.marked, now))
            .max();
        json!({ "longest_ms": longest.unwrap_or(0) / 1_000_000, "failed": failures(&history, self.marked) })
    }

    /// Asks and judges; the clients rest.
    fn check(
        &mut self,
        runtime: &Handle,
        workloads: &[Arc<dyn Workload>],
        members: &[(String, String)],
    ) -> Result<Value> {
        let dialer = Dialer::default();
        let asked = finals::read(&self.recorder, workloads, members, Extent::Scans, &dialer);
        let unanswered = runtime.block_on(asked)?;
        let history = self.recorder.history();
        let report = check::check(&history, &check::Options::default());
        let findings: Vec<String> = report
            .findings
            .iter()
            .map(|finding| format!("{}: {}", finding.check, finding.text))
            .chain(unanswered)
            .collect();
        if let Some(file) = self.options.history.as_ref().filter(|_| !findings.is_empty()) {
            write(file, self.options.seed, &history).with_context(|| format!("write {}", file.display()))?;
        }
        self.checks += 1;
        Ok(json!({
            "operations": history.operations.len(), "findings": findings, "undecided": report.undecided,
            "counts": report.counts,
        }))
    }
}

/// Nanoseconds from `from` to `until` in which no write below `prefix` was acknowledged, at most.
fn longest_gap(history: &History, prefix: &str, from: u64, until: u64) -> u64 {
    let mut acknowledged: Vec<u64> = history
        .operations
        .iter()
        .filter(|operation| matches!(&operation.call, Call::Write { key, .. } if key.starts_with(prefix)))
        .filter(|operation| matches!(operation.outcome, Outcome::Ok { .. }))
        .filter_map(|operation| operation.ended.filter(|ended| (from..=until).contains(ended)))
        .collect();
    acknowledged.sort_unstable();
    let ends = acknowledged.iter().copied().chain([until]);
    let begins = [from].into_iter().chain(acknowledged.iter().copied());
    begins
        .zip(ends)
        .map(|(begin, end)| end - begin)
        .max()
        .unwrap_or(0)
}

/// What the probes' writes since `from` failed with, most often first.
fn failures(history: &History, from: u64) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in history
        .operations
        .iter()
        .filter(|operation| operation.invoked >= from)
    {
        let is_probe = matches!(&operation.call, Call::Write { key, .. } if key.starts_with("probe/"));
        if let (true, Outcome::Fail { why } | Outcome::Unknown { why }) = (is_probe, &operation.outcome) {
            *counts.entry(why).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, u64)> = counts
        .into_iter()
        .map(|(why, count)| (why.to_owned(), count))
        .collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(5);
    counts
}

fn write(file: &std::path::Path, seed: u64, history: &History) -> std::io::Result<()> {
    let writer = Writer::create(file, &Header::new(seed, serde_json::Map::new()))?;
    for operation in &history.operations {
        writer.operation(operation)?;
    }
    writer.flush()
}

fn parse_members(list: &str) -> Result<Vec<(String, String)>> {
    let pair = |item: &str| {
        let (name, endpoint) = item.split_once('=')?;
        Some((name.to_owned(), endpoint.to_owned()))
    };
    let members: Option<Vec<_>> = list.split(',').map(pair).collect();
    members.with_context(|| format!("{list:?}: expected NAME=HOST:PORT,..."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Operation};

    fn write(key: &str, ended: u64, acknowledged: bool) -> Operation {
        Operation {
            process: 0,
            invoked: ended.saturating_sub(1),
            ended: Some(ended),
            endpoint: String::new(),
            call: Call::Write {
                key: key.into(),
                value: "v".into(),
            },
            outcome: match acknowledged {
                true => Outcome::Ok {
                    answer: Answer::Written { revision: None },
                },
                false => Outcome::Unknown {
                    why: "no answer".into(),
                },
            },
        }
    }

    #[test]
    fn an_outage_lasts_from_one_acknowledgement_to_the_next() {
        let operations = vec![
            write("probe/0p1.1", 5, true),
            write("probe/0p1.2", 20, true),
            write("probe/0p1.3", 40, false),
            // Of another probe: it does not end this one's outage.
            write("probe/0p11.1", 45, true),
            write("probe/0p1.4", 50, true),
        ];
        let history = History {
            operations,
            faults: Vec::new(),
        };
        let gap = |from, until| longest_gap(&history, &Probe::prefix("0p1"), from, until);
        assert_eq!(gap(10, 55), 30);
        assert_eq!(gap(10, 95), 45, "one that has not ended counts");
        assert_eq!(
            gap(51, 60),
            9,
            "without any acknowledgement it is all of the time"
        );
        assert_eq!(gap(0, 22), 15);
        assert_eq!(failures(&history, 30), [("no answer".to_owned(), 1)]);
        assert_eq!(failures(&history, 40), []);
    }

    #[test]
    fn members_are_names_and_endpoints() {
        let members = parse_members("n1=h:1,n2=h:2").unwrap();
        assert_eq!(members[1], ("n2".to_owned(), "h:2".to_owned()));
        assert!(parse_members("n1=h:1,n2").is_err());
        assert!(parse_members("").is_err());
    }
}
