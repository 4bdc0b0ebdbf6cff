//! Byte credits: how much may be on the way to one peer before an answer came back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Bytes on the way to one peer, in request order. One request is always allowed, whatever its size.
pub(crate) struct Credits {
    window: u64,
    state: Mutex<InFlight>,
    released: Notify,
}

#[derive(Default)]
struct InFlight {
    requests: VecDeque<(u64, Instant)>,
    bytes: u64,
}

impl Credits {
    /// `window`: bytes that may be unanswered before the next request waits.
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            state: Mutex::default(),
            released: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another request may be sent.
    pub(crate) async fn acquire(&self) {
        loop {
            let released = self.released.notified();
            if self.lock().bytes < self.window {
                return;
            }
            released.await;
        }
    }

    /// Books a request that is being sent now.
    pub(crate) fn sent(&self, bytes: u64) {
        let mut state = self.lock();
        state.bytes += bytes;
        state.requests.push_back((bytes, Instant::now()));
    }

    /// Books the answer to the oldest request. Errors: false when none was open.
    pub(crate) fn answered(&self) -> bool {
        let mut state = self.lock();
        let Some((bytes, _)) = state.requests.pop_front() else {
            return false;
        };
        state.bytes -= bytes;
        drop(state);
        self.released.notify_one();
        true
    }

    /// When the oldest unanswered request was sent.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.lock().requests.front().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_window_waits_for_an_answer() {
        let credits = Credits::new(100);
        credits.acquire().await;
        credits.sent(1000); // larger than the window: allowed when nothing is on the way
        let waiting = credits.acquire();
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(credits.answered());
        waiting.await;
        assert!(!credits.answered());
        assert!(credits.oldest().is_none());
    }
}
