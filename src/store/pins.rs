//! What transfers rely on: the view that they read, and the log after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::view::View;

/// How long the log stays pinned after a transfer, from where the receiver is on: it has to catch up with what was written
/// meanwhile, and may be further behind than others are waited for.
const LINGER: Duration = Duration::from_secs(60);

/// Transfers under way, and those whose receivers go on from them. Clones share them.
#[derive(Clone, Default)]
pub struct Transfers(Arc<Mutex<Pins>>);

#[derive(Default)]
struct Pins {
    next: u64,
    pins: Vec<Pin>,
}

struct Pin {
    number: u64,
    /// Log index after which somebody will ask for entries.
    index: u64,
    /// The member that was sent the view, and asks.
    receiver: Option<u64>,
    /// Does not hold it.
    view: Weak<View>,
    /// When it ends, once its transfer is over.
    end: Option<Instant>,
}

/// Keeps the log after an index until it is dropped; until a while later, once somebody receives the view.
pub struct TransferPin {
    transfers: Transfers,
    number: u64,
}

impl TransferPin {
    /// Says that member `receiver` receives the view that this pin belongs to, and will ask for the entries after it.
    pub fn received_by(&self, receiver: u64) {
        let mut pins = self.transfers.lock();
        if let Some(pin) = pins.pins.iter_mut().find(|pin| pin.number == self.number) {
            pin.receiver = Some(receiver);
        }
    }
}

impl Transfers {
    /// Pins the entries after `index`, for a transfer that reads `view`.
    pub fn pin(&self, index: u64, view: &Arc<View>) -> TransferPin {
        self.pin_log(index, Arc::downgrade(view))
    }

    fn pin_log(&self, index: u64, view: Weak<View>) -> TransferPin {
        let mut pins = self.lock();
        let number = pins.next;
        pins.next += 1;
        pins.pins.push(Pin {
            number,
            index,
            receiver: None,
            view,
            end: None,
        });
        TransferPin {
            transfers: self.clone(),
            number,
        }
    }

    /// The indices after which the log is pinned. `matched` answers how far a member is known to have the log: after its
    /// transfer a receiver needs no more than what comes after that.
    pub fn logs(&self, matched: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        self.logs_at(Instant::now(), matched)
    }

    fn logs_at(&self, now: Instant, matched: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        let mut pins = self.lock();
        pins.pins.retain(|pin| pin.end.is_none_or(|end| now < end));
        let needed = |pin: &Pin| {
            let has = pin.receiver.filter(|_| pin.end.is_some()).and_then(&matched);
            pin.index.max(has.unwrap_or(0))
        };
        pins.pins.iter().map(needed).collect()
    }

    /// Whether a transfer reads `view`.
    pub(super) fn read(&self, view: &Arc<View>) -> bool {
        let pins = self.lock();
        pins.pins
            .iter()
            .any(|pin| pin.end.is_none() && Weak::as_ptr(&pin.view) == Arc::as_ptr(view))
    }

    fn lock(&self) -> MutexGuard<'_, Pins> {
        // Every change of it is one push or one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TransferPin {
    fn drop(&mut self) {
        let mut pins = self.transfers.lock();
        pins.pins
            .retain(|pin| pin.number != self.number || pin.receiver.is_some());
        if let Some(pin) = pins.pins.iter_mut().find(|pin| pin.number == self.number) {
            pin.end = Some(Instant::now() + LINGER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_outlives_its_transfer_by_a_while() {
        let pins = Transfers::default();
        let logs = |has: Option<u64>| pins.logs(|member| has.filter(|_| member == 2));
        assert_eq!(logs(None), Vec::<u64>::new());
        let (low, high) = (pins.pin_log(5, Weak::new()), pins.pin_log(9, Weak::new()));
        // A view that nobody receives: Raft looks at one at each start.
        drop(pins.pin_log(3, Weak::new()));
        assert_eq!(logs(None), [5, 9]);
        low.received_by(2);
        assert_eq!(logs(Some(7)), [5, 9], "what it had before the view says nothing");
        drop(low);
        assert_eq!(logs(None), [5, 9]);
        assert_eq!(logs(Some(4)), [5, 9]);
        assert_eq!(logs(Some(7)), [7, 9], "it moves on with its receiver");
        let later = Instant::now() + LINGER;
        assert_eq!(pins.logs_at(later, |_| None), [9]);
        drop(high);
        assert_eq!(pins.logs_at(later, |_| None), Vec::<u64>::new());
    }
}
