//! Values whose drop waits for the disk.

use std::ops::Deref;

use tokio::runtime::Handle;

use crate::machine::Threads;

/// Drops what it holds on a blocking thread, wherever it is dropped itself: closing RocksDB waits for the disk, and a
/// worker may carry heartbeats.
pub struct DropOnBlocking<T: Send + 'static> {
    value: Option<T>,
    threads: Threads,
}

impl<T: Send + 'static> DropOnBlocking<T> {
    /// Takes `value`.
    pub fn new(threads: &Threads, value: T) -> Self {
        Self {
            value: Some(value),
            threads: threads.clone(),
        }
    }

    /// Drops the value now, and returns once that is done: for those who go on with what it leaves behind.
    pub async fn close(mut self) {
        let Some(value) = self.value.take() else { return };
        let dropped = self.threads.run(move || drop(value)).await;
        if let Err(error) = dropped {
            tracing::error!(%error, "closing what was staged failed");
        }
    }

    /// Gives the value back, for a blocking thread.
    pub fn into_inner(mut self) -> T {
        self.value.take().expect("taken by its consumer only")
    }
}

impl<T: Send + 'static> Deref for DropOnBlocking<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("taken by its consumer only")
    }
}

impl<T: Send + 'static> Drop for DropOnBlocking<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        match Handle::try_current() {
            Ok(_) => self.threads.start(move || drop(value)),
            Err(_) => drop(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    struct Tells(mpsc::Sender<ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    /// Takes its time to go.
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(50));
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Once, a staged store was looked for by its sweep while it was still being closed, and stayed.
    #[tokio::test]
    async fn whoever_closes_goes_on_when_it_is_gone() {
        let gone = Arc::new(AtomicBool::new(false));
        DropOnBlocking::new(&Threads::default(), Slow(gone.clone()))
            .close()
            .await;
        assert!(gone.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn the_drop_happens_on_another_thread() {
        let (tx, rx) = mpsc::channel();
        drop(DropOnBlocking::new(&Threads::default(), Tells(tx.clone())));
        let dropped_by = tokio::task::spawn_blocking(move || rx.recv().unwrap())
            .await
            .unwrap();
        assert_ne!(dropped_by, std::thread::current().id());
        let (tx, rx) = mpsc::channel();
        drop(DropOnBlocking::new(&Threads::default(), Tells(tx)).into_inner());
        assert_eq!(rx.recv().unwrap(), std::thread::current().id());
    }
}
