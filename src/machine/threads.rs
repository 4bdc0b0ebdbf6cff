use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Something to do, once.
pub type Work = Box<dyn FnOnce() + Send>;

/// Work that ended without a result: it panicked, or the node ended.
#[derive(Debug, Error)]
#[error("work beside the async workers ended early: {0}")]
pub struct Lost(String);

/// Threads of a simulation: all is done on one.
pub trait SimulatedThreads: Send + Sync {
    /// Does `work` when its time has come. It does not call [`SimulatedThreads::wait`].
    fn run(&self, work: Work);
    /// Begins `work`, which may call [`SimulatedThreads::wait`].
    fn start(&self, work: Work);
    /// Called from within what was started: lets everything else go on until `until` is ready.
    fn wait(&self, until: BoxFuture<'static, ()>);
    /// Does `step` again and again, until it breaks.
    fn repeat(&self, step: Box<dyn FnMut() -> ControlFlow<()> + Send>);
    /// Called from within what was started: lets others go on for a moment, or not.
    fn pass(&self);
    /// The process ends with this exit code. Returns; what still runs ends soon.
    fn exit(&self, code: i32);
}

/// Does what waits for a disk, beside the async workers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<dyn SimulatedThreads>>);

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            None => "Threads",
            Some(_) => "SimulatedThreads",
        })
    }
}

impl Threads {
    /// Those of a simulation.
    pub fn simulated(threads: Arc<dyn SimulatedThreads>) -> Threads {
        Threads(Some(threads))
    }

    /// Begins `work` on one of the runtime's blocking threads, at once; the future gives its result. Work that was begun is
    /// done, whether or not anybody waits for it.
    ///
    /// Errors: `work` panicked, or the runtime is going down.
    pub fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, Lost>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let begun = match &self.0 {
            None => Either::Left(tokio::task::spawn_blocking(work)),
            Some(simulated) => {
                let (done, result) = oneshot::channel();
                simulated.run(Box::new(move || drop(done.send(work()))));
                Either::Right(result)
            }
        };
        async move {
            match begun {
                Either::Left(thread) => thread.await.map_err(|error| Lost(error.to_string())),
                Either::Right(result) => result.await.map_err(|error| Lost(error.to_string())),
            }
        }
    }

    /// Begins `work` on one of the runtime's blocking threads; it may call [`Threads::wait`].
    pub fn start(&self, work: impl FnOnce() + Send + 'static) {
        match &self.0 {
            None => drop(tokio::task::spawn_blocking(work)),
            Some(simulated) => simulated.start(Box::new(work)),
        }
    }

    /// Begins `work` on a thread of its own; it may call [`Threads::sleep`].
    ///
    /// Errors: the system has no thread.
    pub fn own(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match &self.0 {
            None => std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map(drop),
            Some(simulated) => {
                simulated.start(Box::new(work));
                Ok(())
            }
        }
    }

    /// Begins a loop on a thread of its own: `whole` is all of it, `step` one round, which never waits for something to
    /// do. Only a simulation goes by rounds.
    ///
    /// Errors: the system has no thread.
    pub fn own_loop<S: Send + 'static>(
        &self,
        name: &str,
        mut state: S,
        whole: impl FnOnce(S) + Send + 'static,
        mut step: impl FnMut(&mut S) -> ControlFlow<()> + Send + 'static,
    ) -> io::Result<Option<JoinHandle<()>>> {
        let Some(simulated) = &self.0 else {
            let thread = std::thread::Builder::new().name(name.to_owned());
            return thread.spawn(move || whole(state)).map(Some);
        };
        simulated.repeat(Box::new(move || step(&mut state)));
        Ok(None)
    }

    /// Waits, within work that was begun by [`Threads::start`], for `until`. Blocking.
    pub fn wait<T: Send + 'static>(&self, until: impl Future<Output = T> + Send + 'static) -> T {
        let Some(simulated) = &self.0 else {
            return Handle::current().block_on(until);
        };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        simulated.wait(
            async move {
                let value = until.await;
                *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            }
            .boxed(),
        );
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take().expect("it was waited for")
    }

    /// Sleeps, within work that was begun by [`Threads::own`]. Blocking.
    pub fn sleep(&self, duration: Duration) {
        match &self.0 {
            None => std::thread::sleep(duration),
            Some(simulated) => simulated.wait(tokio::time::sleep(duration).boxed()),
        }
    }

    /// Within work that was begun by [`Threads::own`]: others may go on here. A system needs no such hint.
    pub fn pass(&self) {
        if let Some(simulated) = &self.0 {
            simulated.pass();
        }
    }

    /// Ends the process at once, without any destructor. A simulation returns, and ends the node soon.
    pub fn exit(&self, code: i32) {
        match &self.0 {
            None => std::process::exit(code),
            Some(simulated) => simulated.exit(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn work_begins_before_anybody_waits_for_it() {
        let (begun, told) = channel();
        let work = Threads::default().run(move || begun.send(()).is_ok());
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(work.await.unwrap());
        let lost = Threads::default().run(|| panic!("as wanted")).await;
        assert!(lost.is_err());
    }

    #[tokio::test]
    async fn work_may_wait_for_what_the_workers_do() {
        let threads = Threads::default();
        let (done, result) = oneshot::channel();
        let (ask, asked) = oneshot::channel::<u32>();
        let inside = threads.clone();
        threads.start(move || drop(done.send(inside.wait(asked))));
        ask.send(7).unwrap();
        assert_eq!(result.await.unwrap().unwrap(), 7);
    }
}
