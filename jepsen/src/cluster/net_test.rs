//! Goal: each fault of a link does what it says, in its own direction only, and ends when it is undone.
//! Method: two or three namespaces, a listener of our own in one of them, and connections from others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;

const PORT: u16 = 7380;

/// Longer than a lost packet takes to be sent again on such a network, the first times.
const PATIENCE: Duration = Duration::from_millis(800);

fn address(network: &Network, member: usize) -> SocketAddr {
    format!("{}:{PORT}", network.host(member)).parse().unwrap()
}

fn listen(network: &Network, member: usize) -> TcpListener {
    let at = address(network, member);
    network
        .inside_member(member, || TcpListener::bind(at).unwrap())
        .unwrap()
}

/// A connection from one member to another, both ends.
fn connect(network: &Network, listener: &TcpListener, from: usize, to: usize) -> (TcpStream, TcpStream) {
    let at = address(network, to);
    let caller = network
        .inside_member(from, || {
            TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap()
        })
        .unwrap();
    let (called, _) = listener.accept().unwrap();
    for end in [&caller, &called] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_nodelay(true).unwrap();
    }
    (caller, called)
}

/// How long a byte takes from one end to the other; `None` if it does not come in time.
fn crossing(from: &mut TcpStream, to: &mut TcpStream) -> Option<Duration> {
    let started = Instant::now();
    from.write_all(&[7]).ok()?;
    to.read_exact(&mut [0]).ok().map(|()| started.elapsed())
}

#[test]
fn a_cut_link_is_silent_in_one_direction_until_healed() {
    let network = Network::new(3, &[PORT]).unwrap();
    let listener = listen(&network, 1);
    let (mut a, mut b) = connect(&network, &listener, 0, 1);
    let (mut c, mut d) = connect(&network, &listener, 2, 1);
    assert!(crossing(&mut a, &mut b).is_some() && crossing(&mut b, &mut a).is_some());
    network.cut(0, 1).unwrap();
    assert_eq!(crossing(&mut a, &mut b), None);
    assert!(crossing(&mut c, &mut d).is_some(), "others are not cut");
    let called = network
        .inside_member(0, || {
            TcpStream::connect_timeout(&address(&network, 1), PATIENCE).is_err()
        })
        .unwrap();
    assert!(called, "a new call does not come through either");
    network.heal(0, 1).unwrap();
    b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    b.read_exact(&mut [0])
        .expect("what was sent meanwhile comes late");
    // The other direction alone: what it is told is not answered.
    network.cut(1, 0).unwrap();
    assert!(crossing(&mut a, &mut b).is_some());
    assert_eq!(crossing(&mut b, &mut a), None);
    network.heal_all().unwrap();
    a.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    a.read_exact(&mut [0]).unwrap();
}

#[test]
fn clients_are_cut_off_by_themselves() {
    let network = Network::new(2, &[PORT]).unwrap();
    let listener = listen(&network, 1);
    let at = address(&network, 1);
    let reaches = || {
        network
            .inside(|| TcpStream::connect_timeout(&at, PATIENCE).is_ok())
            .unwrap()
    };
    assert!(reaches());
    for (from, to) in [(Side::Clients, 1.into()), (Side::Member(1), Side::Clients)] {
        network.cut(from, to).unwrap();
        assert!(!reaches());
        network.heal(from, to).unwrap();
        assert!(reaches());
    }
    network.cut(0, 1).unwrap();
    network.cut(1, 0).unwrap();
    assert!(reaches(), "members without each other still have their clients");
    drop(listener);
}

#[test]
fn a_member_is_cut_off_or_deaf_as_a_whole_with_proxies_and_without() {
    for ports in [&[PORT][..], &[]] {
        let network = Network::new(3, ports).unwrap();
        let (listener, own) = (listen(&network, 1), listen(&network, 0));
        let (mut a, mut b) = connect(&network, &listener, 0, 1);
        let (mut c, mut d) = connect(&network, &listener, 2, 1);
        assert_eq!(a.peer_addr().unwrap(), address(&network, 1));
        let through_proxy = b.peer_addr().unwrap().ip().to_string() != network.host(0);
        assert_eq!(through_proxy, !ports.is_empty());
        assert_eq!(network.delay(0, 1, PATIENCE, PATIENCE).is_ok(), through_proxy);
        network.heal_all().unwrap();
        let clients_reach = |member| {
            let at = address(&network, member);
            network
                .inside(|| TcpStream::connect_timeout(&at, PATIENCE).is_ok())
                .unwrap()
        };
        assert!(clients_reach(0) && crossing(&mut a, &mut b).is_some());

        network.cut_all(&network.links_of(0)).unwrap();
        assert_eq!(crossing(&mut a, &mut b), None);
        assert_eq!(crossing(&mut b, &mut a), None);
        assert!(!clients_reach(0));
        assert!(clients_reach(1) && crossing(&mut c, &mut d).is_some());
        network.heal_all().unwrap();
        for end in [&mut a, &mut b] {
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            end.read_exact(&mut [0])
                .expect("what was sent meanwhile comes late");
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        assert!(clients_reach(0));

        network.cut_all(&network.links_to(0)).unwrap();
        assert!(crossing(&mut a, &mut b).is_some(), "it is heard");
        assert_eq!(crossing(&mut b, &mut a), None);
        assert!(!clients_reach(0) && clients_reach(1));
        drop(own);
    }
}

/// Once, the hub took another hardware address when a member was added, and the others did not reach it for a while.
#[test]
fn whoever_is_connected_stays_so_while_members_are_added() {
    let mut network = Network::new(2, &[PORT]).unwrap();
    let listener = listen(&network, 1);
    let (mut a, mut b) = connect(&network, &listener, 0, 1);
    for _ in 0..6 {
        network.grow().unwrap();
        assert!(crossing(&mut a, &mut b).is_some() && crossing(&mut b, &mut a).is_some());
    }
}

#[test]
fn loss_loses_some_packets() {
    let network = Network::new(2, &[PORT]).unwrap();
    let bind = |member| {
        let at = address(&network, member);
        network
            .inside_member(member, || std::net::UdpSocket::bind(at).unwrap())
            .unwrap()
    };
    // Datagrams are neither redirected nor sent again: sent to the link's address, they pass its filter.
    let sender = bind(0);
    let target = network
        .inside(|| std::net::UdpSocket::bind((rules::link(0, 1), PORT)).unwrap())
        .unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    let arrived = |sent: usize| {
        for _ in 0..sent {
            // A dropped packet of one's own may be told as an error.
            let _ = sender.send_to(&[1], (rules::link(0, 1), PORT));
        }
        let mut count = 0;
        while count < sent && target.recv(&mut [0; 8]).is_ok() {
            count += 1;
        }
        count
    };
    assert_eq!(arrived(100), 100);
    network.loss(0, 1, 30).unwrap();
    let some = arrived(100);
    assert!((45..95).contains(&some), "{some} of 100 arrived");
    network.loss(0, 1, 0).unwrap();
    assert_eq!(arrived(100), 100);
}

#[test]
fn delays_half_open_and_frozen_links_are_felt_and_undone() {
    let network = Network::new(2, &[PORT]).unwrap();
    let listener = listen(&network, 1);
    let (mut a, mut b) = connect(&network, &listener, 0, 1);
    let (delay, jitter) = (Duration::from_millis(150), Duration::from_millis(50));
    network.delay(0, 1, delay, jitter).unwrap();
    let took = crossing(&mut a, &mut b).expect("it comes late");
    assert!(took >= delay, "{took:?}");
    assert!(
        crossing(&mut b, &mut a).unwrap() < delay,
        "the other direction is not late"
    );
    // In order, whatever the jitter says.
    let sent: Vec<u8> = (0..20).collect();
    for byte in &sent {
        a.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut read = [0; 20];
    b.read_exact(&mut read).unwrap();
    assert_eq!(read[..], sent);
    network.delay(0, 1, Duration::ZERO, Duration::ZERO).unwrap();
    assert!(crossing(&mut a, &mut b).unwrap() < delay);

    network.freeze(0, 1).unwrap();
    assert_eq!(crossing(&mut a, &mut b), None);
    network.thaw(0, 1).unwrap();
    b.read_exact(&mut [0]).expect("a frozen link loses nothing");

    network.half_open(0, 1).unwrap();
    assert_eq!(crossing(&mut a, &mut b), None);
    assert!(crossing(&mut b, &mut a).is_some(), "both ends stay open");
    network.half_close(0, 1).unwrap();
    assert_eq!(a.read(&mut [0]).unwrap_or(0), 0, "what has lost bytes is closed");

    let (mut a, mut b) = connect(&network, &listener, 0, 1);
    assert!(crossing(&mut a, &mut b).is_some());
    network.drop_connections(0, 1).unwrap();
    assert_eq!(a.read(&mut [0]).unwrap_or(0), 0);
    assert!(network.delay(0, 5, delay, jitter).is_err() && network.cut(0, 5).is_err());
}

#[test]
fn a_dropped_network_leaves_nothing() {
    let network = Network::new(1, &[PORT]).unwrap();
    let name = network.name().to_string();
    let there = || {
        let listed = std::fs::read_dir("/run/netns").unwrap();
        listed
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .starts_with(&name)
            })
            .count()
    };
    assert_eq!(there(), 2);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _network = network;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(there(), 0);
}
