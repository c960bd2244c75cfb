//! For each element and fault mode: would it be sensed within a second, to which elements would it be located, and what would tell those apart?
//!
//! In: the fabric, the plan, what traces tell, and which sources read on which host. Out: rows. The time to sense a fault by probes is that to
//! the first probe lost, `1 / (rate × loss)`, and the time-out after which it counts as lost. Two elements are told apart where different flows
//! cross them, or the same ones with another likelihood, or on the other way; those that nothing tells apart are one set. Pure.

use super::mix;
use super::plan::{Endpoint, Plan};
use super::shares::number;
use super::ways::Ways;
use crate::map::{Direction, Fabric, Flow, NodeKind, Path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultMode {
    /// One packet of a hundred is lost.
    SilentLoss,
    /// All are.
    BlackHole,
    /// All that are larger than 1 KB.
    LargePackets,
    /// A port sends slower than it should.
    SlowPort,
    /// No carrier.
    LinkDown,
    /// Light fades on a lane.
    DirtyOptic,
    /// A NIC makes its leaf pause.
    PfcStorm,
    /// A rank stands still in a collective.
    RankHang,
    /// A host's agent ends.
    AgentDeath,
}

/// Loss of [`FaultMode::SilentLoss`].
const SILENT_LOSS: f64 = 0.01;
/// Payload from which a probe is large, bytes.
const LARGE_BYTES: u32 = 1024;
/// Elements of a set that are named.
const NAMED_MAX: usize = 32;
/// Pairs of leaves that are tried to split sets.
const SPLITS_TRIED_MAX: usize = 4096;
/// A stalled collective is told after this at the earliest (docs/signals/collective.stalled.md).
const COLLECTIVE_STALL_MS: f64 = 10_000.0;
/// A notification of the kernel, until its signal (docs/SPECIFICATION.md, Time).
const NOTIFICATION_MS: f64 = 17.0;

/// What senses besides probes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Senses {
    /// Of each host, its sources that are on, with their cadence, ms.
    pub sources: BTreeMap<String, BTreeMap<String, f64>>,
    /// A probe counts as lost after this.
    pub timeout_ms: f64,
    /// A host counts as silent after this.
    pub silent_after_ms: f64,
}

/// What would tell the elements of a set apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// "trace", "probe", "switch".
    pub by: String,
    /// In words.
    pub what: String,
    /// What it costs as long as it lasts.
    pub packets_per_s: f64,
}

/// One element and fault mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutlookRow {
    /// `leaf1:eth3>spine0:eth1`, `leaf1:eth3-spine0:eth1`, `host3:eth0`, `host3`, `spine0`.
    pub element: String,
    /// "direction", "link", "nic", "host", "switch".
    pub kind: String,
    /// What goes wrong.
    pub fault_mode: FaultMode,
    /// Expected time until something says so; none where nothing would.
    pub expected_ms: Option<f64>,
    /// How likely that is within a second.
    pub within_1_s: f64,
    /// It is expected within a second.
    pub sensed: bool,
    /// Signals, and where they come from.
    pub by: Vec<String>,
    /// What could be at fault then: the first [`NAMED_MAX`].
    pub located_to: Vec<String>,
    /// How many those are.
    pub located_to_count: usize,
    /// What would split that set for the least.
    pub split_by: Option<Split>,
}

/// A set of elements that nothing tells apart.
struct Set {
    names: Vec<String>,
    count: usize,
    split: Option<Split>,
}

/// At most `rows_max` rows, of elements whose name has `containing` in it, in the order of links, then hosts, then switches.
#[must_use]
pub fn outlook(
    fabric: &Fabric,
    endpoints: &[Endpoint],
    placements: &BTreeMap<Flow, Path>,
    plan: &Plan,
    senses: &Senses,
    containing: &str,
    rows_max: usize,
) -> Vec<OutlookRow> {
    let mut view = View::new(fabric, endpoints, placements, plan, senses);
    let mut rows = Vec::new();
    for link in 0..fabric.links().len() {
        if rows.len() >= rows_max {
            break;
        }
        for from_a in [true, false] {
            let direction = Direction { link, from_a };
            if fabric.name(direction).contains(containing) {
                view.direction(direction, &mut rows);
            }
        }
        if fabric.links()[link].to_string().contains(containing) {
            view.link(link, &mut rows);
        }
    }
    let mut hosts: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    endpoints.iter().for_each(|endpoint| hosts.entry(endpoint.port.node.as_str()).or_default().push(endpoint));
    for (host, nics) in hosts.into_iter().filter(|(host, _)| host.contains(containing)) {
        nics.into_iter().for_each(|nic| rows.push(view.pfc(nic)));
        rows.push(view.rank(host));
        rows.push(view.agent(host));
    }
    for (node, switch) in fabric.nodes().iter().enumerate().filter(|(_, node)| node.kind == NodeKind::Switch) {
        if rows.len() < rows_max && switch.name.contains(containing) {
            view.switch(node, &mut rows);
        }
    }
    rows.truncate(rows_max);
    rows
}

struct View<'a> {
    fabric: &'a Fabric,
    plan: &'a Plan,
    senses: &'a Senses,
    /// Of each direction, what tells it from others; 0: nothing crosses it.
    signatures: Vec<u64>,
    /// Some flow that may cross it has no known path.
    thrown: Vec<bool>,
    sets: BTreeMap<u64, Vec<usize>>,
    known: BTreeMap<u64, Split>,
    ways: Ways<'a>,
    leaves: Vec<(usize, String)>,
    large_per_s: Vec<f64>,
}

impl<'a> View<'a> {
    fn new(
        fabric: &'a Fabric,
        endpoints: &'a [Endpoint],
        placements: &'a BTreeMap<Flow, Path>,
        plan: &'a Plan,
        senses: &'a Senses,
    ) -> Self {
        let mut ways = Ways::new(fabric, placements, endpoints);
        let count = fabric.links().len() * 2;
        let (mut signatures, mut thrown, mut large_per_s) = (vec![0u64; count], vec![false; count], vec![0.0; count]);
        for flow in &plan.flows {
            for (leg, way) in (0u64..).zip(ways.both(flow)) {
                way.each(|direction, likely| {
                    // Sums of well-mixed numbers: the order of the flows does not matter.
                    let mark = mix(flow.id ^ mix(leg ^ likely.to_bits()));
                    signatures[direction] = signatures[direction].wrapping_add(mark);
                    thrown[direction] |= likely < 1.0;
                    if flow.size_bytes >= LARGE_BYTES {
                        large_per_s[direction] += likely * flow.per_s();
                    }
                });
            }
        }
        let mut sets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (direction, signature) in signatures.iter().enumerate().filter(|(_, signature)| **signature != 0) {
            sets.entry(*signature).or_default().push(direction);
        }
        let mut leaves: BTreeMap<usize, String> = BTreeMap::new();
        for (at, endpoint) in endpoints.iter().enumerate() {
            if let Some(leaf) = ways.leaf(at) {
                leaves.entry(leaf).or_insert_with(|| endpoint.port.to_string());
            }
        }
        let leaves = leaves.into_iter().collect();
        Self { fabric, plan, senses, signatures, thrown, sets, known: BTreeMap::new(), ways, leaves, large_per_s }
    }

    fn name(&self, at: usize) -> String {
        self.fabric.name(super::shares::direction(at))
    }

    fn per_s(&self, at: usize) -> f64 {
        self.plan.covered.get(at).map_or(0.0, super::plan::Covered::per_s)
    }

    /// What a fault of this direction alone looks like.
    fn set_of(&mut self, at: usize) -> Set {
        let members = self.sets.get(&self.signatures[at]).cloned().unwrap_or_default();
        let names = members.iter().take(NAMED_MAX).map(|member| self.name(*member)).collect();
        let split = (members.len() > 1).then(|| self.split(&members));
        Set { names, count: members.len(), split }
    }

    fn split(&mut self, members: &[usize]) -> Split {
        let signature = self.signatures[members[0]];
        if let Some(known) = self.known.get(&signature) {
            return known.clone();
        }
        let split = self.find_split(members);
        self.known.insert(signature, split.clone());
        split
    }

    fn find_split(&mut self, members: &[usize]) -> Split {
        if members.iter().any(|member| self.thrown[*member]) {
            let what = "traces of the flows that may cross it: then it is known which do".to_owned();
            return Split { by: "trace".to_owned(), what, packets_per_s: 0.0 };
        }
        let count = self.leaves.len();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let mut best: Option<(f64, String)> = None;
        for (a, b) in pairs.take(SPLITS_TRIED_MAX) {
            let Some(between) = self.ways.shares.between(self.leaves[a].0, self.leaves[b].0) else { continue };
            let crossing =
                members.iter().filter_map(|member| between.iter().find(|(direction, _)| direction == member));
            let (hit, likely) = crossing.fold((0, 0.0f64), |(hit, most), (_, likely)| (hit + 1, most.max(*likely)));
            if hit > 0 && hit < members.len() && best.as_ref().is_none_or(|(most, _)| likely > *most) {
                best = Some((likely, format!("a probe from {} to {}", self.leaves[a].1, self.leaves[b].1)));
            }
        }
        match best {
            // One packet a second that crosses.
            Some((likely, what)) => Split { by: "probe".to_owned(), what, packets_per_s: 1.0 / likely },
            None => {
                let switches = members.iter().map(|member| {
                    self.fabric.nodes()[self.fabric.head(super::shares::direction(*member))].name.clone()
                });
                let switches: std::collections::BTreeSet<_> = switches.take(NAMED_MAX).collect();
                let what = format!("counters of {}", switches.into_iter().collect::<Vec<_>>().join(", "));
                Split { by: "switch".to_owned(), what, packets_per_s: 0.0 }
            }
        }
    }

    /// The first loss of so many packets a second, each lost with this likelihood.
    fn by_loss(&self, per_s: f64, loss: f64) -> (Option<f64>, f64) {
        if per_s <= 0.0 {
            return (None, 0.0);
        }
        let within_s = (1.0 - self.senses.timeout_ms / 1e3).max(0.0);
        let within =
            if loss >= 1.0 { (per_s * within_s).min(1.0) } else { 1.0 - (per_s * within_s * (1.0 - loss).ln()).exp() };
        (Some(1e3 / (per_s * loss) + self.senses.timeout_ms), within)
    }

    fn source(&self, host: &str, source: &str) -> Option<f64> {
        self.senses.sources.get(host)?.get(source).copied()
    }

    fn direction(&mut self, direction: Direction, rows: &mut Vec<OutlookRow>) {
        let at = number(direction);
        let (all, large) = (self.per_s(at), self.large_per_s[at]);
        for (mode, per_s, loss) in [
            (FaultMode::SilentLoss, all, SILENT_LOSS),
            (FaultMode::BlackHole, all, 1.0),
            (FaultMode::LargePackets, large, 1.0),
        ] {
            let (expected_ms, within_1_s) = self.by_loss(per_s, loss);
            let signal = if mode == FaultMode::BlackHole { "probe.unreachable" } else { "probe.loss" };
            let by = if per_s > 0.0 { vec![format!("{signal} of probes")] } else { Vec::new() };
            let set = self.set_of(at);
            rows.push(row(self.name(at), "direction", mode, expected_ms, within_1_s, by, set));
        }
        // Delay under load shows in the probes' times, and no signal tells it.
        let by = if all > 0.0 { vec!["railwatch probes: fabric delay; no signal".to_owned()] } else { Vec::new() };
        let set = self.set_of(at);
        rows.push(row(self.name(at), "direction", FaultMode::SlowPort, None, 0.0, by, set));
    }

    fn link(&mut self, link: usize, rows: &mut Vec<OutlookRow>) {
        let cable = &self.fabric.links()[link];
        let name = cable.to_string();
        let itself = || Set { names: vec![name.clone()], count: 1, split: None };
        let is_host = |node: usize| self.fabric.nodes()[node].kind == NodeKind::Host;
        let ends = [(false, &cable.a), (true, &cable.b)]
            .map(|(from_a, end)| (self.fabric.head(Direction { link, from_a }), end));
        let host = ends.iter().find(|(node, _)| is_host(*node)).map(|(_, end)| end.node.clone());
        let (down, dirty) = match &host {
            Some(host) => (
                self.source(host, "netdev").map(|_| (NOTIFICATION_MS, "nic.link.down of netdev")),
                self.source(host, "optics")
                    .map(|cadence_ms| (cadence_ms / 2.0, "optics.* of optics, of the host's module")),
            ),
            None => (None, None),
        };
        for (mode, sensed) in [(FaultMode::LinkDown, down), (FaultMode::DirtyOptic, dirty)] {
            let (expected_ms, by, set) = match sensed {
                Some((ms, by)) => (Some(ms), vec![by.to_owned()], itself()),
                None => (None, Vec::new(), self.silent_switch(link, &name)),
            };
            let within = expected_ms.map_or(0.0, |ms| (500.0 / ms).min(1.0));
            rows.push(row(name.clone(), "link", mode, expected_ms, within, by, set));
        }
    }

    /// Only a switch's own word tells of a link between switches that is down, before routing leads round it, or of its modules.
    fn silent_switch(&self, link: usize, name: &str) -> Set {
        let cable = &self.fabric.links()[link];
        let what = format!("what {} or {} says of itself (gNMI)", cable.a.node, cable.b.node);
        let split = Split { by: "switch".to_owned(), what, packets_per_s: 0.0 };
        Set { names: vec![name.to_owned()], count: 1, split: Some(split) }
    }

    fn pfc(&self, nic: &Endpoint) -> OutlookRow {
        let name = nic.port.to_string();
        let sensed = ["netdev.driver", "netdev.pause", "rdma.hw"]
            .into_iter()
            .find_map(|source| Some((self.source(&nic.port.node, source)?, source)));
        let by = sensed.map(|(_, source)| vec![format!("nic.pause.* of {source}")]).unwrap_or_default();
        // A duty is judged over two readings.
        let expected_ms = sensed.map(|(cadence_ms, _)| cadence_ms * 2.0);
        let within = expected_ms.map_or(0.0, |ms| (1e3 / ms).min(1.0));
        row(name.clone(), "nic", FaultMode::PfcStorm, expected_ms, within, by, alone(name))
    }

    fn rank(&self, host: &str) -> OutlookRow {
        let seen = self.senses.sources.contains_key(host);
        let stopped = self.source(host, "process.sched");
        let by = seen.then(|| "collective.stalled, job.stalled".to_owned()).into_iter();
        let by =
            by.chain(stopped.map(|_| "process.stopped of process.sched, sooner, where it does not run".to_owned()));
        let by = by.collect();
        let expected_ms = seen.then_some(COLLECTIVE_STALL_MS);
        row(host.to_owned(), "host", FaultMode::RankHang, expected_ms, 0.0, by, alone(host.to_owned()))
    }

    fn agent(&self, host: &str) -> OutlookRow {
        let after_ms = self.senses.silent_after_ms;
        let by = vec!["silence of the agent".to_owned()];
        let within = f64::from(u8::from(after_ms <= 1e3));
        row(host.to_owned(), "host", FaultMode::AgentDeath, Some(after_ms), within, by, alone(host.to_owned()))
    }

    /// A switch that loses in all that it forwards.
    fn switch(&mut self, node: usize, rows: &mut Vec<OutlookRow>) {
        let into: Vec<usize> =
            (0..self.signatures.len()).filter(|at| self.fabric.head(super::shares::direction(*at)) == node).collect();
        let per_s: f64 = into.iter().map(|at| self.per_s(*at)).sum();
        let name = self.fabric.nodes()[node].name.clone();
        for (mode, loss) in [(FaultMode::SilentLoss, SILENT_LOSS), (FaultMode::BlackHole, 1.0)] {
            let (expected_ms, within) = self.by_loss(per_s, loss);
            let signal = if mode == FaultMode::BlackHole { "probe.unreachable" } else { "probe.loss" };
            let by = if per_s > 0.0 { vec![format!("{signal} of probes")] } else { Vec::new() };
            // A switch whose links are all of one set is not told from that set.
            let set = match into.iter().find(|at| self.signatures[**at] != 0) {
                Some(first) if into.iter().all(|at| self.signatures[*at] == self.signatures[*first]) => {
                    let mut set = self.set_of(*first);
                    set.names.insert(0, name.clone());
                    Set { count: set.count + 1, ..set }
                }
                _ => alone(name.clone()),
            };
            rows.push(row(name.clone(), "switch", mode, expected_ms, within, by, set));
        }
    }
}

fn alone(name: String) -> Set {
    Set { names: vec![name], count: 1, split: None }
}

fn row(
    element: String,
    kind: &str,
    fault_mode: FaultMode,
    expected_ms: Option<f64>,
    within_1_s: f64,
    by: Vec<String>,
    set: Set,
) -> OutlookRow {
    let (located_to, located_to_count, split_by) = (set.names, set.count, set.split);
    let sensed = expected_ms.is_some_and(|ms| ms <= 1e3);
    let kind = kind.to_owned();
    OutlookRow {
        element,
        kind,
        fault_mode,
        expected_ms,
        within_1_s,
        sensed,
        by,
        located_to,
        located_to_count,
        split_by,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::cover::clos::{Clos, clos};
    use crate::cover::{Options, Suspects, World, plan};

    fn lab(rails: u32, per_direction_per_s: f64, placed: bool) -> Vec<OutlookRow> {
        let (fabric, endpoints) = clos(Clos { rails, leaves_per_rail: 2, hosts_per_leaf: 4, spines: 2 });
        let options = Options { per_direction_per_s, ..Options::default() };
        let (mut placements, suspects) = (BTreeMap::new(), Suspects::default());
        let world = World {
            fabric: &fabric,
            endpoints: &endpoints,
            placements: &BTreeMap::new(),
            suspects: &suspects,
            before: &[],
            jobs: &[],
        };
        let planned = plan(world, &options);
        if placed {
            for flow in &planned.flows {
                for (from, to, tuple) in
                    [(flow.from, flow.to, flow.flow.clone()), (flow.to, flow.from, flow.flow.reversed())]
                {
                    let paths = fabric.paths(from, to, 16).paths;
                    let chosen = (mix(flow.id ^ from as u64) % paths.len() as u64) as usize;
                    placements.insert(tuple, paths[chosen].1.clone());
                }
            }
        }
        let on = |cadence: &[(&str, f64)]| cadence.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect();
        let sources = [("host0".to_owned(), on(&[("netdev", 10.0), ("netdev.driver", 100.0)]))].into();
        let senses = Senses { sources, timeout_ms: 200.0, silent_after_ms: 1000.0 };
        outlook(&fabric, &endpoints, &placements, &planned, &senses, "", usize::MAX)
    }

    fn find<'a>(rows: &'a [OutlookRow], element: &str, mode: FaultMode) -> &'a OutlookRow {
        rows.iter().find(|row| row.element == element && row.fault_mode == mode).unwrap()
    }

    #[test]
    fn a_rate_senses_what_it_can_and_no_more_is_claimed() {
        let (slow, fast) = (lab(2, 10.0, false), lab(2, 200.0, false));
        let link = "leaf0:eth4>spine0:eth0";
        for (rows, mode, sensed) in [
            (&slow, FaultMode::SilentLoss, false),
            (&slow, FaultMode::BlackHole, true),
            (&slow, FaultMode::LargePackets, true),
            (&slow, FaultMode::SlowPort, false),
            (&fast, FaultMode::SilentLoss, true),
        ] {
            let row = find(rows, link, mode);
            assert_eq!(row.sensed, sensed, "{row:?}");
        }
        let row = find(&slow, link, FaultMode::SilentLoss);
        // Some 24 a second, of which one in a hundred is lost.
        assert!((3_000.0..10_000.0).contains(&row.expected_ms.unwrap()), "{row:?}");
        assert!(row.within_1_s < 0.3, "{row:?}");
    }

    #[test]
    fn sets_hold_what_nothing_tells_apart_and_the_cheapest_that_would_is_named() {
        let unknown = lab(2, 10.0, false);
        let row = find(&unknown, "leaf0:eth4>spine0:eth0", FaultMode::BlackHole);
        // Both ways up of the leaf: each flow may take either.
        assert_eq!(row.located_to_count, 2, "{row:?}");
        assert_eq!(row.split_by.as_ref().unwrap().by, "trace");
        let placed = lab(2, 10.0, true);
        let row = find(&placed, "leaf0:eth4>spine0:eth0", FaultMode::BlackHole);
        assert_eq!(row.located_to, ["leaf0:eth4>spine0:eth0"], "probes of the other rail tell it apart: {row:?}");
        let alone = lab(1, 10.0, true);
        let row = find(&alone, "leaf0:eth4>spine0:eth0", FaultMode::BlackHole);
        // Who goes up to spine 0 comes down to leaf 1, and there is no other leaf.
        assert_eq!(row.located_to, ["leaf0:eth4>spine0:eth0", "spine0:eth1>leaf1:eth4"], "{row:?}");
        let own = find(&placed, "host3:eth0>leaf0:eth3", FaultMode::BlackHole);
        assert_eq!(own.located_to, ["host3:eth0>leaf0:eth3"]);
    }

    #[test]
    fn other_senses_count_where_they_are_on() {
        let rows = lab(2, 10.0, false);
        for (element, mode, sensed) in [
            ("host0:eth0-leaf0:eth0", FaultMode::LinkDown, true),
            ("host1:eth0-leaf0:eth1", FaultMode::LinkDown, false),
            ("leaf0:eth4-spine0:eth0", FaultMode::LinkDown, false),
            ("host0:eth0-leaf0:eth0", FaultMode::DirtyOptic, false),
            ("host0:eth0", FaultMode::PfcStorm, true),
            ("host1:eth0", FaultMode::PfcStorm, false),
            ("host0", FaultMode::RankHang, false),
            ("host1", FaultMode::AgentDeath, true),
        ] {
            assert_eq!(find(&rows, element, mode).sensed, sensed, "{element} {mode:?}");
        }
    }
}
