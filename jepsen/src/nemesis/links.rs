//! Which links a fault of the network is about.

use super::schedule::Shape;
use super::undo::Link;
use super::victim::Side;

/// The links that a partition of `members` around `targets` cuts. `pick` draws the halves.
pub fn partition(shape: Shape, members: &[usize], targets: &[usize], pick: u64) -> Vec<Link> {
    let others: Vec<usize> = members.iter().copied().filter(|m| !targets.contains(m)).collect();
    match shape {
        Shape::Isolated => both(&between(targets, &others)),
        Shape::Mute => between(targets, &others),
        Shape::Deaf => between(&others, targets),
        Shape::Halves => {
            let (one, rest) = halves(members, pick);
            both(&between(&one, &rest))
        }
        Shape::Bridge => {
            let (one, rest) = halves(&others, pick);
            both(&between(&one, &rest))
        }
    }
}

/// All links between `targets` and the other members, in both directions.
pub fn around(members: &[usize], targets: &[usize]) -> Vec<Link> {
    partition(Shape::Isolated, members, targets, 0)
}

/// The links between clients and `targets`, in both directions.
pub fn to_clients(targets: &[usize]) -> Vec<Link> {
    let links = targets
        .iter()
        .map(|target| (Side::Clients, Side::Member(*target)));
    both(&links.collect::<Vec<_>>())
}

fn halves(members: &[usize], pick: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order = members.to_vec();
    rotate(&mut order, pick);
    let rest = order.split_off(order.len() / 2);
    (order, rest)
}

/// Puts members into an order that `pick` chooses.
pub fn rotate(members: &mut [usize], pick: u64) {
    let mut left = pick;
    for end in (1..members.len()).rev() {
        let choices = end as u64 + 1;
        members.swap(end, (left % choices) as usize);
        left /= choices;
    }
}

fn between(from: &[usize], to: &[usize]) -> Vec<Link> {
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    pairs
        .map(|(from, to)| (Side::Member(from), Side::Member(to)))
        .collect()
}

fn both(links: &[Link]) -> Vec<Link> {
    links
        .iter()
        .flat_map(|(from, to)| [(*from, *to), (*to, *from)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(links: &[Link]) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> = links
            .iter()
            .map(|link| match link {
                (Side::Member(from), Side::Member(to)) => (*from, *to),
                other => panic!("{other:?}"),
            })
            .collect();
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn shapes() {
        let members = [0, 1, 2];
        let isolated = pairs(&partition(Shape::Isolated, &members, &[1], 0));
        assert_eq!(isolated, [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(
            pairs(&partition(Shape::Mute, &members, &[1], 0)),
            [(1, 0), (1, 2)]
        );
        assert_eq!(
            pairs(&partition(Shape::Deaf, &members, &[1], 0)),
            [(0, 1), (2, 1)]
        );
        assert_eq!(
            pairs(&partition(Shape::Bridge, &members, &[1], 0)),
            [(0, 2), (2, 0)]
        );
        for pick in 0..20 {
            assert_eq!(partition(Shape::Halves, &members, &[], pick).len(), 4);
            assert_eq!(partition(Shape::Halves, &[0, 1, 2, 3, 4], &[], pick).len(), 12);
        }
    }

    #[test]
    fn every_order_is_chosen_by_some_pick() {
        let mut orders: Vec<Vec<usize>> = (0..6)
            .map(|pick| {
                let mut order = vec![0, 1, 2];
                rotate(&mut order, pick);
                order
            })
            .collect();
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn clients_are_cut_off_both_ways() {
        assert_eq!(
            to_clients(&[2]),
            [(Side::Clients, Side::Member(2)), (Side::Member(2), Side::Clients)]
        );
    }
}
