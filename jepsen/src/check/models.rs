//! What one key does when operations follow one another.

use rustc_hash::FxHashSet;

use super::wgl::Model;
use crate::history::Stamp;

/// Number of a value among the values of its key.
pub(super) type ValueId = u32;

/// Any value that nobody was ever told of, on a key where it does not matter which.
pub(super) const UNSEEN: ValueId = ValueId::MAX;

/// A condition on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum When {
    Always,
    Absent,
    Revision(u64),
    Value(ValueId),
}

/// An operation on a register, with what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RegisterOp {
    Read {
        found: Option<(ValueId, Option<Stamp>)>,
    },
    Put {
        value: ValueId,
        when: When,
        revision: Option<u64>,
    },
    Delete {
        when: When,
        existed: Option<bool>,
        revision: Option<u64>,
    },
    Refused {
        when: When,
        current: Option<u64>,
        revision: Option<u64>,
    },
}

/// A key that holds one value, with the metadata of our store where it is known.
#[derive(Debug)]
pub(super) struct Register<'a> {
    pub(super) operations: Vec<RegisterOp>,
    /// Revisions of all effects that are known, on whichever key: no other write has them.
    pub(super) taken: &'a FxHashSet<u64>,
    /// Whether some answer tells a version. If none does, states that differ in it are the same.
    pub(super) stamped: bool,
    /// Of each value: whether one operation alone writes it.
    pub(super) unique: Vec<bool>,
}

impl RegisterOp {
    /// What it writes.
    pub(super) fn writes(self) -> Option<ValueId> {
        match self {
            RegisterOp::Put { value, .. } => Some(value),
            RegisterOp::Read { .. } | RegisterOp::Delete { .. } | RegisterOp::Refused { .. } => None,
        }
    }

    /// The value that its key must hold for it.
    pub(super) fn sees(self) -> Option<ValueId> {
        match self {
            RegisterOp::Read { found } => found.map(|(value, _)| value),
            RegisterOp::Put {
                when: When::Value(value),
                ..
            }
            | RegisterOp::Delete {
                when: When::Value(value),
                ..
            } => Some(value),
            RegisterOp::Put { .. } | RegisterOp::Delete { .. } | RegisterOp::Refused { .. } => None,
        }
    }
}

/// State of a register. Revisions that nobody was told are 0 until an answer tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Last revision that is known to lie behind.
    at: u64,
    here: Option<Here>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Here {
    value: ValueId,
    created: u64,
    revision: u64,
    version: u64,
}

impl Register<'_> {
    /// The state once it is known that the key's revision is `revision`; `None` if it is not.
    fn learn(&self, state: &Key, revision: u64) -> Option<Key> {
        let mut here = state.here?;
        if here.revision == 0 {
            if revision <= state.at || self.taken.contains(&revision) {
                return None;
            }
            if here.version == 1 {
                here.created = revision;
            }
            here.revision = revision;
            return Some(Key {
                at: revision,
                here: Some(here),
            });
        }
        (here.revision == revision).then_some(*state)
    }

    fn matches(&self, state: &Key, stamp: Stamp) -> Option<Key> {
        let mut state = self.learn(state, stamp.revision)?;
        let here = state.here.as_mut()?;
        if here.created == 0 && stamp.created < stamp.revision && !self.taken.contains(&stamp.created) {
            here.created = stamp.created;
        }
        (here.created == stamp.created && here.version == stamp.version).then_some(state)
    }

    /// The state if the condition holds in it.
    fn holds(&self, state: &Key, when: When) -> Option<Key> {
        match when {
            When::Always => Some(*state),
            When::Absent => state.here.is_none().then_some(*state),
            When::Revision(revision) => self.learn(state, revision),
            When::Value(value) => state
                .here
                .is_some_and(|here| here.value == value)
                .then_some(*state),
        }
    }

    fn refused(&self, state: &Key, when: When, current: Option<u64>, revision: Option<u64>) -> Option<Key> {
        if revision.is_some_and(|revision| state.at > revision) {
            return None;
        }
        let state = match current {
            Some(0) => state.here.is_none().then_some(*state)?,
            Some(current) => self.learn(state, current)?,
            None => *state,
        };
        let held = match (when, state.here) {
            (When::Always, _) | (When::Absent, None) => true,
            (When::Absent, Some(_)) | (When::Revision(_) | When::Value(_), None) => false,
            (When::Revision(revision), Some(here)) => here.revision == revision,
            (When::Value(value), Some(here)) => here.value == value,
        };
        (!held).then_some(state)
    }

    /// After an effect at `revision`, if it can be the next.
    fn advance(&self, state: &Key, revision: Option<u64>, here: Option<Here>) -> Option<Key> {
        match revision {
            Some(revision) if revision <= state.at => None,
            Some(revision) => Some(Key { at: revision, here }),
            None => Some(Key { at: state.at, here }),
        }
    }
}

impl Model for Register<'_> {
    type State = Key;

    fn initial(&self) -> Key {
        Key { at: 0, here: None }
    }

    fn step(&self, state: &Key, operation: usize) -> Option<Key> {
        match self.operations[operation] {
            RegisterOp::Read { found: None } => state.here.is_none().then_some(*state),
            RegisterOp::Read {
                found: Some((value, stamp)),
            } => {
                let state = self.holds(state, When::Value(value))?;
                match stamp {
                    Some(stamp) => self.matches(&state, stamp),
                    None => Some(state),
                }
            }
            RegisterOp::Put {
                value,
                when,
                revision,
            } => {
                let state = self.holds(state, when)?;
                let now = revision.unwrap_or(0);
                let here = Here {
                    value,
                    created: state.here.map_or(now, |here| here.created),
                    revision: now,
                    version: if self.stamped {
                        state.here.map_or(1, |here| here.version + 1)
                    } else {
                        0
                    },
                };
                self.advance(&state, revision, Some(here))
            }
            RegisterOp::Delete {
                when,
                existed,
                revision,
            } => {
                let state = self.holds(state, when)?;
                if existed.is_some_and(|existed| existed != state.here.is_some()) {
                    return None;
                }
                self.advance(&state, revision, None)
            }
            RegisterOp::Refused {
                when,
                current,
                revision,
            } => self.refused(state, when, current, revision),
        }
    }

    fn changes(&self, operation: usize) -> bool {
        matches!(
            self.operations[operation],
            RegisterOp::Put { .. } | RegisterOp::Delete { .. }
        )
    }

    fn shows(&self, state: &Key) -> Option<usize> {
        let value = usize::try_from(state.here?.value).ok()?;
        self.unique.get(value).copied().unwrap_or(false).then_some(value)
    }

    fn mentions(&self, observer: usize, writer: usize) -> bool {
        let RegisterOp::Put { value, revision, .. } = self.operations[writer] else {
            return false;
        };
        let is_it = |when| match when {
            When::Value(expected) => expected == value,
            When::Revision(expected) => Some(expected) == revision,
            When::Always | When::Absent => false,
        };
        match self.operations[observer] {
            RegisterOp::Read { found } => found.is_some_and(|(found, _)| found == value),
            RegisterOp::Put { when, .. } | RegisterOp::Delete { when, .. } => is_it(when),
            RegisterOp::Refused { when, current, .. } => {
                is_it(when) || (current.is_some() && current == revision)
            }
        }
    }
}

/// An operation on a string, with what was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TextOp {
    Read { found: String },
    Put { value: String },
    Append { value: String },
    Delete,
    Cas { expected: String, value: String },
    Refused { expected: Option<String> },
}

/// A key whose value can be appended to; absent is empty.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) operations: Vec<TextOp>,
}

impl Model for Text {
    type State = String;

    fn initial(&self) -> String {
        String::new()
    }

    fn step(&self, state: &String, operation: usize) -> Option<String> {
        match &self.operations[operation] {
            TextOp::Read { found } => (found == state).then(|| state.clone()),
            TextOp::Put { value } => Some(value.clone()),
            TextOp::Append { value } => Some(format!("{state}{value}")),
            TextOp::Delete => Some(String::new()),
            TextOp::Cas { expected, value } => (expected == state).then(|| value.clone()),
            TextOp::Refused { expected } => (expected.as_ref() != Some(state)).then(|| state.clone()),
        }
    }

    fn changes(&self, operation: usize) -> bool {
        !matches!(
            self.operations[operation],
            TextOp::Read { .. } | TextOp::Refused { .. }
        )
    }

    fn shows(&self, _: &String) -> Option<usize> {
        None
    }

    fn mentions(&self, observer: usize, writer: usize) -> bool {
        let (TextOp::Put { value } | TextOp::Append { value } | TextOp::Cas { value, .. }) =
            &self.operations[writer]
        else {
            return false;
        };
        match &self.operations[observer] {
            TextOp::Read { found } => found.contains(value.as_str()),
            TextOp::Cas { expected, .. } => expected.contains(value.as_str()),
            TextOp::Refused { expected } => expected.as_ref().is_some_and(|e| e.contains(value.as_str())),
            TextOp::Put { .. } | TextOp::Append { .. } | TextOp::Delete => false,
        }
    }
}
