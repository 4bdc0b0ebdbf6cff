//! Members that come, go, and are replaced, through the API.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nezha_api::client::{Client, ClientOptions, Condition, MemberRef};
use nezha_api::v1::Member as Listed;
use thiserror::Error;

use super::{Cluster, Member};

/// How long the cluster may take for one change of its members.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// What the cluster did not do in time, and its last words: no failure of the harness, while there are faults.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} was not done within {patience:?}: {last}")]
pub struct Refused {
    /// What was asked for.
    pub what: String,
    /// How long.
    pub patience: Duration,
    /// The last refusal.
    pub last: String,
}

impl Cluster {
    /// Adds a member under a new name, with a fresh disk, in a position that a removed one has left or in a new one;
    /// starts it and makes it a voter as soon as it has caught up.
    ///
    /// Errors: [`Refused`] among others; a member that was added by then stays, running, as a learner that
    /// [`Cluster::promote`] may make a voter.
    pub fn join(&mut self) -> Result<usize> {
        let at = match self.members.iter().position(|member| !member.belongs) {
            Some(left) => left,
            None => {
                let at = self.network.grow()?;
                self.members.push(Member::default());
                at
            }
        };
        self.join_at(at)?;
        Ok(at)
    }

    fn join_at(&mut self, at: usize) -> Result<()> {
        self.kill(at)?;
        self.named += 1;
        let name = format!("n{}", self.named);
        let through: Vec<String> = (0..self.members.len())
            .filter(|i| self.belongs(*i))
            .map(|i| self.client(i))
            .collect();
        self.fresh_disk(at)?;
        let member = self.member_mut(at)?;
        member.name = name.clone();
        member.origin = vec!["--join".to_string(), through.join(",")];
        let (peer, client) = (self.peer(at), self.client(at));
        self.until(
            &format!("adding {name}"),
            CHANGE_PATIENCE,
            async |api, listed| match listed.iter().any(|member| member.name == name) {
                true => Ok(true),
                false => api.member_add(&name, &peer, &client).await.map(|_| true),
            },
        )?;
        self.member_mut(at)?.belongs = true;
        self.start(at)?;
        self.promote(at)
    }

    /// Makes a learner a voter as soon as it has caught up.
    ///
    /// Errors: [`Refused`] among others.
    pub fn promote(&mut self, i: usize) -> Result<()> {
        let name = self.member(i)?.name.clone();
        self.until(
            &format!("promoting {name}"),
            CHANGE_PATIENCE,
            async |api, listed| match listed.iter().find(|member| member.name == name) {
                Some(member) if member.voter => Ok(true),
                _ => {
                    let member = MemberRef::Name(name.clone());
                    api.member_promote(&member).await.map(|()| true)
                }
            },
        )
    }

    /// Removes a member for good, and kills it then.
    ///
    /// Errors: [`Refused`] among others; the member then runs on.
    pub fn remove(&mut self, i: usize) -> Result<()> {
        let name = self.member(i)?.name.clone();
        self.until(
            &format!("removing {name}"),
            CHANGE_PATIENCE,
            async |api, listed| {
                match listed.iter().any(|member| member.name == name) {
                    true => {
                        let member = MemberRef::Name(name.clone());
                        // Done when it is not listed any more.
                        api.member_remove(&member).await.map(|()| false)
                    }
                    false => Ok(true),
                }
            },
        )?;
        self.kill(i)?;
        self.member_mut(i)?.belongs = false;
        Ok(())
    }

    /// Removes a member and has a new one, under a new name and with a fresh disk, take its position.
    ///
    /// Errors: as those of [`Cluster::remove`] and [`Cluster::join`].
    pub fn replace(&mut self, i: usize) -> Result<()> {
        self.remove(i)?;
        self.join_at(i)
    }

    /// Removes members that the cluster lists and no position has: those whose adding was given up, and done later.
    pub fn remove_strangers(&mut self) -> Result<()> {
        let known: Vec<String> = self
            .members
            .iter()
            .filter(|member| member.belongs)
            .map(|member| member.name.clone())
            .collect();
        self.until(
            "removing strangers",
            CHANGE_PATIENCE,
            async |api, listed| match listed.iter().find(|member| !known.contains(&member.name)) {
                Some(stranger) => api
                    .member_remove(&MemberRef::Id(stranger.id))
                    .await
                    .map(|()| false),
                None => Ok(true),
            },
        )
    }

    /// Waits until every running member that belongs to the cluster answers a linearizable read.
    ///
    /// Errors: [`Refused`] with the last answer when one does not within `patience`, or its process has ended.
    pub fn wait_serving(&mut self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        for i in 0..self.members.len() {
            while self.belongs(i) && self.member(i)?.process.is_some() {
                let running = self.is_running(i)?;
                let endpoint = self.client(i);
                let answer = self.api(&[endpoint], Duration::from_secs(2), async |api| {
                    api.get("harness/serving", nezha_api::v1::Consistency::Linearizable)
                        .await
                })?;
                let Err(error) = answer else { break };
                if !running || started.elapsed() > patience {
                    let name = &self.member(i)?.name;
                    let tail = super::process::tail(&self.log_path(i)?, super::LOG_TAIL_LINES);
                    return Err(Refused {
                        what: format!("serving by {name}"),
                        patience,
                        last: format!("{error}; it runs: {running}; its log ends:\n{tail}"),
                    }
                    .into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Writes one key, for tests of the cluster itself.
    pub fn put(&self, key: &str, value: Vec<u8>, patience: Duration) -> Result<()> {
        self.api(&self.endpoints(), patience, async |api| {
            api.put(key.to_owned(), value, Condition::None).await
        })?
        .with_context(|| format!("cannot write {key}"))?;
        Ok(())
    }

    /// Repeats `attempt`, which is given the current members, until it says that all is done.
    fn until(
        &self,
        what: &str,
        patience: Duration,
        attempt: impl AsyncFn(&Client, &[Listed]) -> Result<bool, nezha_api::client::ClientError> + Send + Sync,
    ) -> Result<()> {
        let started = Instant::now();
        let endpoints: Vec<String> = (0..self.members.len())
            .filter(|i| self.belongs(*i))
            .map(|i| self.client(i))
            .collect();
        let done = self.api(&endpoints, Duration::from_secs(5), async |api| {
            loop {
                let answer = match api.member_list().await {
                    Ok((_, listed)) => attempt(&api, &listed).await,
                    Err(error) => Err(error),
                };
                let last = match answer {
                    Ok(true) => return Ok(()),
                    Ok(false) => "not done yet".to_string(),
                    Err(error) => error.to_string(),
                };
                if started.elapsed() > patience {
                    return Err(last);
                }
                tokio::time::sleep(PAUSE).await;
            }
        })?;
        done.map_err(|last| {
            Refused {
                what: what.to_string(),
                patience,
                last,
            }
            .into()
        })
    }

    /// Makes calls from the hub, with a client and a runtime of their own.
    fn api<T: Send, F: Future<Output = T>>(
        &self,
        endpoints: &[String],
        timeout: Duration,
        calls: impl FnOnce(Client) -> F + Send,
    ) -> Result<T> {
        let options = ClientOptions {
            timeout,
            sync_interval: None,
            ..ClientOptions::default()
        };
        self.network.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot make a runtime")?;
            runtime.block_on(async {
                let client = Client::connect(endpoints, options).context("cannot make a client")?;
                Ok(calls(client).await)
            })
        })?
    }
}
