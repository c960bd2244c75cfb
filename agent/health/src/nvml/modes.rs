//! Modes of GPUs that NVML alone tells: configuration, read once in a while by whoever keeps an inventory.
//!
//! In: NVML, loaded while running. Out: persistence and error correction of each GPU; nothing on a host without NVML. Never: a mode set.

use super::GPUS_MAX;
use super::library::Library;
use std::path::PathBuf;

/// Modes of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuModes {
    /// As sysfs writes it: "0000:3b:00.0".
    pub pci_address: String,
    /// The driver stays loaded while nobody uses the GPU; `None` where it does not say.
    pub persistence: Option<bool>,
    /// Error correction of its memory is on; `None` where the GPU has none.
    pub ecc: Option<bool>,
}

/// Reads the modes. The library stays open between readings: to start it anew can take a second.
pub struct NvmlModes {
    path: PathBuf,
    library: Option<Library>,
}

impl NvmlModes {
    /// `path`: a name that the loader looks up, or a path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, library: None }
    }

    /// All GPUs that the driver reaches now.
    pub fn read(&mut self) -> Vec<GpuModes> {
        if self.library.is_none() {
            self.library = Library::load(&self.path).ok().filter(|library| library.start().is_ok());
        }
        let Some(library) = &self.library else { return Vec::new() };
        let Ok(count) = library.count() else {
            // The driver was unloaded: a library started under it answers nothing more.
            self.library = None;
            return Vec::new();
        };
        let devices = (0..count.min(GPUS_MAX)).filter_map(|index| library.device(index).ok());
        let modes = |device| {
            let pci_address = library.pci_address(device).ok()?;
            let (persistence, ecc) = (library.persistence(device).ok(), library.ecc_mode(device).ok());
            Some(GpuModes { pci_address, persistence, ecc })
        };
        devices.filter_map(modes).collect()
    }
}
