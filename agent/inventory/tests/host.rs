//! The source on trees of hosts: our own, one of a real H100 host where the checkout has it beside it, and this host.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_inventory::{InventoryConfig, InventorySource, Items, Known, ModuleFacts};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Severity, Signal, Source};
use railwatch_wire::v1;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Driven {
    source: InventorySource,
    published: Arc<Mutex<Vec<v1::InventoryState>>>,
    known: Arc<Mutex<Known>>,
    batch: Batch,
}

impl Driven {
    fn new(sysfs: &Path, procfs: &Path) -> Self {
        let config = InventoryConfig {
            sysfs_root: sysfs.to_owned(),
            procfs_root: procfs.to_owned(),
            software_interfaces: Vec::new(),
            nvml_library: "/nowhere/libnvidia-ml.so.1".into(),
        };
        let (published, known) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Known>>::default());
        let (publish, ask) = (Arc::clone(&published), Arc::clone(&known));
        let mut source = InventorySource::new(
            config,
            move || ask.lock().unwrap().clone(),
            move |state| publish.lock().unwrap().push(state),
        );
        let catalog = Arc::new(Catalog::default());
        let mut recorder = Recorder::new("inventory", Duration::from_secs(100), &[], Arc::clone(&catalog));
        recorder.probe(monotonic_ns(), &mut Output::default(), |declare| source.probe(declare)).unwrap();
        assert_eq!(catalog.outside_vocabulary(), "");
        Self { source, published, known, batch: Batch::with_capacity(16) }
    }

    /// Reads once; returns the signals.
    fn read(&mut self) -> Vec<Signal> {
        self.batch.clear();
        self.source.read(&mut self.batch).unwrap();
        self.batch.signals().to_vec()
    }

    fn items(&self) -> &Items {
        self.source.items()
    }

    fn published(&self) -> usize {
        self.published.lock().unwrap().len()
    }
}

/// A small host: two RoCE NICs, a GPU behind a bridge, one processor.
fn tree(root: &Path) {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    };
    for (path, text) in [
        ("sys/class/dmi/id/sys_vendor", "Supermicro"),
        ("sys/class/dmi/id/product_name", "SYS-821GE"),
        ("sys/class/dmi/id/bios_version", "2.1"),
        ("sys/class/dmi/id/product_serial", "SECRET"),
        ("sys/devices/system/cpu/cpu0/microcode/version", "0x2b000590"),
        ("sys/devices/system/cpu/cpu1/microcode/version", "0x2b0004d0"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance"),
        ("sys/devices/system/node/node0/cpulist", "0-1"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512"),
        ("sys/module/nvidia/version", "535.161.08"),
        ("sys/module/nvidia_peermem/refcnt", "0"),
        ("sys/class/infiniband/mlx5_0/fw_ver", "28.39.1002"),
        ("sys/class/infiniband/mlx5_0/board_id", "MT_0000000838"),
        ("sys/class/infiniband/mlx5_0/hca_type", "MT4129"),
        ("sys/class/infiniband/mlx5_0/ports/1/link_layer", "Ethernet"),
        ("sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)"),
        ("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE"),
        ("sys/class/infiniband/mlx5_0/tc/1/traffic_class", "Global tclass=106"),
        ("sys/class/infiniband/mlx5_1/fw_ver", "28.39.1002"),
        ("sys/class/infiniband/mlx5_1/ports/1/rate", "10 Gb/sec (4X SDR)"),
        ("sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN"),
        ("sys/class/net/eth0/ifindex", "2"),
        ("sys/class/net/eth0/type", "1"),
        ("sys/class/net/eth0/mtu", "9000"),
        ("sys/class/net/eth0/speed", "400000"),
        ("sys/class/net/eth0/duplex", "full"),
        ("sys/class/net/eth0/device/numa_node", "0"),
        ("sys/class/net/eth0/device/infiniband/mlx5_0/x", ""),
        ("sys/class/net/eth0/device/msi_irqs/40", "msix"),
        ("sys/class/net/eth0/ecn/roce_np/enable/3", "1"),
        ("sys/class/net/eth0/ecn/roce_np/enable/4", "0"),
        ("sys/class/net/eth0/ecn/roce_np/cnp_dscp", "48"),
        ("sys/class/net/eth0/ecn/roce_rp/enable/3", "0"),
        ("sys/class/net/eth0/qos/trust", "dscp"),
        ("sys/class/net/lo/ifindex", "1"),
        ("sys/class/net/lo/type", "772"),
        ("sys/bus/pci/devices/0000:19:00.0/class", "0x030200"),
        ("sys/bus/pci/devices/0000:19:00.0/vendor", "0x10de"),
        ("sys/bus/pci/devices/0000:19:00.0/device", "0x2330"),
        ("sys/bus/pci/devices/0000:19:00.0/current_link_width", "16"),
        ("sys/bus/pci/devices/0000:19:00.0/max_link_width", "16"),
        ("sys/bus/pci/devices/0000:19:00.0/current_link_speed", "2.5 GT/s PCIe"),
        ("sys/bus/pci/devices/0000:19:00.0/max_link_speed", "32.0 GT/s PCIe"),
        ("proc/irq/40/effective_affinity_list", "1"),
        ("proc/sys/kernel/osrelease", "6.8.0-45-generic"),
        ("proc/sys/net/ipv4/tcp_ecn", "2"),
        ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
        ("proc/cmdline", "root=/dev/sda1 iommu=pt"),
        ("proc/net/unix", "Num Path\n0000: 00000002 00000000 00010000 0001 01 2231 /run/lldpd.socket"),
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 2024"),
        ("proc/driver/nvidia/gpus/0000:19:00.0/information", "Model: NVIDIA H100\nVideo BIOS: 96.00.74.00.01"),
    ] {
        write(path, text);
    }
}

#[test]
fn a_host_is_told_with_what_compares_and_without_serial_numbers() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let mut host = Driven::new(&root.path().join("sys"), &root.path().join("proc"));
    assert_eq!(host.read(), []);
    for (kind, entity, key, value) in [
        ("host", "", "product.name", "SYS-821GE"),
        ("host", "", "bios.version", "2.1"),
        ("host", "", "cpu.microcode", "0x2b0004d0 (1), 0x2b000590 (1)"),
        ("host", "", "cpu.governor", "performance"),
        ("host", "", "transparent_hugepage", "madvise"),
        ("host", "", "hugepages", "2048kB:512"),
        ("host", "", "kernel.release", "6.8.0-45-generic"),
        ("host", "", "kernel.options", "iommu=pt"),
        ("host", "", "sysctl.net.ipv4.tcp_ecn", "2"),
        ("host", "", "sysctl.net.ipv4.tcp_rmem", "4096 131072 6291456"),
        ("host", "", "lldpd.running", "yes"),
        ("host", "", "gpu.count", "1"),
        ("host", "", "rdma.count", "2"),
        ("host", "", "port.count", "1"),
        ("host", "", "gpu.driver.version", "535.161.08"),
        ("host", "", "gpu.peer_memory", "nvidia_peermem"),
        ("gpu", "0000:19:00.0", "vbios.version", "96.00.74.00.01"),
        ("gpu", "0000:19:00.0", "device.id", "10de:2330"),
        ("gpu", "0000:19:00.0", "pcie.width", "16"),
        ("gpu", "0000:19:00.0", "pcie.speed_max", "32.0"),
        ("port", "eth0", "mtu", "9000"),
        ("port", "eth0", "link.speed", "400000"),
        ("port", "eth0", "link.duplex", "full"),
        ("port", "eth0", "roce.ecn.notify", "3"),
        ("port", "eth0", "roce.ecn.react", "none"),
        ("port", "eth0", "roce.cnp_dscp", "48"),
        ("port", "eth0", "trust", "dscp"),
        ("port", "eth0", "irq.affinity", "local, spread"),
        ("rdma", "mlx5_0", "firmware.version", "28.39.1002"),
        ("rdma", "mlx5_0", "board.id", "MT_0000000838"),
        ("rdma", "mlx5_0", "link.rate", "400 Gb/sec (4X NDR)"),
        ("rdma", "mlx5_0", "roce.traffic_class", "Global tclass=106"),
    ] {
        assert_eq!(host.items().value(kind, entity, key), Some(value), "{kind} {entity} {key}");
    }
    for (kind, entity, key, why) in [
        ("gpu", "0000:19:00.0", "pcie.speed", "an idle GPU lowers it"),
        ("rdma", "mlx5_1", "link.rate", "the port is down"),
        ("port", "lo", "mtu", "the loopback is no port"),
    ] {
        assert_eq!(host.items().value(kind, entity, key), None, "{why}");
    }
    assert!(host.items().iter().all(|(_, _, _, item)| item.value != "SECRET"));
    let roles: Vec<_> = host
        .items()
        .iter()
        .filter(|(.., key, _)| *key == "link.layer")
        .map(|(_, name, _, item)| (name, &*item.role))
        .collect();
    assert_eq!(roles, [("mlx5_0", "MT4129 MT_0000000838 Ethernet")]);
}

#[test]
fn a_changed_value_is_a_signal_once_and_the_whole_is_handed_on_once() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let mut host = Driven::new(&root.path().join("sys"), &root.path().join("proc"));
    host.read();
    host.read();
    assert_eq!(host.published(), 1, "unchanged, it is not handed on again");
    let before_ns = monotonic_ns();
    std::fs::write(root.path().join("sys/class/infiniband/mlx5_0/fw_ver"), "28.41.1000\n").unwrap();
    std::fs::write(root.path().join("sys/class/net/eth0/mtu"), "1500\n").unwrap();
    std::fs::write(root.path().join("sys/class/dmi/id/bios_date"), "01/01/2026\n").unwrap();
    let signals = host.read();
    let told: Vec<_> = signals.iter().map(|s| (s.name, s.entity.kind, s.summary.as_str(), s.severity)).collect();
    assert_eq!(
        told,
        [
            ("config.changed", "port", "port eth0: mtu is 1500, was 9000", Severity::Warning),
            (
                "config.changed",
                "rdma",
                "rdma mlx5_0: firmware.version is 28.41.1000, was 28.39.1002",
                Severity::Warning
            ),
        ],
        "what comes is no change"
    );
    assert_eq!((signals[0].value, signals[0].previous, signals[0].unit), (1500.0, Some(9000.0), "By"));
    assert_eq!((signals[1].value, signals[1].previous, signals[1].unit), (1.0, None, "1"), "a version is no number");
    let attributes: Vec<_> = signals[0].attributes.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert_eq!(attributes, [("key", "mtu"), ("before", "9000"), ("after", "1500"), ("source", "RTM_GETLINK")]);
    let moment = signals[0].moment;
    assert!(moment.at_ns - moment.half_width_ns <= before_ns, "it may have been any time since the reading before");
    assert_eq!(host.read(), []);
    assert_eq!(host.published(), 2);
    // A link that goes down keeps its speed until it is seen to have another.
    for (speed, expected) in [("-1", "400000"), ("200000", "200000")] {
        std::fs::write(root.path().join("sys/class/net/eth0/speed"), speed).unwrap();
        host.read();
        assert_eq!(host.items().value("port", "eth0", "link.speed"), Some(expected));
    }
    std::fs::remove_dir_all(root.path().join("sys/class/net/eth0")).unwrap();
    assert_eq!(host.read().iter().map(|s| s.summary.as_str()).collect::<Vec<_>>(), ["host: port.count is 0, was 1"]);
    assert_eq!(host.items().value("port", "eth0", "link.speed"), None, "what is gone keeps nothing");
}

#[test]
fn libraries_and_modules_come_from_the_rooms_that_know_them() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let mut host = Driven::new(&root.path().join("sys"), &root.path().join("proc"));
    let module = |serial: &str| ModuleFacts {
        interface: "eth0".into(),
        vendor: Some("NVIDIA".into()),
        serial: Some(serial.into()),
        ..ModuleFacts::default()
    };
    *host.known.lock().unwrap() =
        Known { objects: vec![(7, "/usr/lib/libnccl.so.2.21.5".into())], modules: vec![module("A1")] };
    host.read();
    assert_eq!(host.items().value("host", "", "library.nccl"), Some("2.21.5"));
    *host.known.lock().unwrap() = Known { objects: Vec::new(), modules: vec![module("B2")] };
    let signals = host.read();
    assert_eq!(
        signals.iter().map(|s| s.summary.as_str()).collect::<Vec<_>>(),
        ["module eth0: serial.number is B2, was A1"]
    );
    assert_eq!(host.items().value("host", "", "library.nccl"), Some("2.21.5"), "known until seen to be otherwise");
    let empty = ModuleFacts { interface: "eth0".into(), is_unplugged: true, ..ModuleFacts::default() };
    host.known.lock().unwrap().modules = vec![empty];
    let signals = host.read();
    assert_eq!(
        signals.iter().map(|s| s.summary.as_str()).collect::<Vec<_>>(),
        ["module eth0: serial.number is none, was B2", "module eth0: vendor is none, was NVIDIA"]
    );
}

#[test]
fn the_devices_of_a_real_h100_host_are_told() {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/rdma/h100-sys-class-infiniband");
    if !real.is_dir() {
        eprintln!("SKIPPED: {} is not beside this checkout; the tree of our own covers the same code", real.display());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("class")).unwrap();
    std::os::unix::fs::symlink(std::fs::canonicalize(real).unwrap(), root.path().join("class/infiniband")).unwrap();
    let mut host = Driven::new(root.path(), &root.path().join("proc"));
    host.read();
    let of = |key: &str| -> Vec<String> {
        host.items()
            .iter()
            .filter(|(kind, _, k, _)| (*kind, *k) == ("rdma", key))
            .map(|(.., item)| item.value.clone())
            .collect()
    };
    let firmware = of("firmware.version");
    assert_eq!((firmware.len(), of("hardware.type").len(), of("board.id").len()), (9, 9, 9), "{firmware:?}");
    assert!(firmware.iter().all(|version| version.split('.').count() == 3), "{firmware:?}");
    let mut rates = of("link.rate");
    rates.sort();
    assert_eq!(rates.iter().filter(|rate| rate.as_str() == "400 Gb/sec (4X NDR)").count(), 8, "{rates:?}");
}

#[test]
fn this_host_is_read_within_bounds_and_again_without_a_change_of_its_own() {
    let mut host = Driven::new(Path::new("/sys"), Path::new("/proc"));
    let begun = Instant::now();
    host.read();
    let took = begun.elapsed();
    eprintln!("{} items in {took:?}", host.items().len());
    assert!(host.items().value("host", "", "kernel.release").is_some());
    assert!(host.items().value("host", "", "sysctl.net.core.rmem_max").is_some());
    assert_eq!(host.items().refused(), 0);
}
