//! NVIDIA's GPUs: product, firmware and modes.
//!
//! In: `/proc/driver/nvidia`, which costs no call of a library, and NVML for the two modes that only it knows.

use crate::files::{names, whole};
use crate::host::nvidia_driver;
use crate::items::{Items, on_off};
use railwatch_health::GpuModes;
use std::path::Path;

/// Reads the GPUs.
pub(crate) fn read(procfs: &Path, modes: &[GpuModes], items: &mut Items) {
    nvidia_driver(procfs, items);
    let folder = procfs.join("driver/nvidia/gpus");
    for address in names(&folder) {
        let Some(text) = whole(folder.join(&address).join("information")) else { continue };
        let field = |name: &str| {
            let (_, value) =
                text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))?;
            // What the driver does not know yet it fills with question marks or N/A.
            Some(value.trim()).filter(|value| !value.contains('?') && *value != "N/A").map(str::to_owned)
        };
        let source = "/proc/driver/nvidia/gpus/*/information";
        let product = field("Model");
        let mut of = items.of("gpu", &address, product.clone().unwrap_or_default());
        of.put("product.name", product.clone(), source);
        of.put("vbios.version", field("Video BIOS"), source);
        of.put("firmware.version", field("GPU Firmware"), source);
        if let Some(modes) = modes.iter().find(|modes| modes.pci_address == address) {
            of.put("persistence.mode", modes.persistence.map(on_off), "NVML");
            of.put("ecc.mode", modes.ecc.map(on_off), "NVML");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::read;
    use crate::items::Items;
    use railwatch_health::GpuModes;

    #[test]
    fn a_gpu_is_told_with_its_modes_and_without_what_the_driver_does_not_know() {
        let procfs = tempfile::tempdir().unwrap();
        let address = "0000:19:00.0";
        let folder = procfs.path().join("driver/nvidia/gpus").join(address);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("information"),
            "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\nGPU UUID: \t GPU-????????\nVideo BIOS: \t 96.00.74.00.01\n\
             Bus Location: \t 0000:19:00.0\nGPU Firmware: \t N/A\n",
        )
        .unwrap();
        let modes = GpuModes { pci_address: address.into(), persistence: Some(true), ecc: None };
        let mut items = Items::default();
        read(procfs.path(), &[modes], &mut items);
        let told: Vec<_> = items.iter().map(|(_, _, key, item)| (key, item.value.as_str())).collect();
        assert_eq!(
            told,
            [
                ("persistence.mode", "on"),
                ("product.name", "NVIDIA H100 80GB HBM3"),
                ("vbios.version", "96.00.74.00.01")
            ]
        );
    }
}
