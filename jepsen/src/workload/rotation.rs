use std::sync::atomic::{AtomicU64, Ordering};

/// Slots, each of which stands for one key after another: after so many operations on a key comes the next. The search
/// for an order costs much more for one long history of a key than for many short ones.
#[derive(Debug)]
pub struct Rotation {
    prefix: String,
    per_key: u64,
    uses: Vec<AtomicU64>,
}

impl Rotation {
    /// `slots` keys at a time that begin with `prefix`, `per_key` operations each.
    pub fn new(prefix: &str, slots: usize, per_key: u64) -> Rotation {
        Rotation {
            prefix: prefix.to_owned(),
            per_key,
            uses: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many there are at a time.
    pub fn slots(&self) -> usize {
        self.uses.len()
    }

    /// The present key of `slot`; counts one operation on it.
    pub fn key(&self, slot: usize) -> String {
        let used = self.uses[slot].fetch_add(1, Ordering::Relaxed);
        format!("{}{slot:02}.{:05}", self.prefix, used / self.per_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_moves_on_to_the_next_key() {
        let keys = Rotation::new("r/", 2, 3);
        let drawn: Vec<String> = (0..4).map(|_| keys.key(1)).collect();
        assert_eq!(drawn, ["r/01.00000", "r/01.00000", "r/01.00000", "r/01.00001"]);
        assert_eq!(keys.key(0), "r/00.00000");
    }
}
