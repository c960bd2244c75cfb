//! Where the interrupts of a network card go.
//!
//! In: the card's MSI interrupts and the effective affinity of each. Out: near or far from its NUMA node, and whether on many processors or
//! on one. Which ones is not told: irqbalance moves them for ever, and each move would be news.

use crate::files::{line, names, ranges};
use std::collections::BTreeSet;
use std::path::Path;

/// Interrupts of one card.
const INTERRUPTS_MAX: usize = 1024;

/// "local, spread", "remote, one processor", …; `None` where the card has no such interrupts here.
pub(crate) fn affinity(sysfs: &Path, procfs: &Path, interface: &str) -> Option<String> {
    let device = sysfs.join("class/net").join(interface).join("device");
    let of = |irq: String| line(procfs.join("irq").join(irq).join("effective_affinity_list")).map(|text| ranges(&text));
    let placed: Vec<Vec<u32>> =
        names(device.join("msi_irqs")).into_iter().take(INTERRUPTS_MAX).filter_map(of).collect();
    let used: BTreeSet<u32> = placed.iter().flatten().copied().collect();
    if used.is_empty() {
        return None;
    }
    let node = line(device.join("numa_node")).and_then(|text| text.parse::<u32>().ok());
    let near = node.and_then(|node| line(sysfs.join(format!("devices/system/node/node{node}/cpulist"))));
    let near: BTreeSet<u32> = near.map(|text| ranges(&text)).unwrap_or_default().into_iter().collect();
    let place = match placed.iter().filter(|processors| processors.iter().all(|one| near.contains(one))).count() {
        // No node, or one node alone: nothing is far.
        _ if near.is_empty() => "local",
        count if count == placed.len() => "local",
        0 => "remote",
        _ => "mixed",
    };
    let room = placed.len().min(if near.is_empty() { usize::MAX } else { near.len() });
    let width = match used.len() {
        1 if placed.len() > 1 => "one processor",
        count if count * 2 >= room => "spread",
        _ => "narrow",
    };
    Some(format!("{place}, {width}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::affinity;

    #[test]
    fn interrupts_are_near_or_far_and_on_many_processors_or_one() {
        for (node, lists, expected) in [
            ("0", &["0", "1", "2", "3"][..], "local, spread"),
            ("0", &["4", "5", "6", "7"], "remote, spread"),
            ("0", &["0", "4"], "mixed, spread"),
            ("0", &["0", "0", "0", "0"], "local, one processor"),
            ("1", &["4", "4", "4", "4", "4", "4", "4", "5"], "local, spread"),
            ("-1", &["0", "1"], "local, spread"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let write = |path: &str, text: &str| {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            write("sys/devices/system/node/node0/cpulist", "0-3\n");
            write("sys/devices/system/node/node1/cpulist", "4-7\n");
            write("sys/class/net/eth0/device/numa_node", node);
            for (irq, list) in lists.iter().enumerate() {
                write(&format!("sys/class/net/eth0/device/msi_irqs/{irq}"), "msix");
                write(&format!("proc/irq/{irq}/effective_affinity_list"), list);
            }
            let (sysfs, procfs) = (root.path().join("sys"), root.path().join("proc"));
            assert_eq!(affinity(&sysfs, &procfs, "eth0").as_deref(), Some(expected), "node {node}: {lists:?}");
            assert_eq!(affinity(&sysfs, &procfs, "eth1"), None);
        }
    }
}
