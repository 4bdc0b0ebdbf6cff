//! How one key stood at each revision, as far as that is known, and which answers fit where.
//!
//! Effects whose revision is known divide the revisions into gaps. In a gap the key is as the effect at its begin left it,
//! unless a *loose* operation, one without an answer that nobody ever saw an effect of, took effect in it. So what fits is
//! never too little; where nothing is loose it is exact.

use crate::history::{Expected, Stamp};

/// A write whose revision is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect<'a> {
    pub(super) revision: u64,
    /// `None`: the key does not exist afterwards.
    pub(super) value: Option<&'a str>,
    /// Who did it, where that is known.
    pub(super) operation: Option<usize>,
}

/// A write that may have taken effect, nobody knows where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loose<'a> {
    /// Not before this revision.
    pub(super) from: u64,
    pub(super) value: Option<&'a str>,
}

/// One key.
#[derive(Debug, Default)]
pub(super) struct Timeline<'a> {
    pub(super) key: &'a str,
    /// All that may have changed it, in the order of invocation, failures included.
    pub(super) mutations: Vec<usize>,
    /// By revision.
    pub(super) effects: Vec<Effect<'a>>,
    pub(super) loose: Vec<Loose<'a>>,
    /// Metadata that some answer showed, with the value, and who was told.
    pub(super) stamps: Vec<(Stamp, &'a str, usize)>,
    loose_put_from: u64,
    loose_delete_from: u64,
}

/// What an answer says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    Absent,
    Exists,
    Value(&'a str, Option<Stamp>),
    /// It exists, and this is its revision.
    Revision(u64),
    /// This is not its revision, if it exists.
    OtherThanRevision(u64),
    /// This is not its value, if it exists.
    OtherThan(&'a str),
}

/// Revisions from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) lo: u64,
    pub(super) hi: u64,
}

impl Window {
    pub(super) fn and(self, other: Window) -> Option<Window> {
        let both = Window {
            lo: self.lo.max(other.lo),
            hi: self.hi.min(other.hi),
        };
        (both.lo <= both.hi).then_some(both)
    }
}

impl<'a> Seen<'a> {
    /// What a condition that held says.
    pub(super) fn held(expected: &'a Expected) -> Seen<'a> {
        match expected {
            Expected::Absent => Seen::Absent,
            Expected::Revision(revision) => Seen::Revision(*revision),
            Expected::Value(value) => Seen::Value(value, None),
        }
    }

    /// What a condition that did not hold says.
    pub(super) fn not_held(expected: &'a Expected) -> Seen<'a> {
        match expected {
            Expected::Absent => Seen::Exists,
            Expected::Revision(revision) => Seen::OtherThanRevision(*revision),
            Expected::Value(value) => Seen::OtherThan(value),
        }
    }
}

impl<'a> Timeline<'a> {
    pub(super) fn new(key: &'a str) -> Self {
        Timeline {
            key,
            loose_put_from: u64::MAX,
            loose_delete_from: u64::MAX,
            ..Timeline::default()
        }
    }

    /// Once everything is in.
    pub(super) fn seal(&mut self) {
        self.effects.sort_by_key(|effect| effect.revision);
        // Two at one revision are told elsewhere.
        self.effects.dedup_by_key(|effect| effect.revision);
        self.stamps.sort_by_key(|(stamp, ..)| stamp.revision);
        for loose in &self.loose {
            let first = match loose.value {
                Some(_) => &mut self.loose_put_from,
                None => &mut self.loose_delete_from,
            };
            *first = loose.from.min(*first);
        }
    }

    /// The effect at exactly this revision.
    pub(super) fn effect(&self, revision: u64) -> Option<&Effect<'a>> {
        let found = self
            .effects
            .binary_search_by_key(&revision, |effect| effect.revision);
        found.ok().map(|position| &self.effects[position])
    }

    /// Number of the gap that `revision` lies in; gap 0 is before the first effect.
    pub(super) fn gap(&self, revision: u64) -> usize {
        self.effects.partition_point(|effect| effect.revision <= revision)
    }

    /// The effect that a gap begins with.
    pub(super) fn base(&self, gap: usize) -> Option<&Effect<'a>> {
        gap.checked_sub(1).and_then(|position| self.effects.get(position))
    }

    fn bounds(&self, gap: usize) -> Window {
        Window {
            lo: self.base(gap).map_or(0, |effect| effect.revision),
            hi: self
                .effects
                .get(gap)
                .map_or(u64::MAX, |effect| effect.revision.saturating_sub(1)),
        }
    }

    /// Where in `gap` the key may have stood as `seen` says.
    fn window(&self, seen: Seen<'_>, gap: usize) -> Option<Window> {
        let bounds = self.bounds(gap);
        let value = self.base(gap).and_then(|effect| effect.value);
        let loose_from = |from: u64| {
            let from = from.max(bounds.lo.saturating_add(1));
            bounds.and(Window {
                lo: from,
                hi: u64::MAX,
            })
        };
        let any_from = self.loose_put_from.min(self.loose_delete_from);
        let is_base = |revision| bounds.lo == revision && value.is_some();
        let fits = match seen {
            Seen::Absent => value.is_none(),
            Seen::Exists => value.is_some(),
            Seen::Value(seen, Some(stamp)) => is_base(stamp.revision) && value == Some(seen),
            Seen::Value(seen, None) => value == Some(seen),
            Seen::Revision(revision) => is_base(revision),
            Seen::OtherThanRevision(revision) => !is_base(revision),
            Seen::OtherThan(other) => value != Some(other),
        };
        if fits {
            return Some(bounds);
        }
        // What was seen at a revision of its own is an effect by now, if only one operation can have done it.
        let at = |revision: u64, from: u64| {
            let is_inside = bounds.lo < revision && revision <= bounds.hi && from <= revision;
            is_inside.then_some(Window {
                lo: revision,
                hi: bounds.hi,
            })
        };
        match seen {
            Seen::Absent => loose_from(self.loose_delete_from),
            Seen::Exists => loose_from(self.loose_put_from),
            Seen::Value(seen, Some(stamp)) => at(stamp.revision, self.loose_value_from(seen)),
            Seen::Value(seen, None) => loose_from(self.loose_value_from(seen)),
            Seen::Revision(revision) => at(revision, self.loose_put_from),
            Seen::OtherThanRevision(_) | Seen::OtherThan(_) => loose_from(any_from),
        }
    }

    fn loose_value_from(&self, value: &str) -> u64 {
        let same = self.loose.iter().filter(|loose| loose.value == Some(value));
        same.map(|loose| loose.from).min().unwrap_or(u64::MAX)
    }

    /// The gaps that have to be looked at for `seen` in `within`.
    fn gaps(&self, seen: Seen<'_>, within: Window) -> std::ops::RangeInclusive<usize> {
        match seen {
            Seen::Value(_, Some(Stamp { revision, .. })) | Seen::Revision(revision) => {
                let gap = self.gap(revision);
                gap..=gap
            }
            _ => self.gap(within.lo)..=self.gap(within.hi),
        }
    }

    /// Where within `within` the key may have stood as `seen` says, in order.
    pub(super) fn windows<'b>(
        &'b self,
        seen: Seen<'b>,
        within: Window,
    ) -> impl Iterator<Item = Window> + use<'a, 'b> {
        self.gaps(seen, within)
            .filter_map(move |gap| self.window(seen, gap)?.and(within))
    }

    /// Whether the key may have stood so at `revision`.
    pub(super) fn fits(&self, seen: Seen<'_>, revision: u64) -> bool {
        let point = Window {
            lo: revision,
            hi: revision,
        };
        self.windows(seen, point).next().is_some()
    }
}
