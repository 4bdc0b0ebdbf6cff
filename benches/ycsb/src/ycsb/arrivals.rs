//! When operations begin: as soon as a client is free, or by a schedule that does not wait for the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Says when each operation is to begin.
#[derive(Debug)]
pub(crate) enum Arrivals {
    /// Closed loop: a client that is free begins the next.
    Free,
    /// Open loop: one schedule for all clients.
    Scheduled(Schedule),
}

impl Arrivals {
    /// Arrivals from `start` on, `target` per second if there is one.
    ///
    /// Errors: no thread can be started.
    pub(crate) fn new(start: Instant, target: Option<f64>) -> std::io::Result<Arrivals> {
        match target {
            Some(rate) => Schedule::start(start, rate).map(Arrivals::Scheduled),
            None => Ok(Arrivals::Free),
        }
    }

    /// Waits until an operation is due; returns when it should have begun, or `None` after [`Arrivals::close`].
    pub(crate) async fn next(&self) -> Option<Instant> {
        match self {
            Arrivals::Free => Some(Instant::now()),
            Arrivals::Scheduled(schedule) => schedule.next().await,
        }
    }

    /// Wakes all that wait for an operation to become due.
    pub(crate) fn close(&self) {
        if let Arrivals::Scheduled(schedule) = self {
            schedule.due.close();
        }
    }
}

/// Times of operations at a fixed rate. The n-th is due at `start + n / rate`, whatever became of those before: a
/// client that is free takes the oldest that is due, so a store that stalls leaves a queue, and the wait in it shows.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    rate: f64,
    taken: AtomicU64,
    /// One permit for each operation that is due.
    due: Arc<Semaphore>,
    stop: Option<mpsc::Sender<()>>,
    timer: Option<JoinHandle<()>>,
}

/// The time after `start` at which operation `number` is due.
fn due_after(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

/// Operations that are due after `passed` since the start.
fn due_by(passed: Duration, rate: f64) -> u64 {
    (passed.as_secs_f64() * rate) as u64 + 1
}

impl Schedule {
    /// A schedule of `rate` operations per second. A thread keeps time: tokio's timers know milliseconds only.
    fn start(start: Instant, rate: f64) -> std::io::Result<Schedule> {
        let due = Arc::new(Semaphore::new(0));
        let (stop, stopped) = mpsc::channel();
        let permits = due.clone();
        let timer = std::thread::Builder::new()
            .name("ycsb-schedule".to_owned())
            .spawn(move || keep_time(start, rate, &permits, &stopped))?;
        Ok(Schedule {
            start,
            rate,
            taken: AtomicU64::new(0),
            due,
            stop: Some(stop),
            timer: Some(timer),
        })
    }

    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.start + due_after(number, self.rate))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        // The thread ends when the channel does.
        self.stop.take();
        if let Some(timer) = self.timer.take() {
            let _panicked = timer.join();
        }
    }
}

/// Adds a permit for each operation when it is due, until the channel ends or the semaphore is closed.
fn keep_time(start: Instant, rate: f64, permits: &Semaphore, stopped: &mpsc::Receiver<()>) {
    let mut released: u64 = 0;
    while !permits.is_closed() {
        let now = Instant::now();
        let next = start + due_after(released, rate);
        if next > now {
            if stopped.recv_timeout(next - now) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            continue;
        }
        let all = due_by(now - start, rate).max(released + 1);
        let step = usize::try_from(all - released).unwrap_or(usize::MAX);
        // A queue beyond what a semaphore can count is not a queue that anybody waits for.
        permits.add_permits(step.min(Semaphore::MAX_PERMITS - permits.available_permits()));
        released = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_at_their_rate() {
        assert_eq!(due_after(0, 1_000.0), Duration::ZERO);
        assert_eq!(due_after(1_500, 1_000.0), Duration::from_millis(1_500));
        assert_eq!(due_by(Duration::ZERO, 10.0), 1);
        assert_eq!(due_by(Duration::from_millis(99), 10.0), 1);
        assert_eq!(due_by(Duration::from_millis(1_001), 10.0), 11);
        // Ten hours on, nothing has drifted.
        let late = due_after(36_000 * 3_333, 3_333.0);
        assert!(late.abs_diff(Duration::from_secs(36_000)) < Duration::from_micros(1));
    }

    #[tokio::test]
    async fn nothing_begins_before_it_is_due() {
        let start = Instant::now() + Duration::from_millis(20);
        let arrivals = Arrivals::new(start, Some(500.0)).unwrap();
        for number in 0..50 {
            let intended = arrivals.next().await.unwrap();
            assert!(Instant::now() >= intended);
            assert_eq!(intended, start + due_after(number, 500.0));
        }
    }

    #[tokio::test]
    async fn the_schedule_does_not_wait_for_clients() {
        let start = Instant::now();
        let arrivals = Arrivals::new(start, Some(100.0)).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Thirty are due at once now, each with the time at which it should have begun.
        let mut last = start;
        for number in 0..30 {
            let intended = tokio::time::timeout(Duration::from_millis(100), arrivals.next());
            last = intended.await.unwrap().unwrap();
            assert_eq!(last, start + due_after(number, 100.0));
        }
        assert!(last <= start + Duration::from_millis(300));
    }

    #[tokio::test]
    async fn closing_wakes_who_waits() {
        let start = Instant::now() + Duration::from_secs(600);
        let arrivals = Arc::new(Arrivals::new(start, Some(1.0)).unwrap());
        let waiting = tokio::spawn({
            let arrivals = arrivals.clone();
            async move { arrivals.next().await }
        });
        tokio::task::yield_now().await;
        arrivals.close();
        assert_eq!(waiting.await.unwrap(), None);
        let free = Arrivals::new(start, None).unwrap();
        assert!(free.next().await.unwrap() < start);
    }
}
