//! Threads of a simulated node: all that it does beside its async workers is done on the simulation's one thread.
//!
//! Work that waits for something else in its midst gets a real thread, but only one of all runs at any time: it and the
//! simulation hand the turn to each other.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use nezha::machine::{SimulatedThreads, Work};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Handle;
use tokio::time::sleep;

/// How long a piece of work waits for a thread and the disk, in microseconds, and how long under a stall.
const QUICK_MICROS: std::ops::Range<u64> = 50..2_000;
const STALLED_MICROS: std::ops::Range<u64> = 20_000..400_000;

/// The threads of one life of a node.
pub struct Threads {
    shared: Mutex<Shared>,
}

struct Shared {
    rng: StdRng,
    stalled: bool,
    exit: Option<i32>,
}

impl Threads {
    /// Their times are drawn from `seed`.
    pub fn new(seed: u64) -> Arc<Threads> {
        Arc::new(Threads {
            shared: Mutex::new(Shared {
                rng: StdRng::seed_from_u64(seed),
                stalled: false,
                exit: None,
            }),
        })
    }

    /// Makes everything slow, or quick again.
    pub fn stall(&self, stalled: bool) {
        self.shared().stalled = stalled;
    }

    /// The exit code, once the node has ended its process.
    pub fn exit_code(&self) -> Option<i32> {
        self.shared().exit
    }

    fn delay(&self) -> Duration {
        let shared = &mut *self.shared();
        let range = match shared.stalled {
            true => STALLED_MICROS,
            false => QUICK_MICROS,
        };
        Duration::from_micros(shared.rng.random_range(range))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the simulation says to a thread.
enum Turn {
    Go,
    /// The node is gone: unwind.
    End,
}

/// What a thread says to the simulation.
enum Said {
    WaitsFor(BoxFuture<'static, ()>),
    Done,
}

thread_local! {
    /// The two ends of a thread that works for a node.
    static TURN: RefCell<Option<(Receiver<Turn>, Sender<Said>)>> = const { RefCell::new(None) };
}

/// Why a thread unwinds whose node is gone.
struct Gone;

fn wait_for_turn() {
    let turn = TURN.with_borrow(|turn| {
        let (turns, _) = turn.as_ref().expect("only work that was started waits");
        turns.recv()
    });
    if !matches!(turn, Ok(Turn::Go)) {
        resume_unwind(Box::new(Gone));
    }
}

/// The simulation's side of a thread. Dropped before the thread is done, it ends it.
struct Hand {
    turns: Sender<Turn>,
    said: Receiver<Said>,
    done: bool,
}

impl Hand {
    /// Gives the thread its turn until it is done.
    async fn drive(mut self) {
        loop {
            if self.turns.send(Turn::Go).is_err() {
                self.done = true;
                return;
            }
            match self.said.recv() {
                Ok(Said::WaitsFor(until)) => until.await,
                Ok(Said::Done) | Err(_) => {
                    self.done = true;
                    return;
                }
            }
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        while !self.done {
            drop(self.turns.send(Turn::End));
            // A destructor that waits is told the same.
            self.done = !matches!(self.said.recv(), Ok(Said::WaitsFor(_)));
        }
    }
}

impl SimulatedThreads for Threads {
    fn run(&self, work: Work) {
        let delay = self.delay();
        tokio::spawn(async move {
            sleep(delay).await;
            work();
        });
    }

    fn start(&self, work: Work) {
        let delay = self.delay();
        let (turns, my_turns) = channel();
        let (saying, said) = channel();
        let inside = Handle::current();
        std::thread::spawn(move || {
            let _inside = inside.enter();
            TURN.set(Some((my_turns, saying.clone())));
            // The panic's hook has told about it already.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                wait_for_turn();
                work();
            }));
            TURN.set(None);
            drop(saying.send(Said::Done));
        });
        let hand = Hand {
            turns,
            said,
            done: false,
        };
        tokio::spawn(async move {
            let hand = hand;
            sleep(delay).await;
            hand.drive().await;
        });
    }

    fn wait(&self, until: BoxFuture<'static, ()>) {
        if std::thread::panicking() {
            return;
        }
        // A thread does not always run as soon as it could.
        let is_late = self.shared().rng.random_ratio(1, 2);
        let late = is_late.then(|| self.delay());
        let until = async move {
            until.await;
            if let Some(late) = late {
                sleep(late).await;
            }
        }
        .boxed();
        TURN.with_borrow(|turn| {
            let (_, said) = turn.as_ref().expect("only work that was started waits");
            drop(said.send(Said::WaitsFor(until)));
        });
        wait_for_turn();
    }

    fn repeat(&self, mut step: Box<dyn FnMut() -> ControlFlow<()> + Send>) {
        // Each life has an own generator, so that rounds do not shift the delays of other work.
        let mut rng = StdRng::seed_from_u64(self.shared().rng.random());
        let first = self.delay();
        tokio::spawn(async move {
            sleep(first).await;
            loop {
                if step().is_break() {
                    return;
                }
                sleep(Duration::from_micros(rng.random_range(200..1500))).await;
            }
        });
    }

    fn pass(&self) {
        if self.shared().rng.random_ratio(1, 4) {
            self.wait(sleep(self.delay()).boxed());
        }
    }

    fn exit(&self, code: i32) {
        self.shared().exit.get_or_insert(code);
    }
}
