//! A private network: one namespace per node and one for the clients, joined by a bridge. Nothing leaves it.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::must;

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The namespaces; deleted when dropped, with everything in them.
pub struct Network {
    /// Namespace of the bridge and of the clients.
    hub: String,
    nodes: usize,
}

impl Network {
    /// Makes `nodes` namespaces with one address each.
    pub fn new(nodes: usize) -> Network {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Network {
            hub: format!("nezha{}x{number}", std::process::id()),
            nodes,
        };
        let hub = network.hub.as_str();
        must("ip", &["netns", "add", hub]);
        must("ip", &["-n", hub, "link", "set", "lo", "up"]);
        must("ip", &["-n", hub, "link", "add", "br0", "type", "bridge"]);
        must("ip", &["-n", hub, "addr", "add", "10.79.0.254/24", "dev", "br0"]);
        must("ip", &["-n", hub, "link", "set", "br0", "up"]);
        for i in 0..nodes {
            let (ns, port) = (network.namespace(i), format!("port{i}"));
            must("ip", &["netns", "add", &ns]);
            must("ip", &["-n", &ns, "link", "set", "lo", "up"]);
            must(
                "ip",
                &[
                    "-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &ns,
                ],
            );
            must("ip", &["-n", hub, "link", "set", &port, "master", "br0", "up"]);
            must(
                "ip",
                &[
                    "-n",
                    &ns,
                    "addr",
                    "add",
                    &format!("{}/24", network.host(i)),
                    "dev",
                    "eth0",
                ],
            );
            must("ip", &["-n", &ns, "link", "set", "eth0", "up"]);
        }
        network
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.hub)
    }

    /// The address of a node.
    pub fn host(&self, node: usize) -> String {
        format!("10.79.0.{}", node + 1)
    }

    /// All addresses.
    pub fn hosts(&self) -> Vec<String> {
        (0..self.nodes).map(|i| self.host(i)).collect()
    }

    /// What to put in front of a node's command to run it in its namespace, under the same process id.
    pub fn wrap(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(node)]
            .map(String::from)
            .into()
    }

    /// Cuts a node off: its packets vanish in both directions, and no connection is reset.
    pub fn cut(&self, node: usize) {
        must(
            "ip",
            &["-n", &self.hub, "link", "set", &format!("port{node}"), "down"],
        );
    }

    /// Undoes [`Network::cut`].
    pub fn heal(&self, node: usize) {
        must(
            "ip",
            &["-n", &self.hub, "link", "set", &format!("port{node}"), "up"],
        );
    }

    /// Makes a node deaf: it sends, but what is sent to it vanishes.
    pub fn deafen(&self, node: usize) {
        let ns = self.namespace(node);
        let rules = "add table inet cut; add chain inet cut input { type filter hook input priority 0; policy accept; }; \
                     add rule inet cut input iifname eth0 drop";
        must("ip", &["netns", "exec", &ns, "nft", rules]);
    }

    /// Undoes [`Network::deafen`].
    pub fn undeafen(&self, node: usize) {
        must(
            "ip",
            &[
                "netns",
                "exec",
                &self.namespace(node),
                "nft",
                "delete",
                "table",
                "inet",
                "cut",
            ],
        );
    }

    /// Runs `body` on a thread inside the clients' namespace; threads it starts are there too.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.hub);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let handle = std::fs::OpenOptions::new()
                    .read(true)
                    .open(&path)
                    .expect("the namespace has a handle");
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&handle),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("root may enter a namespace");
                body()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for ns in (0..self.nodes)
            .map(|i| self.namespace(i))
            .chain([self.hub.clone()])
        {
            let _ = std::process::Command::new("ip")
                .args(["netns", "del", &ns])
                .status();
        }
    }
}

#[test]
fn a_cut_node_is_out_of_reach_until_healed() {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    let network = Network::new(2);
    // A listener in the clients' namespace, and a connection attempt from a node's.
    let reaches_hub = |from: usize| {
        let probe = "exec 3<>/dev/tcp/10.79.0.254/7000";
        let mut line = network.wrap(from);
        line.extend(["timeout", "1", "bash", "-c", probe].map(String::from));
        std::process::Command::new(&line[0])
            .args(&line[1..])
            .output()
            .unwrap()
            .status
            .success()
    };
    // A link that has just come up, or a busy machine, may lose an attempt.
    let comes_to_reach_hub = |from: usize| (0..20).any(|_| reaches_hub(from));
    network.inside(|| {
        let _listener = TcpListener::bind("10.79.0.254:7000").unwrap();
        assert!(comes_to_reach_hub(0) && comes_to_reach_hub(1));
        network.cut(0);
        assert!(
            !reaches_hub(0) && comes_to_reach_hub(1),
            "only the node that was cut is out of reach"
        );
        network.heal(0);
        network.deafen(1);
        assert!(
            comes_to_reach_hub(0) && !reaches_hub(1),
            "the deaf one hears no answer"
        );
        network.undeafen(1);
        assert!(comes_to_reach_hub(0) && comes_to_reach_hub(1));
        let nobody: SocketAddr = "10.79.0.1:7000".parse().unwrap();
        assert!(TcpStream::connect_timeout(&nobody, std::time::Duration::from_secs(1)).is_err());
    });
}
