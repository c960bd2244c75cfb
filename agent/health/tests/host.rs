//! The file sources of a host over trees as the kernel lays them out: what is there, what moves, what goes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, Tree};
use railwatch_sampling::{ErrorReason, Severity};

#[test]
fn what_is_absent_switches_its_source_off_with_a_reason_that_helps() {
    let tree = Tree::new();
    for (source, reason, word) in [
        ("psi", ErrorReason::Missing, "CONFIG_PSI"),
        ("disk", ErrorReason::Missing, "diskstats"),
        ("edac", ErrorReason::Missing, "EDAC driver"),
        ("mce", ErrorReason::Missing, "interrupts"),
        ("thermal", ErrorReason::Missing, "coretemp"),
        ("pcie", ErrorReason::Missing, "no accelerator"),
        ("nvme", ErrorReason::Missing, "no NVMe"),
        ("gpu.nvml", ErrorReason::Missing, "NVIDIA's driver"),
        ("npu.hccn", ErrorReason::Missing, "Huawei"),
        ("kmsg", ErrorReason::TimedOut, "railwatch-kmsg"),
    ] {
        let (got, text) = Driven::new(&tree.config(), source).off();
        assert_eq!(got, reason, "{source}: {text}");
        assert!(text.contains(word), "{source}: {text}");
    }
}

#[test]
fn pressure_counts_stalls_and_falls_back_to_the_cgroup_root() {
    let tree = Tree::new();
    let text = |some, full| {
        format!(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}"
        )
    };
    tree.write("proc/pressure/memory", &text(100, 50));
    tree.write("sys/fs/cgroup/io.pressure", &text(7, 7));
    tree.write("proc/pressure/irq", "full avg10=0.00 avg60=0.00 avg300=0.00 total=9");
    let mut psi = Driven::new(&tree.config(), "psi");
    psi.probe().unwrap();
    psi.read();
    tree.write("proc/pressure/memory", &text(1100, 60));
    tree.write("sys/fs/cgroup/io.pressure", &text(8, 7));
    let read = psi.read();
    let shown: Vec<_> = read.iter().map(|(series, value)| (series.as_str(), *value)).collect();
    assert_eq!(
        shown,
        [
            ("io host.pressure.io.full", 0.0),
            ("io host.pressure.io.some", 1.0),
            ("irq host.pressure.irq.full", 0.0),
            ("memory host.pressure.memory.full", 10.0),
            ("memory host.pressure.memory.some", 1000.0),
        ]
    );
}

#[test]
fn disks_with_hardware_are_read_and_partitions_and_loops_are_not() {
    let tree = Tree::new();
    tree.write("sys/block/nvme0n1/device/model", "x");
    tree.write("sys/block/loop0/size", "0");
    let stats = |reads: u64, ms: u64| {
        format!(
            "   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11\n 259       0 nvme0n1 {reads} 0 {} {ms} 5 0 80 6 3 70 80 0 0 0 0 1 2\n \
             259       1 nvme0n1p1 1 1 1 1 1 1 1 1 1 1 1",
            reads * 8
        )
    };
    tree.write("proc/diskstats", &stats(100, 4_294_967_290));
    let mut disk = Driven::new(&tree.config(), "disk");
    disk.probe().unwrap();
    disk.read();
    tree.write("proc/diskstats", &stats(110, 44));
    let read = disk.read();
    assert_eq!(read.len(), 9, "one disk: {read:?}");
    for (series, value) in [
        ("nvme0n1 disk.operations read", 10.0),
        ("nvme0n1 disk.io read", 80.0 * 512.0),
        ("nvme0n1 disk.operation_time read", 50.0), // past 32 bits
        ("nvme0n1 disk.in_flight", 3.0),
    ] {
        assert_eq!(read.get(series), Some(&value), "{series}: {read:?}");
    }
}

#[test]
fn memory_errors_are_counted_once_at_the_finest_place_and_told_with_its_label() {
    let tree = Tree::new();
    let mc = "sys/devices/system/edac/mc/mc0";
    for (file, text) in [
        ("ce_count", "6"),
        ("ue_count", "0"),
        ("ce_noinfo_count", "1"),
        ("ue_noinfo_count", "0"),
        ("dimm0/dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0"),
        ("dimm0/dimm_ce_count", "5"),
        ("dimm0/dimm_ue_count", "0"),
        ("csrow0/ce_count", "5"),
        ("csrow0/ue_count", "0"),
    ] {
        tree.write(&format!("{mc}/{file}"), text);
    }
    // A driver that knows rows only, and one that knows nothing.
    tree.write("sys/devices/system/edac/mc/mc1/csrow2/ce_count", "0");
    tree.write("sys/devices/system/edac/mc/mc2/ue_count", "0");
    let mut edac = Driven::new(&tree.config(), "edac");
    edac.probe().unwrap();
    let places: Vec<_> = edac.read().into_keys().collect();
    assert_eq!(
        places,
        [
            "mc0 host.memory.errors.corrected",
            "mc0 host.memory.errors.uncorrected",
            "mc0/dimm0 host.memory.errors.corrected",
            "mc0/dimm0 host.memory.errors.uncorrected",
            "mc1/csrow2 host.memory.errors.corrected",
            "mc2 host.memory.errors.uncorrected",
        ]
    );
    assert_eq!(edac.signals(), [], "five errors of the past are no edge");
    tree.write(&format!("{mc}/dimm0/dimm_ue_count"), "1");
    tree.write(&format!("{mc}/dimm0/dimm_ce_count"), "16");
    edac.read();
    let told = edac.whole_signals();
    let names: Vec<_> = told.iter().map(|signal| (signal.name, signal.entity.name.as_str(), signal.severity)).collect();
    assert_eq!(
        names,
        [
            ("host.memory.corrected.high", "mc0/dimm0", Severity::Warning),
            ("host.memory.uncorrected", "mc0/dimm0", Severity::Critical)
        ]
    );
    assert!(told.iter().all(|s| s.attributes.contains(&("dimm", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0".to_owned()))));
}

#[test]
fn a_machine_check_is_told_and_polls_are_not() {
    let tree = Tree::new();
    let table = |mce, polls| {
        format!(
            "            CPU0   CPU1\n  0:  4  0  timer\nMCE:  {mce}  0  Machine check exceptions\nMCP:  {polls}  5  Machine check polls"
        )
    };
    tree.write("proc/interrupts", &table(0, 5));
    let mut mce = Driven::new(&tree.config(), "mce");
    mce.probe().unwrap();
    mce.read();
    tree.write("proc/interrupts", &table(0, 6));
    mce.read();
    assert_eq!(mce.signals(), []);
    tree.write("proc/interrupts", &table(1, 6));
    mce.read();
    assert_eq!(mce.signals(), [("host.machine_check", "cpu".to_owned(), Severity::Critical)]);
}

#[test]
fn throttling_is_counted_once_for_each_core_and_once_for_the_package() {
    let tree = Tree::new();
    let throttle = |core: u64, package: u64| {
        // Two threads of one core and one of another, which all show the package's count.
        for (cpu, core_id, count) in [(0, 0, core), (1, 0, core), (2, 1, 100)] {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            tree.write(&format!("{folder}/topology/physical_package_id"), "0");
            tree.write(&format!("{folder}/topology/core_id"), &core_id.to_string());
            tree.write(&format!("{folder}/thermal_throttle/core_throttle_count"), &count.to_string());
            tree.write(&format!("{folder}/thermal_throttle/package_throttle_count"), &package.to_string());
        }
    };
    throttle(7, 3);
    tree.write("sys/class/hwmon/hwmon2/name", "coretemp");
    tree.write("sys/class/hwmon/hwmon2/temp1_label", "Package id 0");
    tree.write("sys/class/hwmon/hwmon2/temp1_input", "54500");
    tree.write("sys/class/hwmon/hwmon0/name", "nvme");
    tree.write("sys/class/hwmon/hwmon0/temp1_input", "99000");
    let mut thermal = Driven::new(&tree.config(), "thermal");
    thermal.probe().unwrap();
    thermal.read();
    assert_eq!(thermal.signals(), []);
    throttle(12, 5);
    let read = thermal.read();
    assert_eq!(read["package0 cpu.thermal_throttles core"], 5.0);
    assert_eq!(read["package0 cpu.thermal_throttles package"], 2.0);
    assert_eq!(read["sensor0 cpu.temperature"], 54.5);
    assert_eq!(read.len(), 3, "{read:?}");
    assert_eq!(thermal.signals()[0].0, "cpu.throttled");
}

/// A GPU at this address below a port, with all its lanes.
fn gpu(tree: &Tree, address: &str, port_lanes: &str) {
    let folder = format!("sys/devices/pci0000:00/0000:00:01.0/{address}");
    for (file, text) in [
        ("class", "0x030200"),
        ("vendor", "0x10de"),
        ("config", "\u{7f}\u{10}"),
        ("max_link_width", "16"),
        ("current_link_width", "16"),
        ("current_link_speed", "16.0 GT/s PCIe"),
        ("aer_dev_correctable", "RxErr 0\nBadTLP 0\nTOTAL_ERR_COR 0"),
        ("aer_dev_nonfatal", "TLP 0\nTOTAL_ERR_NONFATAL 0"),
        ("aer_dev_fatal", "TLP 0\nTOTAL_ERR_FATAL 0"),
    ] {
        tree.write(&format!("{folder}/{file}"), text);
    }
    tree.write("sys/devices/pci0000:00/0000:00:01.0/max_link_width", port_lanes);
    let devices = tree.sys("bus/pci/devices");
    std::fs::create_dir_all(&devices).unwrap();
    std::os::unix::fs::symlink(tree.0.path().join(folder), devices.join(address)).unwrap();
}

#[test]
fn a_link_that_lost_lanes_is_told_even_when_it_was_found_so_and_a_narrow_slot_is_not() {
    for (port_lanes, now, expected) in [
        ("16", "16", &[][..]),
        ("8", "8", &[]),
        ("16", "8", &["pcie.link.degraded"]),
        ("8", "4", &["pcie.link.degraded"]),
        ("16", "0", &[]),
    ] {
        let tree = Tree::new();
        gpu(&tree, "0000:3b:00.0", port_lanes);
        tree.write("sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/current_link_width", now);
        let mut pcie = Driven::new(&tree.config(), "pcie");
        pcie.probe().unwrap();
        pcie.read();
        let names: Vec<_> = pcie.signals().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, expected, "{now} lanes of 16 in a slot of {port_lanes}");
    }
}

#[test]
fn a_device_that_left_the_bus_is_told_whether_or_not_its_files_are_still_there() {
    let tree = Tree::new();
    gpu(&tree, "0000:3b:00.0", "16");
    let mut pcie = Driven::new(&tree.config(), "pcie");
    pcie.probe().unwrap();
    let read = pcie.read();
    assert_eq!(read["0000:3b:00.0 pcie.device.present"], 1.0);
    assert_eq!(read["0000:3b:00.0 pcie.link.speed"], 16e9);
    // All ones: it no longer answers, and nothing else it says counts.
    let config = tree.sys("devices/pci0000:00/0000:00:01.0/0000:3b:00.0/config");
    std::fs::write(&config, [0xff, 0xff, 0xff, 0xff]).unwrap();
    tree.write("sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/current_link_width", "63");
    pcie.read();
    std::fs::write(&config, [0xde, 0x10, 0x30, 0x23]).unwrap();
    tree.write("sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/current_link_width", "16");
    pcie.read();
    tree.remove("sys/bus/pci/devices/0000:3b:00.0");
    assert_eq!(pcie.off().0, ErrorReason::Missing);
    let address = "0000:3b:00.0".to_owned();
    assert_eq!(
        pcie.signals(),
        [
            ("pcie.device.vanished", address.clone(), Severity::Critical),
            ("pcie.device.returned", address.clone(), Severity::Info),
            ("pcie.device.vanished", address, Severity::Critical),
        ]
    );
}

#[test]
fn a_device_that_sleeps_is_not_woken_and_not_taken_for_gone() {
    let tree = Tree::new();
    gpu(&tree, "0000:3b:00.0", "16");
    let status = "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/power/runtime_status";
    tree.write(status, "active");
    let mut pcie = Driven::new(&tree.config(), "pcie");
    pcie.probe().unwrap();
    pcie.read();
    assert_eq!(pcie.readings(), 7);
    tree.write(status, "suspended");
    pcie.read();
    assert_eq!(pcie.readings(), 0);
    tree.write(status, "active");
    pcie.read();
    assert_eq!((pcie.readings(), pcie.signals()), (7, vec![]));
}

#[test]
fn bus_errors_are_told_by_how_bad_they_are() {
    let tree = Tree::new();
    gpu(&tree, "0000:3b:00.0", "16");
    let folder = "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0";
    let mut pcie = Driven::new(&tree.config(), "pcie");
    pcie.probe().unwrap();
    pcie.read();
    tree.write(&format!("{folder}/aer_dev_correctable"), "RxErr 9\nTOTAL_ERR_COR 9");
    pcie.read();
    assert_eq!(pcie.signals(), [], "a few corrected errors are no fault");
    tree.write(&format!("{folder}/aer_dev_correctable"), "RxErr 900\nTOTAL_ERR_COR 900");
    tree.write(&format!("{folder}/aer_dev_nonfatal"), "TLP 1\nTOTAL_ERR_NONFATAL 1");
    tree.write(&format!("{folder}/aer_dev_fatal"), "TLP 1\nTOTAL_ERR_FATAL 1");
    pcie.read();
    let told: Vec<_> = pcie.signals().into_iter().map(|(name, _, severity)| (name, severity)).collect();
    assert_eq!(
        told,
        [
            ("pcie.correctable.high", Severity::Warning),
            ("pcie.errors", Severity::Error),
            ("pcie.errors", Severity::Critical)
        ]
    );
}

#[test]
fn only_what_training_needs_is_watched_on_the_bus() {
    let tree = Tree::new();
    for (address, class, vendor, is_virtual) in [
        ("0000:01:00.0", "0x020000", "0x15b3", false),
        ("0000:01:00.1", "0x020000", "0x15b3", true),
        ("0000:02:00.0", "0x030000", "0x1a03", false), // a BMC's display
        ("0000:03:00.0", "0x030000", "0x10de", false),
        ("0000:04:00.0", "0x120000", "0x19e5", false),
        ("0000:05:00.0", "0x060400", "0x8086", false),
        ("0000:06:00.0", "0x010802", "0x144d", false),
        ("0000:07:00.0", "no class", "0x8086", false),
    ] {
        let folder = format!("sys/bus/pci/devices/{address}");
        tree.write(&format!("{folder}/class"), class);
        tree.write(&format!("{folder}/vendor"), vendor);
        tree.write(&format!("{folder}/config"), "xxxx");
        if is_virtual {
            tree.write(&format!("{folder}/physfn/class"), class);
        }
    }
    let mut pcie = Driven::new(&tree.config(), "pcie");
    pcie.probe().unwrap();
    let watched: Vec<_> = pcie.catalog.all().iter().map(|def| (def.entity().kind, def.entity().name.clone())).collect();
    let mut watched: Vec<_> = watched.iter().map(|(kind, name)| (name.as_str(), *kind)).collect();
    watched.sort_unstable();
    assert_eq!(
        watched,
        [("0000:01:00.0", "nic"), ("0000:03:00.0", "gpu"), ("0000:04:00.0", "npu"), ("0000:06:00.0", "nvme")]
    );
}

#[test]
fn an_nvme_controller_that_stops_serving_is_told_with_its_state() {
    let tree = Tree::new();
    tree.write("sys/class/nvme/nvme0/state", "live");
    tree.write("sys/class/nvme/nvme0/model", "Fast SSD");
    tree.write("sys/class/nvme/nvme0/hwmon1/temp1_input", "38850");
    let mut nvme = Driven::new(&tree.config(), "nvme");
    nvme.probe().unwrap();
    assert_eq!(nvme.read()["nvme0 nvme.temperature"], 38.85);
    tree.write("sys/class/nvme/nvme0/state", "resetting");
    nvme.read();
    tree.write("sys/class/nvme/nvme0/state", "live");
    nvme.read();
    let told: Vec<_> = nvme.whole_signals().into_iter().map(|s| (s.name, s.attributes)).collect();
    assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["nvme.down", "nvme.up"]);
    assert!(told[0].1.contains(&("cause", "resetting".to_owned())), "{told:?}");
}

#[test]
fn what_cannot_be_read_is_a_counted_fault_and_no_zero() {
    let tree = Tree::new();
    tree.write("sys/devices/system/edac/mc/mc0/ce_count", "3");
    let mut edac = Driven::new(&tree.config(), "edac");
    edac.probe().unwrap();
    edac.read();
    assert_eq!(edac.readings(), 1);
    for garbage in ["", "-4", "N/A"] {
        tree.write("sys/devices/system/edac/mc/mc0/ce_count", garbage);
        edac.read();
        assert_eq!(edac.readings(), 0, "{garbage:?}");
    }
    tree.write("sys/devices/system/edac/mc/mc0/ce_count", "3");
    assert_eq!(edac.read()["mc0 host.memory.errors.corrected"], 0.0);
    assert_eq!(edac.signals(), []);
}

/// This host's own files, whatever it has: each source reads or says why it does not.
#[test]
fn every_source_reads_this_host_or_says_why_not() {
    let config = railwatch_health::HealthConfig::default();
    for source in railwatch_health::HealthSources::new(&config).sources {
        let name = source.name();
        let mut driven = Driven::new(&config, name);
        match driven.probe() {
            Ok(()) => {
                driven.read();
                assert!(driven.readings() > 0, "{name}");
            }
            Err(off) => assert!(off.text.len() > 20, "{name}: {off}"),
        }
        assert_eq!(driven.catalog.refused(), 0, "{name}: no two values share a name");
    }
}
