//! Calls of an operator, one after the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nezha_api::client::{ClientError, MemberRef};
use nezha_api::errors::Reason;
use nezha_api::{Client, ClientOptions};
use tokio::time::sleep;

use crate::host::{client_addr, peer_addr};
use crate::net::dialer;
use crate::plan::Order;

/// How often, and after what pause, a change of members is tried.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(500);

/// What an operator is asked for.
pub enum Wish {
    /// An order to the member that serves clients there.
    Order(Order, String),
    /// A member of this name.
    Join(String),
    /// This member is no longer one.
    Leave(String),
}

/// What is asked of the operator, and what it has done. Clones share it.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Papers>>);

#[derive(Default)]
struct Papers {
    wishes: VecDeque<Wish>,
    added: Vec<String>,
    removed: Vec<String>,
    working: bool,
}

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something.
    pub fn push(&self, wish: Wish) {
        self.papers().wishes.push_back(wish);
    }

    /// Whether something was asked for and is not done.
    pub fn is_busy(&self) -> bool {
        let papers = self.papers();
        papers.working || !papers.wishes.is_empty()
    }

    /// Names of the members that were removed since the last call.
    pub fn take_removed(&self) -> Vec<String> {
        std::mem::take(&mut self.papers().removed)
    }

    /// Names of the members that were added since the last call, and are to be started.
    pub fn take_added(&self) -> Vec<String> {
        std::mem::take(&mut self.papers().added)
    }
}

/// Does what is asked, for ever. Of most calls it does not matter what comes of them: members may be down.
pub async fn work(desk: Desk, endpoints: Vec<String>) -> turmoil::Result {
    let options = ClientOptions {
        timeout: Duration::from_secs(3),
        attempt_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        dialer: dialer(),
        ..ClientOptions::default()
    };
    let client = Client::connect(&endpoints, options)?;
    loop {
        let wish = {
            let mut papers = desk.papers();
            let wish = papers.wishes.pop_front();
            papers.working = wish.is_some();
            wish
        };
        match wish {
            None => sleep(Duration::from_millis(20)).await,
            Some(Wish::Order(Order::Transfer, _)) => drop(client.leader_transfer(None).await),
            Some(Wish::Order(Order::Collect, endpoint)) => drop(client.gc_run(&endpoint).await),
            Some(Wish::Order(Order::Purge, endpoint)) => drop(client.purge(&endpoint, 0).await),
            Some(Wish::Join(name)) => join(&desk, &client, &name).await,
            Some(Wish::Leave(name)) => leave(&desk, &client, &name).await,
        }
    }
}

fn is_refused(error: &ClientError, because: Reason) -> bool {
    match error {
        ClientError::Refused { error, .. } => error.reason == Some(because),
        _ => false,
    }
}

/// Adds a member, has it started, and makes it a voter once it has caught up. Who is not added stays away.
async fn join(desk: &Desk, client: &Client, name: &str) {
    for _ in 0..ATTEMPTS {
        match client
            .member_add(name, &peer_addr(name), &client_addr(name))
            .await
        {
            Err(error) if !is_refused(&error, Reason::MemberExists) => sleep(PAUSE).await,
            _ => {
                desk.papers().added.push(name.to_owned());
                break;
            }
        }
    }
    let member = MemberRef::Name(name.to_owned());
    for _ in 0..ATTEMPTS {
        if client.member_promote(&member).await.is_ok() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Removes a member, and says so. Who cannot be removed stays.
async fn leave(desk: &Desk, client: &Client, name: &str) {
    let member = MemberRef::Name(name.to_owned());
    for _ in 0..ATTEMPTS {
        match client.member_remove(&member).await {
            Err(error) if !is_refused(&error, Reason::UnknownMember) => sleep(PAUSE).await,
            _ => return desk.papers().removed.push(name.to_owned()),
        }
    }
}
