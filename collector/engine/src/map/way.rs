//! Which way a flow goes.
//!
//! In: the map, two NICs, a flow or none. Out: its paths with how likely each is, and how that is known: by a fresh trace of this
//! 5-tuple, or because there is one way only; else all ways that the switches may choose. A hop whose address nobody knows is not of a switch
//! whose addresses are all known: it narrows too. Never: a path that the map does not have.

use super::fabric::{Path, PathSet, PortName};
use super::reports::{TRACE_FRESH_NS, Trace, is_unicast};
use super::statement::Flow;
use super::topology::Topology;
use crate::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Paths that are looked at.
const PATHS_MAX: usize = 4096;

/// The ways of a flow, in one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ways {
    /// Likeliest first.
    pub set: PathSet,
    /// There is one, and it is the one.
    pub exact: bool,
    /// How that is known.
    pub why: String,
}

impl Topology {
    /// The ways from one NIC to another by number, for this flow where one is given.
    #[must_use]
    pub fn ways(&self, from: usize, to: usize, flow: Option<&Flow>, now: Timestamp) -> Ways {
        let set = self.fabric.paths(from, to, PATHS_MAX);
        if set.paths.is_empty() {
            let why =
                "no way is known: links on all of them are down, or no cable between the switches is known".to_owned();
            return Ways { set, exact: false, why };
        }
        if set.paths.len() == 1 {
            return Ways { set, exact: true, why: "there is one way only".to_owned() };
        }
        let Some(flow) = flow else {
            let why = "without the ports of a flow every way is as likely as switches share flows out".to_owned();
            return Ways { set, exact: false, why };
        };
        let trace = self.traces.get(flow).filter(|trace| self.is_fresh(&set, trace, now));
        let Some(trace) = trace else {
            let why = "no fresh trace of this flow: every way is as likely as switches share flows out".to_owned();
            return Ways { set, exact: false, why };
        };
        let narrowed = self.narrowed(&set, trace);
        match narrowed.paths.len() {
            0 => {
                let why = format!("a trace of this flow took a way that the map does not have: {}", shown(&trace.hops));
                Ways { set, exact: false, why }
            }
            1 if !narrowed.cut => {
                Ways { set: narrowed, exact: true, why: "a fresh trace of this flow tells".to_owned() }
            }
            _ => Ways { set: narrowed, exact: false, why: "a fresh trace of this flow leaves these".to_owned() },
        }
    }

    /// Nobody has said anything else since of a link that the flow may take.
    fn is_fresh(&self, set: &PathSet, trace: &Trace, now: Timestamp) -> bool {
        let is_same = |port: &PortName| {
            let known = self.ports.binary_search_by(|fact| (&fact.node, &fact.port).cmp(&(&port.node, &port.port)));
            known.ok().and_then(|at| self.ports.get(at)).is_none_or(|fact| fact.standing.changed <= trace.at)
        };
        let used: BTreeSet<usize> = set.paths.iter().flat_map(|(_, path)| path).map(|way| way.link).collect();
        now.0.saturating_sub(trace.at.0) <= TRACE_FRESH_NS
            && used.into_iter().all(|link| {
                let cable = self.links.get(link).is_none_or(|fact| fact.standing.changed <= trace.at);
                cable && self.fabric.links().get(link).is_none_or(|link| is_same(&link.a) && is_same(&link.b))
            })
    }

    /// The paths that a trace leaves.
    fn narrowed(&self, set: &PathSet, trace: &Trace) -> PathSet {
        let mut paths: Vec<_> =
            set.paths.iter().filter(|(_, path)| self.agrees(trace, path.iter().copied())).cloned().collect();
        let sum: f64 = paths.iter().map(|(likely, _)| likely).sum();
        for (likely, _) in &mut paths {
            *likely /= sum;
        }
        PathSet { paths, cut: set.cut }
    }

    fn agrees(&self, trace: &Trace, path: impl ExactSizeIterator<Item = super::fabric::Direction>) -> bool {
        // The last direction leads to the receiver, which is left out of the hops.
        let switches = path.len().saturating_sub(1);
        let is_long_enough = trace.hops.len() <= switches && (!trace.reached || trace.hops.len() == switches);
        let nodes = path.map(|direction| &self.fabric.nodes()[self.fabric.head(direction)].name);
        is_long_enough
            && nodes.zip(&trace.hops).all(|(node, hop)| match hop {
                None => true,
                Some(address) => match self.port_of.get(address) {
                    Some(port) => port.node == *node,
                    // An address of one cable alone is never known.
                    None => {
                        !is_unicast(address)
                            || !self.all_addresses.get(node).is_some_and(|all| all[usize::from(address.is_ipv6())])
                    }
                },
            })
    }

    /// The one way of each flow of which a fresh trace tells it.
    #[must_use]
    pub fn placements(&self, now: Timestamp) -> BTreeMap<Flow, Path> {
        let number: BTreeMap<&PortName, usize> = self.fabric.nics().iter().map(|nic| &nic.port).zip(0..).collect();
        let nic = |address: &IpAddr| number.get(self.port_of.get(address)?).copied();
        let placed = |flow: &Flow| {
            let ways = self.ways(nic(&flow.source)?, nic(&flow.destination)?, Some(flow), now);
            let (_, path) = ways.set.paths.into_iter().next().filter(|_| ways.exact)?;
            Some((flow.clone(), path))
        };
        self.traces.keys().filter_map(placed).collect()
    }

    /// The number of the NIC with this address.
    #[must_use]
    pub fn nic_at(&self, address: IpAddr) -> Option<usize> {
        let port = self.port_of.get(&address)?;
        self.fabric.nics().iter().position(|nic| nic.port == *port)
    }
}

fn shown(hops: &[Option<IpAddr>]) -> String {
    let hop = |hop: &Option<IpAddr>| hop.map_or_else(|| "?".to_owned(), |address| address.to_string());
    hops.iter().map(hop).collect::<Vec<_>>().join(", ")
}
