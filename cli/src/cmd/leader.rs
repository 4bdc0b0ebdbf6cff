use clap::Subcommand;
use nezha_api::client::MemberRef;
use serde::Serialize;

use super::member::find;
use crate::args::Format;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{layout, print, print_json, print_line};

/// `kvctl leader ...`
#[derive(Debug, Subcommand)]
pub enum LeaderCommand {
    /// Show who leads
    #[command(after_help = SHOW_EXAMPLES)]
    Show,
    /// Move leadership to NODE, or to the voter that is furthest
    #[command(after_help = "Examples:\n  kvctl leader transfer\n  kvctl leader transfer n2")]
    Transfer {
        /// Name or id
        node: Option<String>,
    },
}

const SHOW_EXAMPLES: &str = "\
Examples:
  kvctl leader show
  kvctl leader show -w json

Prints name, client address and term. JSON keys: id, name, endpoint, term.";

#[derive(Serialize)]
struct LeaderJson {
    id: u64,
    name: String,
    endpoint: String,
    term: u64,
}

/// Runs one of the leader commands.
pub async fn run(context: &Context, command: LeaderCommand) -> Result<(), Failure> {
    let (header, members) = context.client.member_list().await?;
    match command {
        LeaderCommand::Show => {
            let leader = members.iter().find(|member| member.id == header.leader_id);
            let Some(leader) = leader else {
                eprintln!("no leader is known; `kvctl status` shows which members are up");
                return Err(Failure::Reported(Exit::Unreachable));
            };
            show(
                context,
                LeaderJson {
                    id: leader.id,
                    name: leader.name.clone(),
                    endpoint: leader.client_endpoint.clone(),
                    term: header.term,
                },
            )
        }
        LeaderCommand::Transfer { node } => {
            let target = match &node {
                Some(who) => Some(MemberRef::Id(find(&members, who)?.id)),
                None => None,
            };
            let id = context.client.leader_transfer(target.as_ref()).await?;
            let name = members
                .iter()
                .find(|member| member.id == id)
                .map(|member| member.name.clone());
            let name = name.unwrap_or_else(|| "?".into());
            let format = context.plain_format();
            match format {
                Format::Json | Format::Jsonl => {
                    print_json(format, &serde_json::json!({ "id": id, "name": name }))
                }
                Format::Simple | Format::Table => print_line(&format!("{name} (id {id}) leads now")),
            }
        }
    }
}

fn show(context: &Context, leader: LeaderJson) -> Result<(), Failure> {
    let format = context.plain_format();
    match format {
        Format::Json | Format::Jsonl => print_json(format, &leader),
        Format::Table => {
            let row = vec![
                leader.id.to_string(),
                leader.name,
                leader.endpoint,
                leader.term.to_string(),
            ];
            print(layout(format, &["ID", "NODE", "ENDPOINT", "TERM"], vec![row]).as_bytes())
        }
        Format::Simple => print_line(&format!(
            "{} {} term {}",
            leader.name, leader.endpoint, leader.term
        )),
    }
}
