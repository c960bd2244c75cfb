//! For each element and fault mode: would it be sensed within a second, to which elements would it be located, and what would tell those apart?
//!
//! In: the fabric, the plan, what traces tell, which sources read on which host, and what switches say. Out: rows. The time to sense a fault
//! by probes is that to the first packet lost, `1 / (rate × loss)`, and the time after which it is told: of a datagram the time-out; of a
//! segment of TCP, which the kernel mends, that until its flow's next answer, and where all are lost twice the time-out ([`Pace`]). What else tells is in
//! [`told`]. Two elements are told apart where different flows cross them, or the same ones with another likelihood, or on the other way;
//! those that nothing tells apart are one set. A fault mode that nothing tells has a row that says so. Pure.

mod told;

use super::mix;
use super::plan::{Endpoint, Plan, PlannedFlow};
use super::shares::number;
use super::ways::Ways;
use crate::map::{Direction, Fabric, Flow, NodeKind, Path, Transport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use told::Told;
pub use told::{CONGESTION_SERIES, ERROR_SERIES, PAUSE_SERIES};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultMode {
    /// One packet of a hundred is lost, or what is asked for.
    SilentLoss,
    /// All are.
    BlackHole,
    /// All that are larger than 1 KB, or as many of them as is asked for.
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
    /// The carrier goes and comes, again and again.
    LinkFlapping,
    /// Symbols or frames are wrong.
    LinkErrors,
    /// An administrator took it down.
    LinkTakenDown,
    /// A rank is slower than the others.
    SlowRank,
    /// A process asks for more GPU memory than there is.
    GpuOutOfMemory,
    /// No device, a wrong driver.
    GpuDriverUnusable,
    /// Uncorrectable memory or NVLink errors.
    GpuMemoryFault,
    /// Allocations fail for any other reason.
    GpuAllocationFailing,
    /// A host ends, with its agent.
    HostDown,
    /// A host's agent is stopped, starved or hung.
    AgentStalled,
    /// A host no longer reaches the collector.
    UplinkLost,
    /// What many hosts share ends: a switch of the management network, a power feed.
    SharedNetworkOrPower,
    /// The collector no longer reaches the hosts.
    CollectorCutOff,
    /// The collector ends and starts again.
    CollectorRestart,
}

impl FaultMode {
    /// The fault mode of an incident that would say it (docs/fault-modes.md); none where no incident does. Of a link between switches
    /// none says that it is down: the switch's signal does.
    #[must_use]
    pub fn reported_as(self) -> Option<&'static str> {
        match self {
            // A port that is too slow for what it is given loses what does not fit.
            Self::SilentLoss | Self::SlowPort => Some("path_loss"),
            Self::BlackHole => Some("path_blackhole"),
            Self::LargePackets => Some("path_long_packets_lost"),
            Self::LinkDown => Some("link_down"),
            Self::LinkFlapping => Some("link_flapping"),
            Self::LinkErrors => Some("link_errors"),
            Self::LinkTakenDown => Some("link_taken_down"),
            Self::AgentDeath => Some("agent_silent"),
            Self::HostDown => Some("host_down"),
            Self::AgentStalled => Some("agent_stalled"),
            Self::UplinkLost => Some("uplink_lost"),
            Self::SharedNetworkOrPower => Some("shared_network_or_power"),
            Self::CollectorCutOff => Some("collector_cut_off"),
            Self::GpuOutOfMemory => Some("gpu_out_of_memory"),
            Self::GpuDriverUnusable => Some("gpu_driver_unusable"),
            Self::GpuMemoryFault => Some("gpu_memory_fault"),
            Self::GpuAllocationFailing => Some("gpu_allocation_failing"),
            Self::DirtyOptic | Self::PfcStorm | Self::RankHang | Self::SlowRank | Self::CollectorRestart => None,
        }
    }
}

/// Of what runs on a host.
const ON_HOST: [FaultMode; 6] = [
    FaultMode::RankHang,
    FaultMode::SlowRank,
    FaultMode::GpuOutOfMemory,
    FaultMode::GpuDriverUnusable,
    FaultMode::GpuMemoryFault,
    FaultMode::GpuAllocationFailing,
];
/// Of a whole host: it is silent.
const OF_HOST: [FaultMode; 4] =
    [FaultMode::AgentDeath, FaultMode::AgentStalled, FaultMode::HostDown, FaultMode::UplinkLost];
/// Of a link, told by who is at it.
const OF_LINK: [FaultMode; 5] = [
    FaultMode::LinkDown,
    FaultMode::LinkFlapping,
    FaultMode::LinkErrors,
    FaultMode::LinkTakenDown,
    FaultMode::DirtyOptic,
];

/// Loss of [`FaultMode::SilentLoss`], where nobody asks for another.
pub const SILENT_LOSS: f64 = 0.01;
/// Loss of [`FaultMode::LargePackets`], likewise.
pub const LARGE_LOSS: f64 = 1.0;
/// What is sensed within a second so likely counts as that.
const SURE: f64 = 0.95;
/// Payload from which a probe is large, bytes.
const LARGE_BYTES: u32 = super::kind::LONG_BYTES;
/// The least time after which a probe over TCP without an answer is lost (`agent/probe/src/stream/judge.rs`).
const STREAM_LOST_MS_MIN: f64 = 300.0;
/// Elements of a set that are named.
const NAMED_MAX: usize = 32;
/// Pairs of leaves that are tried to split sets.
const SPLITS_TRIED_MAX: usize = 4096;

/// What senses besides probes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Senses {
    /// Of each host, its sources that are on, with their cadence, ms.
    pub sources: BTreeMap<String, BTreeMap<String, f64>>,
    /// Of each host, which of [`PAUSE_SERIES`], [`CONGESTION_SERIES`] and [`ERROR_SERIES`] it has.
    pub series: BTreeMap<String, BTreeSet<String>>,
    /// Of each switch that speaks, what it says, with the time between two words, ms; 0: on change.
    pub switches: BTreeMap<String, BTreeMap<String, f64>>,
    /// Loss of [`FaultMode::SilentLoss`], 0 to 1.
    pub loss: f64,
    /// Loss of [`FaultMode::LargePackets`], of those that it concerns, 0 to 1.
    pub large_loss: f64,
    /// A probe counts as lost after this.
    pub timeout_ms: f64,
    /// A host counts as silent after this.
    pub silent_after_ms: f64,
    /// An agent counts as stalled after this, where its host's kernel answers.
    pub stalled_after_ms: f64,
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
    /// `leaf1:eth3>spine0:eth1`, `leaf1:eth3-spine0:eth1`, `host3:eth0`, `host3`, `spine0`, `hosts` (many of them), `collector`.
    pub element: String,
    /// "direction", "link", "nic", "host", "switch", "hosts", "collector".
    pub kind: String,
    /// What goes wrong.
    pub fault_mode: FaultMode,
    /// Expected time until something says so; none where nothing would.
    pub expected_ms: Option<f64>,
    /// How likely that is within a second.
    pub within_1_s: f64,
    /// It is within a second in 95 of 100 cases.
    pub sensed: bool,
    /// Signals, and where they come from.
    pub by: Vec<String>,
    /// What could be at fault then: the first [`NAMED_MAX`].
    pub located_to: Vec<String>,
    /// How many those are.
    pub located_to_count: usize,
    /// What would split that set for the least.
    pub split_by: Option<Split>,
    /// The fault mode of the incident that would say it; none where no incident does.
    pub reported_as: Option<String>,
}

/// A set of elements that nothing tells apart.
struct Set {
    names: Vec<String>,
    count: usize,
    split: Option<Split>,
}

/// At most `rows_max` rows, of elements whose name has `containing` in it, in the order of links, hosts, switches, then what many share.
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
        let told = ON_HOST.map(|mode| (mode, senses.on_host(mode, host)));
        rows.extend(told.map(|(mode, told)| told_row(host.to_owned(), "host", mode, told)));
        rows.extend(
            OF_HOST
                .map(|mode| told_row(host.to_owned(), "host", mode, senses.silence_of(mode, "silence of the agent"))),
        );
    }
    for (node, switch) in fabric.nodes().iter().enumerate().filter(|(_, node)| node.kind == NodeKind::Switch) {
        if rows.len() < rows_max && switch.name.contains(containing) {
            view.switch(node, &mut rows);
        }
    }
    for (element, mode, told) in [
        (
            "hosts",
            FaultMode::SharedNetworkOrPower,
            senses.silence_of(FaultMode::SharedNetworkOrPower, "silence of five or more hosts"),
        ),
        (
            "collector",
            FaultMode::CollectorCutOff,
            senses.silence_of(FaultMode::CollectorCutOff, "silence of most hosts"),
        ),
        ("collector", FaultMode::CollectorRestart, Senses::restart()),
    ] {
        if element.contains(containing) {
            rows.push(told_row(element.to_owned(), element, mode, told));
        }
    }
    rows.truncate(rows_max);
    rows
}

struct View<'a> {
    fabric: &'a Fabric,
    senses: &'a Senses,
    /// Of each direction, what tells it from others; 0: nothing crosses it.
    signatures: Vec<u64>,
    /// Some flow that may cross it has no known path.
    thrown: Vec<bool>,
    sets: BTreeMap<u64, Vec<usize>>,
    known: BTreeMap<u64, Split>,
    ways: Ways<'a>,
    leaves: Vec<(usize, String)>,
    all: Vec<Pace>,
    large: Vec<Pace>,
}

/// Packets a second that cross a direction.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    datagrams_per_s: f64,
    segments_per_s: f64,
    /// Turns a second of the flows that those segments are of, each as likely as it crosses, and how many flows that makes.
    turns_per_s: f64,
    flows: f64,
}

impl Pace {
    fn add(&mut self, flow: &PlannedFlow, likely: f64) {
        match flow.flow.transport {
            Transport::Udp => self.datagrams_per_s += likely * flow.crossing_per_s(),
            Transport::Tcp => {
                self.segments_per_s += likely * flow.crossing_per_s();
                self.turns_per_s += likely * flow.per_s();
                self.flows += likely;
            }
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            datagrams_per_s: self.datagrams_per_s + other.datagrams_per_s,
            segments_per_s: self.segments_per_s + other.segments_per_s,
            turns_per_s: self.turns_per_s + other.turns_per_s,
            flows: self.flows + other.flows,
        }
    }

    fn per_s(&self) -> f64 {
        self.datagrams_per_s + self.segments_per_s
    }

    /// Packets a second of each transport, and after how many ms a loss among them is told.
    fn told(&self, timeout_ms: f64, loss: f64) -> [(f64, f64); 2] {
        let gone_ms = (2.0 * timeout_ms).max(STREAM_LOST_MS_MIN);
        let interval_ms = if self.turns_per_s > 0.0 { 1e3 * self.flows / self.turns_per_s } else { 0.0 };
        let mended_ms = if loss >= 1.0 { gone_ms } else { gone_ms.max(interval_ms) };
        [(self.datagrams_per_s, timeout_ms), (self.segments_per_s, mended_ms)]
    }
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
        let (mut signatures, mut thrown) = (vec![0u64; count], vec![false; count]);
        let (mut all, mut large) = (vec![Pace::default(); count], vec![Pace::default(); count]);
        for flow in &plan.flows {
            for (leg, way) in (0u64..).zip(ways.both(flow)) {
                way.each(|direction, likely| {
                    // Sums of well-mixed numbers: the order of the flows does not matter.
                    let mark = mix(flow.id ^ mix(leg ^ likely.to_bits()));
                    signatures[direction] = signatures[direction].wrapping_add(mark);
                    thrown[direction] |= likely < 1.0;
                    all[direction].add(flow, likely);
                    if flow.size_bytes >= LARGE_BYTES {
                        large[direction].add(flow, likely);
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
        Self { fabric, senses, signatures, thrown, sets, known: BTreeMap::new(), ways, leaves, all, large }
    }

    fn name(&self, at: usize) -> String {
        self.fabric.name(super::shares::direction(at))
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
                let switches: BTreeSet<_> = switches.take(NAMED_MAX).collect();
                let what = format!("counters of {}", switches.into_iter().collect::<Vec<_>>().join(", "));
                Split { by: "switch".to_owned(), what, packets_per_s: 0.0 }
            }
        }
    }

    /// The first loss of so many packets a second, each lost with this likelihood.
    fn by_loss(&self, pace: Pace, loss: f64) -> (Option<f64>, f64) {
        let per_s = pace.per_s();
        if per_s <= 0.0 {
            return (None, 0.0);
        }
        let (mut told_ms, mut unseen) = (0.0, 1.0);
        for (of_transport, after_ms) in pace.told(self.senses.timeout_ms, loss) {
            let packets = of_transport * (1.0 - after_ms / 1e3).max(0.0);
            told_ms += after_ms * of_transport / per_s;
            unseen *= if loss >= 1.0 { (1.0 - packets).max(0.0) } else { (packets * (1.0 - loss).ln()).exp() };
        }
        (Some(1e3 / (per_s * loss) + told_ms), 1.0 - unseen)
    }

    fn direction(&mut self, direction: Direction, rows: &mut Vec<OutlookRow>) {
        let at = number(direction);
        let (all, large) = (self.all[at], self.large[at]);
        for (mode, pace, loss) in [
            (FaultMode::SilentLoss, all, self.senses.loss),
            (FaultMode::BlackHole, all, 1.0),
            (FaultMode::LargePackets, large, self.senses.large_loss),
        ] {
            let (expected_ms, within_1_s) = self.by_loss(pace, loss);
            let set = self.set_of(at);
            rows.push(row(self.name(at), "direction", mode, expected_ms, within_1_s, by_probes(mode, pace), set));
        }
        // Delay under load shows in the probes' times, and no signal tells it.
        let by =
            if all.per_s() > 0.0 { vec!["railwatch probes: fabric delay; no signal".to_owned()] } else { Vec::new() };
        let set = self.set_of(at);
        rows.push(row(self.name(at), "direction", FaultMode::SlowPort, None, 0.0, by, set));
    }

    fn link(&mut self, link: usize, rows: &mut Vec<OutlookRow>) {
        let cable = &self.fabric.links()[link];
        let name = cable.to_string();
        // Both directions of it, as a dead data plane is.
        let directions = [true, false].map(|from_a| number(Direction { link, from_a }));
        let pace = directions.iter().map(|at| self.all[*at]).fold(Pace::default(), Pace::and);
        for (mode, loss) in [(FaultMode::SilentLoss, self.senses.loss), (FaultMode::BlackHole, 1.0)] {
            let (expected_ms, within) = self.by_loss(pace, loss);
            let set = self.set_of_both(link, directions);
            rows.push(row(name.clone(), "link", mode, expected_ms, within, by_probes(mode, pace), set));
        }
        let ends = [(false, &cable.a), (true, &cable.b)].map(|(from_a, end)| {
            let node = self.fabric.head(Direction { link, from_a });
            (self.fabric.nodes()[node].kind == NodeKind::Host, end.node.as_str())
        });
        for mode in OF_LINK {
            let mut told = Told::default();
            for (is_host, node) in ends {
                told = told.or(self.senses.end_of_link(mode, node, is_host));
            }
            let is_told = told.expected_ms.is_some();
            let mut of_it = told_row(name.clone(), "link", mode, told);
            if !is_told {
                of_it.split_by = Some(self.silent_switch(link));
            }
            rows.push(of_it);
        }
    }

    /// Links whose two directions are crossed as those of this one are.
    fn set_of_both(&mut self, link: usize, directions: [usize; 2]) -> Set {
        let mark = |[one, other]: [usize; 2]| self.signatures[one].wrapping_add(self.signatures[other]);
        let own = mark(directions);
        // Every link like it has a direction that is like its first or its second.
        let alike: BTreeSet<usize> = directions
            .iter()
            .flat_map(|at| self.sets.get(&self.signatures[*at]).into_iter().flatten())
            .map(|at| super::shares::direction(*at).link)
            .filter(|other| {
                let both = [true, false].map(|from_a| number(Direction { link: *other, from_a }));
                *other == link || mark(both) == own
            })
            .collect();
        let names: Vec<_> = alike.iter().take(NAMED_MAX).map(|other| self.fabric.links()[*other].to_string()).collect();
        let split = (alike.len() > 1).then(|| self.set_of(directions[0]).split).flatten();
        Set { names, count: alike.len(), split }
    }

    /// Only a switch's own word tells of a link between switches that is down, before routing leads round it, or of its modules.
    fn silent_switch(&self, link: usize) -> Split {
        let cable = &self.fabric.links()[link];
        let what = format!("what {} or {} says of itself (gNMI)", cable.a.node, cable.b.node);
        Split { by: "switch".to_owned(), what, packets_per_s: 0.0 }
    }

    fn pfc(&self, nic: &Endpoint) -> OutlookRow {
        let leaf = nic.nic.map(|nic| &self.fabric.links()[self.fabric.nics()[nic].link]);
        let at = leaf.map(|cable| if cable.a.node == nic.port.node { &cable.b.node } else { &cable.a.node });
        let told = self.senses.pause(&nic.port.node, at.map(String::as_str));
        told_row(nic.port.to_string(), "nic", FaultMode::PfcStorm, told)
    }

    /// A switch that loses in all that it forwards.
    fn switch(&mut self, node: usize, rows: &mut Vec<OutlookRow>) {
        let into: Vec<usize> =
            (0..self.signatures.len()).filter(|at| self.fabric.head(super::shares::direction(*at)) == node).collect();
        let pace = into.iter().map(|at| self.all[*at]).fold(Pace::default(), Pace::and);
        let name = self.fabric.nodes()[node].name.clone();
        for (mode, loss) in [(FaultMode::SilentLoss, self.senses.loss), (FaultMode::BlackHole, 1.0)] {
            let (expected_ms, within) = self.by_loss(pace, loss);
            let by = by_probes(mode, pace);
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

fn by_probes(mode: FaultMode, pace: Pace) -> Vec<String> {
    let signal = if mode == FaultMode::BlackHole { "probe.unreachable" } else { "probe.loss" };
    if pace.per_s() > 0.0 { vec![format!("{signal} of probes")] } else { Vec::new() }
}

/// Whoever tells of it tells which element it is.
fn told_row(element: String, kind: &str, mode: FaultMode, told: Told) -> OutlookRow {
    let set = alone(element.clone());
    row(element, kind, mode, told.expected_ms, told.within_1_s, told.by, set)
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
    let sensed = expected_ms.is_some() && within_1_s >= SURE;
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
        reported_as: fault_mode.reported_as().map(str::to_owned),
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
        let host0 = [("netdev.link", 10.0), ("netdev", 100.0), ("netdev.driver", 100.0), ("gpu.memory", 1000.0)];
        // The driver of host2 counts no pause.
        let sources = [("host0", &host0[..]), ("host2", &[("netdev.driver", 100.0)])];
        let spine1 = [("link state", 0.0), ("ports and their counters", 2000.0)];
        let series = ["hw.network.pfc.pause_time", "hw.network.errors.crc"].map(str::to_owned);
        let senses = Senses {
            sources: sources.map(|(host, sources)| (host.to_owned(), on(sources))).into(),
            series: [("host0".to_owned(), series.into())].into(),
            switches: [("spine1".to_owned(), on(&spine1))].into(),
            loss: SILENT_LOSS,
            large_loss: LARGE_LOSS,
            timeout_ms: 200.0,
            silent_after_ms: 1000.0,
            stalled_after_ms: 5000.0,
        };
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
            // Nine times of ten is not surely.
            (&fast, FaultMode::SilentLoss, false),
        ] {
            let row = find(rows, link, mode);
            assert_eq!(row.sensed, sensed, "{row:?}");
        }
        let row = find(&slow, link, FaultMode::SilentLoss);
        // Some 24 a second, of which one in a hundred is lost.
        assert!((3_000.0..10_000.0).contains(&row.expected_ms.unwrap()), "{row:?}");
        assert!(row.within_1_s < 0.3, "{row:?}");
        let row = find(&fast, link, FaultMode::SilentLoss);
        assert!(row.expected_ms.unwrap() < 1e3 && (0.8..0.95).contains(&row.within_1_s), "{row:?}");
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
            ("leaf0:eth5-spine1:eth0", FaultMode::LinkFlapping, true),
            ("leaf0:eth5-spine1:eth0", FaultMode::LinkErrors, false),
            ("host0:eth0-leaf0:eth0", FaultMode::LinkErrors, true),
            ("host0:eth0-leaf0:eth0", FaultMode::DirtyOptic, false),
            ("host0:eth0", FaultMode::PfcStorm, true),
            ("host1:eth0", FaultMode::PfcStorm, false),
            ("host2:eth0", FaultMode::PfcStorm, false),
            ("host0", FaultMode::RankHang, false),
            ("host0", FaultMode::GpuOutOfMemory, true),
            ("host1", FaultMode::GpuOutOfMemory, false),
            // A second of silence begins with the last word, and is judged when it is over.
            ("host1", FaultMode::AgentDeath, false),
            ("collector", FaultMode::CollectorRestart, false),
        ] {
            assert_eq!(find(&rows, element, mode).sensed, sensed, "{element} {mode:?}");
        }
        let slow = find(&rows, "leaf0:eth5-spine1:eth0", FaultMode::LinkErrors);
        assert_eq!((slow.expected_ms, slow.by.as_slice()), (Some(1100.0), &["switch.errors of spine1".to_owned()][..]));
        let unseen = find(&rows, "leaf0:eth4-spine0:eth0", FaultMode::LinkDown);
        assert_eq!((unseen.expected_ms, unseen.split_by.as_ref().unwrap().by.as_str()), (None, "switch"));
        let silent = find(&rows, "host1", FaultMode::AgentDeath);
        assert!(silent.expected_ms == Some(950.0) && (0.5..0.9).contains(&silent.within_1_s), "{silent:?}");
    }

    #[test]
    fn a_link_that_is_dead_both_ways_is_told_from_those_that_other_flows_cross() {
        for (rails, expected) in [
            (2, &["leaf0:eth4-spine0:eth0"][..]),
            // Who goes up to spine 0 comes down to the only other leaf, and back.
            (1, &["leaf0:eth4-spine0:eth0", "leaf1:eth4-spine0:eth1"]),
        ] {
            let rows = lab(rails, 10.0, true);
            let row = find(&rows, "leaf0:eth4-spine0:eth0", FaultMode::BlackHole);
            assert!(row.sensed && row.located_to == expected, "{row:?}");
        }
    }

    #[test]
    fn every_fault_mode_of_incidents_is_one_that_coverage_knows() {
        let rows = lab(2, 10.0, false);
        let known: BTreeSet<_> = rows.iter().filter_map(|row| row.reported_as.as_deref()).collect();
        let reported: BTreeSet<_> = crate::faults::FAULT_MODES.iter().map(|mode| mode.name).collect();
        assert_eq!(known, reported);
    }
}
