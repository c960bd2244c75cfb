//! The host itself: kernel, BIOS, processors, memory, settings of the kernel.
//!
//! Of DMI only product and versions are read: serial numbers and UUIDs name a machine, compare with nothing, and stay here.

use crate::files::{line, link_name, names, start, whole};
use crate::items::{Items, tally};
use railwatch_wire::inventory::KEYS;
use std::path::Path;

/// Options of the kernel's command line that are told; any other may hold what is nobody's business.
const OPTIONS: [&str; 26] = [
    "amd_iommu",
    "amd_pstate",
    "cgroup_disable",
    "cpuidle.off",
    "default_hugepagesz",
    "hugepages",
    "hugepagesz",
    "idle",
    "intel_idle.max_cstate",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "iommu.passthrough",
    "iommu.strict",
    "irqaffinity",
    "isolcpus",
    "mitigations",
    "nohz_full",
    "nosmt",
    "numa_balancing",
    "pci",
    "pcie_acs_override",
    "pcie_aspm",
    "pcie_ports",
    "processor.max_cstate",
    "transparent_hugepage",
];

/// Reads the host.
pub(crate) fn read(sysfs: &Path, procfs: &Path, items: &mut Items) {
    let dmi = |file: &str| line(sysfs.join("class/dmi/id").join(file));
    let counts = count(sysfs);
    let gpus = counts.iter().find(|(key, _)| *key == "gpu.count").map_or(0, |(_, count)| *count);
    // Hosts are compared with those of the same product and as an accelerator host or none.
    let product = dmi("product_name").unwrap_or_default();
    let mut host = items.of("host", "", if gpus > 0 { format!("{product} with GPUs") } else { product.clone() });
    let path = |file: &str| format!("/sys/class/dmi/id/{file}");
    for (key, file) in [
        ("bios.date", "bios_date"),
        ("bios.vendor", "bios_vendor"),
        ("bios.version", "bios_version"),
        ("board.name", "board_name"),
        ("product.name", "product_name"),
        ("product.vendor", "sys_vendor"),
    ] {
        host.put(key, dmi(file), &path(file));
    }
    host.put("kernel.release", line(procfs.join("sys/kernel/osrelease")), "/proc/sys/kernel/osrelease");
    host.put("kernel.options", whole(procfs.join("cmdline")).as_deref().and_then(options), "/proc/cmdline");
    // The first processor's lines alone: to list all interrupts each of them for its frequency.
    host.put("cpu.model", start(procfs.join("cpuinfo"), 1024).as_deref().and_then(model), "/proc/cpuinfo");
    let cpu = sysfs.join("devices/system/cpu");
    let each = |folder: &Path, prefix: &str, file: &str| {
        let numbered = |name: &String| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let files = names(folder).into_iter().filter(numbered).map(|name| folder.join(name).join(file));
        tally(files.filter_map(line))
    };
    host.put("cpu.microcode", each(&cpu, "cpu", "microcode/version"), "/sys/devices/system/cpu/cpu*/microcode/version");
    let governors = each(&cpu.join("cpufreq"), "policy", "scaling_governor");
    host.put("cpu.governor", governors, "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor");
    host.put("cpu.online", line(cpu.join("online")), "/sys/devices/system/cpu/online");
    host.put("cpu.smt", line(cpu.join("smt/control")), "/sys/devices/system/cpu/smt/control");
    host.put("numa.nodes", line(sysfs.join("devices/system/node/online")), "/sys/devices/system/node/online");
    let huge = line(sysfs.join("kernel/mm/transparent_hugepage/enabled"));
    host.put("transparent_hugepage", huge.as_deref().and_then(chosen), "/sys/kernel/mm/transparent_hugepage/enabled");
    host.put("hugepages", hugepages(sysfs), "/sys/kernel/mm/hugepages/*/nr_hugepages");
    for key in KEYS.iter().filter(|key| key.name.starts_with("sysctl.")) {
        let file = key.source.trim_start_matches("/proc/");
        let value = line(procfs.join(file)).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        host.put(key.name, value, key.source);
    }
    // A socket that is bound is listed with its path: cheaper than the names of all processes.
    let sockets = whole(procfs.join("net/unix"));
    let lldpd = sockets.map(|text| if text.lines().any(|line| line.ends_with("lldpd.socket")) { "yes" } else { "no" });
    host.put("lldpd.running", lldpd, "/proc/net/unix");
    for (key, count) in counts {
        let source = if key == "rdma.count" { "/sys/class/infiniband" } else { "/sys/bus/pci/devices" };
        host.put(key, Some(count.to_string()), source);
    }
    let ports = names(sysfs.join("class/net"));
    let ports = ports.iter().filter(|name| sysfs.join("class/net").join(name).join("device").exists()).count();
    if sysfs.join("class/net").is_dir() {
        host.put("port.count", Some(ports.to_string()), "/sys/class/net");
    }
    if sysfs.join("module/nvidia").exists() {
        let loaded =
            ["nvidia_peermem", "nv_peer_mem"].into_iter().find(|name| sysfs.join("module").join(name).exists());
        host.put("gpu.peer_memory", Some(loaded.unwrap_or("none")), "/sys/module");
    }
}

/// Devices that one should be missed of, where there is a bus to count on.
fn count(sysfs: &Path) -> Vec<(&'static str, usize)> {
    let devices = sysfs.join("bus/pci/devices");
    let mut counts = Vec::new();
    if devices.is_dir() {
        let kinds: Vec<_> =
            names(&devices).iter().filter_map(|address| railwatch_health::pci_kind(&devices.join(address))).collect();
        for (key, kind) in [("gpu.count", "gpu"), ("nic.count", "nic"), ("nvme.count", "nvme")] {
            counts.push((key, kinds.iter().filter(|found| **found == kind).count()));
        }
    }
    if sysfs.join("class/infiniband").is_dir() {
        counts.push(("rdma.count", names(sysfs.join("class/infiniband")).len()));
    }
    counts
}

/// The options that are told, in their order.
fn options(text: &str) -> Option<String> {
    let told = |option: &&str| OPTIONS.contains(&option.split('=').next().unwrap_or_default());
    let found: Vec<_> = text.split_whitespace().filter(told).collect();
    Some(if found.is_empty() { "none of those told".to_owned() } else { found.join(" ") })
}

fn model(cpuinfo: &str) -> Option<String> {
    let (_, value) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// "always [madvise] never": the word in brackets.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// "2048kB:512 1048576kB:0".
fn hugepages(sysfs: &Path) -> Option<String> {
    let folder = sysfs.join("kernel/mm/hugepages");
    let of = |name: String| {
        let count = line(folder.join(&name).join("nr_hugepages"))?;
        Some(format!("{}:{count}", name.strip_prefix("hugepages-")?))
    };
    let sizes: Vec<_> = names(&folder).into_iter().filter_map(of).collect();
    (!sizes.is_empty()).then(|| sizes.join(" "))
}

/// The driver of NVIDIA, from the two forms of its version file.
pub(crate) fn nvidia_driver(procfs: &Path, items: &mut Items) {
    let path = "/proc/driver/nvidia/version";
    let Some(text) = line(procfs.join("driver/nvidia/version")) else { return };
    let is_open = text.contains("Open Kernel Module");
    let is_version =
        |word: &&str| word.split('.').count() >= 2 && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let mut host = items.of("host", "", "");
    host.put("gpu.driver.version", text.split_whitespace().find(is_version), path);
    host.put("gpu.driver.flavour", Some(if is_open { "open" } else { "proprietary" }), path);
}

/// Name of a device's driver.
pub(crate) fn driver(folder: &Path) -> Option<String> {
    link_name(folder.join("driver"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_command_line_only_what_is_on_the_list_is_told() {
        let text =
            "BOOT_IMAGE=/vmlinuz root=UUID=1 iommu=pt secret=1 pci=realloc=on,nocrs hugepagesz=1G hugepages=16 quiet\n";
        let told = options(text).unwrap_or_default();
        assert_eq!(told, "iommu=pt pci=realloc=on,nocrs hugepagesz=1G hugepages=16");
        assert_eq!(options("quiet").as_deref(), Some("none of those told"));
    }

    #[test]
    fn nvidias_version_is_found_in_both_forms_of_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("driver/nvidia")).expect("a folder");
        for (text, version, flavour) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 22:55:48 UTC 2024",
                "535.161.08",
                "proprietary",
            ),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build", "550.54.15", "open"),
        ] {
            std::fs::write(folder.path().join("driver/nvidia/version"), text).expect("written");
            let mut items = Items::default();
            nvidia_driver(folder.path(), &mut items);
            assert_eq!(items.value("host", "", "gpu.driver.version"), Some(version));
            assert_eq!(items.value("host", "", "gpu.driver.flavour"), Some(flavour));
        }
    }
}
