//! How the flows of a plan are chosen, for one fineness.
//!
//! In: a [`World`], [`Options`], how many flows each size of each direction is made of. Out: a [`Plan`], and whether a budget stood in its way.
//! Pure.

pub(super) mod jobs;

use super::ledger::Ledger;
use super::mix;
use super::plan::{Covered, JobPlan, Options, Plan, PlannedFlow, Uncovered, World, addresses_between};
use super::shares::{direction, number};
use super::ways::Ways;
use crate::map::{Flow, Transport};
use jobs::Room;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Rounds of a shape that are gone through for NICs' own links and for rails that nothing is known of.
const ROUNDS_MAX: usize = 64;
/// Pairs of leaves of different rails that are looked at where rails alone do not cover a link.
const CROSS_PAIRS_MAX: usize = 4096;
/// Flows that tell two links apart, for each of the ways that they may take: one way without any is unlikely then.
const FLOWS_APART_PER_WAY: usize = 3;
/// Where nothing is known of what joins a rail, a NIC's packets are so many times what each direction should have.
const BLIND_FACTOR: f64 = 4.0;
/// Flows that those packets are spread over, of each NIC and its answers.
const BLIND_FLOWS: f64 = 40.0;
/// Fastest that a flow is sent.
const INTERVAL_US_MIN: f64 = 2_000.0;

pub(super) struct Builder<'a> {
    world: World<'a>,
    options: &'a Options,
    ways: Ways<'a>,
    pub(super) ledger: Ledger,
    /// Of each flow, probes a second.
    each_per_s: f64,
    flows: Vec<PlannedFlow>,
    /// Packets a second of each endpoint.
    load: Vec<f64>,
    /// The same of each size, by endpoint.
    own_per_s: Vec<f64>,
    /// It is a target.
    answers: Vec<bool>,
    /// Flows of each endpoint's host.
    of_host: Vec<usize>,
    hosts: Vec<usize>,
    /// Source ports of each endpoint.
    ports: Vec<BTreeSet<u16>>,
    /// Ports of flows of the plan before, while it is not known yet which of them go on.
    reserved: Vec<BTreeSet<u16>>,
    /// Of each job.
    jobs: Vec<JobPlan>,
    /// Flows not taken because of a budget.
    pub(super) refused: usize,
    blind_pairs: usize,
    by_id: BTreeSet<u64>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(world: World<'a>, options: &'a Options, fineness: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a few sizes")]
        let need_per_s = options.per_direction_per_s / options.sizes_bytes.len() as f64;
        let each_per_s = (need_per_s / fineness).min(1e6 / INTERVAL_US_MIN);
        let directions = world.fabric.links().len() * 2;
        let mut by_name = BTreeMap::new();
        let hosts: Vec<usize> = world
            .endpoints
            .iter()
            .map(|endpoint| {
                let next = by_name.len();
                *by_name.entry(endpoint.port.node.as_str()).or_insert(next)
            })
            .collect();
        let count = world.endpoints.len();
        let mut ledger = Ledger::new(directions, options.sizes_bytes.len(), need_per_s, each_per_s, options.certainty);
        for (link, _) in world.fabric.links().iter().enumerate().filter(|(_, link)| !link.up) {
            (0..2).for_each(|end| ledger.excuse(link * 2 + end));
        }
        Self {
            world,
            options,
            ways: Ways::new(world.fabric, world.placements, world.endpoints),
            ledger,
            each_per_s,
            flows: Vec::new(),
            load: vec![0.0; count],
            own_per_s: vec![0.0; count * options.sizes_bytes.len()],
            answers: world.endpoints.iter().map(|endpoint| endpoint.answers.is_some()).collect(),
            of_host: vec![0; by_name.len()],
            hosts,
            ports: vec![BTreeSet::new(); count],
            reserved: vec![BTreeSet::new(); count],
            jobs: Vec::new(),
            refused: 0,
            blind_pairs: 0,
            by_id: BTreeSet::new(),
        }
    }

    pub(super) fn build(&mut self, room: Room) {
        let rails = self.rails();
        // First, so that their ports are the same in every plan.
        self.tell_apart(&rails);
        if room == Room::Half {
            self.among_jobs(room);
        }
        self.keep_what_serves();
        let groups = match self.options.fleet {
            // Any with any, in the order of their leaves.
            true => BTreeMap::from([("", rails.values().flatten().copied().collect())]),
            false => rails,
        };
        for group in groups.values() {
            self.between_leaves(group);
        }
        if groups.len() > 1 && self.ledger.lacking() > 0 {
            self.across_rails(&groups);
        }
        for group in groups.values() {
            self.blindly(group);
            self.own_links(group);
        }
        if room == Room::Rest {
            self.among_jobs(room);
        }
    }

    /// Endpoints by rail, those whose link is up.
    fn rails(&self) -> BTreeMap<&'a str, Vec<usize>> {
        let mut rails: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, endpoint) in self.world.endpoints.iter().enumerate().filter(|(at, _)| !self.ways.is_down(*at)) {
            rails.entry(endpoint.rail.as_str()).or_default().push(at);
        }
        rails
    }

    // ---- what is there already -------------------------------------------------------------------

    /// Flows of the plan before, those whose paths are known first: they cover for sure. Those of jobs go on with their job, or end with it.
    fn keep_what_serves(&mut self) {
        let by_address = self.by_address();
        let known = |flow: &PlannedFlow| self.world.placements.contains_key(&flow.flow);
        let (placed, unplaced): (Vec<_>, Vec<_>) =
            self.world.before.iter().filter(|flow| flow.job.is_none()).partition(|flow| known(flow));
        for before in placed.into_iter().chain(unplaced) {
            let Some((from, to, size)) = self.usable(&by_address, before) else { continue };
            if self.by_id.contains(&before.id) || self.ports[from].contains(&before.flow.source_port) {
                continue;
            }
            if self.serves(from, to, &before.flow, size) || self.serves_blindly(from, to) {
                self.add(from, to, before.flow.clone(), size, before.offset_us);
            }
        }
    }

    /// Ends and size of a flow of the plan before that could be sent as it is.
    fn usable(&self, by_address: &HashMap<IpAddr, usize>, before: &PlannedFlow) -> Option<(usize, usize, usize)> {
        let ends = (by_address.get(&before.flow.source), by_address.get(&before.flow.destination));
        let (Some(&from), Some(&to)) = ends else { return None };
        let size = self.options.size_of(before.size_bytes, before.flow.source)?;
        let endpoints = self.world.endpoints;
        let addresses = (before.flow.source, before.flow.destination);
        let port = before.flow.source_port;
        let in_range =
            port.checked_sub(self.options.source_port_first).is_some_and(|at| at < self.options.source_ports);
        let usable = in_range
            && addresses_between(&endpoints[from], &endpoints[to]) == Some(addresses)
            && endpoints[to].answers == Some(before.flow.destination_port)
            && !self.ways.is_down(from)
            && !self.ways.is_down(to);
        usable.then_some((from, to, size))
    }

    /// It crosses a direction that lacks its size.
    fn serves(&mut self, from: usize, to: usize, flow: &Flow, size: usize) -> bool {
        let mut serves = false;
        for way in [self.ways.of(from, to, flow), self.ways.of(to, from, &flow.reversed())] {
            way.each(|direction, _| serves |= self.ledger.lacks(direction, size));
        }
        serves
    }

    fn serves_blindly(&mut self, from: usize, to: usize) -> bool {
        let (target, per_s, endpoints) = (self.blind_target(), self.blind_per_s(), self.world.endpoints);
        (self.options.fleet || endpoints[from].rail == endpoints[to].rail)
            && !self.ways.joined(from, to)
            && self.load[from].max(self.load[to]) + per_s <= target + 1e-9
    }

    // ---- choosing --------------------------------------------------------------------------------

    /// Endpoints by the leaf that they are at, in the order of the leaves.
    fn by_leaf<'e>(&self, endpoints: impl IntoIterator<Item = &'e usize>) -> Vec<Vec<usize>> {
        let mut at_leaf: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for endpoint in endpoints {
            if let Some(leaf) = self.ways.leaf(*endpoint) {
                at_leaf.entry(leaf).or_default().push(*endpoint);
            }
        }
        at_leaf.into_values().collect()
    }

    /// Flows between the leaves of a rail, for the links above them.
    fn between_leaves(&mut self, rail: &[usize]) {
        let members = self.by_leaf(rail);
        let count = members.len();
        let rounds = self.options.shape.rounds(count);
        let pairs: Vec<(usize, usize, Phase)> = (0..rounds)
            .flat_map(|round| {
                let phase = Phase { at: round, of: rounds };
                self.options.shape.round(count, round).into_iter().map(move |(a, b)| (a, b, phase))
            })
            .collect();
        self.until_enough(&pairs, &members);
    }

    /// Where a rail has two leaves, all that leaves one for a spine goes on to the other: nothing of the rail tells the two links
    /// apart. Flows to a leaf of the next rail do.
    fn tell_apart(&mut self, rails: &BTreeMap<&'a str, Vec<usize>>) {
        let rails: Vec<_> = rails.values().map(|rail| self.by_leaf(rail)).collect();
        let count = rails.len();
        for (at, rail) in rails.iter().enumerate() {
            let next = &rails[(at + 1) % count];
            // Of two rails, the second's flows to the first would be the same once more.
            if rail.len() != 2 || next.is_empty() || count < 2 || (count == 2 && at == 1 && next.len() == 2) {
                continue;
            }
            for (turn, from) in rail.iter().enumerate() {
                let to = &next[turn % next.len()];
                let (Some(a), Some(b)) = (self.ways.leaf(from[0]), self.ways.leaf(to[0])) else { continue };
                let Some(there) = self.ways.shares.between(a, b) else { continue };
                let leaves = |at: usize| self.world.fabric.head(direction(at ^ 1)) == a;
                let ways = there.iter().filter(|(at, _)| leaves(*at)).count();
                for flow in 0..ways * FLOWS_APART_PER_WAY {
                    for size in 0..self.options.sizes_bytes.len() {
                        // Each sends in its turn.
                        let (from, to) = if flow % 2 == 0 { (from, to) } else { (to, from) };
                        self.choose(from, to, size, flow, Phase { at: turn, of: rail.len() });
                    }
                }
            }
        }
    }

    /// Flows between leaves of different rails, where those of one rail do not reach a link.
    fn across_rails(&mut self, rails: &BTreeMap<&'a str, Vec<usize>>) {
        let members = self.by_leaf(rails.values().flatten());
        let count = members.len();
        let of_rail = |at: usize| &self.world.endpoints[members[at][0]].rail;
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        let pairs: Vec<_> = pairs
            .filter(|(a, b)| of_rail(*a) != of_rail(*b))
            .take(CROSS_PAIRS_MAX)
            .map(|(a, b)| (a, b, Phase { at: a, of: count }))
            .collect();
        self.until_enough(&pairs, &members);
    }

    /// Goes round the pairs, a flow of each size each time, until none adds to a direction that lacks.
    fn until_enough(&mut self, pairs: &[(usize, usize, Phase)], members: &[Vec<usize>]) {
        let mut turn = 0;
        let mut progress = true;
        while progress && self.ledger.lacking() > 0 {
            progress = false;
            for (a, b, phase) in pairs {
                // Each sends in its turn.
                let (a, b) = if turn % 2 == 0 { (*a, *b) } else { (*b, *a) };
                let (Some(leaf_a), Some(leaf_b)) = (self.ways.leaf(members[a][0]), self.ways.leaf(members[b][0]))
                else {
                    continue;
                };
                let (there, back) =
                    (self.ways.shares.between(leaf_a, leaf_b), self.ways.shares.between(leaf_b, leaf_a));
                let (Some(there), Some(back)) = (there, back) else { continue };
                for size in 0..self.options.sizes_bytes.len() {
                    let mut both = there.iter().chain(back.iter());
                    if both.any(|(direction, _)| self.ledger.lacks(*direction, size)) {
                        progress |= self.choose(&members[a], &members[b], size, turn, *phase);
                    }
                }
            }
            turn += 1;
        }
    }

    /// A flow from one of these to one of those: those that send least so far. False where nobody has room.
    fn choose(&mut self, from: &[usize], to: &[usize], size: usize, turn: usize, phase: Phase) -> bool {
        let source = self.least(from, turn, size, None);
        let target = source.and_then(|source| self.least(to, turn / from.len().max(1) + turn, size, Some(source)));
        let (Some(source), Some(target)) = (source, target) else {
            self.refused += 1;
            return false;
        };
        self.new_flow(source, target, size, phase)
    }

    /// The one with the least of this size, of those with room; with a source, of those that can answer it.
    fn least(&self, among: &[usize], first: usize, size: usize, source: Option<usize>) -> Option<usize> {
        let (count, per_s, sizes) = (among.len(), self.each_per_s, self.options.sizes_bytes.len());
        let order = (0..count).map(|at| among[(at + first) % count]);
        let fit = order.filter(|endpoint| {
            let has_room = self.load[*endpoint] + per_s <= self.options.packets_per_s_per_nic_max + 1e-9;
            has_room
                && match source {
                    None => self.of_host[self.hosts[*endpoint]] < self.options.flows_per_host_max,
                    Some(source) => self.answers[*endpoint] && self.may_join(source, *endpoint),
                }
        });
        let has = |endpoint: usize| (self.own_per_s[endpoint * sizes + size], self.load[endpoint]);
        fit.map(|endpoint| (has(endpoint), endpoint))
            .min_by(|((a, all_a), _), ((b, all_b), _)| a.total_cmp(b).then(all_a.total_cmp(all_b)))
            .map(|(_, endpoint)| endpoint)
    }

    /// NICs whose own link lacks probes, with others of their rail.
    fn own_links(&mut self, rail: &[usize]) {
        let rounds = self.options.shape.rounds(rail.len());
        let mut turn = 0;
        let mut progress = true;
        while progress {
            progress = false;
            for round in 0..rounds.min(ROUNDS_MAX) {
                for (a, b) in self.options.shape.round(rail.len(), round) {
                    let (a, b) = if turn % 2 == 0 { (rail[a], rail[b]) } else { (rail[b], rail[a]) };
                    for size in 0..self.options.sizes_bytes.len() {
                        if (self.own_lacks(a, size) || self.own_lacks(b, size)) && self.may_join(a, b) {
                            let phase = Phase { at: round, of: rounds };
                            progress |=
                                self.choose(&[a], &[b], size, 0, phase) || self.choose(&[b], &[a], size, 0, phase);
                        }
                    }
                }
            }
            turn += 1;
        }
    }

    fn own_lacks(&self, endpoint: usize, size: usize) -> bool {
        self.ways.out[endpoint].is_some_and(|(out, _)| self.ledger.lacks(out, size) || self.ledger.lacks(out ^ 1, size))
    }

    /// Two NICs that may be probed with each other: of one family, and not of one host, whose kernel would keep the packets.
    fn may_join(&self, a: usize, b: usize) -> bool {
        let endpoints = self.world.endpoints;
        self.hosts[a] != self.hosts[b] && addresses_between(&endpoints[a], &endpoints[b]).is_some()
    }

    fn blind_target(&self) -> f64 {
        (self.options.per_direction_per_s * BLIND_FACTOR).min(self.options.packets_per_s_per_nic_max)
    }

    /// Of a flow between these, probes a second.
    fn per_s(&mut self, from: usize, to: usize) -> f64 {
        if self.ways.joined(from, to) { self.each_per_s } else { self.blind_per_s() }
    }

    fn blind_per_s(&self) -> f64 {
        self.each_per_s.min(self.blind_target() / BLIND_FLOWS)
    }

    /// A mesh among NICs that no known way joins.
    fn blindly(&mut self, rail: &[usize]) {
        let count = rail.len();
        let rounds = self.options.shape.rounds(count);
        let taken = rounds.min(ROUNDS_MAX);
        let mut pairs = Vec::new();
        for at in 0..taken {
            // Evenly over all rounds where there are too many.
            let round = at * rounds / taken;
            for (a, b) in self.options.shape.round(count, round) {
                if self.may_join(rail[a], rail[b]) && !self.ways.joined(rail[a], rail[b]) {
                    pairs.push((rail[a], rail[b], Phase { at: round, of: rounds }));
                }
            }
        }
        self.blind_pairs += pairs.len();
        let (target, per_s) = (self.blind_target(), self.blind_per_s());
        let sizes = self.options.sizes_bytes.len();
        let mut turn = 0;
        let mut progress = !pairs.is_empty();
        while progress {
            progress = false;
            for (at, (a, b, phase)) in pairs.iter().enumerate() {
                let (a, b) = if turn % 2 == 0 { (*a, *b) } else { (*b, *a) };
                if self.load[a].max(self.load[b]) + per_s > target + 1e-9 || self.world.endpoints[b].answers.is_none() {
                    continue;
                }
                if self.of_host[self.hosts[a]] < self.options.flows_per_host_max {
                    progress |= self.new_flow(a, b, (turn / 2 + at) % sizes, *phase);
                }
            }
            turn += 1;
        }
    }

    // ---- flows -----------------------------------------------------------------------------------

    fn new_flow(&mut self, from: usize, to: usize, size: usize, phase: Phase) -> bool {
        let endpoints = self.world.endpoints;
        let Some(answers) = endpoints[to].answers else { return false };
        let Some((source, destination)) = addresses_between(&endpoints[from], &endpoints[to]) else { return false };
        let Some(source_port) = self.free_port(from, source, destination) else {
            self.refused += 1;
            return false;
        };
        let flow = Flow { source, destination, transport: Transport::Udp, source_port, destination_port: answers };
        let id = identifier(&flow, self.options.payload_bytes(size, source), self.options.dscp);
        let interval_us = interval_us(self.per_s(from, to));
        self.add(from, to, flow, size, phase.start_us(interval_us, id))
    }

    /// A source port of its own: the same for the same pair and turn, whatever else is planned, unless it is taken.
    fn free_port(&self, from: usize, source: IpAddr, destination: IpAddr) -> Option<u16> {
        let Options { source_port_first, source_ports, seed, .. } = *self.options;
        let (taken, reserved) = (&self.ports[from], &self.reserved[from]);
        if taken.len() + reserved.len() >= usize::from(source_ports) {
            return None;
        }
        let pair = bits(source) ^ mix(bits(destination));
        let turns =
            (taken.len() as u64..).map(|turn| mix(pair ^ mix(seed.wrapping_add(turn))) % u64::from(source_ports));
        #[expect(clippy::cast_possible_truncation, reason = "below a u16")]
        let mut ports = turns.map(|port| source_port_first + port as u16);
        ports.find(|port| !taken.contains(port) && !reserved.contains(port))
    }

    fn add(&mut self, from: usize, to: usize, flow: Flow, size: usize, offset_us: u32) -> bool {
        let per_s = self.per_s(from, to);
        let size_bytes = self.options.payload_bytes(size, flow.source);
        let id = identifier(&flow, size_bytes, self.options.dscp);
        let has_room =
            [from, to].iter().all(|end| self.load[*end] + per_s <= self.options.packets_per_s_per_nic_max + 1e-9);
        if !has_room || self.of_host[self.hosts[from]] >= self.options.flows_per_host_max || !self.by_id.insert(id) {
            self.refused += 1;
            return false;
        }
        for way in [self.ways.of(from, to, &flow), self.ways.of(to, from, &flow.reversed())] {
            way.each(|direction, likely| self.ledger.add(direction, size, likely, per_s));
        }
        for end in [from, to] {
            self.load[end] += per_s;
            self.own_per_s[end * self.options.sizes_bytes.len() + size] += per_s;
        }
        self.of_host[self.hosts[from]] += 1;
        self.ports[from].insert(flow.source_port);
        let interval_us = interval_us(per_s);
        self.flows.push(PlannedFlow {
            id,
            from,
            to,
            flow,
            size_bytes,
            interval_us,
            offset_us,
            dense: false,
            job: None,
        });
        true
    }

    // ---- the end ---------------------------------------------------------------------------------

    pub(super) fn finish(mut self) -> Plan {
        self.densify();
        let need_per_s = self.ledger_need();
        let sizes = self.options.sizes_bytes.len();
        let mut covered = Vec::with_capacity(self.world.fabric.links().len() * 2);
        for at in 0..self.world.fabric.links().len() * 2 {
            let tallies: Vec<_> = (0..sizes).map(|size| *self.ledger.tally(at, size)).collect();
            let certainty =
                tallies.iter().map(|tally| tally.certainty(need_per_s, self.each_per_s)).fold(1.0, f64::min);
            let per_s_by_size: Vec<_> = tallies.iter().map(|tally| tally.sure_per_s + tally.likely_per_s).collect();
            let lacks = (0..sizes).any(|size| self.ledger.lacks(at, size));
            let is_up = self.world.fabric.links()[at / 2].up;
            let uncovered = match () {
                () if !is_up => Some(Uncovered::Down),
                () if !lacks => None,
                () if per_s_by_size.iter().all(|per_s| *per_s == 0.0) => Some(Uncovered::NoWay),
                () => Some(Uncovered::Budget),
            };
            covered.push(Covered {
                direction: direction(at),
                sure_per_s: tallies.iter().map(|tally| tally.sure_per_s).sum(),
                per_s_by_size,
                certainty: if is_up { certainty } else { 0.0 },
                uncovered,
            });
        }
        Plan { flows: self.flows, covered, packets_per_s: self.load, blind_pairs: self.blind_pairs, jobs: self.jobs }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few sizes")]
    fn ledger_need(&self) -> f64 {
        self.options.per_direction_per_s / self.options.sizes_bytes.len() as f64
    }

    /// What shares a way with a suspect is sent more often, as far as budgets allow.
    fn densify(&mut self) {
        let suspects = self.world.suspects;
        if suspects.is_empty() {
            return;
        }
        let directions: BTreeSet<usize> = suspects.directions.iter().map(|direction| number(*direction)).collect();
        let touched: Vec<usize> = (0..self.flows.len())
            .filter(|at| {
                let flow = &self.flows[*at];
                let of_nic =
                    [flow.from, flow.to].iter().any(|end| suspects.nics.contains(&self.world.endpoints[*end].port));
                let mut shares = of_nic;
                if !shares && !directions.is_empty() {
                    for way in self.ways.both(flow) {
                        way.each(|direction, _| shares |= directions.contains(&direction));
                    }
                }
                shares
            })
            .collect();
        // In equal steps, so that no flow takes all of what its NIC has left.
        let mut factors = vec![1.0; self.flows.len()];
        let steps = self.options.suspect_factor.max(1.0).floor();
        let mut step = 1.0;
        while step < steps {
            for at in &touched {
                let flow = &self.flows[*at];
                let (from, to, base) = (flow.from, flow.to, flow.per_s());
                let budget = self.options.packets_per_s_per_nic_max + 1e-9;
                let fast_enough = base * (factors[*at] + 1.0) > 1e6 / INTERVAL_US_MIN;
                if fast_enough || self.load[from] + base > budget || self.load[to] + base > budget {
                    continue;
                }
                factors[*at] += 1.0;
                self.load[from] += base;
                self.load[to] += base;
            }
            step += 1.0;
        }
        for at in touched {
            if factors[at] > 1.0 {
                let base = self.flows[at].per_s();
                let flow = &mut self.flows[at];
                flow.interval_us = interval_us(base * factors[at]);
                flow.dense = true;
                let (flow, size) = (flow.clone(), self.size_of(at));
                for way in self.ways.both(&flow) {
                    way.each(|direction, likely| self.ledger.more(direction, size, likely, base * (factors[at] - 1.0)));
                }
            }
        }
    }

    fn size_of(&self, at: usize) -> usize {
        let PlannedFlow { size_bytes, flow, .. } = &self.flows[at];
        self.options.size_of(*size_bytes, flow.source).unwrap_or(0)
    }
}

/// A round of so many: when in an interval its pairs are probed.
#[derive(Clone, Copy)]
struct Phase {
    at: usize,
    of: usize,
}

impl Phase {
    /// Within the round's part of the interval, at a place of the flow's own.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the interval, a u32")]
    #[expect(clippy::cast_precision_loss, reason = "rounds and 20 bits, far below 2^52")]
    fn start_us(self, interval_us: u32, id: u64) -> u32 {
        let scatter = (mix(id) >> 44) as f64 / f64::from(1 << 20);
        (f64::from(interval_us) * (self.at as f64 + scatter) / self.of.max(1) as f64) as u32
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a u32")]
fn interval_us(per_s: f64) -> u32 {
    (1e6 / per_s).round().clamp(INTERVAL_US_MIN, f64::from(u32::MAX)) as u32
}

fn identifier(flow: &Flow, size_bytes: u32, dscp: u8) -> u64 {
    let Flow { source, destination, transport, source_port, destination_port } = flow;
    let kind = match transport {
        Transport::Udp => 17,
        Transport::Tcp => 6,
    };
    let ports = u64::from(*source_port) << 16 | u64::from(*destination_port);
    let parts = [bits(*source), bits(*destination), ports, u64::from(size_bytes), kind << 8 | u64::from(dscp)];
    parts.into_iter().fold(0, |all, part| mix(all ^ part))
}

/// A number of an address.
#[expect(clippy::cast_possible_truncation, reason = "both halves are in it")]
fn bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => mix(u64::from(address.to_bits())),
        IpAddr::V6(address) => mix((address.to_bits() >> 64) as u64 ^ mix(address.to_bits() as u64)),
    }
}
