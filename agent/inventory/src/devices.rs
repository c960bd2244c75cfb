//! Accelerators, NICs and NVMe controllers on the PCI bus: identity, driver, link, settings of their configuration space.
//!
//! A device that the kernel has suspended is told by what sysfs knows without waking it: its configuration space is not read.

use crate::files::{line, names};
use crate::host::driver;
use crate::items::{Items, on_off};
use crate::pci_config::PciSettings;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Devices that are told.
const DEVICES_MAX: usize = 128;
/// Bridges above one device.
const BRIDGES_MAX: usize = 16;

/// Reads the devices.
pub(crate) fn read(sysfs: &Path, items: &mut Items) {
    let root = sysfs.join("bus/pci/devices");
    let found = names(&root)
        .into_iter()
        .filter_map(|address| Some((railwatch_health::pci_kind(&root.join(&address))?, address)));
    for (kind, address) in found.take(DEVICES_MAX) {
        device(&root.join(&address), kind, &address, items);
    }
    let nvme = sysfs.join("class/nvme");
    for name in names(&nvme) {
        let folder = nvme.join(&name);
        let model = line(folder.join("model"));
        let mut of = items.of("nvme", &name, model.clone().unwrap_or_default());
        of.put("product.name", model, "/sys/class/nvme/*/model");
        of.put("firmware.version", line(folder.join("firmware_rev")), "/sys/class/nvme/*/firmware_rev");
    }
}

fn device(folder: &Path, kind: &'static str, address: &str, items: &mut Items) {
    let path = |file: &str| format!("/sys/bus/pci/devices/{address}/{file}");
    let id = |file: &str| line(folder.join(file)).map(|text| text.trim_start_matches("0x").to_owned());
    let identity = id("vendor").zip(id("device")).map(|(vendor, device)| format!("{vendor}:{device}"));
    let width = line(folder.join("max_link_width"));
    // Of one identity there are cards in full and in half slots on a host, and both are meant.
    let role = format!("{} x{}", identity.as_deref().unwrap_or_default(), width.as_deref().unwrap_or("?"));
    let mut of = items.of(kind, address, role);
    of.put("device.id", identity, &path("device"));
    of.put("driver", driver(folder), &path("driver"));
    // "16.0 GT/s PCIe" and "Unknown"; "63" lanes of a device that is gone.
    let speed = |file: &str| line(folder.join(file)).and_then(|text| Some(text.split_once(" GT/s")?.0.to_owned()));
    let lanes = |file: &str| line(folder.join(file)).filter(|lanes| lanes != "0" && lanes != "63" && lanes != "255");
    of.put("pcie.width", lanes("current_link_width"), &path("current_link_width"));
    of.put("pcie.width_max", lanes("max_link_width"), &path("max_link_width"));
    of.put("pcie.speed_max", speed("max_link_speed"), &path("max_link_speed"));
    if kind != "gpu" {
        of.put("pcie.speed", speed("current_link_speed"), &path("current_link_speed"));
    }
    if line(folder.join("power/runtime_status")).is_some_and(|status| status.starts_with("suspended")) {
        return;
    }
    let settings = config(folder);
    of.put("pcie.max_payload", settings.max_payload.map(|bytes| bytes.to_string()), &path("config"));
    of.put("pcie.max_read_request", settings.max_read_request.map(|bytes| bytes.to_string()), &path("config"));
    of.put("pcie.relaxed_ordering", settings.relaxed_ordering.map(on_off), &path("config"));
    of.put("pcie.ats", settings.ats.map(on_off), &path("config"));
    of.put("pcie.acs", acs(folder), &path("../config"));
}

fn config(folder: &Path) -> PciSettings {
    let Ok(file) = File::open(folder.join("config")) else { return PciSettings::default() };
    PciSettings::read(|at| {
        let mut word = [0; 2];
        file.read_exact_at(&mut word, u64::try_from(at).ok()?).ok().map(|()| u16::from_le_bytes(word))
    })
}

/// How many bridges above the device turn peer-to-peer traffic; `None` where that cannot be read of any.
fn acs(folder: &Path) -> Option<String> {
    let real = std::fs::canonicalize(folder).ok()?;
    let is_device = |folder: &&Path| folder.join("vendor").exists();
    let told: Vec<bool> = real
        .ancestors()
        .skip(1)
        .take_while(is_device)
        .take(BRIDGES_MAX)
        .filter_map(|bridge| config(bridge).acs_redirects)
        .collect();
    match told.iter().filter(|redirects| **redirects).count() {
        _ if told.is_empty() => None,
        0 => Some("off".to_owned()),
        count => Some(format!("redirects at {count} of {} bridges", told.len())),
    }
}
