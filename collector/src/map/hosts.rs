//! From what a host's agent tells to what that says of the fabric.
//!
//! In: ports with their addresses, LLDP neighbours, routes, devices. Out: [`Statement`]s. Pure. The far end of a cable is named as it names itself;
//! what forwards is taken for a switch until it says otherwise. Never: a guess at an address that a shared network could give to anybody.

use crate::live::Host;
use railwatch_engine::Timestamp;
use railwatch_engine::map::{NodeKind, PortName, Statement};
use railwatch_wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A new agent has heard no neighbour yet: what the one before it heard holds so long. Four of the intervals of 30 s at which LLDP is sent, as
/// its own hold time is (IEEE 802.1AB, 9.2.5).
const REMEMBERED_NS: u64 = 120_000_000_000;

/// Neighbours of a host over restarts of its agent.
#[derive(Debug, Default)]
pub struct Memory {
    generation: u64,
    heard: Vec<v1::Neighbour>,
    kept: Vec<v1::Neighbour>,
    kept_until: Timestamp,
}

impl Memory {
    /// What an agent hears now, on its stream of this generation.
    pub(super) fn hear(&mut self, neighbours: &[v1::Neighbour], generation: u64, at: Timestamp) {
        if self.generation != generation {
            self.generation = generation;
            self.kept.append(&mut self.heard);
            self.kept_until = Timestamp(at.0.saturating_add(REMEMBERED_NS));
        }
        self.heard = neighbours.to_vec();
        let heard: BTreeSet<&str> = neighbours.iter().map(|neighbour| neighbour.interface.as_str()).collect();
        self.kept.retain(|kept| !heard.contains(kept.interface.as_str()));
    }

    /// Heard now, or before and not yet again.
    pub(super) fn neighbours(&self) -> Vec<v1::Neighbour> {
        self.heard.iter().chain(&self.kept).cloned().collect()
    }

    /// Returns whether something was let go.
    pub(super) fn settle(&mut self, now: Timestamp) -> bool {
        let is_over = !self.kept.is_empty() && now > self.kept_until;
        if is_over {
            self.kept.clear();
        }
        is_over
    }
}

fn port(node: &str, port: &str) -> PortName {
    PortName { node: node.to_owned(), port: port.to_owned() }
}

/// Of itself: that it is, its ports, what its devices hang at.
pub(super) fn itself(host: &Host) -> Vec<Statement> {
    let name = &host.name;
    let mut says = vec![Statement::Node { name: name.clone(), kind: NodeKind::Host }];
    for state in &host.ports {
        if state.kind != "netdev" {
            if !state.netdev.is_empty() {
                says.push(part(format!("nic/{name}/{}", state.netdev), format!("rdma/{name}/{}", state.name)));
            }
            continue;
        }
        says.push(Statement::Port {
            port: port(name, &state.name),
            up: match state.state.as_str() {
                "up" => Some(true),
                // RFC 2863's operational states, as the kernel names them; those left do not say whether the cable carries.
                "down" | "lowerlayerdown" | "lower_layer_down" | "notpresent" => Some(false),
                _ => None,
            },
            speed_bits_per_s: (state.speed_bits_per_s > 0).then_some(state.speed_bits_per_s),
            addresses: addresses(host, state).into_iter().map(|(address, _)| address).collect(),
            mac: None,
        });
    }
    says.extend(
        host.modules.iter().filter(|module| module.state != "unplugged").map(|module| {
            part(format!("port/{name}/{}", module.interface), format!("optic/{name}/{}", module.interface))
        }),
    );
    says.extend(devices(host));
    says
}

/// Which PCIe switch each device is below, or that it is right below its host; GPUs that NVLink joins.
fn devices(host: &Host) -> Vec<Statement> {
    let name = &host.name;
    let v1::PlacementState { devices, paths, .. } = &host.placement;
    let switches: BTreeSet<&str> = devices
        .iter()
        .filter(|device| device.kind == "pcie_switch")
        .map(|device| device.pci_address.as_str())
        .collect();
    let mut says = Vec::new();
    for device in devices {
        let above = device.upstream.iter().find(|address| switches.contains(address.as_str()));
        let outer = above.map_or_else(|| format!("host/{name}"), |switch| format!("pcie_switch/{name}/{switch}"));
        says.push(part(outer, format!("{}/{name}/{}", device.kind, called(device))));
    }
    let joined = paths.iter().filter(|path| path.kind == "nvlink").flat_map(|path| [&path.from, &path.to]);
    let joined: BTreeSet<&str> = joined.filter_map(|end| end.strip_prefix("gpu/")).collect();
    says.extend(joined.into_iter().map(|gpu| part(format!("nvlink_domain/{name}"), format!("gpu/{name}/{gpu}"))));
    says
}

/// A PCIe switch has no name but its address.
pub(super) fn called(device: &v1::Device) -> &str {
    if device.kind == "pcie_switch" { &device.pci_address } else { &device.name }
}

fn part(outer: String, inner: String) -> Statement {
    Statement::Contains { outer, inner }
}

/// What was heard on its cables.
pub(super) fn heard(host: &str, neighbours: &[v1::Neighbour]) -> Vec<Statement> {
    let mut says = Vec::new();
    for neighbour in neighbours {
        let far = far(neighbour);
        if far.node == host || far.node.is_empty() || far.port.is_empty() {
            continue;
        }
        says.push(Statement::Node { name: far.node.clone(), kind: NodeKind::Switch });
        says.push(Statement::Port {
            port: far.clone(),
            up: None,
            speed_bits_per_s: None,
            addresses: vec![],
            mac: (neighbour.port_id_subtype == "mac").then(|| neighbour.port_id.clone()),
        });
        says.push(Statement::Cable { near: port(host, &neighbour.interface), far });
    }
    says
}

/// The other end as it calls itself: by its system's name, else its chassis; by its port's name, where the identifier is only a number.
fn far(neighbour: &v1::Neighbour) -> PortName {
    let v1::Neighbour { system_name, chassis_id, port_id, port_id_subtype, port_description, .. } = neighbour;
    let node = if system_name.is_empty() { chassis_id } else { system_name };
    let is_number = matches!(port_id_subtype.as_str(), "mac" | "address" | "port_component" | "agent_circuit_id");
    let called = if is_number && !port_description.is_empty() { port_description } else { port_id };
    port(node, called)
}

/// Addresses of the other ends: the only other address of a network of two, and a gateway in a network of up to two hosts.
pub(super) fn routed(host: &Host, neighbours: &[v1::Neighbour]) -> Vec<Statement> {
    let mut far_of: BTreeMap<&str, Vec<PortName>> = BTreeMap::new();
    for neighbour in neighbours {
        far_of.entry(&neighbour.interface).or_default().push(far(neighbour));
    }
    let mut says = Vec::new();
    for state in host.ports.iter().filter(|state| state.kind == "netdev") {
        // Several neighbours at one port: nobody knows which of them has the address.
        let Some([far]) = far_of.get(state.name.as_str()).map(Vec::as_slice) else { continue };
        let own = addresses(host, state);
        let gateways = host.peers.routes.iter().filter(|route| route.interface == state.name);
        let gateways = gateways.filter_map(|route| route.gateway.parse::<IpAddr>().ok());
        let mut addresses: BTreeSet<IpAddr> =
            gateways.filter(|gateway| own.iter().any(|(own, prefix)| is_pair(*own, *prefix, *gateway))).collect();
        addresses.extend(own.iter().filter_map(|(own, prefix)| other(*own, *prefix)));
        if !addresses.is_empty() {
            says.push(Statement::Port {
                port: far.clone(),
                up: None,
                speed_bits_per_s: None,
                addresses: addresses.into_iter().collect(),
                mac: None,
            });
        }
    }
    says
}

/// Addresses of a port: those that the agent lists, and those that the kernel's own routes to the networks on the link prefer.
fn addresses(host: &Host, state: &v1::PortState) -> BTreeSet<(IpAddr, Option<u8>)> {
    let mut found: BTreeSet<_> = state.addresses.iter().filter_map(|text| address(text)).collect();
    for route in host.peers.routes.iter().filter(|route| route.interface == state.name && route.gateway.is_empty()) {
        let Some((network, prefix)) = address(&route.destination) else { continue };
        let Ok(own) = route.source.parse::<IpAddr>() else { continue };
        // A source that another interface's rule asks for is in no network of this one.
        if in_network(own, network, prefix) && !found.iter().any(|(known, _)| *known == own) {
            found.insert((own, prefix));
        }
    }
    found
}

fn in_network(own: IpAddr, network: IpAddr, prefix: Option<u8>) -> bool {
    let Some(prefix) = prefix.map(u32::from).filter(|prefix| *prefix > 0) else { return false };
    match (own, network) {
        (IpAddr::V4(own), IpAddr::V4(network)) if prefix <= 32 => {
            (own.to_bits() ^ network.to_bits()) >> (32 - prefix) == 0
        }
        (IpAddr::V6(own), IpAddr::V6(network)) if prefix <= 128 => {
            (own.to_bits() ^ network.to_bits()) >> (128 - prefix) == 0
        }
        _ => false,
    }
}

/// `10.0.1.3/31`: the address, and the length of its prefix where there is one.
pub(super) fn address(text: &str) -> Option<(IpAddr, Option<u8>)> {
    match text.split_once('/') {
        None => Some((text.parse().ok()?, None)),
        Some((address, prefix)) => Some((address.parse().ok()?, Some(prefix.parse().ok()?))),
    }
}

/// In a network so small that nobody but the two ends of a cable has room in it.
fn is_pair(own: IpAddr, prefix: Option<u8>, gateway: IpAddr) -> bool {
    match (own, prefix, gateway) {
        (IpAddr::V4(own), Some(30..=31), IpAddr::V4(gateway)) => {
            own != gateway && own.to_bits() >> 2 == gateway.to_bits() >> 2
        }
        (IpAddr::V6(own), Some(126..=127), IpAddr::V6(gateway)) => {
            own != gateway && own.to_bits() >> 2 == gateway.to_bits() >> 2
        }
        _ => false,
    }
}

/// The other address of a network of two: RFC 3021, RFC 6164.
fn other(own: IpAddr, prefix: Option<u8>) -> Option<IpAddr> {
    match (own, prefix) {
        (IpAddr::V4(own), Some(31)) => Some(std::net::Ipv4Addr::from_bits(own.to_bits() ^ 1).into()),
        (IpAddr::V6(own), Some(127)) => Some(std::net::Ipv6Addr::from_bits(own.to_bits() ^ 1).into()),
        _ => None,
    }
}
