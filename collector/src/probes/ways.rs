//! Which ways planned flows take: the map as the planner's fabric, and the traces that tell it where equal-cost paths lead.
//!
//! In: the map; the plan. Out: [`FabricView`]; traces of planned flows and of their answers, asked of the agents at their beginnings, a few a second in
//! all, since switches answer such packets on slow processors and limit them: those that lose probes first, then those never traced, then the oldest. Never: a
//! trace that is not whole in place of an older one that is; a trace of a flow that has one way only, or of TCP over IPv6.

use super::view::FabricView;
use super::{Planned, Probes};
use crate::clock::Timeline;
use crate::map::MapRoom;
use crate::traces;
use railwatch_engine::Timestamp;
use railwatch_engine::cover::{PlannedFlow, crossings};
use railwatch_engine::map::{Fabric, Flow, Path, Topology, Transport};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Flows of a round, of all hosts.
const FLOWS_PER_ROUND: usize = 128;
/// Flows of a round and host.
const FLOWS_PER_HOST: usize = 16;
/// A flow is traced again after so long: well before its trace is no longer fresh.
const AGAIN_AFTER_NS: u64 = 25_000_000_000;
/// And so soon a flow that loses probes, which may have another way by now, or whose trace was not whole; ever later while it is not.
const SOON_AFTER_NS: u64 = 2_000_000_000;

/// The map as the planner reads it. What it gives is made once for each making of the map.
pub struct OfMap {
    room: MapRoom,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    of: Arc<Topology>,
    at: Timestamp,
    fabric: Arc<Fabric>,
    placements: Arc<BTreeMap<Flow, Path>>,
}

/// Placements are looked at again so often though the map is the same: traces grow old.
const PLACED_AGAIN_NS: u64 = 5_000_000_000;

impl OfMap {
    /// Of this map.
    #[must_use]
    pub fn new(room: MapRoom) -> Self {
        Self { room, made: Mutex::default() }
    }

    fn made<T>(&self, read: impl FnOnce(&Made) -> T) -> T {
        let (topology, now) = (self.room.topology(), Timeline::now());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&made.of, &topology) || now.0.saturating_sub(made.at.0) >= PLACED_AGAIN_NS {
            // The same as before stays the same one: whoever compares need not look inside.
            if *made.fabric != topology.fabric {
                made.fabric = Arc::new(topology.fabric.clone());
            }
            let placements = topology.placements(now);
            if *made.placements != placements {
                made.placements = Arc::new(placements);
            }
            (made.of, made.at) = (topology, now);
        }
        read(&made)
    }
}

impl FabricView for OfMap {
    fn fabric(&self) -> Arc<Fabric> {
        self.made(|made| Arc::clone(&made.fabric))
    }

    fn placements(&self) -> Arc<BTreeMap<Flow, Path>> {
        self.made(|made| Arc::clone(&made.placements))
    }
}

/// When a flow was traced last, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    at: Timestamp,
    /// Traces in a row that were not whole: a switch or an agent had no time, or routes were on the move.
    in_vain: u32,
}

impl Asked {
    /// When it may be traced again, after so long.
    fn again_after_ns(self, is_lossy: bool) -> u64 {
        match self.in_vain {
            _ if is_lossy => SOON_AFTER_NS,
            0 => AGAIN_AFTER_NS,
            in_vain => (SOON_AFTER_NS << (in_vain - 1).min(8)).min(AGAIN_AFTER_NS),
        }
    }
}

/// Where a flow begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Begins {
    host: String,
    interface: String,
    dscp: u8,
    /// Of the planned flow: its answers are lost with it.
    planned: u64,
}

/// Traces until told to stop.
pub async fn follow(probes: Probes, map: MapRoom, stop: CancellationToken) {
    let mut asked: HashMap<Flow, Asked> = HashMap::new();
    let (mut of, mut wanted) = (Arc::<Planned>::default(), HashMap::new());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let planned = probes.planned();
        if !Arc::ptr_eq(&of, &planned) {
            // Of a large fabric this takes a while, and the plan is the same for long.
            let plan = Arc::clone(&planned);
            let Ok(found) = tokio::task::spawn_blocking(move || several_ways(&plan)).await else { continue };
            (of, wanted) = (planned, found);
            asked.retain(|flow, _| wanted.contains_key(flow));
        }
        let now = Timeline::now();
        let mut round = JoinSet::new();
        for (host, flows) in due(&wanted, &asked, &probes.lossy_flows(now), now) {
            for (flow, _) in &flows {
                let asked = asked.entry(flow.clone()).or_default();
                (asked.at, asked.in_vain) = (now, asked.in_vain.saturating_add(1));
            }
            let map = map.clone();
            round.spawn(async move { trace(&map, &host, flows).await });
        }
        while let Some(whole) = round.join_next().await {
            for flow in whole.into_iter().flatten() {
                asked.entry(flow).and_modify(|asked| asked.in_vain = 0);
            }
        }
    }
}

/// Flows of the plan and their answers whose way is one of several.
fn several_ways(planned: &Planned) -> HashMap<Flow, Begins> {
    // The kernel draws the label of a connection over IPv6 itself: a trace of its ports tells nothing where switches choose by label.
    let can_be_told = |flow: &&PlannedFlow| flow.flow.transport == Transport::Udp || flow.flow.source.is_ipv4();
    let flows: Vec<_> = planned.plan.flows.iter().filter(can_be_told).collect();
    // Without what is known already: a placement must be renewed, too.
    let ways = crossings(&planned.fabric, &planned.endpoints, &BTreeMap::new(), &flows);
    let begins = |end: usize, planned_flow: u64| {
        let port = &planned.endpoints[end].port;
        let (host, interface) = (port.node.clone(), port.port.clone());
        Begins { host, interface, dscp: planned.options.dscp, planned: planned_flow }
    };
    let mut found = HashMap::new();
    for (flow, [there, back]) in flows.into_iter().zip(ways) {
        let is_open = |way: &[(_, f64)]| way.iter().any(|(_, share)| *share < 1.0);
        if is_open(&there) {
            found.insert(flow.flow.clone(), begins(flow.from, flow.id));
        }
        if is_open(&back) {
            found.insert(flow.flow.reversed(), begins(flow.to, flow.id));
        }
    }
    found
}

type OfHost = Vec<(Flow, Begins)>;

/// The next round: by host, the flows to be traced. `lossy` are planned flows.
fn due(
    wanted: &HashMap<Flow, Begins>,
    asked: &HashMap<Flow, Asked>,
    lossy: &HashSet<u64>,
    now: Timestamp,
) -> BTreeMap<String, OfHost> {
    let mut waiting: Vec<_> = wanted
        .iter()
        .map(|(flow, begins)| {
            (!lossy.contains(&begins.planned), asked.get(flow).copied().unwrap_or_default(), flow, begins)
        })
        .filter(|(is_whole, asked, ..)| now.0.saturating_sub(asked.at.0) >= asked.again_after_ns(!is_whole))
        .map(|(is_whole, asked, flow, begins)| (is_whole, asked.at, flow, begins))
        .collect();
    waiting.sort_by_key(|(is_whole, at, flow, _)| (*is_whole, *at, *flow));
    let mut round: BTreeMap<String, OfHost> = BTreeMap::new();
    let mut flows = 0;
    for (.., flow, begins) in waiting {
        let of_host = round.entry(begins.host.clone()).or_default();
        if of_host.len() < FLOWS_PER_HOST {
            of_host.push((flow.clone(), begins.clone()));
            flows += 1;
        }
        if flows == FLOWS_PER_ROUND {
            break;
        }
    }
    round
}

/// Asks one host, and tells the map what it saw whole. Which those are.
async fn trace(map: &MapRoom, host: &str, flows: OfHost) -> Vec<Flow> {
    let message = |(flow, begins): &(Flow, Begins)| traces::flow(begins.interface.clone(), flow, begins.dscp);
    let answers = match map.traces().ask(host, flows.iter().map(message).collect()).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(host, %error, "planned flows are not traced");
            return vec![];
        }
    };
    let mut whole = Vec::new();
    for ((flow, _), traced) in flows.into_iter().zip(answers) {
        let hops = traces::hops(&traced);
        if traced.failed.is_empty() && traced.reached && hops.iter().all(Option::is_some) {
            map.traced(host, flow.clone(), hops, traced.reached, Timeline::now());
            whole.push(flow);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_what_was_never_traced_first_and_no_host_takes_it_all() {
        let flow = |host: u8, port: u16| Flow {
            source: [10, 0, 0, host].into(),
            destination: [10, 0, 1, 1].into(),
            transport: Transport::Udp,
            source_port: port,
            destination_port: 7704,
        };
        let begins = |host: u8, port: u16| Begins {
            host: format!("h{host}"),
            interface: "eth0".into(),
            dscp: 26,
            planned: u64::from(host) << 16 | u64::from(port),
        };
        let wanted: HashMap<_, _> =
            (0..3).flat_map(|host| (0..30).map(move |port| (flow(host, port), begins(host, port)))).collect();
        let s = 1_000_000_000;
        let at = |second: u64| Asked { at: Timestamp(second * s), in_vain: 0 };
        let asked = HashMap::from([(flow(0, 0), at(100)), (flow(1, 0), at(70))]);
        let round = due(&wanted, &asked, &HashSet::new(), Timestamp(110 * s));
        let counts: Vec<_> = round.iter().map(|(host, flows)| (host.as_str(), flows.len())).collect();
        assert_eq!(counts, [("h0", 16), ("h1", 16), ("h2", 16)]);
        let has = |host: &str, port: u16| round[host].iter().any(|(flow, _)| flow.source_port == port);
        assert!(!has("h0", 0) && !has("h1", 0) && has("h2", 0), "the traced ones come after all others");
        let lossy = HashSet::from([0]);
        assert!(
            due(&wanted, &asked, &lossy, Timestamp(110 * s))["h0"][0].0 == flow(0, 0),
            "one that loses comes first"
        );
        let all: HashMap<_, _> = wanted.keys().map(|flow| (flow.clone(), at(100))).collect();
        assert!(
            due(&wanted, &all, &HashSet::new(), Timestamp(110 * s)).is_empty(),
            "nothing is traced before its time"
        );
        // Those whose trace was not whole are tried again soon, then ever later.
        for (in_vain, after_s) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 25), (99, 25)] {
            let vain = HashMap::from([(flow(0, 0), Asked { in_vain, ..at(100) })]);
            let only = HashMap::from([(flow(0, 0), begins(0, 0))]);
            let count = |second: u64| due(&only, &vain, &HashSet::new(), Timestamp(second * s)).len();
            assert_eq!((count(100 + after_s - 1), count(100 + after_s)), (0, 1), "{in_vain}");
        }
    }
}
