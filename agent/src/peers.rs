//! The room of peers: which sources look for them, and how what they find is told.
//!
//! In: the configuration, the GPU room's processes. Out: sources for the sampler, and [`Shared::peers`]. Who talks to whom is
//! sent when it changes; how much, and when a neighbour was heard last, rides along twice a minute at most.
//! Never: a list written half.

use crate::config::Config;
use crate::convert;
use crate::shared::Shared;
use railwatch_nic::{NicConfig, Owner};
use railwatch_peers::lldp::Announcement;
use railwatch_peers::{
    Figures, Flow, FlowSource, LldpSource, Neighbour, Off, Peers, QueuePairRow, QueuePairSource, Route, RouteSource,
    View,
};
use railwatch_sampling::Source;
use railwatch_sampling::clock::{monotonic_ns, realtime_ns};
use railwatch_wire::{limits, v1};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often figures alone are worth sending.
const FIGURES_EVERY: Duration = Duration::from_secs(30);

const _: () = assert!(railwatch_peers::lldp::NEIGHBOURS_MAX <= limits::NEIGHBOURS_PER_HOST_MAX);
const _: () = assert!(railwatch_peers::lldp::ADDRESSES_MAX <= limits::MANAGEMENT_ADDRESSES_MAX);
const _: () = assert!(railwatch_peers::lldp::TEXT_BYTES_MAX <= limits::NAME_BYTES_MAX);
const _: () = assert!(railwatch_peers::QUEUE_PAIRS_MAX <= limits::QUEUE_PAIRS_PER_HOST_MAX);
const _: () = assert!(railwatch_peers::flows::FLOWS_MAX <= limits::FLOWS_PER_HOST_MAX);
const _: () = assert!(railwatch_peers::ROUTES_MAX <= limits::ROUTES_PER_HOST_MAX);

/// What the sources find, on its way out.
#[derive(Debug)]
pub struct PeerRoom {
    peers: Arc<Peers>,
    /// Counts of the view that was written last.
    written: Option<(u64, u64)>,
    written_at: Instant,
}

/// The sources, where they are wanted.
pub fn sources(config: &Config, nic: &NicConfig, shared: &Arc<Shared>) -> (Vec<Box<dyn Source>>, PeerRoom) {
    let news = Arc::clone(shared);
    // A change is on its way at once, whether or not a signal tells of it too.
    let peers = Arc::new(Peers::told_to(move || news.news.notify_one()));
    let kernels = || NicConfig { sysfs_root: "/sys".into(), ..nic.clone() };
    let of_cables = if config.peers.own_interfaces { kernels() } else { nic.clone() };
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if config.peers.enabled {
        let gpu = Arc::clone(shared);
        let pids = move || {
            let view = gpu.gpu();
            let living = view.state.processes.iter().filter(|process| process.exited_unix_ns.is_none());
            living.map(|process| process.pid).collect()
        };
        sources.push(Box::new(LldpSource::new(of_cables.clone(), Arc::clone(&peers))));
        // Another host's tree has another host's devices.
        if nic.is_of_this_kernel() {
            sources.push(Box::new(QueuePairSource::new(Arc::clone(&peers))));
        }
        if of_cables.is_of_this_kernel() {
            sources.push(Box::new(RouteSource::new(Arc::clone(&peers))));
        }
        sources.push(Box::new(FlowSource::new(Arc::clone(&peers), Box::new(pids))));
    }
    (sources, PeerRoom { peers, written: None, written_at: Instant::now() })
}

impl PeerRoom {
    /// Writes what there is, where there is something new to tell.
    pub fn write(&mut self, shared: &Shared) {
        let view = self.peers.view();
        let counts = (view.facts, view.figures);
        let is_news = self.written.is_none_or(|(facts, _)| facts != view.facts);
        let is_due = self.written != Some(counts) && self.written_at.elapsed() >= FIGURES_EVERY;
        if is_news || is_due {
            shared.peers.set(state(&view, realtime_ns().saturating_sub(monotonic_ns())));
            self.written = Some(counts);
            self.written_at = Instant::now();
        }
    }
}

/// As the wire says it.
fn state(view: &View, unix_less_mono_ns: u64) -> v1::PeerState {
    let off = |off: &Off| convert::limitation(off.what.clone(), off.why.clone());
    v1::PeerState {
        neighbours: view.neighbours.iter().map(|row| neighbour(row, unix_less_mono_ns)).collect(),
        queue_pairs: view.queue_pairs.iter().map(queue_pair).collect(),
        flows: view.flows.iter().map(flow).collect(),
        off: view.off.values().flatten().map(off).collect(),
        beyond: view.beyond.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect(),
        routes: view.routes.iter().map(route).collect(),
    }
}

fn route(row: &Route) -> v1::Route {
    let Route { destination: (network, prefix), gateway, interface, source, metric } = row;
    let text = |address: &Option<std::net::IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    v1::Route {
        destination: format!("{network}/{prefix}"),
        gateway: text(gateway),
        interface: interface.clone(),
        source: text(source),
        metric: *metric,
    }
}

fn neighbour(row: &Neighbour, unix_less_mono_ns: u64) -> v1::Neighbour {
    let Neighbour { interface, said, first_heard_ns, last_heard_ns } = row;
    let Announcement { chassis, port, ttl_s, .. } = said;
    v1::Neighbour {
        interface: interface.clone(),
        chassis_id: chassis.text.clone(),
        chassis_id_subtype: chassis.subtype.to_owned(),
        port_id: port.text.clone(),
        port_id_subtype: port.subtype.to_owned(),
        system_name: said.system_name.clone(),
        system_description: said.system_description.clone(),
        port_description: said.port_description.clone(),
        management_addresses: said.management_addresses.clone(),
        ttl_s: u32::from(*ttl_s),
        first_heard_unix_ns: first_heard_ns.saturating_add(unix_less_mono_ns),
        last_heard_unix_ns: last_heard_ns.saturating_add(unix_less_mono_ns),
    }
}

fn queue_pair(row: &QueuePairRow) -> v1::QueuePair {
    let QueuePairRow { device, pair, comm, source, destination } = row;
    let (source, source_port) = end(*source);
    let (destination, destination_port) = end(*destination);
    v1::QueuePair {
        device: device.clone(),
        port: pair.port.unwrap_or_default(),
        number: pair.number,
        remote_number: pair.remote_number,
        r#type: pair.kind.to_owned(),
        state: pair.state.to_owned(),
        pid: if let Owner::Process(pid) = pair.owner { pid } else { 0 },
        comm: comm.clone(),
        source,
        source_port,
        destination,
        destination_port,
    }
}

fn end(address: Option<SocketAddr>) -> (String, u32) {
    address.map(|address| (address.ip().to_string(), address.port().into())).unwrap_or_default()
}

fn flow(row: &Flow) -> v1::Flow {
    let Flow { pid, comm, source, destination, interface, state, figures } = row;
    let figure = |of: fn(&Figures) -> u64| figures.as_ref().map(of);
    v1::Flow {
        pid: *pid,
        comm: comm.clone(),
        protocol: "tcp".to_owned(),
        source: source.ip().to_string(),
        source_port: source.port().into(),
        destination: destination.ip().to_string(),
        destination_port: destination.port().into(),
        interface: interface.clone().unwrap_or_default(),
        state: (*state).to_owned(),
        sent_bytes: figure(|figures| figures.sent_bytes),
        received_bytes: figure(|figures| figures.received_bytes),
        retransmits: figure(|figures| figures.retransmits),
        rtt_ns: figures.as_ref().and_then(|figures| figures.rtt_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_nic::QueuePair;
    use railwatch_peers::lldp::{Id, Skipped};

    #[test]
    fn what_is_not_known_is_absent_on_the_wire_and_instants_are_on_the_clock_of_the_wall() {
        let id = |subtype, text: &str| Id { subtype, text: text.into() };
        let said = Announcement {
            chassis: id("mac", "02:00:00:00:00:01"),
            port: id("interface_name", "swp1"),
            ttl_s: 120,
            port_description: String::new(),
            system_name: "leaf1".into(),
            system_description: String::new(),
            management_addresses: vec!["10.0.0.1".into()],
            skipped: Skipped::default(),
        };
        let pair = |owner| QueuePair { port: None, number: 17, remote_number: None, kind: "RC", state: "INIT", owner };
        let row = |owner| QueuePairRow {
            device: "mlx5_0".into(),
            pair: pair(owner),
            comm: "x".into(),
            source: None,
            destination: "10.0.0.2:4791".parse().ok(),
        };
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let view = View {
            neighbours: Arc::new(vec![Neighbour {
                interface: "eth0".into(),
                said,
                first_heard_ns: 5,
                last_heard_ns: 7,
            }]),
            queue_pairs: Arc::new(vec![row(Owner::Process(9)), row(Owner::Kernel("ib_core".into()))]),
            flows: Arc::new(vec![Flow {
                pid: 9,
                comm: "x".into(),
                source: address(1),
                destination: address(2),
                interface: None,
                state: "established",
                figures: None,
            }]),
            ..View::default()
        };
        let state = state(&view, 1_000);
        let neighbour = &state.neighbours[0];
        assert_eq!((neighbour.first_heard_unix_ns, neighbour.last_heard_unix_ns), (1_005, 1_007));
        assert_eq!((neighbour.chassis_id_subtype.as_str(), neighbour.port_id.as_str()), ("mac", "swp1"));
        let pairs: Vec<_> = state.queue_pairs.iter().map(|pair| (pair.pid, pair.remote_number, pair.port)).collect();
        assert_eq!(pairs, [(9, None, 0), (0, None, 0)]);
        let pair = &state.queue_pairs[0];
        assert_eq!((pair.source.as_str(), pair.destination.as_str(), pair.destination_port), ("", "10.0.0.2", 4791));
        let flow = &state.flows[0];
        assert_eq!((flow.sent_bytes, flow.rtt_ns, flow.interface.as_str()), (None, None, ""));
    }
}
