use std::time::Duration;

use anyhow::{Context, Result};
use nezha_api::v1::Role;
use nezha_api::{Client, ClientOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;

use super::victim::{Api, Exit, Refused, Side, Victim};
use crate::cluster::Cluster;

/// Longest wait for one call of a nemesis.
const CALL_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a member's word about itself.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// A cluster of our own.
pub struct Own {
    cluster: Cluster,
    /// A member that was added and is not a voter yet.
    learner: Option<usize>,
}

/// A cluster that runs elsewhere.
pub struct Elsewhere {
    /// Names of the members.
    pub names: Vec<String>,
    /// Their client addresses.
    pub endpoints: Vec<String>,
}

/// Calls of the API by the Rust client.
pub struct Calls {
    runtime: Handle,
    client: Client,
    quick: Client,
}

impl Own {
    /// Takes the cluster.
    pub fn new(cluster: Cluster) -> Own {
        Own {
            cluster,
            learner: None,
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

fn applied<T>(outcome: Result<T>) -> Result<()> {
    outcome.map(drop)
}

fn both_members(from: Side, to: Side) -> Result<(usize, usize)> {
    match (from, to) {
        (Side::Member(from), Side::Member(to)) => Ok((from, to)),
        _ => anyhow::bail!("only links between members can be slowed down or hung up"),
    }
}

impl Victim for Own {
    fn names(&self) -> Vec<String> {
        self.cluster.names()
    }

    fn endpoints(&self) -> Vec<String> {
        self.cluster.endpoints()
    }

    fn is_running(&mut self, member: usize) -> bool {
        self.cluster.is_running(member).unwrap_or(false)
    }

    fn exit(&mut self, member: usize) -> Result<Option<Exit>> {
        let ended = self.cluster.ended(member)?;
        Ok(ended.map(|ended| Exit {
            code: ended.code,
            signal: ended.signal,
            log: ended.log_tail,
        }))
    }

    fn start(&mut self, member: usize) -> Result<()> {
        self.cluster.start(member)
    }

    fn kill(&mut self, member: usize) -> Result<()> {
        applied(self.cluster.kill(member))
    }

    fn terminate(&mut self, member: usize) -> Result<Option<Exit>> {
        let code = self.cluster.terminate(member)?;
        Ok(code.filter(|code| *code != 0).map(|code| Exit {
            code: Some(code),
            signal: None,
            log: String::new(),
        }))
    }

    fn pause(&mut self, member: usize) -> Result<()> {
        applied(self.cluster.pause(member))
    }

    fn resume(&mut self, member: usize) -> Result<()> {
        applied(self.cluster.resume(member))
    }

    fn start_to_die_at_install(&mut self, member: usize) -> Result<()> {
        self.cluster.start_to_die_at_install(member)
    }

    fn stall_disk(&mut self, member: usize) -> Result<()> {
        self.cluster.stall_disk(member)
    }

    fn stall_log(&mut self, member: usize) -> Result<()> {
        self.cluster.stall_log(member)
    }

    fn power_cut(&mut self, members: &[usize]) -> Result<()> {
        self.cluster.power_cut(members)
    }

    fn cut(&mut self, from: Side, to: Side, cut: bool) -> Result<()> {
        match cut {
            true => self.cluster.network().cut(from, to),
            false => self.cluster.network().heal(from, to),
        }
    }

    fn loss(&mut self, from: Side, to: Side, percent: u8) -> Result<()> {
        self.cluster.network().loss(from, to, percent)
    }

    fn delay(&mut self, from: Side, to: Side, delay: Duration, jitter: Duration) -> Result<()> {
        let (from, to) = both_members(from, to)?;
        self.cluster.network().delay(from, to, delay, jitter)
    }

    fn half_open(&mut self, from: Side, to: Side, stuck: bool) -> Result<()> {
        let (from, to) = both_members(from, to)?;
        match stuck {
            true => self.cluster.network().half_open(from, to),
            false => self.cluster.network().half_close(from, to),
        }
    }

    fn heal_network(&mut self) -> Result<()> {
        self.cluster.network().heal_all()
    }

    fn disk_full(&mut self, member: usize, full: bool) -> Result<()> {
        match full {
            true => self.cluster.disk_full(member),
            false => self.cluster.disk_free(member),
        }
    }

    fn disk_errors(&mut self, member: usize, failing: bool) -> Result<()> {
        match failing {
            true => self.cluster.disk_errors(member),
            false => applied(self.cluster.disk_sound(member)),
        }
    }

    fn slow_disk(&mut self, member: usize, bytes_per_second: Option<u64>) -> Result<()> {
        match bytes_per_second {
            Some(bytes_per_second) => self.cluster.slow_disk(member, bytes_per_second),
            None => self.cluster.normal_disk(member),
        }
    }

    fn inject(&mut self, member: usize, injection: Option<&str>) -> Result<()> {
        match injection {
            Some(injection) => applied(self.cluster.inject(member, injection)),
            None => applied(self.cluster.stop_injecting(member)),
        }
    }

    fn rot(&mut self, member: usize, seed: u64) -> Result<Option<String>> {
        self.cluster.rot(member, &mut StdRng::seed_from_u64(seed))
    }

    fn join(&mut self) -> Result<usize> {
        if let Some(learner) = self.learner {
            self.cluster.promote(learner)?;
            self.learner = None;
            return Ok(learner);
        }
        let before: Vec<bool> = (0..self.cluster.len()).map(|i| self.cluster.belongs(i)).collect();
        let joined = self.cluster.join();
        if joined
            .as_ref()
            .is_err_and(|error| error.downcast_ref::<Refused>().is_some())
        {
            let added = |i: &usize| self.cluster.belongs(*i) && !before.get(*i).copied().unwrap_or(false);
            self.learner = (0..self.cluster.len()).find(added);
        }
        joined
    }

    fn remove_strangers(&mut self) -> Result<()> {
        if let Some(learner) = self.learner.take() {
            self.cluster.remove(learner)?;
        }
        self.cluster.remove_strangers()
    }

    fn remove(&mut self, member: usize) -> Result<()> {
        self.cluster.remove(member)
    }
}

impl Victim for Elsewhere {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn endpoints(&self) -> Vec<String> {
        self.endpoints.clone()
    }
}

impl Calls {
    /// To the cluster at `endpoints`, on a runtime whose threads reach it.
    pub fn new(runtime: Handle, endpoints: &[String]) -> Result<Calls> {
        let client = |timeout| {
            let options = ClientOptions {
                timeout,
                connect_timeout: STATUS_PATIENCE,
                sync_interval: None,
                ..ClientOptions::default()
            };
            let _inside = runtime.enter();
            Client::connect(endpoints, options).context("make a client for the nemesis")
        };
        Ok(Calls {
            client: client(CALL_PATIENCE)?,
            quick: client(STATUS_PATIENCE)?,
            runtime: runtime.clone(),
        })
    }
}

impl Api for Calls {
    fn leader(&self, endpoints: &[String]) -> Option<usize> {
        let asked = endpoints
            .iter()
            .enumerate()
            .map(|(position, endpoint)| async move {
                let (header, status) = self.quick.status(endpoint).await.ok()?;
                (status.role() == Role::Leader).then_some((header.term, position))
            });
        let answers = self.runtime.block_on(futures::future::join_all(asked));
        // One that was deposed and has not heard of it has an older term.
        answers.into_iter().flatten().max().map(|(_, position)| position)
    }

    fn transfer(&self, name: &str) -> Result<()> {
        let to = nezha_api::client::MemberRef::Name(name.to_owned());
        let moved = self.runtime.block_on(self.client.leader_transfer(Some(&to)));
        moved.map(drop).context("hand leadership on")
    }

    fn gc(&self, endpoint: &str) -> Result<()> {
        let ordered = self.runtime.block_on(self.quick.gc_run(endpoint));
        ordered.map(drop).context("order a collection")
    }

    fn purge(&self, endpoint: &str) -> Result<()> {
        let ordered = self.runtime.block_on(self.quick.purge(endpoint, 0));
        ordered.map(drop).context("order a purge")
    }
}
