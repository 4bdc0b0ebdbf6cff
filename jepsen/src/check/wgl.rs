//! Is there an order of these operations that their model allows, and that real time allows? (Wing and Gong 1993, with the
//! memory of Lowe 2017: a set of operations that led to a state is never continued twice.)
//!
//! Some rules cut the search without changing its answer. What fits now and changes nothing is taken now: whoever could take
//! it later can do so earlier. What may never have happened is tried last, and of those that would do the same, the first
//! comes first. And a value that only one write can have brought about is not left while somebody still has to see it.

use std::hash::Hash;
use std::time::Instant;

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

/// States between two looks at the clock.
const CLOCK_EVERY: u64 = 4096;

/// What an object does when operations follow one another.
pub(super) trait Model {
    /// All that later operations depend on.
    type State: Clone + Eq + Hash;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// After `operation`, if it can be carried out in `state` with the answer that was given.
    fn step(&self, state: &Self::State, operation: usize) -> Option<Self::State>;

    /// Whether `operation` may change the state.
    fn changes(&self, operation: usize) -> bool;

    /// What is to be seen in `state` that only one operation can have brought about: once it is gone, it is gone for good.
    fn shows(&self, state: &Self::State) -> Option<usize>;

    /// Whether what `observer` was told depends on `writer` itself, not only on some write.
    fn mentions(&self, observer: usize, writer: usize) -> bool;
}

/// When an operation was under way, and what is known about its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Number of the operation in its model.
    pub(super) operation: usize,
    /// It took effect after this.
    pub(super) invoked: u64,
    /// It took effect before this; `None`: it may never have.
    pub(super) ended: Option<u64>,
    /// It is known to have taken effect, be it answered or not.
    pub(super) sure: bool,
    /// Effects are in the order of their ranks.
    pub(super) rank: Option<u64>,
    /// It needs a state that shows this.
    pub(super) sees: Option<usize>,
    /// Of those that may never have happened: which do exactly the same.
    pub(super) class: Option<usize>,
}

/// The outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    Linearizable,
    Impossible,
    GivenUp,
}

/// What a search may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) states: u64,
    pub(super) until: Instant,
}

/// Searches for an order of `spans`; takes what it costs from `budget`.
pub(super) fn search<M: Model>(model: &M, spans: &[Span], budget: &mut Budget) -> Search {
    Searcher::new(model, spans).run(budget)
}

/// A list of calls and returns in the order of time. Node 0 is its head, the last node its end.
#[derive(Debug, Default)]
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(nodes: usize) -> List {
        List {
            next: (1..=nodes).collect(),
            previous: (0..nodes).map(|node| node.saturating_sub(1)).collect(),
        }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn take(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes the last `take` that was not undone yet.
    fn put_back(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = node;
        self.previous[next] = node;
    }
}

/// For each span, the one that was invoked last before it of those that do the same.
fn twins(spans: &[Span]) -> Vec<Option<usize>> {
    let unsure =
        (0..spans.len()).filter(|position| !spans[*position].sure && spans[*position].class.is_some());
    let mut order: Vec<usize> = unsure.collect();
    order.sort_by_key(|position| (spans[*position].class, spans[*position].invoked));
    let mut twins = vec![None; spans.len()];
    for two in order.windows(2) {
        if let [first, second] = two
            && spans[*first].class == spans[*second].class
        {
            twins[*second] = Some(*first);
        }
    }
    twins
}

#[derive(Clone, Copy, Debug)]
enum Node {
    /// Head and end.
    Edge,
    Call(usize),
    Return,
}

/// Which operations are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Sure,
    Unsure,
}

/// A choice that may have to be taken back.
struct Choice<S> {
    span: usize,
    state: S,
    turn: Turn,
    /// Nothing was lost by it: instead of another choice, take back the one before.
    free: bool,
}

/// Attempts that are not worth repeating.
type Known<S> = FxHashMap<(Box<[usize]>, S), Vec<Box<[usize]>>>;

struct Searcher<'a, M: Model> {
    model: &'a M,
    spans: &'a [Span],
    list: List,
    nodes: Vec<Node>,
    /// Call and return of each span.
    places: Vec<(usize, Option<usize>)>,
    /// Of each span that has a rank: sure ones of lower rank.
    ranks_below: Vec<Option<usize>>,
    ranks_done: usize,
    /// Of each span with a class: the one of the same class before it.
    twins: Vec<Option<usize>>,
    /// Operations that still need a state that shows this.
    to_see: Vec<usize>,
    /// Those that are sure to have happened, and of the others those that did in this attempt.
    done: FixedBitSet,
    happened: FixedBitSet,
    /// Number of each span among those of its kind.
    bit: Vec<usize>,
    left: usize,
    /// By what is done and the state it led to: what had happened besides.
    known: Known<M::State>,
}

impl<'a, M: Model> Searcher<'a, M> {
    fn new(model: &'a M, spans: &'a [Span]) -> Self {
        let mut marks: Vec<(u64, bool, usize)> = Vec::new();
        for (position, span) in spans.iter().enumerate() {
            marks.push((span.invoked, false, position));
            marks.extend(span.ended.map(|ended| (ended, true, position)));
        }
        // Of one time, calls come first: such operations are concurrent.
        marks.sort_unstable();
        let mut nodes = vec![Node::Edge];
        let mut places = vec![(0, None); spans.len()];
        for (_, is_return, position) in marks {
            if is_return {
                places[position].1 = Some(nodes.len());
                nodes.push(Node::Return);
            } else {
                places[position].0 = nodes.len();
                nodes.push(Node::Call(position));
            }
        }
        nodes.push(Node::Edge);
        let mut ranks: Vec<u64> = spans
            .iter()
            .filter(|span| span.sure)
            .filter_map(|span| span.rank)
            .collect();
        ranks.sort_unstable();
        let mut to_see = vec![
            0;
            spans
                .iter()
                .filter_map(|span| span.sees)
                .max()
                .map_or(0, |most| most + 1)
        ];
        for span in spans.iter().filter(|span| span.ended.is_some()) {
            span.sees.into_iter().for_each(|seen| to_see[seen] += 1);
        }
        let below = |rank| ranks.partition_point(|other| *other < rank);
        Searcher {
            model,
            spans,
            list: List::new(nodes.len()),
            nodes,
            places,
            ranks_below: spans.iter().map(|span| span.rank.map(below)).collect(),
            ranks_done: 0,
            twins: twins(spans),
            to_see,
            done: FixedBitSet::with_capacity(spans.len()),
            happened: FixedBitSet::with_capacity(spans.len()),
            bit: bits(spans),
            left: spans.iter().filter(|span| span.ended.is_some()).count(),
            known: FxHashMap::default(),
        }
    }

    fn run(mut self, budget: &mut Budget) -> Search {
        let mut state = self.model.initial();
        let mut choices: Vec<Choice<M::State>> = Vec::new();
        let mut turn = Turn::Sure;
        let mut node = self.list.first();
        loop {
            if self.left == 0 {
                return Search::Linearizable;
            }
            match self.nodes[node] {
                Node::Call(span) => match self.attempt(span, &state, turn) {
                    Some((next, free)) => {
                        if budget.states == 0 || self.is_late(budget) {
                            return Search::GivenUp;
                        }
                        budget.states -= 1;
                        let state = std::mem::replace(&mut state, next);
                        choices.push(Choice {
                            span,
                            state,
                            turn,
                            free,
                        });
                        (turn, node) = (Turn::Sure, self.list.first());
                    }
                    None => node = self.list.next[node],
                },
                // Whatever comes later must not overtake this return.
                Node::Return | Node::Edge if turn == Turn::Sure => {
                    (turn, node) = (Turn::Unsure, self.list.first());
                }
                Node::Return | Node::Edge => loop {
                    let Some(choice) = choices.pop() else {
                        return Search::Impossible;
                    };
                    self.put_back(choice.span);
                    if !choice.free {
                        state = choice.state;
                        turn = choice.turn;
                        node = self.list.next[self.places[choice.span].0];
                        break;
                    }
                },
            }
        }
    }

    /// Takes `span` next, if it is its turn, it fits, and it leads to something new.
    fn attempt(&mut self, span: usize, state: &M::State, turn: Turn) -> Option<(M::State, bool)> {
        let Span {
            operation,
            sure,
            rank,
            ..
        } = self.spans[span];
        if sure != (turn == Turn::Sure)
            || self.ranks_below[span].is_some_and(|below| below != self.ranks_done)
        {
            return None;
        }
        if self.twins[span].is_some_and(|twin| !self.happened.contains(self.bit[twin])) {
            return None;
        }
        let next = self.model.step(state, operation)?;
        let is_same = next == *state;
        if is_same && !sure || self.leaves_too_early(span, state, &next) {
            return None;
        }
        // What changes nothing now may be needed later to change something.
        let free = is_same && !self.model.changes(operation);
        self.mark(span, true);
        if !self.is_new(&next) {
            self.mark(span, false);
            return None;
        }
        self.ranks_done += usize::from(sure && rank.is_some());
        let (call, end) = self.places[span];
        self.list.take(call);
        if let Some(end) = end {
            self.list.take(end);
            self.left -= 1;
            if let Some(seen) = self.spans[span].sees {
                self.to_see[seen] -= 1;
            }
        }
        Some((next, free))
    }

    /// Whether others than `span` have to see what is no longer there in `next`.
    fn leaves_too_early(&self, span: usize, state: &M::State, next: &M::State) -> bool {
        let Some(shown) = self.model.shows(state) else {
            return false;
        };
        let Span { sees, ended, .. } = self.spans[span];
        let own = usize::from(sees == Some(shown) && ended.is_some());
        self.model.shows(next) != Some(shown) && self.to_see.get(shown).is_some_and(|left| *left > own)
    }

    fn put_back(&mut self, span: usize) {
        let Span { sure, rank, .. } = self.spans[span];
        let (call, end) = self.places[span];
        if let Some(end) = end {
            self.list.put_back(end);
            self.left += 1;
            if let Some(seen) = self.spans[span].sees {
                self.to_see[seen] += 1;
            }
        }
        self.list.put_back(call);
        self.mark(span, false);
        self.ranks_done -= usize::from(sure && rank.is_some());
    }

    fn mark(&mut self, span: usize, done: bool) {
        let bits = if self.spans[span].sure {
            &mut self.done
        } else {
            &mut self.happened
        };
        bits.set(self.bit[span], done);
    }

    /// Whether it is the first time that what is done led to `state`, with no more than this having happened besides: of two
    /// such attempts, the one that has used up less can do all that the other can.
    fn is_new(&mut self, state: &M::State) -> bool {
        let happened = words(&self.happened);
        let attempts = self
            .known
            .entry((compact(&self.done), state.clone()))
            .or_default();
        if attempts.iter().any(|less| is_subset(less, happened)) {
            return false;
        }
        attempts.push(happened.into());
        true
    }

    fn is_late(&self, budget: &Budget) -> bool {
        budget.states.is_multiple_of(CLOCK_EVERY) && Instant::now() >= budget.until
    }
}

/// Numbers sure and unsure spans apart.
fn bits(spans: &[Span]) -> Vec<usize> {
    let (mut sure, mut unsure) = (0, 0);
    let number = |span: &Span| {
        let next = if span.sure { &mut sure } else { &mut unsure };
        *next += 1;
        *next - 1
    };
    spans.iter().map(number).collect()
}

/// Up to the last word that is not zero.
fn words(bits: &FixedBitSet) -> &[usize] {
    let words = bits.as_slice();
    let used = words
        .iter()
        .rposition(|word| *word != 0)
        .map_or(0, |last| last + 1);
    words.get(..used).unwrap_or_default()
}

/// A set of which nearly all of the first are members and none of the last, in few words.
fn compact(bits: &FixedBitSet) -> Box<[usize]> {
    let words = words(bits);
    let full = words.iter().take_while(|word| **word == usize::MAX).count();
    let mut key = Vec::with_capacity(1 + words.len() - full);
    key.push(full);
    key.extend_from_slice(words.get(full..).unwrap_or_default());
    key.into_boxed_slice()
}

fn is_subset(less: &[usize], more: &[usize]) -> bool {
    let zeros = std::iter::repeat(&0);
    less.iter()
        .zip(more.iter().chain(zeros))
        .all(|(less, more)| less & !more == 0)
}
