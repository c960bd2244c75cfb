//! What flows cross: exactly, where traces tell; else each direction with its likelihood.
//!
//! In: the fabric, endpoints, placements. Out: a [`Way`] for each flow and for its answers. Pure.

use super::plan::{Endpoint, PlannedFlow};
use super::shares::{Likely, Shares, direction, number};
use crate::map::{Direction, Fabric, Flow, Path, Transport};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a flow's packets, or its answers', cross.
pub(super) enum Way {
    /// Exactly these.
    Exact(Vec<usize>),
    /// Its ends' links for sure, and of what is between, each as likely as it says.
    Likely([Option<usize>; 2], Likely),
}

impl Way {
    /// Each direction with its likelihood.
    pub(super) fn each(&self, mut see: impl FnMut(usize, f64)) {
        match self {
            Self::Exact(directions) => directions.iter().for_each(|direction| see(*direction, 1.0)),
            Self::Likely(ends, between) => {
                ends.iter().flatten().for_each(|direction| see(*direction, 1.0));
                between.iter().for_each(|(direction, likely)| see(*direction, *likely));
            }
        }
    }
}

/// Finds ways.
pub(super) struct Ways<'a> {
    fabric: &'a Fabric,
    placements: &'a BTreeMap<Flow, Path>,
    pub(super) shares: Shares<'a>,
    /// Of each endpoint, the direction out of its host, and the node that it leads to.
    pub(super) out: Vec<Option<(usize, usize)>>,
    nothing: Likely,
}

impl<'a> Ways<'a> {
    pub(super) fn new(fabric: &'a Fabric, placements: &'a BTreeMap<Flow, Path>, endpoints: &'a [Endpoint]) -> Self {
        let out = endpoints.iter().map(|endpoint| {
            let nic = fabric.nics().get(endpoint.nic?)?;
            let outward = fabric.outward(nic);
            Some((number(outward), fabric.head(outward)))
        });
        let out = out.collect();
        Self { fabric, placements, shares: Shares::new(fabric), out, nothing: Arc::new([]) }
    }

    /// The node at the other end of an endpoint's link.
    pub(super) fn leaf(&self, endpoint: usize) -> Option<usize> {
        self.out[endpoint].map(|(_, leaf)| leaf)
    }

    pub(super) fn is_down(&self, endpoint: usize) -> bool {
        self.out[endpoint].is_some_and(|(out, _)| !self.fabric.links()[out / 2].up)
    }

    /// A known way joins them.
    pub(super) fn joined(&mut self, from: usize, to: usize) -> bool {
        match (self.leaf(from), self.leaf(to)) {
            (Some(a), Some(b)) => self.shares.between(a, b).is_some(),
            _ => false,
        }
    }

    /// Of packets of this flow.
    pub(super) fn of(&mut self, from: usize, to: usize, flow: &Flow) -> Way {
        // The kernel draws the label of a connection over IPv6 itself: a trace of its ports may have gone elsewhere.
        let is_untold = flow.transport == Transport::Tcp && flow.source.is_ipv6();
        let path = if is_untold || self.placements.is_empty() { None } else { self.placements.get(flow) };
        if let Some(path) = path.filter(|path| path.iter().all(|d| d.link < self.fabric.links().len())) {
            return Way::Exact(path.iter().map(|direction| number(*direction)).collect());
        }
        self.unplaced(from, to)
    }

    fn unplaced(&mut self, from: usize, to: usize) -> Way {
        let ends = [self.out[from].map(|(out, _)| out), self.out[to].map(|(out, _)| out ^ 1)];
        let between = match (self.leaf(from), self.leaf(to)) {
            (Some(a), Some(b)) => self.shares.between(a, b),
            _ => None,
        };
        Way::Likely(ends, between.unwrap_or_else(|| Arc::clone(&self.nothing)))
    }

    /// Of a planned flow, and of its answers.
    pub(super) fn both(&mut self, flow: &PlannedFlow) -> [Way; 2] {
        [self.of(flow.from, flow.to, &flow.flow), self.of(flow.to, flow.from, &flow.flow.reversed())]
    }
}

/// Of each of these flows, the directions that its probes or answers cross at least this likely.
#[must_use]
pub fn crossed(
    fabric: &Fabric,
    endpoints: &[Endpoint],
    placements: &BTreeMap<Flow, Path>,
    flows: &[&PlannedFlow],
    likely_min: f64,
) -> Vec<Vec<Direction>> {
    let mut ways = Ways::new(fabric, placements, endpoints);
    let of = |flow: &&PlannedFlow| {
        let mut directions = Vec::new();
        for way in ways.both(flow) {
            way.each(|at, likely| directions.extend((likely >= likely_min).then(|| direction(at))));
        }
        directions
    };
    flows.iter().map(of).collect()
}

/// Of each of these flows, each direction that its probes cross and how likely; the same of its answers.
#[must_use]
pub fn crossings(
    fabric: &Fabric,
    endpoints: &[Endpoint],
    placements: &BTreeMap<Flow, Path>,
    flows: &[&PlannedFlow],
) -> Vec<[Vec<(Direction, f64)>; 2]> {
    let mut ways = Ways::new(fabric, placements, endpoints);
    let listed = |way: Way| {
        let mut directions = Vec::new();
        way.each(|at, likely| directions.push((direction(at), likely)));
        directions
    };
    flows.iter().map(|flow| ways.both(flow).map(listed)).collect()
}
