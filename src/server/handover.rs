//! A leader that cannot do a leader's work hands the lead to a voter that can: one whose disk has no room for writes, or
//! that has met damage in its files, and so can neither answer every read nor send a snapshot.
//!
//! Members do not tell each other about their disks, so the leader asks, by the calls that operators use. If nobody is
//! better off, the lead stays where it is: it would wander from one full disk to the next.

use std::time::Duration;

use nezha_api::client::Dialer;
use nezha_api::v1::maintenance_service_client::MaintenanceServiceClient;
use nezha_api::v1::{GcSpace, GcStatusRequest, StatusRequest};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Endpoint;

use super::context::Context;
use crate::raft::MemberInfo;

/// How often a leader looks at itself.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long a disk must have no room: gc may find some within moments.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until it is tried again, when nobody could take over.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for a member's answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// A voter that lacks more entries would hold up writes, while it catches up, for longer than a disk that is full.
const LAG_MAX: u64 = 1000;

/// Why a leader had better not lead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfit {
    Damaged,
    Full,
}

impl Context {
    /// Watches this node's disk and files for as long as it runs.
    pub async fn hand_over_when_unfit(&self) {
        let mut full_since = None;
        loop {
            sleep(INTERVAL).await;
            let why = self.leads().then(|| self.unfit()).flatten();
            if why != Some(Unfit::Full) {
                full_since = None;
            }
            let Some(why) = why else {
                continue;
            };
            if why == Unfit::Full && full_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                continue;
            }
            full_since = None;
            if !self.hand_over(why).await {
                sleep(PAUSE).await;
            }
        }
    }

    fn unfit(&self) -> Option<Unfit> {
        if self.store.has_damage() {
            return Some(Unfit::Damaged);
        }
        let full = self.collector.gate().space().disk.low;
        full.then_some(Unfit::Full)
    }

    fn leads(&self) -> bool {
        let outlook = self.outlook();
        outlook
            .leader
            .as_ref()
            .is_some_and(|leader| leader.id == self.node_id)
    }

    /// Returns whether somebody took over.
    async fn hand_over(&self, why: Unfit) -> bool {
        let metrics = self.consensus.metrics();
        let mut voters: Vec<&MemberInfo> = metrics
            .members
            .iter()
            .filter(|member| member.voter && member.id != self.node_id)
            .filter(|member| member.matched.unwrap_or(0) + LAG_MAX >= metrics.last_log_index)
            .collect();
        voters.sort_by_key(|member| std::cmp::Reverse(member.matched));
        for voter in voters {
            let name = &voter.node.name;
            match timeout(ANSWER_WAIT, is_fit(&self.dialer, &voter.node.client_addr)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => continue,
                Ok(Err(error)) => {
                    tracing::debug!(name, error, "a member does not tell how it is");
                    continue;
                }
                Err(_) => {
                    tracing::debug!(name, "a member does not tell in time how it is");
                    continue;
                }
            }
            match self.consensus.transfer_leader(Some(voter.id)).await {
                Ok(_) => {
                    let why = match why {
                        Unfit::Damaged => "files of this member are damaged",
                        Unfit::Full => "this disk is nearly full",
                    };
                    tracing::warn!(to = name, "{why}: the lead went to a member that is better off");
                    return true;
                }
                Err(error) => tracing::warn!(%error, to = name, "the lead could not be handed over"),
            }
        }
        false
    }
}

/// Whether the member that serves clients at `endpoint` would admit writes, and knows of no damage.
async fn is_fit(dialer: &Dialer, endpoint: &str) -> Result<bool, String> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|error| error.to_string())?;
    let channel = dialer
        .connect(endpoint)
        .await
        .map_err(|error| error.to_string())?;
    let mut member = MaintenanceServiceClient::new(channel);
    let refused = |status: Status| status.message().to_owned();
    let gc = member.gc_status(GcStatusRequest {}).await.map_err(refused)?;
    let has_room = |space: &GcSpace| !space.disk_low && space.state != "refuse";
    if !gc.into_inner().space.as_ref().is_some_and(has_room) {
        return Ok(false);
    }
    let status = member.status(StatusRequest {}).await.map_err(refused)?;
    Ok(status.into_inner().damage.is_empty())
}
