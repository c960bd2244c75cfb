//! What a flow passes, one element after the other: GPU, PCIe switch, NIC, port, optic, link, switch, and so on to the other GPU.
//!
//! In: a path of the fabric, the map's containment, how devices sit on both hosts. Out: typed elements in order. Which GPU sends is not the
//! path's to know: it is the one nearest to the NIC, where there is one. Never: a part that nobody told of.

use super::hosts::called;
use crate::live::Live;
use railwatch_engine::map::{NodeKind, Path, PortName, Topology};
use railwatch_wire::v1;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Something on a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// `gpu`, `pcie_switch`, `nic`, `port`, `optic`, `link`, `line_card`, `switch`.
    pub kind: String,
    /// `host0/3` of a device, `leaf0:eth3` of a port or its optic, `leaf0:eth3-spine0:eth1` of a link, `leaf0` of a switch.
    pub name: String,
    /// Of a link: `leaf0:eth3>spine0:eth1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
}

/// Finds parts by what they are in.
pub struct Parts<'t> {
    topology: &'t Topology,
    live: &'t Live,
    optic_of: HashMap<&'t str, &'t str>,
    line_card_of: HashMap<&'t str, &'t str>,
}

fn element(kind: &str, name: impl Into<String>) -> Element {
    Element { kind: kind.to_owned(), name: name.into(), direction: None }
}

impl<'t> Parts<'t> {
    /// Of this map and these hosts.
    #[must_use]
    pub fn new(topology: &'t Topology, live: &'t Live) -> Self {
        let (mut optic_of, mut line_card_of) = (HashMap::new(), HashMap::new());
        for fact in &topology.contains {
            if let (Some(port), Some(optic)) = (fact.outer.strip_prefix("port/"), fact.inner.strip_prefix("optic/")) {
                optic_of.insert(port, optic);
            }
            if let (Some(card), Some(port)) = (fact.outer.strip_prefix("line_card/"), fact.inner.strip_prefix("port/"))
            {
                line_card_of.insert(port, card);
            }
        }
        Self { topology, live, optic_of, line_card_of }
    }

    /// The elements of a path, from the sender's GPU to the receiver's.
    #[must_use]
    pub fn of(&self, path: &Path) -> Vec<Element> {
        let fabric = &self.topology.fabric;
        let mut elements = Vec::new();
        for (at, direction) in path.iter().enumerate() {
            let Some(link) = fabric.links().get(direction.link) else { continue };
            let (out, into) = if direction.from_a { (&link.a, &link.b) } else { (&link.b, &link.a) };
            if at == 0 {
                elements.extend(self.host(out));
            }
            elements.extend(self.port(out, false));
            let name = fabric.name(*direction);
            elements.push(Element { direction: Some(name), ..element("link", link.to_string()) });
            elements.extend(self.port(into, true));
            match fabric.nodes().get(fabric.head(*direction)) {
                Some(node) if node.kind == NodeKind::Switch => elements.push(element("switch", &node.name)),
                _ => elements.extend(self.host(into).into_iter().rev()),
            }
        }
        elements
    }

    /// A port as a flow passes it: from its node to the cable, or the other way round.
    fn port(&self, port: &PortName, inward: bool) -> Vec<Element> {
        let key = format!("{}/{}", port.node, port.port);
        let mut parts = Vec::new();
        parts.extend(self.line_card_of.get(key.as_str()).map(|card| element("line_card", *card)));
        parts.push(element("port", port.to_string()));
        parts.extend(self.optic_of.get(key.as_str()).map(|_| element("optic", port.to_string())));
        if inward {
            parts.reverse();
        }
        parts
    }

    /// Inside a host, down to its NIC.
    fn host(&self, port: &PortName) -> Vec<Element> {
        let (host, interface) = (&port.node, &port.port);
        let nic = element("nic", format!("{host}/{interface}"));
        let Some(cell) = self.live.find(host) else { return vec![nic] };
        let known = cell.lock();
        let v1::PlacementState { devices, paths, .. } = &known.placement;
        let end = format!("nic/{interface}");
        let near = |path: &v1::DevicePath| {
            let other = match (path.from == end, path.to == end) {
                (true, _) => &path.to,
                (_, true) => &path.from,
                _ => return None,
            };
            let rank =
                ["pcie_switch", "root_port", "numa_node", "system"].iter().position(|kind| *kind == path.kind)?;
            // By number, where names are numbers.
            let gpu = other.strip_prefix("gpu/")?;
            Some((rank, gpu.parse::<u64>().unwrap_or(u64::MAX), gpu.to_owned()))
        };
        let Some((_, _, gpu)) = paths.iter().filter_map(near).min() else { return vec![nic] };
        let device = |kind: &str, name: &str| devices.iter().find(|device| device.kind == kind && device.name == name);
        let mut parts = vec![element("gpu", format!("{host}/{gpu}"))];
        if let (Some(gpu), Some(of_nic)) = (device("gpu", &gpu), device("nic", interface)) {
            let shared = |device: &&v1::Device| {
                let above = |lower: &v1::Device| lower.upstream.contains(&device.pci_address);
                device.kind == "pcie_switch" && (above(gpu) || above(of_nic))
            };
            // From the GPU's side to the NIC's; one that both are below stands once.
            let mut switches: Vec<&v1::Device> = devices.iter().filter(shared).collect();
            let depth = |lower: &v1::Device, device: &v1::Device| {
                lower.upstream.iter().position(|above| *above == device.pci_address)
            };
            switches.sort_by_key(|device| match (depth(gpu, device), depth(of_nic, device)) {
                (Some(up), _) => (0, up),
                (None, Some(down)) => (1, usize::MAX - down),
                (None, None) => (2, 0),
            });
            parts.extend(
                switches.into_iter().map(|device| element("pcie_switch", format!("{host}/{}", called(device)))),
            );
        }
        parts.push(nic);
        parts
    }
}
