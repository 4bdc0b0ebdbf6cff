use nezha_api::client::ClientError;
use nezha_api::v1::{GcJob, GcLevel, GcPin, GcStatusResponse, ResponseHeader};
use serde::Serialize;

use super::text;
use crate::args::Format;
use crate::context::Context;
use crate::each::each;
use crate::failure::{Failure, cause};
use crate::output::{HeaderJson, layout, print, print_json_list};
use crate::units::format_bytes;

/// Shown by `kvctl gc status --help`.
pub const EXAMPLES: &str = "\
Examples:
  kvctl gc status
  kvctl --endpoints 10.0.0.1:7379,10.0.0.2:7379 gc status
  kvctl gc status -w json

Asks each given endpoint about its own files; one that does not answer stays in the table.
Level 0 is the sealed segments of the log, 1 sorted runs, 2 the bottom run; GARBAGE is what
collecting all of a level would give back. A file is pinned while an open scan or transfer may
read it (read), while Raft, or a follower that lags, may need its entries (log), or for as long as
it holds a live value that is damaged (damage; see `kvctl status`).
Space: calm; urgent, when gc goes before clients; slow and refuse, when writes are slowed and
refused so that the bound on space amplification holds. Debt is what waits to be sorted.
Exits with 0 if every endpoint answers, else as for the first that does not: 3, 4 or 5.
JSON keys of a node: endpoint, error, name, automatic, paused, requested, levels (level, files,
bytes, live_bytes, garbage_bytes), file_bytes, live_bytes, space_amplification, job (null, or
reason, inputs, output_level, copy_bytes, copied_bytes, elapsed_ms, bytes_per_second), pins (file, bytes, reason),
jobs_finished, bytes_copied, files_removed, last_error, bytes_per_second, cluster_id, node_id,
leader_id, term, revision, space (state, bound_bytes, held_garbage_bytes, disk_free_bytes,
disk_reserve_bytes, disk_low, writes_slowed, writes_refused), debt (l0_bytes, l0_bytes_max, overlap,
overlap_max); only the first two if it does not answer.
jsonl prints one node per line.";

/// Most pins of a node that are shown for people; JSON has all of them.
const PINS_SHOWN: usize = 10;

/// What one endpoint answered.
struct Answer {
    endpoint: String,
    result: Result<(ResponseHeader, GcStatusResponse), ClientError>,
}

#[derive(Serialize)]
struct NodeJson<'a> {
    endpoint: &'a str,
    error: Option<String>,
    #[serde(flatten)]
    status: Option<StatusJson<'a>>,
    #[serde(flatten)]
    header: Option<HeaderJson>,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    name: &'a str,
    automatic: bool,
    paused: bool,
    requested: bool,
    levels: Vec<LevelJson>,
    file_bytes: u64,
    live_bytes: u64,
    space_amplification: Option<f64>,
    job: Option<JobJson<'a>>,
    pins: Vec<PinJson<'a>>,
    jobs_finished: u64,
    bytes_copied: u64,
    files_removed: u64,
    last_error: &'a str,
    bytes_per_second: u64,
    space: SpaceJson<'a>,
    debt: DebtJson,
}

#[derive(Serialize)]
struct SpaceJson<'a> {
    state: &'a str,
    bound_bytes: u64,
    held_garbage_bytes: u64,
    disk_free_bytes: u64,
    disk_reserve_bytes: u64,
    disk_low: bool,
    writes_slowed: u64,
    writes_refused: u64,
}

#[derive(Serialize)]
struct DebtJson {
    l0_bytes: u64,
    l0_bytes_max: u64,
    overlap: u64,
    overlap_max: u64,
}

#[derive(Serialize)]
struct LevelJson {
    level: u32,
    files: u64,
    bytes: u64,
    live_bytes: u64,
    garbage_bytes: u64,
}

#[derive(Serialize)]
struct JobJson<'a> {
    reason: &'a str,
    inputs: u64,
    output_level: u32,
    copy_bytes: u64,
    copied_bytes: u64,
    elapsed_ms: u64,
    bytes_per_second: u64,
}

#[derive(Serialize)]
struct PinJson<'a> {
    file: &'a str,
    bytes: u64,
    reason: &'a str,
}

/// Asks all endpoints and prints what they say.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let ask = |endpoint: String| {
        let client = context.client.clone();
        async move {
            let result = client.gc_status(&endpoint).await;
            Answer { endpoint, result }
        }
    };
    let answers = each(&context.endpoints, ask).await;
    let format = context.table_format();
    match format {
        Format::Json | Format::Jsonl => {
            let nodes: Vec<NodeJson> = answers.iter().map(NodeJson::from).collect();
            print_json_list(format, &nodes)?;
        }
        Format::Simple | Format::Table => print(text(format, &answers).as_bytes())?,
    }
    let failed = answers.into_iter().find_map(|answer| answer.result.err());
    failed.map_or(Ok(()), |error| {
        Err(Failure::Reported(Failure::from(error).exit()))
    })
}

/// Lays out levels, then a line per node, then what is pinned.
fn text(format: Format, answers: &[Answer]) -> String {
    const LEVELS: [&str; 8] = [
        "NODE", "ENDPOINT", "LEVEL", "FILES", "BYTES", "LIVE", "GARBAGE", "ERROR",
    ];
    let mut text = layout(format, &LEVELS, answers.iter().flat_map(level_rows).collect());
    let statuses: Vec<&GcStatusResponse> = answers
        .iter()
        .filter_map(|answer| Some(&answer.result.as_ref().ok()?.1))
        .collect();
    for status in &statuses {
        text.push_str(&text::summary(status));
        text.push('\n');
    }
    let pins: Vec<Vec<String>> = statuses.into_iter().flat_map(pin_rows).collect();
    if !pins.is_empty() {
        text.push_str(&layout(format, &["NODE", "PINNED FILE", "BYTES", "REASON"], pins));
    }
    text
}

fn level_rows(answer: &Answer) -> Vec<Vec<String>> {
    let dashes = |count| vec!["-".to_owned(); count];
    match &answer.result {
        Err(error) => {
            let mut row = vec!["?".into(), answer.endpoint.clone()];
            row.extend(dashes(5));
            row.push(cause(error));
            vec![row]
        }
        Ok((_, status)) if status.levels.is_empty() => {
            let mut row = vec![status.name.clone(), answer.endpoint.clone()];
            row.extend(dashes(6));
            vec![row]
        }
        Ok((_, status)) => {
            let row = |level: &GcLevel| {
                vec![
                    status.name.clone(),
                    answer.endpoint.clone(),
                    level.level.to_string(),
                    level.files.to_string(),
                    format_bytes(level.bytes),
                    format_bytes(level.live_bytes),
                    format_bytes(level.garbage_bytes),
                    "-".into(),
                ]
            };
            status.levels.iter().map(row).collect()
        }
    }
}

fn pin_rows(status: &GcStatusResponse) -> Vec<Vec<String>> {
    let (shown, rest) = status.pins.split_at(status.pins.len().min(PINS_SHOWN));
    let row = |file: String, bytes: u64, reason: &str| {
        vec![status.name.clone(), file, format_bytes(bytes), reason.into()]
    };
    let mut rows: Vec<Vec<String>> = shown
        .iter()
        .map(|pin| row(pin.file.clone(), pin.bytes, &pin.reason))
        .collect();
    if !rest.is_empty() {
        let bytes = rest.iter().fold(0, |sum: u64, pin| sum.saturating_add(pin.bytes));
        rows.push(row(format!("and {} more", rest.len()), bytes, "-"));
    }
    rows
}

impl<'a> From<&'a Answer> for NodeJson<'a> {
    fn from(answer: &'a Answer) -> NodeJson<'a> {
        let answered = answer.result.as_ref();
        NodeJson {
            endpoint: &answer.endpoint,
            error: answered.err().map(cause),
            status: answered.ok().map(|(_, status)| status.into()),
            header: answered.ok().map(|(header, _)| header.into()),
        }
    }
}

impl<'a> From<&'a GcStatusResponse> for StatusJson<'a> {
    fn from(status: &'a GcStatusResponse) -> StatusJson<'a> {
        StatusJson {
            name: &status.name,
            automatic: status.automatic,
            paused: status.paused,
            requested: status.requested,
            levels: status.levels.iter().map(LevelJson::from).collect(),
            file_bytes: status.file_bytes,
            live_bytes: status.live_bytes,
            space_amplification: text::space_amplification(status),
            job: status.job.as_ref().map(JobJson::from),
            pins: status.pins.iter().map(PinJson::from).collect(),
            jobs_finished: status.jobs_finished,
            bytes_copied: status.bytes_copied,
            files_removed: status.files_removed,
            last_error: &status.last_error,
            bytes_per_second: status.bytes_per_second,
            space: space_json(status),
            debt: debt_json(status),
        }
    }
}

fn space_json(status: &GcStatusResponse) -> SpaceJson<'_> {
    let space = status.space.as_ref();
    SpaceJson {
        state: space.map_or("", |space| &space.state),
        bound_bytes: space.map_or(0, |space| space.bound_bytes),
        held_garbage_bytes: space.map_or(0, |space| space.held_garbage_bytes),
        disk_free_bytes: space.map_or(0, |space| space.disk_free_bytes),
        disk_reserve_bytes: space.map_or(0, |space| space.disk_reserve_bytes),
        disk_low: space.is_some_and(|space| space.disk_low),
        writes_slowed: space.map_or(0, |space| space.writes_slowed),
        writes_refused: space.map_or(0, |space| space.writes_refused),
    }
}

fn debt_json(status: &GcStatusResponse) -> DebtJson {
    let debt = status.debt.unwrap_or_default();
    DebtJson {
        l0_bytes: debt.l0_bytes,
        l0_bytes_max: debt.l0_bytes_max,
        overlap: debt.overlap,
        overlap_max: debt.overlap_max,
    }
}

impl From<&GcLevel> for LevelJson {
    fn from(level: &GcLevel) -> LevelJson {
        LevelJson {
            level: level.level,
            files: level.files,
            bytes: level.bytes,
            live_bytes: level.live_bytes,
            garbage_bytes: level.garbage_bytes,
        }
    }
}

impl<'a> From<&'a GcJob> for JobJson<'a> {
    fn from(job: &'a GcJob) -> JobJson<'a> {
        JobJson {
            reason: &job.reason,
            inputs: job.inputs,
            output_level: job.output_level,
            copy_bytes: job.copy_bytes,
            copied_bytes: job.copied_bytes,
            elapsed_ms: job.elapsed_ms,
            bytes_per_second: job.bytes_per_second,
        }
    }
}

impl<'a> From<&'a GcPin> for PinJson<'a> {
    fn from(pin: &'a GcPin) -> PinJson<'a> {
        PinJson {
            file: &pin.file,
            bytes: pin.bytes,
            reason: &pin.reason,
        }
    }
}
