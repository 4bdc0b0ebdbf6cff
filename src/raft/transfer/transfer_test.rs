//! Goal: a transfer arrives whole or not at all, whatever happens to its connections, and begins anew only when the
//! receiver has lost what was staged.
//! Method: the real client and a real server over loopback; between the server and the inbox, faults by connection.
//! Numbers of chunks and connections are asserted, times never are, but for a lower bound of the throttle.

mod member;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use nezha_api::peer;
use nezha_api::peer::snapshot_answer::Answer;
use nezha_api::peer::snapshot_part::Part;
use nezha_vlog::fs::{CrashFs, Fs};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::storage::RaftStateMachine;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::window::WINDOW_CHUNKS;
use super::{Answers, Patience, Sending, answer};
use crate::raft::network::Network;
use crate::raft::raft_test::{Node, put, run};
use crate::raft::types::{self, Vote};

use member::{Accept, Damaged, Fault, Member, identity, serve, serve_member, vote};

/// Values of the sender: ten to a chunk.
const VALUES: u64 = 300;
const VALUE_BYTES: usize = 100_000;
const CHUNKS: u64 = VALUES / 10;

/// Long enough for a busy machine; nothing waits for all of it unless a test is about to fail.
const PATIENT: Patience = Patience {
    stall: Duration::from_secs(20),
    alive: Duration::from_millis(100),
    progress: Duration::from_secs(60),
    idle: Duration::from_secs(150),
};

async fn sender() -> Node {
    let mut node = Node::open(CrashFs::new(), Arc::default());
    let entries = (0..VALUES)
        .map(|index| {
            let key = format!("key{index:05}");
            put(1, index, key.as_bytes(), &vec![index as u8; VALUE_BYTES])
        })
        .collect();
    node.append(entries).await.await.unwrap().unwrap();
    node.apply_to(VALUES - 1).await;
    node
}

fn receiver() -> Node {
    Node::open(CrashFs::new(), Arc::default())
}

/// Sends a fresh view in one call, as openraft does.
async fn send(node: &mut Node, addr: &str, sending: Sending) -> Result<Vote, String> {
    let snapshot = node.machine.get_current_snapshot().await.unwrap().unwrap();
    let mut network = Network::new(
        identity(1),
        80 << 20,
        sending,
        nezha_api::client::Dialer::default(),
    );
    let peer = types::Node {
        peer_addr: addr.to_owned(),
        ..types::Node::default()
    };
    let mut client = network.new_snapshot_client(2, &peer).await;
    let option = RPCOption::new(Duration::from_secs(1));
    let sent = client
        .full_snapshot(vote(3), snapshot, futures::future::pending(), option)
        .await;
    sent.map(|response| response.vote).map_err(|e| format!("{e:?}"))
}

fn unthrottled(patience: Patience) -> Sending {
    Sending::new(0, patience)
}

fn values(store: &crate::store::Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    crate::raft::raft_test::values(&store.view())
}

/// Transfers in one call that must succeed, and compares.
async fn transfers(patience: Patience, faults: &[Fault]) -> Arc<Member> {
    let mut node = sender().await;
    let member = Member::new(receiver(), patience, 3, faults);
    let addr = serve_member(&member).await;
    let answered = send(&mut node, &addr, unthrottled(patience)).await;
    assert_eq!(answered, Ok(vote(3)));
    assert!(values(&member.store) == node.values(), "the same bytes");
    member.store.sweep().unwrap();
    member
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    run(async {
        let cuts = [1, 5, 0, 9, 2];
        let faults = cuts.map(Fault::Cut);
        let member = transfers(PATIENT, &faults).await;
        let arrived = member.arrived();
        assert_eq!(
            arrived.len(),
            cuts.len() + 1,
            "a connection per cut and the last one"
        );
        // Each goes on exactly after what was staged: every chunk that arrived before the cut.
        let all: Vec<u64> = arrived.concat();
        assert_eq!(all, (0..CHUNKS).collect::<Vec<_>>());
        assert_eq!(
            member.stores(),
            vec![2],
            "staged once: store 1 was live, store 2 is"
        );
    });
}

#[test]
fn a_silent_connection_is_replaced() {
    run(async {
        let patience = Patience {
            stall: Duration::from_millis(500),
            ..PATIENT
        };
        let member = transfers(patience, &[Fault::Silence(3), Fault::Silence(1)]).await;
        assert!(member.arrived().len() >= 3);
        assert_eq!(member.stores(), vec![2], "staged once");
    });
}

#[test]
fn a_damaged_chunk_is_refused_and_sent_again() {
    run(async {
        let faults = [
            Fault::Damage(0, Damaged::Value),
            Fault::Damage(2, Damaged::Revision),
            Fault::Damage(2, Damaged::Checksum),
            Fault::Damage(CHUNKS - 1, Damaged::Value),
        ];
        let member = transfers(PATIENT, &faults).await;
        let arrived = member.arrived();
        let firsts: Vec<Option<u64>> = arrived.iter().map(|chunks| chunks.first().copied()).collect();
        assert_eq!(firsts, [0, 0, 2, 2, CHUNKS - 1].map(Some));
        assert_eq!(member.stores(), vec![2], "staged once");
    });
}

#[test]
fn what_never_arrives_intact_is_given_up_and_never_installed() {
    run(async {
        let patience = Patience {
            progress: Duration::from_secs(2),
            ..PATIENT
        };
        let mut node = sender().await;
        let member = Member::new(
            receiver(),
            patience,
            3,
            &[Fault::Damage(4, Damaged::Value); 10_000],
        );
        let addr = serve_member(&member).await;
        let error = send(&mut node, &addr, unthrottled(patience)).await.unwrap_err();
        assert!(error.contains("did not advance"), "{error}");
        assert!(error.contains("4 of"), "chunks 0 to 3 were staged: {error}");
        assert!(values(&member.store).is_empty());
    });
}

#[test]
fn a_receiver_that_forgot_ends_the_call_and_the_next_one_begins_anew() {
    run(async {
        let mut node = sender().await;
        let member = Member::new(receiver(), PATIENT, 3, &[Fault::Forget(12)]);
        let addr = serve_member(&member).await;
        let error = send(&mut node, &addr, unthrottled(PATIENT)).await.unwrap_err();
        assert!(
            error.contains("is not known here") && error.contains("Network"),
            "{error}"
        );
        assert!(values(&member.store).is_empty());
        send(&mut node, &addr, unthrottled(PATIENT)).await.unwrap();
        assert!(values(&member.store) == node.values(), "the same bytes");
    });
}

#[test]
fn nobody_there_is_no_reason_to_wait() {
    run(async {
        let mut node = sender().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = send(&mut node, &addr, unthrottled(PATIENT)).await.unwrap_err();
        assert!(error.contains("Unreachable"), "{error}");
        assert!(
            node.store.transfers().logs(|_| None).is_empty(),
            "nothing stays pinned"
        );
    });
}

#[test]
fn a_higher_vote_refuses_before_anything_is_staged() {
    run(async {
        let mut node = sender().await;
        let member = Member::new(receiver(), PATIENT, 4, &[]);
        let addr = serve_member(&member).await;
        assert_eq!(
            send(&mut node, &addr, unthrottled(PATIENT)).await,
            Ok(vote(4)),
            "openraft steps down"
        );
        assert_eq!((member.arrived(), member.stores()), (vec![vec![]], vec![1]));
    });
}

/// Waits for what must come true, however slow the machine is.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Begins a transfer and cancels it after some chunks.
async fn abandon(node: &mut Node, member: &Arc<Member>, addr: &str) {
    let begun = member.connections.load(Ordering::Relaxed);
    let some_arrived =
        || matches!(member.arrived.lock().unwrap().get(&begun), Some(chunks) if chunks.len() > 3);
    tokio::select! {
        sent = send(node, addr, Sending::new(4 << 20, PATIENT)) => panic!("{sent:?}"),
        () = eventually("some chunks have arrived", some_arrived) => {}
    }
}

#[test]
fn an_abandoned_transfer_is_given_up_and_swept() {
    run(async {
        let patience = Patience {
            idle: Duration::from_secs(3),
            ..PATIENT
        };
        let mut node = sender().await;
        let member = Member::new(receiver(), patience, 3, &[]);
        let addr = serve_member(&member).await;
        abandon(&mut node, &member, &addr).await;
        assert_eq!(member.store.view().index().state().applied, None);
        eventually("the staged store is gone", || member.stores() == vec![1]).await;
    });
}

#[test]
fn a_new_transfer_replaces_one_that_was_abandoned() {
    run(async {
        let mut node = sender().await;
        let member = Member::new(receiver(), PATIENT, 3, &[]);
        let addr = serve_member(&member).await;
        abandon(&mut node, &member, &addr).await;
        send(&mut node, &addr, unthrottled(PATIENT)).await.unwrap();
        assert!(values(&member.store) == node.values(), "the same bytes");
        eventually("the other staged store and the old one are gone", || {
            member.store.sweep().unwrap();
            member.stores() == vec![3]
        })
        .await;
    });
}

#[test]
fn the_sender_never_exceeds_the_window() {
    run(async {
        let mut node = sender().await;
        let accept: Accept = Arc::new(|_, mut parts| {
            let serving = async move {
                let (answers, stream) = mpsc::channel(64);
                tokio::spawn(async move {
                    let say = |said| answers.send(Ok(answer(said)));
                    let mut acknowledged = 0;
                    let (mut full, mut next) = (0, 0);
                    while let Some(part) = parts.next().await {
                        match part.unwrap().part.unwrap() {
                            Part::Header(_) => say(Answer::Staged(0)).await.unwrap(),
                            Part::Chunk(chunk) => {
                                assert_eq!(chunk.number, next);
                                next += 1;
                                if next < acknowledged + WINDOW_CHUNKS as u64 {
                                    continue;
                                }
                                full += 1;
                                assert_eq!(next, acknowledged + WINDOW_CHUNKS as u64, "the window");
                                // If more were sent, it would come now.
                                let rest =
                                    tokio::time::timeout(Duration::from_millis(50), parts.next()).await;
                                let idle = matches!(
                                    &rest,
                                    Err(_)
                                        | Ok(Some(Ok(peer::SnapshotPart {
                                            part: Some(Part::Alive(_))
                                        })))
                                );
                                assert!(idle, "{rest:?}");
                                acknowledged += 3;
                                say(Answer::Staged(acknowledged)).await.unwrap();
                            }
                            Part::Alive(_) => {}
                            Part::End(end) => {
                                assert!(full > 3 && end.chunks == CHUNKS);
                                say(Answer::Done(crate::raft::convert::vote_to_peer(&vote(3))))
                                    .await
                                    .unwrap();
                            }
                        }
                    }
                });
                let answers: Answers = Box::pin(ReceiverStream::new(stream));
                Ok(answers)
            };
            serving.boxed()
        });
        let addr = serve(identity(2), accept).await;
        assert_eq!(send(&mut node, &addr, unthrottled(PATIENT)).await, Ok(vote(3)));
    });
}

#[test]
fn a_throttled_transfer_takes_its_time() {
    run(async {
        let mut node = sender().await;
        let member = Member::new(receiver(), PATIENT, 3, &[]);
        let addr = serve_member(&member).await;
        let rate = 60 << 20;
        let started = std::time::Instant::now();
        send(&mut node, &addr, Sending::new(rate, PATIENT)).await.unwrap();
        // The last chunk is not waited for, and a rest before the first one saves a little.
        let waited_for = (CHUNKS - 1) * 10 * VALUE_BYTES as u64;
        let least = waited_for as f64 / rate as f64 - 0.1;
        assert!(started.elapsed().as_secs_f64() >= least, "{least} s");
        assert!(values(&member.store) == node.values(), "the same bytes");
    });
}

#[test]
fn damage_in_the_source_is_never_sent_on() {
    run(async {
        let mut node = sender().await;
        let view = node.store.view();
        let entry = view.index().get(b"key00150").unwrap().unwrap();
        let crate::index::Place::At(at) = entry.place else {
            panic!("{entry:?}")
        };
        drop(view);
        let log = node.store.data().log_dir();
        let file = log.join(format!("{:016x}.log", at.segment.get()));
        assert!(node.fs.exists(&file).unwrap(), "{file:?}");
        assert!(node.fs.flip_bit(&file, at.offset + 1000, 3));
        let member = Member::new(receiver(), PATIENT, 3, &[]);
        let addr = serve_member(&member).await;
        let error = send(&mut node, &addr, unthrottled(PATIENT)).await.unwrap_err();
        assert!(
            error.contains("00001.log") && error.contains("Unreachable"),
            "{error}"
        );
        assert!(values(&member.store).is_empty());
    });
}
