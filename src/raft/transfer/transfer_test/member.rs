//! A receiving member without Raft, whose connections have faults.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use nezha_api::peer;
use nezha_api::peer::peer_service_server::{PeerService, PeerServiceServer};
use nezha_api::peer::snapshot_part::Part;
use nezha_vlog::fs::{CrashFs, Fs};
use openraft::storage::RaftStateMachine;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::identity::DataDir;
use crate::machine::Threads;
use crate::raft::peer_identity::PeerIdentity;
use crate::raft::raft_test::Node;
use crate::raft::snapshot::Snapshot;
use crate::raft::state_machine::StateMachine;
use crate::raft::transfer::inbox::Parts;
use crate::raft::transfer::{Answers, Inbox, Patience, Target};
use crate::raft::types::Vote;
use crate::store::Store;

/// What happens on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It breaks after so many chunks.
    Cut(u64),
    /// It falls silent after so many chunks, in both directions.
    Silence(u64),
    /// It breaks after so many chunks, and the receiver forgets.
    Forget(u64),
    /// The chunk of this number changes.
    Damage(u64, Damaged),
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damaged {
    Value,
    Revision,
    Checksum,
}

/// Installs into a state machine without Raft.
struct Machine {
    machine: Arc<tokio::sync::Mutex<StateMachine>>,
    vote: Vote,
}

impl Target for Machine {
    fn vote(&self) -> Vote {
        self.vote
    }

    fn install(&self, vote: Vote, snapshot: Snapshot) -> BoxFuture<'static, Result<Vote, Status>> {
        let machine = self.machine.clone();
        Box::pin(async move {
            let mut machine = machine.lock().await;
            let installed = machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await;
            installed.map_err(|e| Status::internal(e.to_string()))?;
            Ok(vote)
        })
    }
}

/// The receiving member.
pub(super) struct Member {
    pub(super) store: Arc<Store>,
    target: Arc<Machine>,
    patience: Patience,
    inbox: Mutex<Inbox>,
    identity: Arc<PeerIdentity>,
    faults: Mutex<VecDeque<Fault>>,
    pub(super) connections: AtomicUsize,
    /// Numbers of the chunks that arrived, by connection.
    pub(super) arrived: Arc<Mutex<BTreeMap<usize, Vec<u64>>>>,
}

pub(super) fn identity(node_id: u64) -> Arc<PeerIdentity> {
    let fs: Arc<dyn Fs> = Arc::new(CrashFs::new());
    fs.create_dir_all(Path::new("/peers")).unwrap();
    let data = DataDir::unlocked(fs, Path::new("/peers")).unwrap();
    Arc::new(PeerIdentity {
        cluster_id: 7,
        node_id,
        incarnation: node_id,
        peers: Arc::new(data.peers().unwrap()),
        threads: Threads::default(),
    })
}

pub(super) fn vote(term: u64) -> Vote {
    Vote::new_committed(term, 1)
}

impl Member {
    pub(super) fn new(node: Node, patience: Patience, term: u64, faults: &[Fault]) -> Arc<Member> {
        let target = Arc::new(Machine {
            machine: Arc::new(tokio::sync::Mutex::new(node.machine)),
            vote: vote(term),
        });
        let inbox = Inbox::new(node.store.clone(), target.clone(), patience);
        Arc::new(Member {
            store: node.store,
            target,
            patience,
            inbox: Mutex::new(inbox),
            identity: identity(2),
            faults: Mutex::new(faults.iter().copied().collect()),
            connections: AtomicUsize::new(0),
            arrived: Arc::default(),
        })
    }

    pub(super) fn arrived(&self) -> Vec<Vec<u64>> {
        self.arrived.lock().unwrap().values().cloned().collect()
    }

    pub(super) fn stores(&self) -> Vec<u64> {
        self.store.data().stores().unwrap()
    }

    pub(super) async fn accept(self: Arc<Self>, from: u64, parts: Parts) -> Result<Answers, Status> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        self.arrived.lock().unwrap().insert(number, Vec::new());
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let (ended, end) = oneshot::channel::<()>();
        // Parts that are dropped end nothing: the last answer is still to come.
        let end = async move {
            if end.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let (arrived, mut ended) = (self.arrived.clone(), Some(ended));
        let mut seen = 0;
        let parts = parts.map(move |part| {
            let mut part = part?;
            let limit = match fault {
                Fault::Cut(chunks) | Fault::Silence(chunks) | Fault::Forget(chunks) => chunks,
                Fault::Damage(..) | Fault::None => u64::MAX,
            };
            if let Some(Part::Chunk(chunk)) = &mut part.part {
                if seen == limit {
                    if let Some(ended) = ended.take() {
                        let _ = ended.send(());
                    }
                    return Err(Status::unavailable("cut"));
                }
                seen += 1;
                arrived
                    .lock()
                    .unwrap()
                    .get_mut(&number)
                    .unwrap()
                    .push(chunk.number);
                if let Fault::Damage(at, what) = fault
                    && at == chunk.number
                {
                    damage(chunk, what);
                }
            }
            Ok(part)
        });
        let inbox = self.inbox.lock().unwrap().clone();
        if matches!(fault, Fault::Silence(_)) {
            // The error does not arrive, and no answer any more.
            let parts = parts.take_while(|part| futures::future::ready(part.is_ok()));
            let parts: Parts = Box::pin(parts.chain(stream::pending()));
            let answers = inbox.accept(from, parts).await?;
            return Ok(Box::pin(answers.take_until(end).chain(stream::pending())));
        }
        let answers = inbox.accept(from, Box::pin(parts)).await?;
        let member = self.clone();
        let cut = async move {
            end.await;
            if matches!(fault, Fault::Forget(_)) {
                let fresh = Inbox::new(member.store.clone(), member.target.clone(), member.patience);
                *member.inbox.lock().unwrap() = fresh;
            }
        };
        let last = match fault {
            Fault::Cut(_) | Fault::Forget(_) => Some(Err(Status::unavailable("cut"))),
            _ => None,
        };
        Ok(Box::pin(answers.take_until(cut).chain(stream::iter(last))))
    }
}

fn damage(chunk: &mut peer::SnapshotChunk, what: Damaged) {
    let item = chunk.items.last_mut().unwrap();
    match what {
        Damaged::Value => {
            let mut bytes = item.record.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            item.record = bytes.into();
        }
        Damaged::Revision => item.create_revision ^= 1,
        Damaged::Checksum => chunk.checksum ^= 1,
    }
}

/// What serves one connection of a transfer.
pub(super) type Accept = Arc<dyn Fn(u64, Parts) -> BoxFuture<'static, Result<Answers, Status>> + Send + Sync>;

/// A peer port that knows snapshots only.
struct Port {
    identity: Arc<PeerIdentity>,
    accept: Accept,
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl PeerService for Port {
    type AppendStreamStream = stream::Pending<Result<peer::AppendResponse, Status>>;
    type InstallSnapshotStream = Answers;

    async fn identify(
        &self,
        _: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        not_here()
    }

    async fn append_stream(
        &self,
        _: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        not_here()
    }

    async fn append(
        &self,
        _: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendResponse>, Status> {
        not_here()
    }

    async fn vote(&self, _: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        not_here()
    }

    async fn pre_vote(&self, _: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        not_here()
    }

    async fn transfer_leader(
        &self,
        _: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        not_here()
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotPart>>,
    ) -> Result<Response<Answers>, Status> {
        let from = self.identity.check(request.metadata()).await?;
        let answers = (self.accept)(from, Box::pin(request.into_inner())).await?;
        Ok(self.identity.answer(answers))
    }
}

/// Serves until the test ends; answers the address.
pub(super) async fn serve(identity: Arc<PeerIdentity>, accept: Accept) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let service = PeerServiceServer::new(Port { identity, accept });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    addr
}

pub(super) async fn serve_member(member: &Arc<Member>) -> String {
    let serving = member.clone();
    let accept: Accept = Arc::new(move |from, parts| serving.clone().accept(from, parts).boxed());
    serve(member.identity.clone(), accept).await
}
