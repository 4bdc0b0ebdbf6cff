use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use super::endpoint::{Endpoint, normalize};
use super::{ClientError, ClientOptions};

/// The endpoints of one cluster and who leads.
pub(crate) struct Pool {
    /// As given by the caller. Never empty.
    given: Vec<Arc<Endpoint>>,
    /// Where callers that know no leader begin; moves on when that endpoint fails.
    start: AtomicUsize,
    learned: RwLock<Learned>,
}

#[derive(Default)]
struct Learned {
    /// Address of the leader, as the last answer named it.
    leader: Option<Arc<Endpoint>>,
    /// Endpoints that were not given, by address.
    others: BTreeMap<String, Arc<Endpoint>>,
}

impl Pool {
    pub(crate) fn new(endpoints: &[String], options: &ClientOptions) -> Result<Pool, ClientError> {
        let mut given: Vec<Arc<Endpoint>> = Vec::new();
        for address in endpoints {
            let endpoint = Endpoint::new(address, options)?;
            if given.iter().all(|known| known.address() != endpoint.address()) {
                given.push(Arc::new(endpoint));
            }
        }
        if given.is_empty() {
            return Err(ClientError::InvalidEndpoint {
                endpoint: String::new(),
                reason: "no endpoint was given".into(),
            });
        }
        let start = AtomicUsize::new(rand::random_range(0..given.len()));
        Ok(Pool {
            given,
            start,
            learned: RwLock::default(),
        })
    }

    /// Returns the endpoint to try next, or `None` when all in `tried` have been.
    ///
    /// With `follow_leader` the leader comes first, then given endpoints, then learned ones; without, only given ones
    /// in turn. Endpoints that failed lately come last.
    pub(crate) fn next(&self, follow_leader: bool, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let mut candidates: Vec<Arc<Endpoint>> = Vec::with_capacity(self.given.len() + 2);
        let start = if follow_leader {
            self.start.load(Ordering::Relaxed)
        } else {
            self.start.fetch_add(1, Ordering::Relaxed)
        };
        if follow_leader {
            candidates.extend(self.learned().leader.clone());
        }
        let turn = start % self.given.len();
        candidates.extend(
            self.given
                .iter()
                .cycle()
                .skip(turn)
                .take(self.given.len())
                .cloned(),
        );
        if follow_leader {
            candidates.extend(self.learned().others.values().cloned());
        }
        candidates.retain(|candidate| tried.iter().all(|done| done.address() != candidate.address()));
        let healthy = candidates.iter().find(|candidate| !candidate.is_penalized());
        healthy.or(candidates.first()).cloned()
    }

    /// Returns the endpoint with this address: a known one, or a new one outside of the pool.
    pub(crate) fn get(&self, address: &str, options: &ClientOptions) -> Result<Arc<Endpoint>, ClientError> {
        let plain = normalize(address);
        if let Some(known) = self.given.iter().find(|known| known.address() == plain) {
            return Ok(known.clone());
        }
        if let Some(known) = self.learned().others.get(plain) {
            return Ok(known.clone());
        }
        Endpoint::new(address, options).map(Arc::new)
    }

    /// Notes that `address` leads. An address that cannot be used is ignored: it came from the network.
    pub(crate) fn learn_leader(&self, address: &str, options: &ClientOptions) {
        let plain = normalize(address);
        if plain.is_empty() {
            return;
        }
        let known = |learned: &Learned| {
            learned
                .leader
                .as_ref()
                .is_some_and(|known| known.address() == plain)
        };
        if known(&self.learned()) {
            return;
        }
        let Ok(leader) = self.get(plain, options) else {
            return;
        };
        let mut learned = self.learned.write().expect("no panic while held");
        if self.given.iter().all(|given| given.address() != plain) {
            learned.others.insert(plain.to_owned(), leader.clone());
        }
        learned.leader = Some(leader);
    }

    /// Replaces the learned endpoints by the client addresses of the current members.
    pub(crate) fn learn_members<'a>(
        &self,
        addresses: impl Iterator<Item = &'a str>,
        options: &ClientOptions,
    ) {
        let mut others = BTreeMap::new();
        for address in addresses {
            let plain = normalize(address);
            if plain.is_empty() || self.given.iter().any(|given| given.address() == plain) {
                continue;
            }
            if let Ok(endpoint) = self.get(plain, options) {
                others.insert(plain.to_owned(), endpoint);
            }
        }
        self.learned.write().expect("no panic while held").others = others;
    }

    /// Notes that `endpoint` failed: it is tried last for a while, and is no longer taken for the leader.
    pub(crate) fn failed(&self, endpoint: &Endpoint) {
        endpoint.penalize();
        self.not_leading(endpoint);
        let start = self.start.load(Ordering::Relaxed);
        if self.given[start % self.given.len()].address() == endpoint.address() {
            self.start.store(start.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Forgets `endpoint` as the leader, if it was taken for it.
    pub(crate) fn not_leading(&self, endpoint: &Endpoint) {
        let mut learned = self.learned.write().expect("no panic while held");
        if learned
            .leader
            .as_ref()
            .is_some_and(|leader| leader.address() == endpoint.address())
        {
            learned.leader = None;
        }
    }

    fn learned(&self) -> std::sync::RwLockReadGuard<'_, Learned> {
        self.learned.read().expect("no panic while held")
    }
}
