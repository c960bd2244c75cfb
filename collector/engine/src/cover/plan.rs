//! The plan: which flows of probes, how often each.
//!
//! In: a [`World`] (fabric, endpoints, jobs, what traces tell, suspects, the plan before) and [`Options`]. Out: a [`Plan`]. Flows among each
//! job's NICs come first, within half of the budget, since they cover links, too. Flows of the plan before that still serve are kept, in
//! their order; then flows between leaves, in the order of a collective's steps, until each direction
//! of each link above has enough of each size; then for NICs' own links; then, where nothing is known of what joins NICs of a rail, a
//! mesh over it. Where this does not fit the budget it is tried with more and slower flows, which scatter less, and then with jobs' flows
//! last. At the end what shares a way with a suspect is sent more often. Pure. Never: a NIC above its budget, which counts its own probes and its own answers.

use super::choice::Builder;
use super::choice::jobs::Room;
use super::shape::Shape;
use crate::map::{Direction, Fabric, Flow, Path, PortName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A NIC that probes, and that answers where its host's responder runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and interface.
    pub port: PortName,
    /// Its address; of IPv4, where it has one.
    pub address: IpAddr,
    /// One of IPv6, where it has both.
    pub address_v6: Option<IpAddr>,
    /// NICs of one rail are probed with each other.
    pub rail: String,
    /// Its number in the fabric, where it has one.
    pub nic: Option<usize>,
    /// UDP port of its responder; none: it is no target.
    pub answers: Option<u16>,
}

impl Endpoint {
    /// Both.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.address_v6)
    }
}

/// Addresses of one family that both have, IPv4 before IPv6; without such they cannot be probed with each other.
#[must_use]
pub fn addresses_between(from: &Endpoint, to: &Endpoint) -> Option<(IpAddr, IpAddr)> {
    let of = |end: &Endpoint, is_v6: bool| end.addresses().find(|address| address.is_ipv6() == is_v6);
    [false, true].into_iter().find_map(|is_v6| Some((of(from, is_v6)?, of(to, is_v6)?)))
}

/// A job that runs on several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its identifier.
    pub name: Arc<str>,
    /// In the order of their lowest ranks.
    pub hosts: Vec<String>,
}

/// Whose pair a flow's ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// NICs of one rail.
    Rail,
    /// NICs of a job, by rank.
    Job,
    /// Any NIC with any.
    Fleet,
}

/// Where loss was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Directions.
    pub directions: BTreeSet<Direction>,
    /// NICs.
    pub nics: BTreeSet<PortName>,
}

impl Suspects {
    /// Nothing is suspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directions.is_empty() && self.nics.is_empty()
    }
}

/// What is planned for.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// As far as it is known.
    pub fabric: &'a Fabric,
    /// Every NIC that can probe.
    pub endpoints: &'a [Endpoint],
    /// Paths of flows and of their answers, where known.
    pub placements: &'a BTreeMap<Flow, Path>,
    /// What is sent more often.
    pub suspects: &'a Suspects,
    /// Flows of the plan before.
    pub before: &'a [PlannedFlow],
    /// Whose NICs are to be probed with each other; none: links alone are covered.
    pub jobs: &'a [Job],
}

/// How to plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Probes and answers a second that cross each direction of each link, all sizes together.
    pub per_direction_per_s: f64,
    /// Packets a second that leave a NIC for probing: its own probes and its answers.
    pub packets_per_s_per_nic_max: f64,
    /// Payloads over IPv4, bytes; each direction gets an equal part of each. See [`Options::payload_bytes`].
    pub sizes_bytes: Vec<u32>,
    /// Order of the pairs.
    pub shape: Shape,
    /// Links are covered by pairs of any two NICs, not of those of a rail alone.
    pub fleet: bool,
    /// Likelihood with which each direction has its rate, where paths are not known.
    pub certainty: f64,
    /// Flows of one host.
    pub flows_per_host_max: usize,
    /// First source port.
    pub source_port_first: u16,
    /// Source ports from there on.
    pub source_ports: u16,
    /// DSCP of the probes: a part of what a flow is.
    pub dscp: u8,
    /// How much more often what shares a way with a suspect is sent, within the budget.
    pub suspect_factor: f64,
    /// Spreads ports and starts.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            per_direction_per_s: 10.0,
            packets_per_s_per_nic_max: 150.0,
            sizes_bytes: vec![64, 1458],
            shape: Shape::Mesh,
            fleet: false,
            certainty: 0.999,
            flows_per_host_max: 2048,
            source_port_first: 20_480,
            source_ports: 8192,
            dscp: 26,
            suspect_factor: 10.0,
            seed: 0,
        }
    }
}

/// By how much the header of IPv6 is longer than that of IPv4, bytes.
const V6_LONGER_BYTES: u32 = 20;
/// From this on a payload is to make a long packet, bytes.
const LONG_BYTES: u32 = 1024;

impl Options {
    /// What a probe of this size carries: a long one over IPv6 that much less as its header is longer, so that packets are equally long and fit the same MTU.
    #[must_use]
    pub fn payload_bytes(&self, size: usize, address: IpAddr) -> u32 {
        let bytes = self.sizes_bytes[size];
        let shorter = bytes.saturating_sub(V6_LONGER_BYTES);
        if address.is_ipv4() || bytes < LONG_BYTES || self.sizes_bytes.contains(&shorter) { bytes } else { shorter }
    }

    /// Which size this payload is of.
    #[must_use]
    pub fn size_of(&self, payload_bytes: u32, address: IpAddr) -> Option<usize> {
        (0..self.sizes_bytes.len()).find(|size| self.payload_bytes(*size, address) == payload_bytes)
    }
}

/// A flow of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFlow {
    /// A hash of the flow, its size and its DSCP.
    pub id: u64,
    /// Number of the endpoint that probes.
    pub from: usize,
    /// Number of the endpoint that answers.
    pub to: usize,
    /// Of the probes; the answers' has source and destination changed.
    pub flow: Flow,
    /// Payload.
    pub size_bytes: u32,
    /// Between probes.
    pub interval_us: u32,
    /// Of the first probe.
    pub offset_us: u32,
    /// Sent more often because of a suspect.
    pub dense: bool,
    /// The job whose pair it is; none: it is there for the links.
    pub job: Option<Arc<str>>,
}

impl PlannedFlow {
    /// Whose pair its ends are.
    #[must_use]
    pub fn scope(&self, endpoints: &[Endpoint]) -> Scope {
        match self.job {
            Some(_) => Scope::Job,
            None if endpoints[self.from].rail == endpoints[self.to].rail => Scope::Rail,
            None => Scope::Fleet,
        }
    }

    /// Probes a second.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        1e6 / f64::from(self.interval_us)
    }
}

/// Why a direction has not what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uncovered {
    /// Its link is down.
    Down,
    /// No way between two endpoints crosses it.
    NoWay,
    /// The NICs' budgets, or the flows that a host may have, are used up.
    Budget,
}

/// What crosses a direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Covered {
    /// Which.
    pub direction: Direction,
    /// Probes and answers a second that are expected to cross it, by size.
    pub per_s_by_size: Vec<f64>,
    /// Of all sizes, those whose path is known.
    pub sure_per_s: f64,
    /// Likelihood that each size has its part of the rate.
    pub certainty: f64,
    /// None where it has what it should have.
    pub uncovered: Option<Uncovered>,
}

impl Covered {
    /// Of all sizes.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        self.per_s_by_size.iter().sum()
    }
}

/// How much of a job is probed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPlan {
    /// Its identifier.
    pub name: Arc<str>,
    /// Its NICs that probe.
    pub nics: usize,
    /// Its hosts without any.
    pub hosts_without: usize,
    /// Pairs of the shape, over all rails.
    pub pairs: usize,
    /// Of them, those that are probed: an even part of all where there is no room for more.
    pub pairs_probed: usize,
}

/// The plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they were chosen.
    pub flows: Vec<PlannedFlow>,
    /// Of each link the direction from `b`, then that from `a`.
    pub covered: Vec<Covered>,
    /// Packets a second that leave each endpoint for probing.
    pub packets_per_s: Vec<f64>,
    /// Pairs of a rail that no known way joins: they are probed as a mesh, and what joins them is in no figure here.
    pub blind_pairs: usize,
    /// Of each job, in their order.
    pub jobs: Vec<JobPlan>,
}

impl Plan {
    /// The part of the directions of links that are up which has what it should have; 1 where there are none.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        let up = self.covered.iter().filter(|covered| covered.uncovered != Some(Uncovered::Down));
        let (all, good) =
            up.fold((0u32, 0u32), |(all, good), covered| (all + 1, good + u32::from(covered.uncovered.is_none())));
        if all == 0 { 1.0 } else { f64::from(good) / f64::from(all) }
    }
}

/// Flows that each size of each direction is made of, tried in this order: more flows scatter less, and so need fewer packets.
const FINENESS: [u32; 5] = [5, 10, 20, 40, 80];
/// Plans.
#[must_use]
pub fn plan(world: World<'_>, options: &Options) -> Plan {
    let built = |fineness: u32, room| {
        let mut builder = Builder::new(world, options, f64::from(fineness));
        builder.build(room);
        builder
    };
    let mut best: Option<(u32, Builder<'_>)> = None;
    for fineness in FINENESS {
        let builder = built(fineness, Room::Half);
        let fits = builder.refused == 0 || builder.ledger.lacking() == 0;
        if best.as_ref().is_none_or(|(_, best)| builder.ledger.lacking() < best.ledger.lacking()) {
            best = Some((fineness, builder));
        }
        if fits {
            return best.map(|(_, best)| best.finish()).unwrap_or_default();
        }
    }
    // Links come before jobs.
    best.map(|(fineness, best)| {
        let jobs_last = (!world.jobs.is_empty()).then(|| built(fineness, Room::Rest));
        jobs_last.filter(|last| last.ledger.lacking() < best.ledger.lacking()).unwrap_or(best).finish()
    })
    .unwrap_or_default()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
