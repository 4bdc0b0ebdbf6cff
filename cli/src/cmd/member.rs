use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nezha_api::client::MemberRef;
use nezha_api::v1::{Member, ResponseHeader};
use serde::Serialize;

use crate::args::Format;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{layout, print, print_json, print_json_list, print_line};

/// `kvctl member ...`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Add a learner under a new id, and wait until it has caught up
    Add(AddArgs),
    /// Make a learner a voter
    #[command(after_help = "Example:\n  kvctl member promote n4")]
    Promote {
        /// Name or id
        member: String,
    },
    /// Remove a member for good: its id never comes back
    #[command(after_help = "Examples:\n  kvctl member remove n4\n  kvctl member remove 4")]
    Remove {
        /// Name or id
        member: String,
    },
}

const LIST_EXAMPLES: &str = "\
Examples:
  kvctl member list
  kvctl member list -w jsonl

JSON keys of a member: id, name, role (leader, voter, learner), peer_endpoint, client_endpoint, matched_index.";

const ADD_EXAMPLES: &str = "\
Examples:
  kvctl member add n4 --peer-addr 10.0.0.4:7380 --client-addr 10.0.0.4:7379
  kvctl member add n4 --peer-addr 10.0.0.4:7380 --client-addr 10.0.0.4:7379 --no-wait

Prints the command that starts the node. Interrupting the wait does not undo the change.
JSON keys: those of `kvctl member list`, and start_command.";

/// Arguments of `kvctl member add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub struct AddArgs {
    /// Name of the new member
    name: String,
    /// Where the other members will reach it
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: String,
    /// Where clients will reach it
    #[arg(long, value_name = "HOST:PORT")]
    client_addr: String,
    /// Do not wait until it has caught up
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct MemberJson {
    id: u64,
    name: String,
    role: &'static str,
    peer_endpoint: String,
    client_endpoint: String,
    matched_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_command: Option<String>,
}

/// A learner this close to the leader counts as caught up, in log entries: new writes keep it a little behind.
const CAUGHT_UP_LAG: u64 = 16;

/// Pause between two looks at a learner.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Runs one of the member commands.
pub async fn run(context: &Context, command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List => list(context).await,
        MemberCommand::Add(args) => add(context, args).await,
        MemberCommand::Promote { member } => {
            let (_, members) = context.client.member_list().await?;
            let member = find(&members, &member)?;
            context.client.member_promote(&MemberRef::Id(member.id)).await?;
            done(context, member, "is a voter now")
        }
        MemberCommand::Remove { member } => {
            let (_, members) = context.client.member_list().await?;
            let member = find(&members, &member)?;
            context.client.member_remove(&MemberRef::Id(member.id)).await?;
            done(context, member, "is removed; its data directory can be deleted")
        }
    }
}

/// Finds a member by name, else by id.
pub fn find<'a>(members: &'a [Member], who: &str) -> Result<&'a Member, Failure> {
    let by_name = members.iter().find(|member| member.name == who);
    let by_id = || {
        who.parse()
            .ok()
            .and_then(|id: u64| members.iter().find(|member| member.id == id))
    };
    by_name.or_else(by_id).ok_or_else(|| {
        let known: Vec<String> = members
            .iter()
            .map(|member| format!("{} (id {})", member.name, member.id))
            .collect();
        eprintln!("no member {who}; members are: {}", known.join(", "));
        Failure::Reported(Exit::Refused)
    })
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (_, members) = context.client.member_list().await?;
    let format = context.table_format();
    if matches!(format, Format::Json | Format::Jsonl) {
        let items: Vec<MemberJson> = members.iter().map(MemberJson::from).collect();
        return print_json_list(format, &items);
    }
    let rows = members
        .iter()
        .map(|member| {
            vec![
                member.id.to_string(),
                member.name.clone(),
                role(member).to_owned(),
                member.peer_endpoint.clone(),
                member.client_endpoint.clone(),
                member.matched_index.to_string(),
            ]
        })
        .collect();
    print(
        layout(
            format,
            &["ID", "NODE", "ROLE", "PEER ADDRESS", "CLIENT ADDRESS", "MATCHED"],
            rows,
        )
        .as_bytes(),
    )
}

async fn add(context: &Context, args: AddArgs) -> Result<(), Failure> {
    let member = context
        .client
        .member_add(&args.name, &args.peer_addr, &args.client_addr)
        .await?;
    let start_command = format!(
        "kvd --name {} --join {} --data-dir DIR --listen-client {} --listen-peer {}",
        args.name,
        context.endpoints.join(","),
        args.client_addr,
        args.peer_addr
    );
    let format = context.plain_format();
    if matches!(format, Format::Json | Format::Jsonl) {
        let mut json = MemberJson::from(&member);
        json.start_command = Some(start_command);
        print_json(format, &json)?;
    } else {
        print_line(&format!(
            "{} is added as a learner with id {}; start it with:",
            member.name, member.id
        ))?;
        print_line(&format!("  {start_command}"))?;
    }
    if !args.no_wait {
        wait_until_caught_up(context, &member).await?;
        eprintln!(
            "{} has caught up; make it a voter with: kvctl member promote {}",
            member.name, member.name
        );
    }
    Ok(())
}

/// Shows how the learner catches up, until it has. Waits without a bound: the node has to be started by hand.
async fn wait_until_caught_up(context: &Context, member: &Member) -> Result<(), Failure> {
    let bar = progress_bar(context, &member.name);
    let mut said = None;
    loop {
        let (header, members) = context.client.member_list().await?;
        let Some(now) = members.iter().find(|other| other.id == member.id) else {
            bar.finish_and_clear();
            eprintln!("{} was removed while it caught up", member.name);
            return Err(Failure::Reported(Exit::Refused));
        };
        let last = last_log_index(context, &header).await.max(now.matched_index);
        bar.set_length(last);
        bar.set_position(now.matched_index);
        let lag = last - now.matched_index;
        if now.matched_index > 0 && lag <= CAUGHT_UP_LAG {
            bar.finish_and_clear();
            return Ok(());
        }
        // Without a terminal: a line whenever the number has changed.
        if !context.stderr_is_terminal && said != Some(now.matched_index) {
            said = Some(now.matched_index);
            eprintln!("{}: {} of {last} log entries", member.name, now.matched_index);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the leader's last log index; 0 if it cannot be asked right now.
async fn last_log_index(context: &Context, header: &ResponseHeader) -> u64 {
    match context.client.status(&header.leader_endpoint).await {
        Ok((_, status)) => status.last_log_index,
        Err(_) => 0,
    }
}

fn progress_bar(context: &Context, name: &str) -> ProgressBar {
    let target = match context.stderr_is_terminal {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix}: {bar:30} {pos} of {len} log entries, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}

fn done(context: &Context, member: &Member, what: &str) -> Result<(), Failure> {
    let format = context.plain_format();
    match format {
        Format::Json | Format::Jsonl => print_json(
            format,
            &serde_json::json!({ "id": member.id, "name": member.name }),
        ),
        Format::Simple | Format::Table => print_line(&format!("{} (id {}) {what}", member.name, member.id)),
    }
}

fn role(member: &Member) -> &'static str {
    match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

impl From<&Member> for MemberJson {
    fn from(member: &Member) -> MemberJson {
        MemberJson {
            id: member.id,
            name: member.name.clone(),
            role: role(member),
            peer_endpoint: member.peer_endpoint.clone(),
            client_endpoint: member.client_endpoint.clone(),
            matched_index: member.matched_index,
            start_command: None,
        }
    }
}
