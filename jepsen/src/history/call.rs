//! What every reader of a history asks of a call.

use super::{Call, Operation, Outcome};

impl Call {
    /// The key it is about; a scan has none.
    pub fn key(&self) -> Option<&str> {
        match self {
            Call::Read { key }
            | Call::Write { key, .. }
            | Call::Cas { key, .. }
            | Call::Delete { key, .. }
            | Call::Append { key, .. } => Some(key),
            Call::Scan { .. } => None,
        }
    }

    /// Whether it may change something.
    pub fn mutates(&self) -> bool {
        !matches!(self, Call::Read { .. } | Call::Scan { .. })
    }

    /// The value it leaves or appends.
    pub fn value(&self) -> Option<&str> {
        match self {
            Call::Write { value, .. } | Call::Cas { value, .. } | Call::Append { value, .. } => Some(value),
            Call::Read { .. } | Call::Delete { .. } | Call::Scan { .. } => None,
        }
    }
}

impl Operation {
    /// Whether it was over before `other` was invoked. Equal times are concurrent: a clock that ticks too slowly must not
    /// make an alarm.
    pub fn precedes(&self, other: &Operation) -> bool {
        self.ended.is_some_and(|ended| ended < other.invoked)
    }

    /// Whether it may have taken effect without a word about it, at any time after its invocation.
    pub fn is_open(&self) -> bool {
        self.call.mutates()
            && (self.ended.is_none() || matches!(self.outcome, Outcome::Unknown { .. }))
            && !matches!(self.outcome, Outcome::Fail { .. })
    }
}
