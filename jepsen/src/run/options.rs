use std::path::PathBuf;

use clap::Args;

use super::bugs::SNAPSHOTS;
use crate::nemesis::{Group, Kind};
use crate::workload;

/// What a run is to be. Recipes of planted bugs are these options too.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How long faults are injected, in seconds; calm, healing and final reads come on top
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub seconds: u64,
    /// Members of the cluster: 3 or 5
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = nodes)]
    pub nodes: usize,
    /// Draws faults, clients and operations; printed, so that a run can be repeated [default: by chance]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Kinds of faults or groups of them: process, network, disk, membership, api; all, none
    /// [default: all, of a cluster elsewhere: api]
    #[arg(long, value_name = "KINDS")]
    pub only: Option<String>,
    /// Workloads, or mixed for all of them
    #[arg(long, default_value = workload::MIXED, value_name = "NAMES")]
    pub workload: String,
    /// Operations per second that all clients together aim at
    #[arg(long, default_value_t = 800, value_name = "N")]
    pub rate: u32,
    /// Clients
    #[arg(long, default_value_t = 24, value_name = "N")]
    pub clients: usize,
    /// The server to run [default: kvd beside this program]
    #[arg(long, value_name = "PATH")]
    pub kvd: Option<PathBuf>,
    /// Options of every member, instead of small segments and short logs for those who lag
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, default_values = SNAPSHOTS)]
    pub kvd_option: Vec<String>,
    /// Environment of every member, such as --kvd-env=NEZHA_PLANTED_BUG=skip-crc
    #[arg(long, value_name = "NAME=VALUE")]
    pub kvd_env: Vec<String>,
    /// Size of each member's disk, in MiB
    #[arg(long, default_value_t = 768, value_name = "MIB")]
    pub disk_mib: u64,
    /// Where the folder of the run is made
    #[arg(long, default_value = "target/jepsen", value_name = "DIR")]
    pub dir: PathBuf,
    /// Client addresses of a running cluster to test instead; only faults of the group api are possible there
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...", conflicts_with_all = ["nodes", "kvd", "kvd_option", "kvd_env", "disk_mib"])]
    pub endpoints: Vec<String>,
    /// Keeps the data directories of the members, too
    #[arg(long)]
    pub keep: bool,
    /// Says only what came of it
    #[arg(long)]
    pub quiet: bool,
}

fn nodes(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster has 3 or 5 members".to_owned()),
    }
}

impl Options {
    /// The kinds of faults that are asked for.
    ///
    /// Errors: unknown names; faults that a cluster elsewhere cannot be hurt by.
    pub fn kinds(&self) -> Result<Vec<Kind>, String> {
        if self.endpoints.is_empty() {
            return Kind::named(self.only.as_deref().unwrap_or("all"));
        }
        let kinds = Kind::named(self.only.as_deref().unwrap_or("api"))?;
        let impossible: Vec<&str> = kinds
            .iter()
            .filter(|kind| kind.group() != Group::Api)
            .map(|kind| kind.name())
            .collect();
        if impossible.is_empty() {
            return Ok(kinds);
        }
        Err(format!(
            "{} cannot be done to a cluster that runs elsewhere; with --endpoints there are transfer, gc and purge",
            impossible.join(", ")
        ))
    }

    /// The environment of members, as pairs.
    ///
    /// Errors: one without `=`.
    pub fn env(&self) -> Result<Vec<(String, String)>, String> {
        let pair = |text: &String| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("--kvd-env {text:?}: write it as NAME=VALUE")),
        };
        self.kvd_env.iter().map(pair).collect()
    }

    /// The server to run: as given, or beside this program.
    pub fn kvd(&self) -> PathBuf {
        self.kvd.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("kvd")
        })
    }

    /// The command line that repeats a run with `seed`.
    pub fn command(&self, seed: u64) -> String {
        let mut words = vec![format!(
            "nezha-jepsen run --seconds {} --seed {seed} --workload {} --rate {} --clients {}",
            self.seconds, self.workload, self.rate, self.clients
        )];
        if let Some(only) = &self.only {
            words.push(format!("--only {only}"));
        }
        match self.endpoints.is_empty() {
            true => {
                words.push(format!("--nodes {} --disk-mib {}", self.nodes, self.disk_mib));
                if let Some(kvd) = &self.kvd {
                    words.push(format!("--kvd {}", kvd.display()));
                }
            }
            false => words.push(format!("--endpoints {}", self.endpoints.join(","))),
        }
        words.extend(
            self.kvd_option
                .iter()
                .map(|option| format!("--kvd-option={option}")),
        );
        words.extend(self.kvd_env.iter().map(|pair| format!("--kvd-env={pair}")));
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &[&str]) -> Options {
        let words = ["nezha-jepsen"].iter().chain(line);
        Line::try_parse_from(words).unwrap().options
    }

    #[test]
    fn a_cluster_elsewhere_takes_calls_of_the_api_only() {
        let error = parse(&["--endpoints", "a:1,b:1", "--only", "kill,gc"])
            .kinds()
            .unwrap_err();
        assert!(error.starts_with("kill cannot"), "{error}");
        let kinds = parse(&["--endpoints", "a:1"]).kinds().unwrap();
        assert_eq!(kinds, [Kind::Transfer, Kind::Gc, Kind::Purge]);
        assert!(Line::try_parse_from(["x", "--endpoints", "a:1", "--nodes", "3"]).is_err());
        assert_eq!(parse(&[]).kvd_option, SNAPSHOTS);
        assert_eq!(parse(&["--kvd-option=--gc=off"]).kvd_option, ["--gc=off"]);
        assert_eq!(parse(&[]).kinds().unwrap().len(), Kind::all().count());
    }

    #[test]
    fn the_command_repeats_the_run() {
        let options = parse(&[
            "--only",
            "kill",
            "--nodes",
            "5",
            "--kvd-option=--gc=off",
            "--kvd-env=A=b",
        ]);
        let command = options.command(7);
        let words: Vec<&str> = command.split(' ').skip(2).collect();
        let again = parse(&words);
        assert_eq!(again.seed, Some(7));
        assert_eq!(again.command(7), command);
        assert_eq!(again.env().unwrap(), [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn bad_options_are_refused() {
        assert!(Line::try_parse_from(["x", "--nodes", "4"]).is_err());
        assert!(parse(&["--kvd-env=A"]).env().is_err());
        assert!(parse(&["--only", "kil"]).kinds().is_err());
    }
}
