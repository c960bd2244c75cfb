//! In which order pairs of a group are probed: the steps of the collectives that training runs.
//!
//! In: how many members. Out: rounds of pairs, sender first; each pair of a round can go at once. Pure. Never: a member paired with itself.

use serde::{Deserialize, Serialize};

/// A collective's steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Every pair once, all members busy in each round (the circle method for tournaments).
    #[default]
    Mesh,
    /// Each member to the next: the one step that a ring repeats.
    Ring,
    /// To members at 1, 2, 4, … places (Rabenseifner, 2004); members beyond a power of two hand over to a neighbour first and get the result last.
    HalvingDoubling,
    /// In round r each member to the one r places on.
    AllToAll,
    /// A ring within each group of eight, then a ring of the groups' first members.
    HierarchicalRing,
}

/// Members of a group of [`Shape::HierarchicalRing`]: GPUs or NICs of a host.
const GROUP: usize = 8;

impl Shape {
    /// Rounds that `members` take.
    #[must_use]
    pub fn rounds(self, members: usize) -> usize {
        if members < 2 {
            return 0;
        }
        match self {
            Self::Mesh => members - 1 + members % 2,
            Self::Ring => 1,
            Self::HalvingDoubling => {
                let doublings = members.ilog2() as usize;
                doublings + if members.is_power_of_two() { 0 } else { 2 }
            }
            Self::AllToAll => members - 1,
            Self::HierarchicalRing => 1 + usize::from(members > GROUP),
        }
    }

    /// The pairs of all rounds: those of [`Self::round`], counted without listing them.
    #[must_use]
    pub fn pairs(self, members: usize) -> usize {
        match self {
            _ if members < 2 => 0,
            Self::Mesh => members * (members - 1) / 2,
            Self::AllToAll => members * (members - 1),
            Self::Ring | Self::HalvingDoubling | Self::HierarchicalRing => {
                (0..self.rounds(members)).map(|round| self.round(members, round).len()).sum()
            }
        }
    }

    /// The pairs of a round, which is below [`Self::rounds`].
    #[must_use]
    pub fn round(self, members: usize, round: usize) -> Vec<(usize, usize)> {
        match self {
            _ if members < 2 => Vec::new(),
            Self::Mesh => mesh(members, round),
            Self::Ring => ring(0, members, 1),
            Self::HalvingDoubling => halving_doubling(members, round),
            Self::AllToAll => (0..members).map(|from| (from, (from + round + 1) % members)).collect(),
            Self::HierarchicalRing if round == 0 => {
                (0..members).step_by(GROUP).flat_map(|first| ring(first, GROUP.min(members - first), 1)).collect()
            }
            Self::HierarchicalRing => ring(0, members.div_ceil(GROUP), GROUP),
        }
    }
}

/// `count` members from `first`, `step` apart, each to the next.
fn ring(first: usize, count: usize, step: usize) -> Vec<(usize, usize)> {
    if count < 2 {
        return Vec::new();
    }
    (0..count).map(|at| (first + at * step, first + (at + 1) % count * step)).collect()
}

/// One member stands still, the others go round it; with an odd number one rests.
fn mesh(members: usize, round: usize) -> Vec<(usize, usize)> {
    let seats = members + members % 2;
    let moving = seats - 1;
    let seat = |at: usize| if at == 0 { seats - 1 } else { (round + at - 1) % moving };
    (0..seats / 2)
        .map(|at| (seat(at), seat(seats - 1 - at)))
        .filter(|(a, b)| *a < members && *b < members)
        // Who sends first changes with the round, so that no member only answers.
        .map(|(a, b)| if (a + b + round).is_multiple_of(2) { (a, b) } else { (b, a) })
        .collect()
}

fn halving_doubling(members: usize, round: usize) -> Vec<(usize, usize)> {
    let whole = 1usize << members.ilog2();
    let beyond = members - whole;
    // The first `beyond` pairs of neighbours act as one member each.
    let fold = usize::from(beyond > 0);
    let pairs = || (0..beyond).map(|pair| (2 * pair + 1, 2 * pair));
    let member = |at: usize| if at < beyond { 2 * at } else { at + beyond };
    if beyond > 0 && round == 0 {
        pairs().collect()
    } else if round - fold < whole.ilog2() as usize {
        let distance = 1usize << (round - fold);
        (0..whole).map(|at| (member(at), member(at ^ distance))).collect()
    } else {
        pairs().map(|(away, near)| (near, away)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPES: [Shape; 5] =
        [Shape::Mesh, Shape::Ring, Shape::HalvingDoubling, Shape::AllToAll, Shape::HierarchicalRing];

    fn all(shape: Shape, members: usize) -> Vec<Vec<(usize, usize)>> {
        (0..shape.rounds(members)).map(|round| shape.round(members, round)).collect()
    }

    #[test]
    fn a_member_sends_once_and_receives_once_in_a_round_and_never_to_itself() {
        for shape in SHAPES {
            for members in 0..40 {
                for pairs in all(shape, members) {
                    let senders: BTreeSet<_> = pairs.iter().map(|pair| pair.0).collect();
                    let receivers: BTreeSet<_> = pairs.iter().map(|pair| pair.1).collect();
                    assert_eq!((senders.len(), receivers.len()), (pairs.len(), pairs.len()), "{shape:?} of {members}");
                    assert!(
                        pairs.iter().all(|(a, b)| a != b && *a < members && *b < members),
                        "{shape:?} of {members}"
                    );
                }
                assert_eq!(all(shape, members).is_empty(), members < 2, "{shape:?} of {members}");
                assert_eq!(all(shape, members).concat().len(), shape.pairs(members), "{shape:?} of {members}");
            }
        }
    }

    #[test]
    fn everybody_takes_part_and_the_group_hangs_together() {
        for shape in SHAPES {
            for members in 2..40usize {
                let pairs: Vec<_> = all(shape, members).concat();
                let mut reached = BTreeSet::from([0]);
                while let Some((a, b)) = pairs.iter().find(|(a, b)| reached.contains(a) != reached.contains(b)) {
                    reached.extend([*a, *b]);
                }
                assert_eq!(reached.len(), members, "{shape:?} of {members}");
            }
        }
    }

    #[test]
    fn a_mesh_has_each_pair_once_and_an_all_to_all_each_in_both_directions() {
        for members in 2..20usize {
            let mesh: Vec<_> = all(Shape::Mesh, members).concat();
            let unordered: BTreeSet<_> = mesh.iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            assert_eq!((mesh.len(), unordered.len()), (members * (members - 1) / 2, mesh.len()), "{members}");
            let all: BTreeSet<_> = all(Shape::AllToAll, members).concat().into_iter().collect();
            assert_eq!(all.len(), members * (members - 1), "{members}");
        }
    }

    #[test]
    fn steps_are_those_of_the_collective() {
        for (shape, members, expected) in [
            (Shape::Ring, 3, vec![vec![(0, 1), (1, 2), (2, 0)]]),
            (Shape::AllToAll, 3, vec![vec![(0, 1), (1, 2), (2, 0)], vec![(0, 2), (1, 0), (2, 1)]]),
            (
                Shape::HalvingDoubling,
                4,
                vec![vec![(0, 1), (1, 0), (2, 3), (3, 2)], vec![(0, 2), (1, 3), (2, 0), (3, 1)]],
            ),
            // 1 hands over to 0, which stands for both; then 0, 2 as a pair of two; then 0 tells 1.
            (Shape::HalvingDoubling, 3, vec![vec![(1, 0)], vec![(0, 2), (2, 0)], vec![(0, 1)]]),
        ] {
            assert_eq!(all(shape, members), expected, "{shape:?} of {members}");
        }
        let groups = all(Shape::HierarchicalRing, 16);
        assert_eq!((groups[0].len(), &groups[1]), (16, &vec![(0, 8), (8, 0)]));
    }
}
