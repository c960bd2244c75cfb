//! Which NVLink of which GPU leads where, asked of NVML once and then left alone.
//!
//! In: NVML. Out: each GPU's address, UUID and the PCI addresses at the other ends of its active links. It starts the library and
//! ends it again: links do not move while a host runs. Never: a counter read, a GPU touched.

use super::GPUS_MAX;
use super::library::Library;
use std::path::Path;

/// A GPU as NVML knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmlGpu {
    /// "0000:3b:00.0", as sysfs writes it.
    pub address: String,
    /// "GPU-…"; empty where NVML does not say.
    pub uuid: String,
    /// Other ends of its active links, an entry a link: GPUs or NVSwitches, as sysfs writes addresses.
    pub links: Vec<String>,
}

/// Asks the library at `path` (a name that the loader looks up, or a path).
///
/// # Errors
/// In words: there is no NVML, or it does not start.
pub fn gpus(path: &Path) -> Result<Vec<NvmlGpu>, String> {
    let library = Library::load(path)?;
    library.start().map_err(|code| format!("NVML does not start: {}", library.describe(code)))?;
    let count = library.count().map_err(|code| library.describe(code))?;
    let known = (0..count.min(GPUS_MAX)).filter_map(|index| {
        let device = library.device(index).ok()?;
        Some(NvmlGpu {
            address: library.pci_address(device).ok()?,
            uuid: library.uuid(device).unwrap_or_default(),
            links: library.nvlink_ends(device),
        })
    });
    Ok(known.collect())
}
