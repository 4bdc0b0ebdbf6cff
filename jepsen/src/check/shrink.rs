//! From a history of one key that has no order to few operations that show it.
//!
//! Each step leaves a history that asks for less, so what has no order afterwards had none before: the end is cut off,
//! reads are left out, and acknowledgements are forgotten. Writes themselves stay: without them, right reads look wrong.

use std::time::Instant;

use super::wgl::{Budget, Model, Search, Span, search};

/// States of one search; one that needs more is taken for a success, and what it would have shown stays in the witness.
const STATES_MAX: u64 = 10_000;
/// States of all searches for one witness: about a quarter of a second.
const STATES_MAX_ALL: u64 = 400_000;

/// The numbers of operations that show that `spans` have no order.
pub(super) fn shrink<M: Model>(model: &M, spans: &[Span], until: Instant) -> Vec<usize> {
    let mut trial = Trial {
        model,
        until,
        states: STATES_MAX_ALL,
    };
    let mut least = trial.shortest(spans);
    // Forgotten reads make searches shorter, forgotten writes longer.
    trial.forget(&mut least, false);
    trial.forget(&mut least, true);
    let asked = |span: &&Span| span.ended.is_some();
    let observers: Vec<usize> = least.iter().filter(asked).map(|span| span.operation).collect();
    let is_shown = |span: &&Span| {
        asked(span)
            || observers
                .iter()
                .any(|observer| model.mentions(*observer, span.operation))
    };
    least.iter().filter(is_shown).map(|span| span.operation).collect()
}

struct Trial<'a, M> {
    model: &'a M,
    until: Instant,
    states: u64,
}

impl<M: Model> Trial<'_, M> {
    fn is_impossible(&mut self, spans: &[Span]) -> bool {
        let states = STATES_MAX.min(self.states);
        let mut budget = Budget {
            states,
            until: self.until,
        };
        let found = search(self.model, spans, &mut budget);
        // A search that costs nothing costs something.
        self.states = self.states.saturating_sub(states - budget.states + 100);
        found == Search::Impossible
    }

    /// What happened up to the earliest moment by which there was no order any more.
    fn shortest(&mut self, spans: &[Span]) -> Vec<Span> {
        let mut ends: Vec<u64> = spans.iter().filter_map(|span| span.ended).collect();
        ends.sort_unstable();
        let (mut fine, mut wrong) = (0, ends.len().saturating_sub(1));
        let mut shortest = spans.to_vec();
        while fine < wrong {
            let middle = fine.midpoint(wrong);
            let cut = until(spans, ends[middle]);
            if self.is_impossible(&cut) {
                wrong = middle;
                shortest = cut;
            } else {
                fine = middle + 1;
            }
        }
        shortest
    }

    /// Forgets answers to those that change something, or to the others, many at a time at first.
    fn forget(&mut self, spans: &mut Vec<Span>, changes: bool) {
        let mut many = spans.len().next_power_of_two();
        loop {
            let mut from = 0;
            while from < spans.len() {
                let to = (from + many).min(spans.len());
                let mut fewer = spans.clone();
                let chosen = fewer[from..to].iter_mut();
                for span in chosen.filter(|span| self.model.changes(span.operation) == changes) {
                    span.ended = None;
                    span.sure = false;
                }
                if fewer != *spans && self.is_impossible(&fewer) {
                    *spans = fewer;
                }
                from = to;
            }
            if many <= 1 {
                return;
            }
            many /= 2;
        }
    }
}

/// What was invoked by `time`; what ended later was still open.
fn until(spans: &[Span], time: u64) -> Vec<Span> {
    let begun = spans.iter().filter(|span| span.invoked <= time);
    let known = begun.map(|span| match span.ended {
        Some(ended) if ended <= time => *span,
        _ => Span {
            ended: None,
            sure: false,
            ..*span
        },
    });
    known.collect()
}
