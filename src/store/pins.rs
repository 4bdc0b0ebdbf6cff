//! What transfers rely on: the view that they read, and the log after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::view::View;

/// How long the log stays pinned after a transfer: until the receiver has installed, and says that it goes on from there.
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
    /// Does not hold it.
    view: Weak<View>,
    /// When it ends, once its transfer is over.
    end: Option<Instant>,
}

/// Keeps the log after an index until it is dropped; until a while later, once it is [`TransferPin::in_use`].
pub struct TransferPin {
    transfers: Transfers,
    number: u64,
    lingers: bool,
}

impl TransferPin {
    /// Says that somebody receives the view that this pin belongs to, and will ask for the entries after it.
    pub fn in_use(&mut self) {
        self.lingers = true;
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
            view,
            end: None,
        });
        TransferPin {
            transfers: self.clone(),
            number,
            lingers: false,
        }
    }

    /// The indices after which the log is pinned.
    pub fn logs(&self) -> Vec<u64> {
        self.logs_at(Instant::now())
    }

    fn logs_at(&self, now: Instant) -> Vec<u64> {
        let mut pins = self.lock();
        pins.pins.retain(|pin| pin.end.is_none_or(|end| now < end));
        pins.pins.iter().map(|pin| pin.index).collect()
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
        if !self.lingers {
            pins.pins.retain(|pin| pin.number != self.number);
        } else if let Some(pin) = pins.pins.iter_mut().find(|pin| pin.number == self.number) {
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
        assert_eq!(pins.logs(), Vec::<u64>::new());
        let (mut low, high) = (pins.pin_log(5, Weak::new()), pins.pin_log(9, Weak::new()));
        // A view that nobody receives: Raft looks at one at each start.
        drop(pins.pin_log(3, Weak::new()));
        assert_eq!(pins.logs(), [5, 9]);
        low.in_use();
        drop(low);
        assert_eq!(pins.logs(), [5, 9]);
        let later = Instant::now() + LINGER;
        assert_eq!(pins.logs_at(later), [9]);
        drop(high);
        assert_eq!(pins.logs_at(later), Vec::<u64>::new());
    }
}
