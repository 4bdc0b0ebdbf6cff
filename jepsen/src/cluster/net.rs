//! A private network: one namespace per member and a hub with the clients and the proxies, joined by a bridge. Nothing
//! leaves it.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{run, run_with_input};
use super::leftovers;
use super::proxy::{Proxies, Shape};
use super::rules::{self, Filter, Filters, MEMBERS_MAX, Side};

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The namespaces; deleted when dropped, with everything in them.
///
/// Faults of links are directed: what `from` sends to `to` suffers, on connections that either of them has made.
pub struct Network {
    name: String,
    members: usize,
    filters: Mutex<Filters>,
    proxies: Option<Proxies>,
}

/// Namespaces that are to be deleted: also when making the rest of them fails.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn add(&mut self, name: &str) -> Result<()> {
        run("ip", &["netns", "add", name])?;
        self.0.push(name.to_string());
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// Hardware address of the bridge.
const BRIDGE: &str = "02:00:00:00:00:01";

impl Network {
    /// Makes namespaces for `members`, with one address each. `ports` of a member go through proxies when another
    /// member calls them; without any, members call each other directly, and links can be cut and lose packets only.
    pub fn new(members: usize, ports: &[u16]) -> Result<Network> {
        leftovers::remove_once();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = leftovers::name(number);
        let mut made = Namespaces(Vec::new());
        made.add(&name)?;
        let hub = ["-n", name.as_str()];
        let ip = |args: &[&str]| run("ip", &[hub.as_slice(), args].concat());
        // An address of its own: else it takes one of its ports', and another one when a member is added, which the others
        // do not learn for half a minute.
        ip(&["link", "add", "br0", "address", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/16", rules::CLIENTS), "dev", "br0"])?;
        ip(&["link", "set", "br0", "up"])?;
        // Every address of a link is the hub's own.
        ip(&["route", "add", "local", rules::LINKS, "dev", "lo"])?;
        let proxies = match ports {
            [] => None,
            ports => Some(Proxies::start(&namespace_path(&name), ports)?),
        };
        // From here on, the network's own drop deletes them.
        made.0.clear();
        let mut network = Network {
            name,
            members: 0,
            filters: Mutex::default(),
            proxies,
        };
        for _ in 0..members {
            network.grow()?;
        }
        Ok(network)
    }

    /// Makes room for one more member and answers its position.
    pub fn grow(&mut self) -> Result<usize> {
        let at = self.members;
        ensure!(at < MEMBERS_MAX, "a network holds at most {MEMBERS_MAX} members");
        let (hub, ns, port) = (self.name.clone(), self.namespace(at), format!("port{at}"));
        // Counted first, so that it is deleted even when the rest fails.
        self.members += 1;
        run("ip", &["netns", "add", &ns])?;
        run("ip", &["-n", &ns, "link", "set", "lo", "up"])?;
        run(
            "ip",
            &[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &ns,
            ],
        )?;
        run("ip", &["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
        let address = format!("{}/16", self.host(at));
        run("ip", &["-n", &ns, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &ns, "link", "set", "eth0", "up"])?;
        let Some(proxies) = &self.proxies else {
            return Ok(at);
        };
        for other in 0..at {
            proxies.add(at, other)?;
            proxies.add(other, at)?;
        }
        for member in 0..self.members {
            self.nft(member, &rules::redirections(member, self.members))?;
        }
        Ok(at)
    }

    /// Name of a member's namespace, as `ip netns exec` takes it.
    pub fn namespace(&self, member: usize) -> String {
        format!("{}n{member}", self.name)
    }

    /// Name of the hub; those of everything else begin with it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of a member.
    pub fn host(&self, member: usize) -> String {
        rules::host(member)
    }

    /// All addresses.
    pub fn hosts(&self) -> Vec<String> {
        (0..self.members).map(|i| self.host(i)).collect()
    }

    /// Moves the calling thread into the hub, for good; threads that it starts are there too.
    pub fn enter(&self) -> Result<()> {
        enter(&namespace_path(&self.name))
    }

    /// Runs `body` on a thread inside the hub, where the clients are; threads that it starts are there too.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        inside(&namespace_path(&self.name), body)
    }

    /// Runs `body` on a thread inside a member's namespace; processes that it starts are there too.
    pub fn inside_member<T: Send>(&self, member: usize, body: impl FnOnce() -> T + Send) -> Result<T> {
        inside(&namespace_path(&self.namespace(member)), body)
    }

    fn nft(&self, member: usize, rules: &str) -> Result<()> {
        self.inside_member(member, || run_with_input("nft", &["-f", "-"], rules))??;
        Ok(())
    }

    fn known(&self, side: Side) -> Result<()> {
        match side {
            Side::Member(member) if member >= self.members => {
                bail!("there is no member {member}: the network has {}", self.members)
            }
            _ => Ok(()),
        }
    }

    fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Changes the filters of directed links, at both of their ends: each end once, in the order in which it is named.
    fn change(&self, links: &[(Side, Side)], change: impl Fn(&mut Filter)) -> Result<()> {
        let mut ends = Vec::new();
        for &(from, to) in links {
            self.known(from)?;
            self.known(to)?;
            ensure!(from != to, "a link has two ends");
            for side in [from, to] {
                if !ends.contains(&side) {
                    ends.push(side);
                }
            }
        }
        let mut filters = self.filters();
        for link in links {
            let filter = filters.entry(*link).or_default();
            change(filter);
            if *filter == Filter::default() {
                filters.remove(link);
            }
        }
        for side in ends {
            if let Side::Member(member) = side {
                self.nft(member, &rules::drops(member, &filters))
                    .with_context(|| format!("cannot change the links {links:?}"))?;
            }
        }
        Ok(())
    }

    /// The links to a member, from clients and from the others: without them it is deaf.
    pub fn links_to(&self, member: usize) -> Vec<(Side, Side)> {
        let others = (0..self.members)
            .filter(|other| *other != member)
            .map(Side::Member);
        let others = others.chain([Side::Clients]);
        others.map(|other| (other, Side::Member(member))).collect()
    }

    /// The links from a member and to it: without them it is cut off.
    pub fn links_of(&self, member: usize) -> Vec<(Side, Side)> {
        let to = self.links_to(member);
        let from = to.iter().map(|(other, member)| (*member, *other));
        from.chain(to.iter().copied()).collect()
    }

    /// [`Network::cut`] of several links; at each end, all of its links at one moment.
    pub fn cut_all(&self, links: &[(Side, Side)]) -> Result<()> {
        self.change(links, |filter| filter.cut = true)
    }

    /// Lets every packet from `from` to `to` vanish; no connection is reset.
    ///
    /// A direct consequence of the proxies: `to` may still have a connection accepted on `from`'s behalf, and then
    /// hears nothing on it.
    pub fn cut(&self, from: impl Into<Side>, to: impl Into<Side>) -> Result<()> {
        self.cut_all(&[(from.into(), to.into())])
    }

    /// Undoes [`Network::cut`].
    pub fn heal(&self, from: impl Into<Side>, to: impl Into<Side>) -> Result<()> {
        self.change(&[(from.into(), to.into())], |filter| filter.cut = false)
    }

    /// Lets so many of a hundred packets from `from` to `to` vanish; 0 undoes it.
    pub fn loss(&self, from: impl Into<Side>, to: impl Into<Side>, percent: u8) -> Result<()> {
        ensure!(percent <= 100, "{percent} % is more than everything");
        self.change(&[(from.into(), to.into())], |filter| {
            filter.loss_percent = percent
        })
    }

    fn shape(&self, from: usize, to: usize, change: impl FnOnce(&mut Shape)) -> Result<()> {
        let proxies = self.proxies.as_ref().context("this network has no proxies")?;
        proxies.shape(from, to, change)
    }

    /// Lets what member `from` sends to member `to` arrive later, in order, by `delay` and at random up to `jitter`
    /// more; zeros undo it.
    pub fn delay(&self, from: usize, to: usize, delay: Duration, jitter: Duration) -> Result<()> {
        self.shape(from, to, |shape| {
            shape.delay = delay;
            shape.jitter = jitter;
        })
    }

    /// Takes what member `from` sends to member `to` and forwards nothing of it; both ends stay open.
    pub fn half_open(&self, from: usize, to: usize) -> Result<()> {
        self.shape(from, to, |shape| shape.half_open = true)
    }

    /// Undoes [`Network::half_open`]. Connections that lost bytes are closed: what follows would be out of place.
    pub fn half_close(&self, from: usize, to: usize) -> Result<()> {
        self.shape(from, to, |shape| shape.half_open = false)
    }

    /// Holds what member `from` sends to member `to` until [`Network::thaw`]; nothing is lost.
    pub fn freeze(&self, from: usize, to: usize) -> Result<()> {
        self.shape(from, to, |shape| shape.frozen = true)
    }

    /// Undoes [`Network::freeze`].
    pub fn thaw(&self, from: usize, to: usize) -> Result<()> {
        self.shape(from, to, |shape| shape.frozen = false)
    }

    /// Closes every connection that member `from` has made to member `to`. Nothing to undo: they may call again.
    pub fn drop_connections(&self, from: usize, to: usize) -> Result<()> {
        self.shape(from, to, |shape| shape.generation += 1)
    }

    /// Undoes every fault of every link.
    pub fn heal_all(&self) -> Result<()> {
        let mut filters = self.filters();
        filters.clear();
        for member in 0..self.members {
            self.nft(member, &rules::drops(member, &filters))?;
        }
        if let Some(proxies) = &self.proxies {
            proxies.reset();
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = (0..self.members).map(|i| self.namespace(i));
        drop(Namespaces(members.chain([self.name.clone()]).collect()));
    }
}

fn namespace_path(name: &str) -> String {
    format!("/run/netns/{name}")
}

/// Moves the calling thread into the network namespace with this handle.
pub(super) fn enter(path: &str) -> Result<()> {
    let handle = OpenOptions::new()
        .read(true)
        .open(path)
        .with_context(|| format!("cannot open the namespace {path}"))?;
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the namespace {path}; that needs root"))
}

fn inside<T: Send>(path: &str, body: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(path)?;
            Ok(body())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;
