//! How likely a flow between two switches crosses each direction, where nothing is known of the switches' hashes.
//!
//! In: a [`Fabric`]. Out: for a pair of switches, directions with their likelihood: hop by hop, each way to a neighbour that is nearer to the
//! destination takes an equal part, as in [`Fabric::paths`], but without listing the paths. Pure. Never: a way through a host, or over a
//! link that is down.

use crate::map::{Direction, Fabric, NodeKind};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Directions by number ([`number`]) and how likely each is crossed.
pub type Likely = Arc<[(usize, f64)]>;

/// A direction as a number: twice its link's, and one more from `a` to `b`.
#[must_use]
pub fn number(direction: Direction) -> usize {
    direction.link * 2 + usize::from(direction.from_a)
}

/// The direction of a number.
#[must_use]
pub fn direction(number: usize) -> Direction {
    Direction { link: number / 2, from_a: number % 2 == 1 }
}

/// Hops to a switch that nothing reaches; one more does not wrap.
const FAR: u32 = u32::MAX - 1;

/// Answers are kept: a fabric has far fewer pairs of leaves than of NICs.
pub struct Shares<'f> {
    fabric: &'f Fabric,
    /// Of each switch, the ways that are up to other switches.
    ways: Vec<Vec<(usize, usize)>>,
    /// By destination, of each switch the ways to neighbours that are nearer to it; none where it cannot be reached.
    nearer: HashMap<usize, Vec<Vec<(usize, usize)>>>,
    known: HashMap<(usize, usize), Option<Likely>>,
}

impl<'f> Shares<'f> {
    /// Of this fabric.
    #[must_use]
    pub fn new(fabric: &'f Fabric) -> Self {
        let mut ways = vec![Vec::new(); fabric.nodes().len()];
        let is_switch = |node: usize| fabric.nodes()[node].kind == NodeKind::Switch;
        for (link, _) in fabric.links().iter().enumerate().filter(|(_, cable)| cable.up) {
            let towards = |from_a| Direction { link, from_a };
            let (a, b) = (fabric.head(towards(false)), fabric.head(towards(true)));
            if is_switch(a) && is_switch(b) {
                ways[a].push((number(towards(true)), b));
                ways[b].push((number(towards(false)), a));
            }
        }
        Self { fabric, ways, nearer: HashMap::new(), known: HashMap::new() }
    }

    /// Between two nodes by number; none where there is no way, or where one is no switch.
    pub fn between(&mut self, from: usize, to: usize) -> Option<Likely> {
        if let Some(known) = self.known.get(&(from, to)) {
            return known.clone();
        }
        let likely = self.compute(from, to);
        self.known.insert((from, to), likely.clone());
        likely
    }

    fn compute(&mut self, from: usize, to: usize) -> Option<Likely> {
        let is_switch = |node: usize| self.fabric.nodes()[node].kind == NodeKind::Switch;
        if !is_switch(from) || !is_switch(to) {
            return None;
        }
        let ways = &self.ways;
        let nearer = self.nearer.entry(to).or_insert_with(|| nearer(ways, to));
        if from != to && nearer[from].is_empty() {
            return None;
        }
        let mut likely = Vec::new();
        // All nodes of a level are equally far from the destination, so a level is whole before the next begins.
        let mut level = BTreeMap::from([(from, 1.0)]);
        while !level.contains_key(&to) {
            let mut next: BTreeMap<usize, f64> = BTreeMap::new();
            for (node, part) in level {
                #[expect(clippy::cast_precision_loss, reason = "ports of a switch, far below 2^52")]
                let share = part / nearer[node].len() as f64;
                for (way, head) in &nearer[node] {
                    likely.push((*way, share));
                    *next.entry(*head).or_default() += share;
                }
            }
            level = next;
        }
        Some(likely.into())
    }
}

/// Of each switch, the ways to neighbours that are nearer to this one.
fn nearer(ways: &[Vec<(usize, usize)>], to: usize) -> Vec<Vec<(usize, usize)>> {
    let distance = distances(ways, to);
    let of = |(node, ways): (usize, &Vec<(usize, usize)>)| {
        let is_nearer = |(_, head): &&(usize, usize)| distance[*head] + 1 == distance[node];
        ways.iter().filter(is_nearer).copied().collect()
    };
    ways.iter().enumerate().map(of).collect()
}

/// Hops from each switch.
fn distances(ways: &[Vec<(usize, usize)>], to: usize) -> Vec<u32> {
    let mut distance = vec![FAR; ways.len()];
    distance[to] = 0;
    let mut open = VecDeque::from([to]);
    while let Some(node) = open.pop_front() {
        for (_, next) in &ways[node] {
            if distance[*next] == FAR {
                distance[*next] = distance[node] + 1;
                open.push_back(*next);
            }
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::clos::{Clos, clos};

    #[test]
    fn likelihoods_are_those_of_the_paths() {
        let (fabric, _) = clos(Clos { rails: 2, leaves_per_rail: 2, hosts_per_leaf: 2, spines: 3 });
        let mut shares = Shares::new(&fabric);
        for (from, a) in fabric.nics().iter().enumerate() {
            for (to, b) in fabric.nics().iter().enumerate().filter(|(to, _)| *to != from) {
                let mut of_paths: BTreeMap<usize, f64> = BTreeMap::new();
                for (likely, path) in fabric.paths(from, to, 100).paths {
                    path[1..path.len() - 1].iter().for_each(|d| *of_paths.entry(number(*d)).or_default() += likely);
                }
                let (leaf_a, leaf_b) = (fabric.head(fabric.outward(a)), fabric.head(fabric.outward(b)));
                let found: BTreeMap<usize, f64> =
                    shares.between(leaf_a, leaf_b).iter().flat_map(|likely| likely.iter().copied()).collect();
                assert_eq!(found.len(), of_paths.len());
                for (direction, likely) in &of_paths {
                    assert!((found[direction] - likely).abs() < 1e-9, "{}", fabric.name(super::direction(*direction)));
                }
            }
        }
    }
}
