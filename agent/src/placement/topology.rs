//! The devices of this host and the paths between them, read anew each minute: ports and cards come and go.
//!
//! NVML is asked for NVLinks when the set of GPUs is another than last time; starting it can take seconds.

use crate::privileges::Limitation;
use railwatch_placement::devices::{self, Device, Kind};
use railwatch_placement::path::{self, NvLink};
use std::path::{Path, PathBuf};

/// Looks after which a silent NVML is asked again.
const ASK_AGAIN: u32 = 10;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub devices: Vec<Device>,
    pub paths: Vec<path::Path>,
    pub off: Vec<Limitation>,
}

/// Reads it.
pub struct Reader {
    sysfs: PathBuf,
    /// `None`: the host's health, NVML with it, is not to be read.
    nvml: Option<PathBuf>,
    asked_for: Vec<String>,
    looks: u32,
    answer: Result<Vec<railwatch_health::NvmlGpu>, String>,
}

impl Reader {
    pub fn new(sysfs: &Path, nvml: Option<PathBuf>) -> Self {
        Self { sysfs: sysfs.to_owned(), nvml, asked_for: Vec::new(), looks: 0, answer: Ok(Vec::new()) }
    }

    pub fn read(&mut self) -> Topology {
        let mut off = Vec::new();
        let devices::Found { mut devices, left_out } = devices::read(&self.sysfs).unwrap_or_else(|error| {
            let why = format!("{}/bus/pci/devices cannot be read: {error}", self.sysfs.display());
            off.push(Limitation::new("devices and their places", why));
            devices::Found::default()
        });
        if left_out > 0 {
            off.push(Limitation::new(
                "devices and their places",
                format!("{left_out} devices beyond the bound are not listed"),
            ));
        }
        let links = self.links(&mut devices, &mut off);
        let paths = path::paths(&devices, &links);
        Topology { devices, paths, off }
    }

    fn links(&mut self, devices: &mut [Device], off: &mut Vec<Limitation>) -> Vec<NvLink> {
        let gpus: Vec<_> =
            devices.iter().filter(|device| device.kind == Kind::Gpu).map(|gpu| gpu.address.clone()).collect();
        let Some(library) = &self.nvml else {
            if !gpus.is_empty() {
                off.push(Limitation::new("NVLinks", "health.enabled is false: NVML is not asked"));
            }
            return Vec::new();
        };
        self.looks += 1;
        let is_due = self.asked_for != gpus || (self.answer.is_err() && self.looks >= ASK_AGAIN);
        if is_due {
            self.answer = if gpus.is_empty() { Ok(Vec::new()) } else { railwatch_health::nvml_gpus(library) };
            (self.asked_for, self.looks) = (gpus, 0);
        }
        match &self.answer {
            Ok(known) => {
                for gpu in known {
                    if let Some(device) = devices.iter_mut().find(|device| device.address == gpu.address) {
                        device.uuid.clone_from(&gpu.uuid);
                    }
                }
                let of = |gpu: &railwatch_health::NvmlGpu| {
                    let from = gpu.address.clone();
                    gpu.links.clone().into_iter().map(move |to| NvLink { from: from.clone(), to })
                };
                known.iter().flat_map(of).collect()
            }
            Err(why) => {
                off.push(Limitation::new("NVLinks", why.clone()));
                Vec::new()
            }
        }
    }
}
