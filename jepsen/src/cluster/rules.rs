//! What the packet filter of one member's namespace is told: pure text.
//!
//! A member's packets to another one go through a proxy. The link from member `f` to member `t` has an address of its
//! own in the hub, [`link`]: the proxy listens there for `f`, and calls `t` from there. So both ends of a pair tell
//! apart whose packets they see, on connections that either of them has made. In a network without proxies they see each
//! other's own addresses.

use std::collections::BTreeMap;

/// Address of the clients, in the hub.
pub const CLIENTS: &str = "10.79.0.254";

/// Members that a network can hold: the third number of a link's address counts from 128.
pub const MEMBERS_MAX: usize = 100;

/// Addresses of all links.
pub const LINKS: &str = "10.79.128.0/17";

/// One end of a link: a member, or all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// A member, by position.
    Member(usize),
    /// The clients, who share one address.
    Clients,
}

impl From<usize> for Side {
    fn from(member: usize) -> Side {
        Side::Member(member)
    }
}

/// What happens to packets of one directed link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// All of them vanish.
    pub cut: bool,
    /// So many of a hundred vanish, by chance.
    pub loss_percent: u8,
}

/// The filters that are on, by (from, to).
pub type Filters = BTreeMap<(Side, Side), Filter>;

/// Address of a member.
pub fn host(member: usize) -> String {
    format!("10.79.0.{}", member + 1)
}

/// Address in the hub of the link from one member to another.
pub fn link(from: usize, to: usize) -> String {
    format!("10.79.{}.{}", 128 + from, to + 1)
}

/// The addresses that stand for `other` in the namespace of `member`, with proxies and without.
fn addresses(member: usize, other: Side) -> String {
    match other {
        Side::Clients => CLIENTS.to_string(),
        Side::Member(other) => format!(
            "{{ {}, {}, {} }}",
            link(member, other),
            link(other, member),
            host(other)
        ),
    }
}

/// Sends what `member` addresses to any of the `members` others to the proxies.
pub fn redirections(member: usize, members: usize) -> String {
    let mut text = String::from(
        "add table ip links\nadd chain ip links out { type nat hook output priority -100; policy accept; }\n\
         flush chain ip links out\n",
    );
    for other in (0..members).filter(|other| *other != member) {
        let (to, through) = (host(other), link(member, other));
        text += &format!("add rule ip links out ip daddr {to} meta l4proto tcp dnat to {through}\n");
    }
    text
}

/// Everything that `member`'s namespace drops, in place of what it dropped before.
pub fn drops(member: usize, filters: &Filters) -> String {
    let mut text = String::from(
        "add table ip faults\n\
         add chain ip faults out { type filter hook output priority 0; policy accept; }\n\
         add chain ip faults in { type filter hook input priority 0; policy accept; }\n\
         flush table ip faults\n",
    );
    for (&(from, to), filter) in filters {
        let (chain, field, other) = match (from, to) {
            (Side::Member(from), to) if from == member => ("out", "daddr", to),
            (from, Side::Member(to)) if to == member => ("in", "saddr", from),
            _ => continue,
        };
        let addresses = addresses(member, other);
        if filter.cut {
            text += &format!("add rule ip faults {chain} ip {field} {addresses} drop\n");
        }
        // Only one end throws the dice; of the clients' links, the member's.
        if filter.loss_percent > 0 && (chain == "out" || from == Side::Clients) {
            text += &format!(
                "add rule ip faults {chain} ip {field} {addresses} numgen random mod 100 < {} drop\n",
                filter.loss_percent
            );
        }
    }
    text
}

#[test]
fn a_directed_cut_is_told_to_both_ends_and_to_nobody_else() {
    let cut = Filter {
        cut: true,
        loss_percent: 0,
    };
    let filters = Filters::from([((0.into(), 1.into()), cut), ((Side::Clients, 2.into()), cut)]);
    let rules = |member| {
        let text = drops(member, &filters);
        let rules: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("add rule"))
            .map(String::from)
            .collect();
        rules
    };
    assert_eq!(
        rules(0),
        ["add rule ip faults out ip daddr { 10.79.128.2, 10.79.129.1, 10.79.0.2 } drop"]
    );
    assert_eq!(
        rules(1),
        ["add rule ip faults in ip saddr { 10.79.129.1, 10.79.128.2, 10.79.0.1 } drop"]
    );
    assert_eq!(rules(2), ["add rule ip faults in ip saddr 10.79.0.254 drop"]);
    assert!(rules(3).is_empty());
}
