//! Network interfaces and RDMA devices: how they are set up.
//!
//! Interfaces are compared with those of the same driver, RDMA devices with those of the same model, board and link layer.

use crate::files::{line, link_name, names};
use crate::interrupts::affinity;
use crate::items::{Items, on_off};
use railwatch_nic::{Ets, Settings};
use std::path::Path;

/// Puts one interface.
pub(crate) fn port(sysfs: &Path, procfs: &Path, settings: &Settings, items: &mut Items) {
    let folder = sysfs.join("class/net").join(&settings.name);
    let is_rdma = folder.join("device/infiniband").is_dir();
    let kind = if is_rdma { "rdma" } else { "plain" };
    let role = format!("{kind} {}", settings.driver.as_deref().unwrap_or("virtual"));
    let mut of = items.of("port", &settings.name, role);
    let (ioctl, ethtool, dcb) = ("ETHTOOL_GDRVINFO", "ethtool netlink", "DCB netlink");
    of.put("driver", settings.driver.clone(), ioctl);
    of.put("driver.version", settings.driver_version.clone(), ioctl);
    of.put("firmware.version", settings.firmware_version.clone(), ioctl);
    of.put("mtu", settings.mtu.map(|mtu| mtu.to_string()), "RTM_GETLINK");
    of.put("link.speed", settings.speed_mbit_per_s.map(|speed| speed.to_string()), ethtool);
    of.put("link.duplex", settings.full_duplex.map(|full| if full { "full" } else { "half" }), ethtool);
    of.put("link.autoneg", settings.autoneg.map(on_off), ethtool);
    if let Some(fec) = &settings.fec {
        of.put("fec.configured", Some(fec.configured.join(" ")), ethtool);
        of.put("fec.auto", Some(on_off(fec.auto)), ethtool);
        of.put("fec.active", fec.active, ethtool);
    }
    if let Some(pause) = settings.pause {
        of.put("pause.autoneg", Some(on_off(pause.autoneg)), ethtool);
        of.put("pause.receive", Some(on_off(pause.receive)), ethtool);
        of.put("pause.transmit", Some(on_off(pause.transmit)), ethtool);
    }
    of.put("pfc.enabled", settings.pfc_enabled.map(priorities), dcb);
    if let Some(ets) = settings.ets {
        of.put("ets.bandwidth", Some(bandwidth(&ets)), dcb);
        let classes = ets.priority_class.iter().enumerate().map(|(priority, class)| format!("{priority}:{class}"));
        of.put("ets.priority_class", Some(Vec::from_iter(classes).join(" ")), dcb);
    }
    let map = settings.dscp_priority.iter().map(|(dscp, priority)| format!("{dscp}:{priority}"));
    of.put("dscp.priority", Some(Vec::from_iter(map).join(" ")), dcb);
    let trust = line(folder.join("qos/trust")).or_else(|| Some(settings.trust.join(" ")));
    of.put("trust", trust, "/sys/class/net/*/qos/trust, DCB netlink");
    for (key, side) in [("roce.ecn.notify", "roce_np"), ("roce.ecn.react", "roce_rp")] {
        let enable = folder.join("ecn").join(side).join("enable");
        if enable.is_dir() {
            let bit =
                |priority: u8| u8::from(line(enable.join(priority.to_string())).as_deref() == Some("1")) << priority;
            of.put(key, Some(priorities((0..8).map(bit).sum())), &format!("/sys/class/net/*/ecn/{side}/enable"));
        }
    }
    of.put("roce.cnp_dscp", line(folder.join("ecn/roce_np/cnp_dscp")), "/sys/class/net/*/ecn/roce_np/cnp_dscp");
    of.put("irq.affinity", affinity(sysfs, procfs, &settings.name), "/proc/irq/*/effective_affinity_list");
    of.put("pci.address", link_name(folder.join("device")), "/sys/class/net/*/device");
}

/// Reads the RDMA devices.
pub(crate) fn rdma(sysfs: &Path, items: &mut Items) {
    let root = sysfs.join("class/infiniband");
    for device in names(&root) {
        let folder = root.join(&device);
        let path = |file: &str| format!("/sys/class/infiniband/{device}/{file}");
        let [hardware, board, layer] =
            ["hca_type", "board_id", "ports/1/link_layer"].map(|file| line(folder.join(file)));
        let role =
            [&hardware, &board, &layer].map(|part| part.as_deref().unwrap_or_default()).join(" ").trim().to_owned();
        let mut of = items.of("rdma", &device, role);
        of.put("hardware.type", hardware, &path("hca_type"));
        of.put("board.id", board, &path("board_id"));
        of.put("link.layer", layer, &path("ports/1/link_layer"));
        of.put("firmware.version", line(folder.join("fw_ver")), &path("fw_ver"));
        // A port that is down answers with its lowest rate.
        let is_up = line(folder.join("ports/1/state")).is_none_or(|state| state.ends_with("ACTIVE"));
        of.put("link.rate", line(folder.join("ports/1/rate")).filter(|_| is_up), &path("ports/1/rate"));
        of.put("roce.traffic_class", line(folder.join("tc/1/traffic_class")), &path("tc/1/traffic_class"));
        let tos = sysfs.join("kernel/config/rdma_cm").join(&device).join("ports/1/default_roce_tos");
        of.put("roce.default_tos", line(tos), "/sys/kernel/config/rdma_cm/*/ports/1/default_roce_tos");
        of.put("pci.address", link_name(folder.join("device")), &path("device"));
    }
}

/// "3 4", or "none".
fn priorities(bits: u8) -> String {
    let on: Vec<String> =
        (0..8).filter(|priority| bits >> priority & 1 == 1).map(|priority: u8| priority.to_string()).collect();
    if on.is_empty() { "none".to_owned() } else { on.join(" ") }
}

/// "0:10 1:90 2:strict".
fn bandwidth(ets: &Ets) -> String {
    let of = |(class, percent): (usize, &Option<u8>)| match percent {
        Some(percent) => format!("{class}:{percent}"),
        None => format!("{class}:strict"),
    };
    Vec::from_iter(ets.percent.iter().enumerate().map(of)).join(" ")
}

#[cfg(test)]
mod tests {
    use super::{bandwidth, priorities};
    use railwatch_nic::Ets;

    #[test]
    fn priorities_and_shares_are_written_for_people() {
        assert_eq!((priorities(0), priorities(0b1_1000)), ("none".to_owned(), "3 4".to_owned()));
        let ets = Ets { percent: [Some(10), Some(90), None, None, None, None, None, None], priority_class: [0; 8] };
        assert!(bandwidth(&ets).starts_with("0:10 1:90 2:strict"));
    }
}
