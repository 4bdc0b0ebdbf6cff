use std::time::Duration;

use clap::Args;
use nezha_api::client::{Client, ClientError};
use nezha_api::v1::{DamagedFile, Member, ResponseHeader, Role, StatusResponse};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::args::Format;
use crate::context::Context;
use crate::each::each;
use crate::failure::{Exit, Failure, cause};
use crate::output::{cluster_id, layout, print, print_json, print_json_list};
use crate::units::format_bytes;

const EXAMPLES: &str = "\
Examples:
  kvctl status
  kvctl status -w json
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 status

Asks all members, also those that were not given; members that do not answer stay in the table.
Exits with 0 if the cluster is healthy, 6 if not, 3 if nobody answers.
JSON keys: healthy, available, verdict, cluster_id, leader_id, term, members; of a member: id, name,
endpoint, reachable, role, voter, ready, term, last_log_index, committed_index, applied_index, flushed_index,
purged_index, snapshot_index, lag, keys, live_bytes, disk_bytes, disk_free_bytes, uptime_ms, version, errors.
jsonl prints one member per line.";

/// Longest wait for one member: a member that is this slow counts as unreachable.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(3);

/// Arguments of `kvctl status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {}

/// What one endpoint answered.
pub struct Answer {
    endpoint: String,
    result: Result<(ResponseHeader, StatusResponse), ClientError>,
}

/// Asks everyone and prints verdict and table.
pub async fn run(context: &Context, _args: StatusArgs) -> Result<(), Failure> {
    let client = context.client_with_timeout(context.timeout.min(MEMBER_TIMEOUT))?;
    let (members, answers) = ask(&client, &context.endpoints).await;
    let report = Report::new(&members, answers);
    let format = context.table_format();
    match format {
        Format::Json => print_json(format, &report)?,
        Format::Jsonl => print_json_list(format, &report.members)?,
        Format::Simple | Format::Table => print(report.text(format, context.colour).as_bytes())?,
    }
    match report.exit() {
        Exit::Ok => Ok(()),
        exit => Err(Failure::Reported(exit)),
    }
}

/// Asks the given endpoints, learns the members from whoever knows them, and asks the rest.
async fn ask(client: &Client, given: &[String]) -> (Vec<Member>, Vec<Answer>) {
    let mut lists = JoinSet::new();
    for endpoint in given {
        let (client, endpoint) = (client.clone(), endpoint.clone());
        lists.spawn(async move { client.member_list_from(&endpoint).await });
    }
    let asked_given = ask_each(client, given).await;
    // The list of the member that has applied most is the youngest.
    let mut newest: Option<(ResponseHeader, Vec<Member>)> = None;
    while let Some(joined) = lists.join_next().await {
        if let Ok(Ok((header, members))) = joined
            && newest
                .as_ref()
                .is_none_or(|(best, _)| (best.term, best.revision) < (header.term, header.revision))
        {
            newest = Some((header, members));
        }
    }
    let members = newest.map(|(_, members)| members).unwrap_or_default();
    let known = |member: &Member| {
        asked_given.iter().any(|answer| {
            let id = answer.result.as_ref().ok().map(|(header, _)| header.node_id);
            answer.endpoint == member.client_endpoint || id == Some(member.id)
        })
    };
    let rest: Vec<String> = members
        .iter()
        .filter(|member| !known(member))
        .map(|member| member.client_endpoint.clone())
        .collect();
    let mut answers = asked_given;
    answers.extend(ask_each(client, &rest).await);
    (members, answers)
}

async fn ask_each(client: &Client, endpoints: &[String]) -> Vec<Answer> {
    let ask = |endpoint: String| {
        let client = client.clone();
        async move {
            let result = client.status(&endpoint).await;
            Answer { endpoint, result }
        }
    };
    each(endpoints, ask).await
}

/// The state of the cluster as far as its members say.
#[derive(Serialize)]
struct Report {
    healthy: bool,
    available: bool,
    verdict: String,
    cluster_id: Option<String>,
    leader_id: u64,
    term: u64,
    members: Vec<MemberReport>,
}

#[derive(Serialize, Default)]
struct MemberReport {
    id: u64,
    name: String,
    endpoint: String,
    reachable: bool,
    role: &'static str,
    voter: Option<bool>,
    ready: bool,
    term: u64,
    last_log_index: u64,
    committed_index: u64,
    applied_index: u64,
    flushed_index: u64,
    purged_index: u64,
    snapshot_index: u64,
    lag: Option<u64>,
    keys: u64,
    live_bytes: u64,
    disk_bytes: u64,
    disk_free_bytes: u64,
    uptime_ms: u64,
    version: String,
    errors: Vec<String>,
}

impl Report {
    fn new(members: &[Member], answers: Vec<Answer>) -> Report {
        let clusters: Vec<u64> = answers
            .iter()
            .filter_map(|answer| Some(answer.result.as_ref().ok()?.0.cluster_id))
            .collect();
        let cluster = clusters.first().copied();
        let mut reports: Vec<MemberReport> = Vec::new();
        for answer in answers {
            let report = MemberReport::new(answer, members, cluster);
            // Two addresses may lead to one member; and a given address that does not answer may be a member's.
            if !reports
                .iter()
                .any(|known| known.reachable && report.reachable && known.id == report.id)
            {
                reports.push(report);
            }
        }
        reports.sort_by_key(|report| (report.id == 0, report.id));
        let leader = reports
            .iter()
            .filter(|report| report.role == "leader")
            .max_by_key(|report| report.term);
        let leader =
            leader.map(|leader| (leader.id, leader.name.clone(), leader.term, leader.last_log_index));
        // Without a leader, what the furthest member has is the best mark.
        let newest = reports
            .iter()
            .map(|report| report.last_log_index)
            .max()
            .unwrap_or(0);
        let mark = leader.as_ref().map_or(newest, |leader| leader.3.max(newest));
        for report in reports.iter_mut().filter(|report| report.reachable) {
            report.lag = Some(mark.saturating_sub(report.applied_index));
        }
        let verdict = Verdict::of(
            &reports,
            members,
            leader.as_ref(),
            clusters.iter().any(|id| Some(*id) != cluster),
        );
        Report {
            healthy: verdict.healthy,
            available: verdict.available,
            verdict: verdict.text,
            cluster_id: cluster.map(cluster_id),
            leader_id: leader.as_ref().map_or(0, |leader| leader.0),
            term: reports.iter().map(|report| report.term).max().unwrap_or(0),
            members: reports,
        }
    }

    fn exit(&self) -> Exit {
        if self.members.iter().all(|member| !member.reachable) {
            Exit::Unreachable
        } else if self.healthy {
            Exit::Ok
        } else {
            Exit::Unhealthy
        }
    }

    fn text(&self, format: Format, colour: bool) -> String {
        const HEADER: [&str; 13] = [
            "NODE", "ENDPOINT", "ROLE", "VOTER", "TERM", "APPLIED", "LAG", "KEYS", "LIVE", "ON DISK", "FREE",
            "VERSION", "ERRORS",
        ];
        let rows = self.members.iter().map(MemberReport::row).collect();
        let paint = match (colour, self.healthy, self.available) {
            (false, ..) => ("", ""),
            (true, true, _) => ("\x1b[32m", "\x1b[0m"),
            (true, false, true) => ("\x1b[33m", "\x1b[0m"),
            (true, false, false) => ("\x1b[31m", "\x1b[0m"),
        };
        format!(
            "{}{}{}\n{}",
            paint.0,
            self.verdict,
            paint.1,
            layout(format, &HEADER, rows)
        )
    }
}

impl MemberReport {
    fn new(answer: Answer, members: &[Member], cluster: Option<u64>) -> MemberReport {
        let endpoint = answer.endpoint;
        match answer.result {
            Ok((header, status)) => {
                let member = members.iter().find(|member| member.id == header.node_id);
                let mut errors: Vec<String> = status.damage.iter().map(damaged).collect();
                if !status.ready {
                    errors.push("not ready: catching up after its start".into());
                }
                if Some(header.cluster_id) != cluster {
                    errors.push(format!("belongs to cluster {}", cluster_id(header.cluster_id)));
                } else if member.is_none() && !members.is_empty() {
                    errors.push("not a member: removed, or not yet added".into());
                }
                MemberReport {
                    id: header.node_id,
                    role: role_name(status.role()),
                    name: status.name,
                    endpoint,
                    reachable: true,
                    voter: member.map(|member| member.voter),
                    ready: status.ready,
                    term: header.term,
                    last_log_index: status.last_log_index,
                    committed_index: status.committed_index,
                    applied_index: status.applied_index,
                    flushed_index: status.flushed_index,
                    purged_index: status.purged_index,
                    snapshot_index: status.snapshot_index,
                    lag: None,
                    keys: status.keys,
                    live_bytes: status.live_bytes,
                    disk_bytes: status.disk_bytes,
                    disk_free_bytes: status.disk_free_bytes,
                    uptime_ms: status.uptime_ms,
                    version: status.version,
                    errors,
                }
            }
            Err(error) => {
                let member = members.iter().find(|member| member.client_endpoint == endpoint);
                MemberReport {
                    id: member.map_or(0, |member| member.id),
                    name: member.map_or_else(|| "?".into(), |member| member.name.clone()),
                    endpoint,
                    role: "unreachable",
                    voter: member.map(|member| member.voter),
                    errors: vec![cause(&error)],
                    ..MemberReport::default()
                }
            }
        }
    }

    fn row(&self) -> Vec<String> {
        let shown = |text: String| if self.reachable { text } else { "-".into() };
        vec![
            self.name.clone(),
            self.endpoint.clone(),
            self.role.to_owned(),
            match self.voter {
                Some(true) => "yes".into(),
                Some(false) => "no".into(),
                None => "?".into(),
            },
            shown(self.term.to_string()),
            shown(self.applied_index.to_string()),
            self.lag.map_or_else(|| "-".into(), |lag| lag.to_string()),
            shown(self.keys.to_string()),
            shown(format_bytes(self.live_bytes)),
            shown(format_bytes(self.disk_bytes)),
            shown(format_bytes(self.disk_free_bytes)),
            shown(self.version.clone()),
            if self.errors.is_empty() {
                "-".into()
            } else {
                self.errors.join("; ")
            },
        ]
    }
}

struct Verdict {
    healthy: bool,
    available: bool,
    text: String,
}

impl Verdict {
    fn of(
        reports: &[MemberReport],
        members: &[Member],
        leader: Option<&(u64, String, u64, u64)>,
        mixed: bool,
    ) -> Verdict {
        let verdict = |healthy, available, text: String| Verdict {
            healthy,
            available,
            text,
        };
        let names = |reports: &[&MemberReport]| -> String {
            let names: Vec<&str> = reports
                .iter()
                .map(|report| {
                    if report.id == 0 {
                        report.endpoint.as_str()
                    } else {
                        report.name.as_str()
                    }
                })
                .collect();
            names.join(", ")
        };
        if reports.iter().all(|report| !report.reachable) {
            return verdict(
                false,
                false,
                "The cluster cannot be reached: no endpoint answers.".into(),
            );
        }
        if mixed {
            return verdict(false, false, "The endpoints belong to different clusters.".into());
        }
        let voters = members.iter().filter(|member| member.voter).count();
        let up = reports
            .iter()
            .filter(|report| report.reachable && report.voter == Some(true))
            .count();
        let Some((_, name, term, _)) = leader else {
            let text = format!("The cluster is not available: no leader; {up} of {voters} voters answer.");
            return verdict(false, false, text);
        };
        if voters > 0 && up * 2 <= voters {
            let text = format!("The cluster is not available: only {up} of {voters} voters answer.");
            return verdict(false, false, text);
        }
        let lost: Vec<&MemberReport> = reports.iter().filter(|report| !report.reachable).collect();
        let troubled: Vec<&MemberReport> = reports
            .iter()
            .filter(|report| report.reachable && !report.errors.is_empty())
            .collect();
        if !lost.is_empty() {
            let text = format!(
                "The cluster is available, but not healthy: no answer from {}.",
                names(&lost)
            );
            return verdict(false, true, text);
        }
        if !troubled.is_empty() {
            let text = format!(
                "The cluster is available, but not healthy: see {}.",
                names(&troubled)
            );
            return verdict(false, true, text);
        }
        if members.is_empty() {
            let text = format!("The leader is {name} (term {term}); the member list cannot be read.");
            return verdict(false, true, text);
        }
        let text =
            format!("The cluster is healthy: {up} of {voters} voters answer, leader {name} (term {term}).");
        verdict(true, true, text)
    }
}

fn damaged(found: &DamagedFile) -> String {
    let DamagedFile {
        file, offset, reason, ..
    } = found;
    match found.count {
        ..=1 => format!("{file} offset {offset}: {reason}"),
        count => format!("{file} offset {offset}: {reason} (met {count} times)"),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Unspecified => "?",
    }
}
