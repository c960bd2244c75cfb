//! Devices and paths from trees laid out as a kernel lays them out: a made host, and this one.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_placement::devices::{self, Kind};
use railwatch_placement::path::{NvLink, paths};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A made /sys.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.root().join("bus/pci/devices")).unwrap();
        tree
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// A device at `place` below `devices`, its class and vendor, its node, and folders below it.
    fn device(&self, place: &str, class: u32, vendor: u32, node: i32, folders: &[&str]) {
        let folder = self.root().join("devices").join(place);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [
            ("class", format!("{class:#08x}\n")),
            ("vendor", format!("{vendor:#06x}\n")),
            ("numa_node", format!("{node}\n")),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        folders.iter().for_each(|name| fs::create_dir_all(folder.join(name)).unwrap());
        let address = Path::new(place).file_name().unwrap();
        symlink(&folder, self.root().join("bus/pci/devices").join(address)).unwrap();
    }

    fn bridge(&self, place: &str) {
        self.device(place, 0x06_04_00, 0x8086, 0, &[]);
    }
}

const NVIDIA: u32 = 0x10de;
const MELLANOX: u32 = 0x15b3;

/// Two processors. On the first a switch with two GPUs and a NIC, and a NIC and a disk at root ports of their own; on the
/// second a GPU and an InfiniBand card with a virtual function.
fn host() -> Tree {
    let tree = Tree::new();
    let (port, up) = ("pci0000:15/0000:15:01.0", "pci0000:15/0000:15:01.0/0000:16:00.0");
    tree.bridge(port);
    tree.bridge(up);
    for (slot, class, vendor, address, folders) in [
        ("01", 0x03_02_00, NVIDIA, "0000:18:00.0", &[][..]),
        ("02", 0x03_02_00, NVIDIA, "0000:19:00.0", &[]),
        ("03", 0x02_00_00, MELLANOX, "0000:1a:00.0", &["net/eth0", "infiniband/mlx5_0/ports/1"]),
    ] {
        let down = format!("{up}/0000:17:{slot}.0");
        tree.bridge(&down);
        tree.device(&format!("{down}/{address}"), class, vendor, 0, folders);
    }
    tree.bridge("pci0000:15/0000:15:02.0");
    tree.device("pci0000:15/0000:15:02.0/0000:20:00.0", 0x02_00_00, MELLANOX, 0, &["net/eth1"]);
    tree.bridge("pci0000:37/0000:37:01.0");
    tree.device("pci0000:37/0000:37:01.0/0000:38:00.0", 0x01_08_02, 0x144d, 0, &["nvme/nvme0"]);
    tree.bridge("pci0000:97/0000:97:01.0");
    tree.device("pci0000:97/0000:97:01.0/0000:98:00.0", 0x03_02_00, NVIDIA, 1, &[]);
    tree.bridge("pci0000:97/0000:97:03.0");
    tree.device("pci0000:97/0000:97:03.0/0000:99:00.0", 0x02_07_00, MELLANOX, 1, &["infiniband/mlx5_1/ports/1"]);
    tree.device("pci0000:97/0000:97:03.0/0000:99:00.2", 0x02_07_00, MELLANOX, 1, &["physfn"]);
    // A management chip's display, and a disk controller.
    tree.device("pci0000:00/0000:00:1c.0/0000:02:00.0", 0x03_00_00, 0x1a03, -1, &[]);
    tree.device("pci0000:00/0000:00:17.0", 0x01_06_01, 0x8086, -1, &[]);
    tree
}

#[test]
fn every_device_has_its_name_its_node_and_its_way_to_the_root() {
    let tree = host();
    let found = devices::read(tree.root()).unwrap().devices;
    let shown: Vec<_> =
        found.iter().map(|device| (device.label(), device.numa_node, device.upstream.join(" "))).collect();
    let expected = [
        ("gpu/0", Some(0), "0000:17:01.0 0000:16:00.0 0000:15:01.0"),
        ("gpu/1", Some(0), "0000:17:02.0 0000:16:00.0 0000:15:01.0"),
        ("gpu/2", Some(1), "0000:97:01.0"),
        ("nic/eth0", Some(0), "0000:17:03.0 0000:16:00.0 0000:15:01.0"),
        ("nic/eth1", Some(0), "0000:15:02.0"),
        ("nic/mlx5_1/1", Some(1), "0000:97:03.0"),
        ("nvme/nvme0", Some(0), "0000:37:01.0"),
        ("pcie_switch/0000:16:00.0", Some(0), "0000:15:01.0"),
    ];
    assert_eq!(shown, expected.map(|(label, node, upstream)| (label.to_owned(), node, upstream.to_owned())));
    assert_eq!(found[3].aliases, ["mlx5_0/1"]);
}

#[test]
fn paths_say_what_nvidia_smi_says() {
    let tree = host();
    let found = devices::read(tree.root()).unwrap().devices;
    let link = NvLink { from: "0000:18:00.0".into(), to: "0000:98:00.0".into() };
    let paths = paths(&found, &[link]);
    let shown: Vec<_> =
        paths.iter().map(|path| format!("{} {} {}", path.from, path.to, path.nearness.name())).collect();
    assert_eq!(
        shown,
        [
            "gpu/0 gpu/1 pcie_switch",
            "gpu/0 gpu/2 nvlink",
            "gpu/0 nic/eth0 pcie_switch",
            "gpu/0 nic/eth1 root_port",
            "gpu/0 nic/mlx5_1/1 system",
            "gpu/0 nvme/nvme0 numa_node",
            "gpu/1 gpu/2 system",
            "gpu/1 nic/eth0 pcie_switch",
            "gpu/1 nic/eth1 root_port",
            "gpu/1 nic/mlx5_1/1 system",
            "gpu/1 nvme/nvme0 numa_node",
            "gpu/2 nic/eth0 system",
            "gpu/2 nic/eth1 system",
            "gpu/2 nic/mlx5_1/1 root_port",
            "gpu/2 nvme/nvme0 system",
        ]
    );
}

#[test]
fn a_host_without_a_bus_says_so_and_an_endless_one_meets_a_bound() {
    let tree = tempfile::tempdir().unwrap();
    assert!(devices::read(tree.path()).is_err());
    let tree = Tree::new();
    for bus in 0..=255_u32 {
        for slot in 0..3_u32 {
            tree.device(&format!("pci0000:{bus:02x}/0000:{bus:02x}:{slot:02x}.0"), 0x02_00_00, MELLANOX, 0, &[]);
        }
    }
    let found = devices::read(tree.root()).unwrap();
    assert_eq!((found.devices.len(), found.left_out), (devices::DEVICES_MAX, 768 - devices::DEVICES_MAX));
}

#[test]
fn this_hosts_own_bus_is_read() {
    match devices::read(Path::new("/sys")) {
        Ok(found) => {
            for device in &found.devices {
                assert!(!device.host_bridge.is_empty(), "{device:?}");
            }
            assert!(found.devices.iter().filter(|device| device.kind == Kind::Gpu).count() <= 64);
        }
        Err(error) => eprintln!("SKIPPED: this host has no PCI bus: {error}"),
    }
}
