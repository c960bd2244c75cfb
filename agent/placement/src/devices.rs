//! Accelerators, NICs, NVMe controllers and PCIe switches of a host, and where each sits.
//!
//! In: `bus/pci/devices` of a sysfs (Documentation/ABI/testing/sysfs-bus-pci): each entry is a link into `devices`, whose
//! path names every bridge from the host bridge down. Class codes are those of the PCI Code and ID Assignment Specification.
//! Out: one [`Device`] each, by kind and address. Never: a read of configuration space, which can wake a sleeping device.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Devices listed at most; further ones are left out, which [`Found::left_out`] counts.
pub const DEVICES_MAX: usize = 512;
/// Entries of one folder that are looked at.
const ENTRIES_MAX: usize = 1024;
/// Entries of the bus that are looked at.
const BUS_MAX: usize = 16_384;

/// What a device is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A GPU or another accelerator.
    Gpu,
    /// A network or InfiniBand controller.
    Nic,
    /// An NVMe controller.
    Nvme,
    /// The upstream port of a PCIe switch.
    PcieSwitch,
}

impl Kind {
    /// As it goes over the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Nic => "nic",
            Self::Nvme => "nvme",
            Self::PcieSwitch => "pcie_switch",
        }
    }

    /// By class code (24 bits) and vendor. A display controller counts where its vendor makes accelerators: a server's own
    /// is of a management chip.
    fn of(class: u32, vendor: u32) -> Option<Self> {
        const NVIDIA: u32 = 0x10de;
        const AMD: u32 = 0x1002;
        const HUAWEI: u32 = 0x19e5;
        match (class >> 16, class >> 8) {
            (0x03, _) if matches!(vendor, NVIDIA | AMD) => Some(Self::Gpu),
            (0x12, _) if matches!(vendor, NVIDIA | AMD | HUAWEI) => Some(Self::Gpu),
            (0x02, _) => Some(Self::Nic),
            (_, 0x0c06) => Some(Self::Nic),
            (_, 0x0108) => Some(Self::Nvme),
            _ => None,
        }
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// "0" of a GPU (by rising address, as NVML counts), "eth0", "mlx5_0" of a NIC without an interface, "nvme0"; else its address.
    pub name: String,
    /// "0000:3b:00.0", as the kernel writes it.
    pub address: String,
    /// Node whose memory is nearest; `None` where the firmware does not say.
    pub numa_node: Option<i32>,
    /// Addresses of the bridges above it, the nearest first and the root port last. Empty for a device on a root complex.
    pub upstream: Vec<String>,
    /// "pci0000:3a", the host bridge it hangs from; empty for a device that is on no PCI bus.
    pub host_bridge: String,
    /// UUID of a GPU, where somebody knows it.
    pub uuid: String,
    /// Other names: "mlx5_0/1" of a NIC, further interfaces.
    pub aliases: Vec<String>,
}

impl Device {
    /// "gpu/0": unique on its host.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.kind.name(), self.name)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By kind, then address.
    pub devices: Vec<Device>,
    /// Devices beyond [`DEVICES_MAX`].
    pub left_out: usize,
}

/// Reads the PCI bus below `sysfs`.
///
/// # Errors
/// The bus cannot be listed: no PCI, or a wrong root. A device that goes away meanwhile is left out.
pub fn read(sysfs: &Path) -> io::Result<Found> {
    let bus = sysfs.join("bus/pci/devices");
    let mut devices = Vec::new();
    let mut switches = BTreeMap::new();
    for entry in fs::read_dir(&bus)?.take(BUS_MAX) {
        let entry = entry?;
        let address = entry.file_name().to_string_lossy().into_owned();
        let link = entry.path();
        let Some(class) = hexadecimal(&link.join("class")) else { continue };
        let vendor = hexadecimal(&link.join("vendor")).unwrap_or(0);
        let Some(kind) = Kind::of(class, vendor) else { continue };
        // A virtual function sits where its physical one does: a hundred of them would hide the rest.
        if link.join("physfn").exists() {
            continue;
        }
        let (host_bridge, upstream) = chain(&link);
        for (bridge, above) in upstream.iter().zip(upstream.iter().skip(1).map(Some).chain([None])) {
            // Bridge below bridge: a switch's downstream port hangs from its upstream port, which hangs from a root port
            // or another switch.
            if above.is_some() && is_upstream_port(&bus, bridge) {
                switches.entry(bridge.clone()).or_insert_with(|| host_bridge.clone());
            }
        }
        devices.push(Device {
            kind,
            name: String::new(),
            numa_node: node(&link),
            upstream,
            host_bridge,
            uuid: String::new(),
            aliases: Vec::new(),
            address,
        });
    }
    for (address, host_bridge) in switches {
        let link = bus.join(&address);
        let (_, upstream) = chain(&link);
        devices.push(Device {
            kind: Kind::PcieSwitch,
            name: address.clone(),
            numa_node: node(&link),
            upstream,
            host_bridge,
            uuid: String::new(),
            aliases: Vec::new(),
            address,
        });
    }
    devices.sort_by(|a, b| (a.kind, &a.address).cmp(&(b.kind, &b.address)));
    let mut gpus = 0;
    for device in &mut devices {
        let folder = bus.join(&device.address);
        match device.kind {
            Kind::Gpu => {
                device.name = gpus.to_string();
                gpus += 1;
            }
            Kind::Nic => name_nic(device, &folder),
            Kind::Nvme => device.name = names(&folder.join("nvme")).into_iter().next().unwrap_or_default(),
            Kind::PcieSwitch => {}
        }
        if device.name.is_empty() {
            device.name.clone_from(&device.address);
        }
    }
    let left_out = devices.len().saturating_sub(DEVICES_MAX);
    devices.truncate(DEVICES_MAX);
    Ok(Found { devices, left_out })
}

fn name_nic(device: &mut Device, folder: &Path) {
    let mut all = names(&folder.join("net"));
    for rdma in names(&folder.join("infiniband")) {
        let ports = names(&folder.join("infiniband").join(&rdma).join("ports"));
        all.extend(ports.iter().map(|port| format!("{rdma}/{port}")));
        if ports.is_empty() {
            all.push(rdma);
        }
    }
    let mut all = all.into_iter();
    device.name = all.next().unwrap_or_default();
    device.aliases = all.collect();
}

/// Names in a folder, sorted; none where it is not there.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .take(ENTRIES_MAX)
        .collect();
    names.sort();
    names
}

/// The host bridge, and the addresses between it and the device, the nearest first.
fn chain(link: &Path) -> (String, Vec<String>) {
    let Ok(place) = fs::canonicalize(link) else { return Default::default() };
    chain_of(&place)
}

fn chain_of(place: &Path) -> (String, Vec<String>) {
    let mut parts: Vec<_> = place.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let Some(start) = parts.iter().rposition(|part| is_host_bridge(part)) else { return Default::default() };
    let mut below = parts.split_off(start);
    let host_bridge = below.remove(0);
    below.pop();
    below.retain(|part| is_address(part));
    below.reverse();
    (host_bridge, below)
}

/// "pci0000:3a".
fn is_host_bridge(part: &str) -> bool {
    part.strip_prefix("pci").is_some_and(|rest| {
        rest.split_once(':')
            .is_some_and(|(domain, bus)| domain.len() >= 4 && bus.len() == 2 && is_hex(domain) && is_hex(bus))
    })
}

/// "0000:3b:00.0".
fn is_address(part: &str) -> bool {
    let mut fields = part.split([':', '.']);
    let widths = [4, 2, 2, 1];
    part.len() >= 12
        && widths.iter().all(|width| fields.next().is_some_and(|field| field.len() >= *width && is_hex(field)))
        && fields.next().is_none()
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A bridge with bridges alone below it is a switch's upstream port; a root port never has another bridge above it.
fn is_upstream_port(bus: &Path, bridge: &str) -> bool {
    let Ok(place) = fs::canonicalize(bus.join(bridge)) else { return false };
    let below: Vec<PathBuf> =
        names(&place).into_iter().filter(|name| is_address(name)).map(|name| place.join(name)).collect();
    !below.is_empty()
        && below.iter().all(|device| hexadecimal(&device.join("class")).is_some_and(|class| class >> 8 == 0x0604))
}

fn node(link: &Path) -> Option<i32> {
    // -1 is the kernel's "the firmware does not say".
    fs::read_to_string(link.join("numa_node")).ok()?.trim().parse().ok().filter(|node| *node >= 0)
}

fn hexadecimal(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_counts_only_where_its_vendor_makes_accelerators() {
        for (class, vendor, kind) in [
            (0x03_02_00, 0x10de, Some(Kind::Gpu)),
            (0x03_00_00, 0x10de, Some(Kind::Gpu)),
            (0x12_00_00, 0x1002, Some(Kind::Gpu)),
            (0x12_00_00, 0x19e5, Some(Kind::Gpu)),
            (0x12_00_00, 0x8086, None),
            (0x03_00_00, 0x1a03, None),
            (0x02_00_00, 0x15b3, Some(Kind::Nic)),
            (0x02_07_00, 0x15b3, Some(Kind::Nic)),
            (0x0c_06_00, 0x15b3, Some(Kind::Nic)),
            (0x01_08_02, 0x144d, Some(Kind::Nvme)),
            (0x01_06_01, 0x8086, None),
            (0x06_80_00, 0x10de, None),
        ] {
            assert_eq!(Kind::of(class, vendor), kind, "{class:#x} of {vendor:#x}");
        }
    }

    #[test]
    fn the_way_to_the_root_is_read_from_the_place_of_the_device() {
        for (place, host_bridge, upstream) in [
            ("/sys/devices/pci0000:00/0000:00:1f.6", "pci0000:00", vec![]),
            ("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0", "pci0000:3a", vec!["0000:3a:00.0"]),
            (
                "/sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:01.0/0000:18:00.0",
                "pci0000:15",
                vec!["0000:17:01.0", "0000:16:00.0", "0000:15:01.0"],
            ),
            // A volume management device is a bus of its own below a PCI device.
            (
                "/sys/devices/pci0000:64/0000:64:00.5/pci10000:00/10000:00:02.0/10000:01:00.0",
                "pci10000:00",
                vec!["10000:00:02.0"],
            ),
            ("/sys/devices/platform/ffff.ethernet", "", vec![]),
        ] {
            assert_eq!(
                chain_of(Path::new(place)),
                (host_bridge.to_owned(), upstream.into_iter().map(str::to_owned).collect()),
                "{place}"
            );
        }
    }
}
