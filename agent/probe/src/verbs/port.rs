//! Which RDMA port has an address.
//!
//! In: an address of this host. Out: the device, port and place in its table of addresses (GIDs) that RoCEv2 packets from it use, from
//! `/sys/class/infiniband` (Documentation/ABI/stable/sysfs-class-infiniband). Ports of InfiniBand have no such address, and
//! none of RoCEv1 is taken: its packets cross no router. Never: a device opened.

use railwatch_sampling::files::{line, names, numbered};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Where the kernel lists RDMA devices, below sysfs.
const CLASS: &str = "class/infiniband";

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) device: String,
    pub(super) number: u8,
    pub(super) gid_index: u8,
    pub(super) gid: [u8; 16],
}

/// An address as ports have it (RFC 4291, 2.5.5.2, for IPv4).
pub(super) fn gid(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// RDMA devices of this host.
pub(super) fn devices(sysfs: &Path) -> Vec<String> {
    names(&sysfs.join(CLASS))
}

/// Whether the host has any.
#[must_use]
pub fn has_devices(sysfs: &Path) -> bool {
    !devices(sysfs).is_empty()
}

/// The port with this address.
pub(super) fn find(sysfs: &Path, address: IpAddr) -> Option<Port> {
    let wanted = gid(address);
    let is_wanted = |text: String| text.parse().is_ok_and(|found: Ipv6Addr| found.octets() == wanted);
    devices(sysfs).into_iter().find_map(|device| {
        let ports = sysfs.join(CLASS).join(&device).join("ports");
        numbered(&ports, "").into_iter().find_map(|number| {
            let port = ports.join(&number);
            let index = numbered(&port.join("gids"), "").into_iter().find(|index| {
                line(port.join("gids").join(index)).is_some_and(is_wanted)
                    && line(port.join("gid_attrs/types").join(index)).as_deref() == Some("RoCE v2")
            })?;
            let (number, gid_index) = (number.parse().ok()?, index.parse().ok()?);
            Some(Port { device: device.clone(), number, gid_index, gid: wanted })
        })
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn an_address_is_found_where_its_packets_are_routed() {
        let sysfs = tempfile::tempdir().unwrap();
        let port = |device: &str, gids: &[(&str, &str)]| {
            let port = sysfs.path().join(CLASS).join(device).join("ports/1");
            create_dir_all(port.join("gids")).unwrap();
            create_dir_all(port.join("gid_attrs/types")).unwrap();
            for (index, (gid, kind)) in gids.iter().enumerate() {
                write(port.join(format!("gids/{index}")), format!("{gid}\n")).unwrap();
                write(port.join(format!("gid_attrs/types/{index}")), format!("{kind}\n")).unwrap();
            }
        };
        let mapped = "0000:0000:0000:0000:0000:ffff:0a4d:0001";
        let other = "0000:0000:0000:0000:0000:ffff:0a4d:0002";
        port("mlx5_0", &[("fe80:0000:0000:0000:0000:00ff:fe00:0001", "RoCE v2"), (mapped, "IB/RoCE v1")]);
        port("mlx5_1", &[(other, "IB/RoCE v1"), (other, "RoCE v2")]);
        let find = |text: &str| find(sysfs.path(), text.parse().unwrap());
        let found = find("10.77.0.2").unwrap();
        assert_eq!((found.device.as_str(), found.number, found.gid_index), ("mlx5_1", 1, 1));
        assert_eq!(find("10.77.0.1"), None, "RoCEv1 alone crosses no router");
        assert_eq!(find("10.77.0.3"), None);
        assert_eq!(find("fe80::ff:fe00:1").unwrap().device, "mlx5_0");
        assert!(has_devices(sysfs.path()) && !has_devices(&sysfs.path().join("nowhere")));
    }
}
