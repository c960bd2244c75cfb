//! Which ways planned flows take: the map as the planner's fabric, and the traces that tell it where equal-cost paths lead.
//!
//! In: the map; the plan. Out: [`FabricView`]; traces of planned flows and of their answers, asked of the agents at their beginnings, a few a second in
//! all, since switches answer such packets on slow processors and limit them: those that lose probes first, then those never traced, then the oldest. Never: a
//! trace that is not whole in place of an older one that is; a trace of a flow that has one way only.

use super::Probes;
use super::view::FabricView;
use crate::clock::Timeline;
use crate::map::MapRoom;
use railwatch_engine::Timestamp;
use railwatch_engine::cover::{answers, crossings};
use railwatch_engine::map::{Fabric, Flow, Path, Topology};
use railwatch_wire::v1;
use std::collections::{BTreeMap, HashMap};
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
/// And a flow that loses probes after so long: it may have another way by now.
const LOSSY_AGAIN_AFTER_NS: u64 = 2_000_000_000;

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

/// Where a flow begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Begins {
    host: String,
    interface: String,
    dscp: u8,
    is_lossy: bool,
}

/// Traces until told to stop.
pub async fn follow(probes: Probes, map: MapRoom, stop: CancellationToken) {
    let mut asked: HashMap<Flow, Timestamp> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let (room, now) = (probes.clone(), Timeline::now());
        let Ok(wanted) = tokio::task::spawn_blocking(move || wanted(&room)).await else { continue };
        asked.retain(|flow, _| wanted.contains_key(flow));
        let mut round = JoinSet::new();
        for (host, flows) in due(&wanted, &asked, now) {
            asked.extend(flows.iter().map(|(flow, _)| (flow.clone(), now)));
            let map = map.clone();
            round.spawn(async move { trace(&map, &host, flows).await });
        }
        while round.join_next().await.is_some() {}
    }
}

/// Flows of the plan and their answers whose way is one of several.
fn wanted(probes: &Probes) -> HashMap<Flow, Begins> {
    let planned = probes.planned();
    let flows: Vec<_> = planned.plan.flows.iter().collect();
    // Without what is known already: a placement must be renewed, too.
    let ways = crossings(&planned.fabric, &planned.endpoints, &BTreeMap::new(), &flows);
    let lossy = probes.lossy_flows();
    let begins = |end: usize, is_lossy: bool| {
        let port = &planned.endpoints[end].port;
        Begins { host: port.node.clone(), interface: port.port.clone(), dscp: planned.options.dscp, is_lossy }
    };
    let mut wanted = HashMap::new();
    for (flow, [there, back]) in flows.into_iter().zip(ways) {
        let is_open = |way: &[(_, f64)]| way.iter().any(|(_, share)| *share < 1.0);
        if is_open(&there) {
            wanted.insert(flow.flow.clone(), begins(flow.from, lossy.contains(&flow.id)));
        }
        if is_open(&back) {
            wanted.insert(answers(&flow.flow), begins(flow.to, lossy.contains(&flow.id)));
        }
    }
    wanted
}

type OfHost = Vec<(Flow, Begins)>;

/// The next round: by host, the flows to be traced.
fn due(wanted: &HashMap<Flow, Begins>, asked: &HashMap<Flow, Timestamp>, now: Timestamp) -> BTreeMap<String, OfHost> {
    let mut waiting: Vec<_> = wanted
        .iter()
        .map(|(flow, begins)| (asked.get(flow).copied().unwrap_or_default(), flow, begins))
        .filter(|(at, _, begins)| {
            let after = if begins.is_lossy { LOSSY_AGAIN_AFTER_NS } else { AGAIN_AFTER_NS };
            now.0.saturating_sub(at.0) >= after
        })
        .collect();
    waiting.sort_by(|a, b| (!a.2.is_lossy, a.0, a.1).cmp(&(!b.2.is_lossy, b.0, b.1)));
    let mut round: BTreeMap<String, OfHost> = BTreeMap::new();
    let mut flows = 0;
    for (_, flow, begins) in waiting {
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

/// Asks one host, and tells the map what it saw whole.
async fn trace(map: &MapRoom, host: &str, flows: OfHost) {
    let message = |(flow, begins): &(Flow, Begins)| v1::TraceFlow {
        interface: begins.interface.clone(),
        source: flow.source.to_string(),
        source_port: flow.source_port.into(),
        destination: flow.destination.to_string(),
        destination_port: flow.destination_port.into(),
        transport: v1::ProbeTransport::Udp.into(),
        dscp: begins.dscp.into(),
    };
    let answers = match map.traces().ask(host, flows.iter().map(message).collect()).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(host, %error, "planned flows are not traced");
            return;
        }
    };
    for ((flow, _), v1::Traced { hops, reached, failed }) in flows.into_iter().zip(answers) {
        let hops: Vec<_> = hops.iter().map(|hop| hop.address.parse().ok()).collect();
        if failed.is_empty() && reached && hops.iter().all(Option::is_some) {
            map.traced(host, flow, hops, reached, Timeline::now());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use railwatch_engine::map::Transport;

    #[test]
    fn a_round_takes_what_was_never_traced_first_and_no_host_takes_it_all() {
        let flow = |host: u8, port: u16| Flow {
            source: [10, 0, 0, host].into(),
            destination: [10, 0, 1, 1].into(),
            transport: Transport::Udp,
            source_port: port,
            destination_port: 7704,
        };
        let begins =
            |host: u8| Begins { host: format!("h{host}"), interface: "eth0".into(), dscp: 26, is_lossy: false };
        let wanted: HashMap<_, _> =
            (0..3).flat_map(|host| (0..30).map(move |port| (flow(host, port), begins(host)))).collect();
        let s = 1_000_000_000;
        let asked = HashMap::from([(flow(0, 0), Timestamp(100 * s)), (flow(1, 0), Timestamp(70 * s))]);
        let round = due(&wanted, &asked, Timestamp(110 * s));
        let counts: Vec<_> = round.iter().map(|(host, flows)| (host.as_str(), flows.len())).collect();
        assert_eq!(counts, [("h0", 16), ("h1", 16), ("h2", 16)]);
        let has = |host: &str, port: u16| round[host].iter().any(|(flow, _)| flow.source_port == port);
        assert!(!has("h0", 0) && !has("h1", 0) && has("h2", 0), "the traced ones come after all others");
        let mut wanted = wanted;
        wanted.get_mut(&flow(0, 0)).unwrap().is_lossy = true;
        assert!(due(&wanted, &asked, Timestamp(110 * s))["h0"][0].0 == flow(0, 0), "one that loses comes first");
        wanted.get_mut(&flow(0, 0)).unwrap().is_lossy = false;
        let all: HashMap<_, _> = wanted.keys().map(|flow| (flow.clone(), Timestamp(100 * s))).collect();
        assert!(due(&wanted, &all, Timestamp(110 * s)).is_empty(), "nothing is traced before its time");
    }
}
