//! How near two devices are.
//!
//! In: where each sits. Out: the nearest thing that both hang from. `nvidia-smi topo -m` says the same with other words:
//!
//! | here | `nvidia-smi topo -m` | what a transfer between the two crosses |
//! |---|---|---|
//! | `nvlink` | NV# | NVLink, `links` of them |
//! | `pcie_switch` | PIX, PXB | PCIe switches, one or several, and no host bridge |
//! | `root_port` | PHB | one host bridge of one processor |
//! | `numa_node` | NODE | the links between host bridges of one NUMA node |
//! | `system` | SYS | the link between processors |
//!
//! Never: a guess. Where the firmware gives no node, devices of different host bridges have no path here.

use crate::devices::{Device, Kind};
use std::collections::BTreeMap;

/// Paths listed at most.
pub const PATHS_MAX: usize = 4096;

/// How near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// By NVLink.
    NvLink,
    /// Below one PCIe switch.
    PcieSwitch,
    /// Below one host bridge.
    RootPort,
    /// On one NUMA node.
    NumaNode,
    /// On different nodes.
    System,
}

impl Nearness {
    /// As it goes over the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NvLink => "nvlink",
            Self::PcieSwitch => "pcie_switch",
            Self::RootPort => "root_port",
            Self::NumaNode => "numa_node",
            Self::System => "system",
        }
    }
}

/// Between two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// "gpu/0".
    pub from: String,
    /// "nic/eth0"; "nvswitch" for links that lead to one.
    pub to: String,
    /// How near.
    pub nearness: Nearness,
    /// NVLinks between them; 0 of other kinds.
    pub links: u32,
}

/// An NVLink that is up, from a GPU to whatever NVML says is at its other end. Both are PCI addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NvLink {
    /// Of the GPU.
    pub from: String,
    /// Of the other end: a GPU, or an NVSwitch, which is no device of this list.
    pub to: String,
}

/// How near two devices are by the PCI bus.
#[must_use]
pub fn nearness(a: &Device, b: &Device) -> Option<Nearness> {
    if a.host_bridge.is_empty() || b.host_bridge.is_empty() {
        return None;
    }
    if a.host_bridge == b.host_bridge {
        // The root ports are the last; what they share above those is the host bridge. Two devices of one root port share a
        // switch, or are functions of one card.
        let shared = a.upstream.iter().rev().zip(b.upstream.iter().rev()).take_while(|(a, b)| a == b).count();
        return Some(if shared > 0 { Nearness::PcieSwitch } else { Nearness::RootPort });
    }
    match (a.numa_node, b.numa_node) {
        (Some(a), Some(b)) if a == b => Some(Nearness::NumaNode),
        (Some(_), Some(_)) => Some(Nearness::System),
        _ => None,
    }
}

/// From every GPU to every other GPU (once a pair), NIC and NVMe controller, and its NVLinks.
#[must_use]
pub fn paths(devices: &[Device], links: &[NvLink]) -> Vec<Path> {
    let mut paths = Vec::new();
    let gpus: Vec<_> = devices.iter().filter(|device| device.kind == Kind::Gpu).collect();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for link in links {
        *counts.entry((&link.from, &link.to)).or_default() += 1;
    }
    for (index, gpu) in gpus.iter().enumerate() {
        let others = gpus[index + 1..].iter().copied();
        let rest = devices.iter().filter(|device| matches!(device.kind, Kind::Nic | Kind::Nvme));
        for other in others.chain(rest) {
            let links = counts
                .get(&(gpu.address.as_str(), other.address.as_str()))
                .or_else(|| counts.get(&(other.address.as_str(), gpu.address.as_str())))
                .copied()
                .unwrap_or(0);
            let near = if links > 0 { Some(Nearness::NvLink) } else { nearness(gpu, other) };
            if let Some(nearness) = near {
                paths.push(Path { from: gpu.label(), to: other.label(), nearness, links });
            }
        }
        let is_gpu = |address: &str| gpus.iter().any(|gpu| gpu.address == address);
        let switched: u32 =
            counts.iter().filter(|((from, to), _)| *from == gpu.address && !is_gpu(to)).map(|(_, count)| count).sum();
        if switched > 0 {
            paths.push(Path { from: gpu.label(), to: "nvswitch".into(), nearness: Nearness::NvLink, links: switched });
        }
    }
    paths.truncate(PATHS_MAX);
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: Kind, address: &str, host_bridge: &str, upstream: &[&str], numa_node: Option<i32>) -> Device {
        Device {
            kind,
            name: address.to_owned(),
            address: address.to_owned(),
            numa_node,
            upstream: upstream.iter().map(|bridge| (*bridge).to_owned()).collect(),
            host_bridge: host_bridge.to_owned(),
            uuid: String::new(),
            aliases: vec![],
        }
    }

    #[test]
    fn devices_are_as_near_as_what_they_both_hang_from() {
        let gpu = |upstream: &[&str]| device(Kind::Gpu, "0000:18:00.0", "pci0000:15", upstream, Some(0));
        let nic = |bridge: &str, upstream: &[&str], node| device(Kind::Nic, "0000:19:00.0", bridge, upstream, node);
        let below = ["0000:17:01.0", "0000:16:00.0", "0000:15:01.0"];
        for (what, other, near) in [
            (
                "one switch",
                nic("pci0000:15", &["0000:17:02.0", "0000:16:00.0", "0000:15:01.0"], Some(0)),
                Some(Nearness::PcieSwitch),
            ),
            ("one downstream port", nic("pci0000:15", &below, Some(0)), Some(Nearness::PcieSwitch)),
            (
                "two switches below one root port",
                nic("pci0000:15", &["0000:1a:00.0", "0000:19:00.0", "0000:15:01.0"], Some(0)),
                Some(Nearness::PcieSwitch),
            ),
            ("another root port", nic("pci0000:15", &["0000:15:03.0"], Some(0)), Some(Nearness::RootPort)),
            ("on the root complex itself", nic("pci0000:15", &[], Some(0)), Some(Nearness::RootPort)),
            ("another host bridge", nic("pci0000:37", &["0000:37:01.0"], Some(0)), Some(Nearness::NumaNode)),
            ("another node", nic("pci0000:97", &["0000:97:01.0"], Some(1)), Some(Nearness::System)),
            ("a node that nobody knows", nic("pci0000:97", &["0000:97:01.0"], None), None),
            ("no PCI device", nic("", &[], Some(0)), None),
        ] {
            assert_eq!(nearness(&gpu(&below), &other), near, "{what}");
            assert_eq!(nearness(&other, &gpu(&below)), near, "{what}, the other way");
        }
    }

    #[test]
    fn nvlinks_count_between_gpus_and_to_switches() {
        let gpu = |address: &str| device(Kind::Gpu, address, "pci0000:15", &["0000:15:01.0"], Some(0));
        let devices = [gpu("0000:01:00.0"), gpu("0000:02:00.0"), gpu("0000:03:00.0")];
        let link = |from: &str, to: &str| NvLink { from: from.into(), to: to.into() };
        // Each end tells of the same links; one end alone suffices.
        let links = [
            link("0000:01:00.0", "0000:02:00.0"),
            link("0000:01:00.0", "0000:02:00.0"),
            link("0000:02:00.0", "0000:01:00.0"),
            link("0000:02:00.0", "0000:01:00.0"),
            link("0000:03:00.0", "0000:01:00.0"),
            link("0000:03:00.0", "0000:c1:00.0"),
            link("0000:03:00.0", "0000:c2:00.0"),
        ];
        let found = paths(&devices, &links);
        let path = |from: &str, to: &str| {
            found
                .iter()
                .find(|path| path.from == format!("gpu/{from}") && path.to == to)
                .map(|path| (path.nearness.name(), path.links))
        };
        assert_eq!(path("0000:01:00.0", "gpu/0000:02:00.0"), Some(("nvlink", 2)));
        assert_eq!(path("0000:01:00.0", "gpu/0000:03:00.0"), Some(("nvlink", 1)));
        assert_eq!(path("0000:02:00.0", "gpu/0000:03:00.0"), Some(("pcie_switch", 0)));
        assert_eq!(path("0000:03:00.0", "nvswitch"), Some(("nvlink", 2)));
        assert_eq!(found.len(), 4);
    }
}
