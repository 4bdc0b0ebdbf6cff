//! Log that a transfer relies on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a pin lasts after its transfer: until the receiver has installed, and says that it goes on from there.
const LINGER: Duration = Duration::from_secs(60);

/// Log indices after which somebody will ask for entries. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LogPins(Arc<Mutex<Pins>>);

#[derive(Debug, Default)]
struct Pins {
    next: u64,
    /// Number, index, and when it ends, once its transfer is over.
    pins: Vec<(u64, u64, Option<Instant>)>,
}

/// Keeps the log after an index until it is dropped; until a while later, once it is [`LogPin::in_use`].
#[derive(Debug)]
pub struct LogPin {
    pins: LogPins,
    number: u64,
    lingers: bool,
}

impl LogPin {
    /// Says that somebody receives the view that this pin belongs to, and will ask for the entries after it.
    pub fn in_use(&mut self) {
        self.lingers = true;
    }
}

impl LogPins {
    /// Pins the entries after `index`.
    pub fn pin(&self, index: u64) -> LogPin {
        let mut pins = self.lock();
        let number = pins.next;
        pins.next += 1;
        pins.pins.push((number, index, None));
        LogPin {
            pins: self.clone(),
            number,
            lingers: false,
        }
    }

    /// The lowest pinned index.
    pub fn lowest(&self) -> Option<u64> {
        self.lowest_at(Instant::now())
    }

    fn lowest_at(&self, now: Instant) -> Option<u64> {
        let mut pins = self.lock();
        pins.pins.retain(|(_, _, end)| end.is_none_or(|end| now < end));
        pins.pins.iter().map(|(_, index, _)| *index).min()
    }

    fn lock(&self) -> MutexGuard<'_, Pins> {
        // Every change of it is one push or one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if !self.lingers {
            pins.pins.retain(|(number, _, _)| *number != self.number);
        } else if let Some((_, _, end)) = pins.pins.iter_mut().find(|(number, _, _)| *number == self.number) {
            *end = Some(Instant::now() + LINGER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_outlives_its_transfer_by_a_while() {
        let pins = LogPins::default();
        assert_eq!(pins.lowest(), None);
        let (mut low, high) = (pins.pin(5), pins.pin(9));
        // A view that nobody receives: Raft looks at one at each start.
        drop(pins.pin(3));
        assert_eq!(pins.lowest(), Some(5));
        low.in_use();
        drop(low);
        assert_eq!(pins.lowest(), Some(5));
        let later = Instant::now() + LINGER;
        assert_eq!(pins.lowest_at(later), Some(9));
        drop(high);
        assert_eq!(pins.lowest_at(later), None);
    }
}
