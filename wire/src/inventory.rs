//! The keys of a host's inventory, as data: what each means, who should agree on it, and how much a change matters.
//!
//! In: nothing. Out: one row for every key that an agent may send, for the agent (severity of a change), the collector (what is
//! compared with whom) and docs/inventory.md, which a test holds to this table. Never: a value.

/// Who should have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// All hosts that have it.
    Fleet,
    /// Entities of one kind and role on all hosts: ports of one speed, hosts of one product.
    Role,
    /// Hosts that run the same job.
    Job,
    /// Nobody: serial numbers, addresses, places.
    Host,
}

impl Class {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Role => "role",
            Self::Job => "job",
            Self::Host => "host",
        }
    }
}

/// How much a change matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weight {
    /// Worth knowing.
    Info,
    /// May explain a fault.
    Warning,
}

impl Weight {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name: `mtu`.
    pub name: &'static str,
    /// Kinds of entity that have it, joined by spaces.
    pub entities: &'static str,
    /// Unit (UCUM) or form of the value.
    pub form: &'static str,
    /// Who should agree.
    pub class: Class,
    /// How much a change matters.
    pub weight: Weight,
    /// What it says.
    pub meaning: &'static str,
    /// Where it is read.
    pub source: &'static str,
}

use Class::{Fleet, Host, Job, Role};
use Weight::{Info, Warning};

const fn key(
    name: &'static str,
    entities: &'static str,
    form: &'static str,
    (class, weight): (Class, Weight),
    meaning: &'static str,
    source: &'static str,
) -> Key {
    Key { name, entities, form, class, weight, meaning, source }
}

const fn sysctl(name: &'static str, source: &'static str, meaning: &'static str) -> Key {
    key(name, "host", "as the kernel writes it", (Fleet, Warning), meaning, source)
}

/// Every key, by name.
pub const KEYS: &[Key] = &[
    key("bios.date", "host", "date", (Role, Info), "date of the BIOS", "/sys/class/dmi/id/bios_date"),
    key("bios.vendor", "host", "text", (Role, Info), "who made the BIOS", "/sys/class/dmi/id/bios_vendor"),
    key("bios.version", "host", "text", (Role, Warning), "version of the BIOS", "/sys/class/dmi/id/bios_version"),
    key(
        "board.id",
        "rdma",
        "PSID",
        (Role, Warning),
        "which board the firmware is for",
        "/sys/class/infiniband/*/board_id",
    ),
    key("board.name", "host", "text", (Role, Info), "main board", "/sys/class/dmi/id/board_name"),
    key(
        "cpu.governor",
        "host",
        "words",
        (Role, Warning),
        "frequency governors in use; of several, with how many policies each",
        "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
    ),
    key(
        "cpu.microcode",
        "host",
        "hex",
        (Role, Warning),
        "microcode; of several, with how many processors each",
        "/sys/devices/system/cpu/cpu*/microcode/version",
    ),
    key("cpu.model", "host", "text", (Role, Info), "processor", "/proc/cpuinfo, model name"),
    key("cpu.online", "host", "ranges", (Role, Warning), "processors that are on", "/sys/devices/system/cpu/online"),
    key(
        "cpu.smt",
        "host",
        "word",
        (Role, Warning),
        "simultaneous multithreading",
        "/sys/devices/system/cpu/smt/control",
    ),
    key(
        "device.id",
        "gpu npu nic nvme",
        "vendor:device",
        (Role, Info),
        "PCI identity",
        "/sys/bus/pci/devices/*/{vendor,device}",
    ),
    key(
        "driver",
        "gpu npu nic nvme port",
        "name",
        (Role, Warning),
        "driver bound to it",
        "/sys/bus/pci/devices/*/driver, ETHTOOL_GDRVINFO",
    ),
    key(
        "driver.version",
        "port",
        "text",
        (Role, Warning),
        "version of the NIC's driver (the kernel's release for one of the kernel's own)",
        "ETHTOOL_GDRVINFO",
    ),
    key(
        "dscp.priority",
        "port",
        "DSCP:priority pairs",
        (Role, Warning),
        "priority that each DSCP is mapped to",
        "DCB netlink DCB_CMD_IEEE_GET, APP table",
    ),
    key(
        "ecc.mode",
        "gpu",
        "on, off",
        (Role, Warning),
        "error correction of the GPU's memory, as it is now",
        "NVML nvmlDeviceGetEccMode",
    ),
    key(
        "ets.bandwidth",
        "port",
        "class:percent or strict",
        (Role, Warning),
        "scheduling of the traffic classes on transmission",
        "DCB netlink DCB_CMD_IEEE_GET, ETS",
    ),
    key(
        "ets.priority_class",
        "port",
        "priority:class pairs",
        (Role, Warning),
        "traffic class of each priority",
        "DCB netlink DCB_CMD_IEEE_GET, ETS",
    ),
    key(
        "fec.active",
        "port",
        "name",
        (Role, Info),
        "error correction that the link came up with",
        "ethtool netlink FEC_GET",
    ),
    key(
        "fec.auto",
        "port",
        "on, off",
        (Role, Warning),
        "whether the driver chooses the error correction",
        "ethtool netlink FEC_GET",
    ),
    key("fec.configured", "port", "names", (Role, Warning), "error corrections allowed", "ethtool netlink FEC_GET"),
    key(
        "firmware.version",
        "gpu port rdma nvme",
        "text",
        (Role, Warning),
        "firmware",
        "ETHTOOL_GDRVINFO, /sys/class/infiniband/*/fw_ver, /proc/driver/nvidia/gpus/*/information, /sys/class/nvme/*/firmware_rev",
    ),
    key("gpu.count", "host", "{gpu}", (Role, Warning), "GPUs on the bus", "/sys/bus/pci/devices"),
    key(
        "gpu.driver.flavour",
        "host",
        "open, proprietary",
        (Fleet, Warning),
        "kind of NVIDIA's kernel module",
        "/proc/driver/nvidia/version",
    ),
    key("gpu.driver.version", "host", "version", (Fleet, Warning), "NVIDIA's driver", "/proc/driver/nvidia/version"),
    key(
        "gpu.peer_memory",
        "host",
        "nvidia_peermem, nv_peer_mem, none",
        (Fleet, Warning),
        "module that lets NICs reach GPU memory, where NVIDIA's driver is loaded (none: dma-buf at best)",
        "/sys/module",
    ),
    key("hardware.type", "rdma", "name", (Role, Info), "model of the RDMA device", "/sys/class/infiniband/*/hca_type"),
    key(
        "hugepages",
        "host",
        "size:count pairs",
        (Role, Warning),
        "huge pages reserved",
        "/sys/kernel/mm/hugepages/*/nr_hugepages",
    ),
    key(
        "irq.affinity",
        "port",
        "local, mixed, remote; spread, narrow, one processor",
        (Role, Info),
        "where the interrupts of the card go, seen from its NUMA node, and on how many processors; not which: that moves with irqbalance",
        "/proc/irq/*/effective_affinity_list",
    ),
    key(
        "kernel.options",
        "host",
        "as on the command line",
        (Role, Warning),
        "options of the kernel's command line that training feels (iommu, pci, huge pages, isolation, power states); no other is read out",
        "/proc/cmdline",
    ),
    key("kernel.release", "host", "text", (Fleet, Warning), "running kernel", "/proc/sys/kernel/osrelease"),
    key(
        "library.acl",
        "host",
        "versions",
        (Job, Warning),
        "CANN of Ascend, as GPU processes have it mapped",
        "name of the mapped file or its folder",
    ),
    key("library.cublas", "host", "versions", (Job, Info), "cuBLAS, likewise", "likewise"),
    key(
        "library.cuda",
        "host",
        "versions",
        (Job, Warning),
        "user half of NVIDIA's driver (libcuda), likewise",
        "likewise",
    ),
    key("library.cudart", "host", "versions", (Job, Warning), "CUDA runtime, likewise", "likewise"),
    key("library.cudnn", "host", "versions", (Job, Info), "cuDNN, likewise", "likewise"),
    key("library.hccl", "host", "versions", (Job, Warning), "HCCL, likewise", "likewise"),
    key("library.hip", "host", "versions", (Job, Warning), "HIP of ROCm, likewise", "likewise"),
    key("library.nccl", "host", "versions", (Job, Warning), "NCCL, likewise", "likewise"),
    key("library.rccl", "host", "versions", (Job, Warning), "RCCL, likewise", "likewise"),
    key("link.autoneg", "port", "on, off", (Role, Warning), "autonegotiation", "ethtool netlink LINKMODES_GET"),
    key(
        "link.duplex",
        "port",
        "full, half",
        (Role, Warning),
        "duplex",
        "ethtool netlink LINKMODES_GET, /sys/class/net/*/duplex",
    ),
    key(
        "link.layer",
        "rdma",
        "name",
        (Role, Warning),
        "InfiniBand or Ethernet",
        "/sys/class/infiniband/*/ports/1/link_layer",
    ),
    key(
        "link.rate",
        "rdma",
        "text",
        (Role, Warning),
        "rate of the port while it is up",
        "/sys/class/infiniband/*/ports/1/rate",
    ),
    key(
        "link.speed",
        "port",
        "Mbit/s",
        (Role, Warning),
        "speed of the link while it is up",
        "ethtool netlink LINKMODES_GET, /sys/class/net/*/speed",
    ),
    key(
        "lldpd.running",
        "host",
        "yes, no",
        (Fleet, Info),
        "a daemon tells switches of this host (its socket is there)",
        "/proc/net/unix",
    ),
    key("mtu", "port", "By", (Role, Warning), "largest packet", "RTM_GETLINK, /sys/class/net/*/mtu"),
    key("nic.count", "host", "{device}", (Role, Warning), "NICs on the bus", "/sys/bus/pci/devices"),
    key("numa.nodes", "host", "ranges", (Role, Warning), "NUMA nodes", "/sys/devices/system/node/online"),
    key("nvme.count", "host", "{device}", (Role, Warning), "NVMe controllers on the bus", "/sys/bus/pci/devices"),
    key("part.number", "module", "text", (Role, Info), "part number of the optical module or cable", "module EEPROM"),
    key("pause.autoneg", "port", "on, off", (Role, Warning), "802.3x pause is negotiated", "ethtool netlink PAUSE_GET"),
    key(
        "pause.receive",
        "port",
        "on, off",
        (Role, Warning),
        "802.3x pause frames are obeyed",
        "ethtool netlink PAUSE_GET",
    ),
    key(
        "pause.transmit",
        "port",
        "on, off",
        (Role, Warning),
        "802.3x pause frames are sent",
        "ethtool netlink PAUSE_GET",
    ),
    key("pci.address", "port rdma", "address", (Host, Info), "where it sits", "/sys/class/*/device"),
    key(
        "pcie.acs",
        "gpu npu nic nvme",
        "off, redirects at N of M bridges",
        (Role, Warning),
        "bridges above it that send peer-to-peer traffic up to the root (readable with CAP_SYS_ADMIN alone)",
        "/sys/bus/pci/devices/*/config",
    ),
    key(
        "pcie.ats",
        "gpu npu nic nvme",
        "on, off",
        (Role, Warning),
        "address translation service (readable with CAP_SYS_ADMIN alone)",
        "/sys/bus/pci/devices/*/config",
    ),
    key(
        "pcie.max_payload",
        "gpu npu nic nvme",
        "By",
        (Role, Warning),
        "largest payload of a packet (readable with CAP_SYS_ADMIN alone)",
        "/sys/bus/pci/devices/*/config",
    ),
    key(
        "pcie.max_read_request",
        "gpu npu nic nvme",
        "By",
        (Role, Warning),
        "largest read request (readable with CAP_SYS_ADMIN alone)",
        "/sys/bus/pci/devices/*/config",
    ),
    key(
        "pcie.relaxed_ordering",
        "gpu npu nic nvme",
        "on, off",
        (Role, Warning),
        "relaxed ordering is allowed (readable with CAP_SYS_ADMIN alone)",
        "/sys/bus/pci/devices/*/config",
    ),
    key(
        "pcie.speed",
        "npu nic nvme",
        "GT/s",
        (Role, Warning),
        "speed of the link now; not of GPUs, which lower it when idle",
        "/sys/bus/pci/devices/*/current_link_speed",
    ),
    key(
        "pcie.speed_max",
        "gpu npu nic nvme",
        "GT/s",
        (Role, Info),
        "speed that the device can do",
        "/sys/bus/pci/devices/*/max_link_speed",
    ),
    key(
        "pcie.width",
        "gpu npu nic nvme",
        "{lane}",
        (Role, Warning),
        "lanes in use",
        "/sys/bus/pci/devices/*/current_link_width",
    ),
    key(
        "pcie.width_max",
        "gpu npu nic nvme",
        "{lane}",
        (Role, Info),
        "lanes that the device can use",
        "/sys/bus/pci/devices/*/max_link_width",
    ),
    key(
        "persistence.mode",
        "gpu",
        "on, off",
        (Role, Warning),
        "the driver stays loaded while nobody uses the GPU",
        "NVML nvmlDeviceGetPersistenceMode",
    ),
    key(
        "pfc.enabled",
        "port",
        "priorities",
        (Role, Warning),
        "priorities with priority flow control",
        "DCB netlink DCB_CMD_IEEE_GET, PFC",
    ),
    key("port.count", "host", "{port}", (Role, Warning), "network interfaces with a device", "/sys/class/net"),
    key(
        "product.name",
        "gpu host nvme",
        "text",
        (Role, Info),
        "product",
        "/sys/class/dmi/id/product_name, /proc/driver/nvidia/gpus/*/information, /sys/class/nvme/*/model",
    ),
    key("product.vendor", "host", "text", (Role, Info), "who made the host", "/sys/class/dmi/id/sys_vendor"),
    key("rdma.count", "host", "{device}", (Role, Warning), "RDMA devices", "/sys/class/infiniband"),
    key("revision", "module", "text", (Role, Info), "revision of the module's memory layout", "module EEPROM"),
    key(
        "roce.cnp_dscp",
        "port",
        "DSCP",
        (Role, Warning),
        "DSCP of congestion notifications (mlx5 of NVIDIA's own drivers)",
        "/sys/class/net/*/ecn/roce_np/cnp_dscp",
    ),
    key(
        "roce.default_tos",
        "rdma",
        "traffic class",
        (Role, Warning),
        "type of service of the connection manager's connections, where a person made the device's folder",
        "/sys/kernel/config/rdma_cm/*/ports/1/default_roce_tos",
    ),
    key(
        "roce.ecn.notify",
        "port",
        "priorities",
        (Role, Warning),
        "priorities on which marked packets are answered with congestion notifications",
        "/sys/class/net/*/ecn/roce_np/enable/*",
    ),
    key(
        "roce.ecn.react",
        "port",
        "priorities",
        (Role, Warning),
        "priorities on which congestion notifications slow the sender",
        "/sys/class/net/*/ecn/roce_rp/enable/*",
    ),
    key(
        "roce.traffic_class",
        "rdma",
        "as the driver writes it",
        (Role, Warning),
        "traffic class forced on all connections (NVIDIA's own drivers)",
        "/sys/class/infiniband/*/tc/1/traffic_class",
    ),
    key(
        "serial.number",
        "module",
        "text",
        (Host, Warning),
        "serial number of the optical module or cable: it changes when the module is swapped",
        "module EEPROM",
    ),
    sysctl(
        "sysctl.kernel.numa_balancing",
        "/proc/sys/kernel/numa_balancing",
        "pages are moved to the node that uses them",
    ),
    sysctl(
        "sysctl.net.core.netdev_max_backlog",
        "/proc/sys/net/core/netdev_max_backlog",
        "packets that wait for a processor",
    ),
    sysctl("sysctl.net.core.rmem_max", "/proc/sys/net/core/rmem_max", "largest receive buffer of a socket, By"),
    sysctl("sysctl.net.core.somaxconn", "/proc/sys/net/core/somaxconn", "connections that wait to be accepted"),
    sysctl("sysctl.net.core.wmem_max", "/proc/sys/net/core/wmem_max", "largest send buffer of a socket, By"),
    sysctl(
        "sysctl.net.ipv4.conf.all.arp_announce",
        "/proc/sys/net/ipv4/conf/all/arp_announce",
        "which address ARP requests carry: several rails in one subnet need 2",
    ),
    sysctl(
        "sysctl.net.ipv4.conf.all.arp_ignore",
        "/proc/sys/net/ipv4/conf/all/arp_ignore",
        "who answers ARP: several rails in one subnet need 1 or 2",
    ),
    sysctl("sysctl.net.ipv4.conf.all.rp_filter", "/proc/sys/net/ipv4/conf/all/rp_filter", "reverse path filter"),
    sysctl(
        "sysctl.net.ipv4.tcp_congestion_control",
        "/proc/sys/net/ipv4/tcp_congestion_control",
        "congestion control of TCP",
    ),
    sysctl("sysctl.net.ipv4.tcp_ecn", "/proc/sys/net/ipv4/tcp_ecn", "explicit congestion notification of TCP"),
    sysctl(
        "sysctl.net.ipv4.tcp_rmem",
        "/proc/sys/net/ipv4/tcp_rmem",
        "receive buffers of TCP: least, usual, largest, By",
    ),
    sysctl("sysctl.net.ipv4.tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem", "send buffers of TCP: least, usual, largest, By"),
    sysctl("sysctl.vm.max_map_count", "/proc/sys/vm/max_map_count", "mappings that a process may have"),
    sysctl("sysctl.vm.min_free_kbytes", "/proc/sys/vm/min_free_kbytes", "memory kept free, KiBy"),
    sysctl("sysctl.vm.overcommit_memory", "/proc/sys/vm/overcommit_memory", "how much memory is promised"),
    sysctl("sysctl.vm.swappiness", "/proc/sys/vm/swappiness", "how soon pages are swapped out"),
    sysctl(
        "sysctl.vm.zone_reclaim_mode",
        "/proc/sys/vm/zone_reclaim_mode",
        "memory of the own node is reclaimed before another's is used",
    ),
    key(
        "transparent_hugepage",
        "host",
        "word",
        (Fleet, Warning),
        "transparent huge pages",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ),
    key(
        "trust",
        "port",
        "selectors, first wins",
        (Role, Warning),
        "what a packet's priority is taken from (NVIDIA's own drivers tell it by file; Linux 6.3 and later by DCB netlink)",
        "/sys/class/net/*/qos/trust, DCB netlink APP trust table",
    ),
    key("vbios.version", "gpu", "text", (Role, Warning), "video BIOS", "/proc/driver/nvidia/gpus/*/information"),
    key("vendor", "module", "text", (Role, Info), "who made the optical module or cable", "module EEPROM"),
];

/// The row of a key; `None` for one that only a newer agent knows.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    position(name).map(|at| &KEYS[at])
}

/// The place of a key in [`KEYS`].
#[must_use]
pub fn position(name: &str) -> Option<usize> {
    KEYS.binary_search_by_key(&name, |key| key.name).ok()
}

/// What is seen only at times (while a link is up, while a process uses a library, once a module was read) holds, as long as its
/// entity is there, until it is seen to be otherwise: its absence is no news.
#[must_use]
pub fn is_kept(entity_kind: &str, key: &str) -> bool {
    entity_kind == "module" || ["fec.active", "library.", "link."].iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::{KEYS, find};

    #[test]
    fn keys_are_sorted_found_by_name_and_found_once() {
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name), "binary search needs it");
        assert!(KEYS.iter().all(|key| find(key.name) == Some(key)));
        assert_eq!(find("nosuch"), None);
    }

    #[test]
    fn every_key_has_its_row_in_the_documentation() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/inventory.md")).expect("the page");
        let missing: Vec<String> = KEYS.iter().map(row).filter(|row| !page.contains(row)).collect();
        assert!(missing.is_empty(), "docs/inventory.md lacks, or has otherwise:\n{}", missing.join("\n"));
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, KEYS.len(), "docs/inventory.md describes keys that are no more");
    }

    fn row(key: &super::Key) -> String {
        let super::Key { name, entities, form, class, weight, meaning, source } = key;
        format!(
            "| `{name}` | {} | {form} | {} | {} | {meaning} | {} |",
            entities.replace(' ', ", "),
            class.name(),
            weight.name(),
            source.replace('*', "\\*")
        )
    }
}
