//! The health sources, made from one configuration.

use crate::clock::ClockSource;
use crate::dcmi::DcmiSource;
use crate::disk::DiskSource;
use crate::edac::EdacSource;
use crate::hccn::HccnSource;
use crate::kmsg::KmsgSource;
use crate::mce::MceSource;
use crate::nvme::NvmeSource;
use crate::nvml::NvmlSource;
use crate::pcie::PcieSource;
use crate::psi::PsiSource;
use crate::smart::SmartSource;
use crate::thermal::ThermalSource;
use railwatch_sampling::Source;
use std::path::PathBuf;

/// What the health sources read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Where sysfs is: `/sys`, or the copy of another host's tree.
    pub sysfs_root: PathBuf,
    /// Where procfs is: `/proc`, or the copy of another host's.
    pub procfs_root: PathBuf,
    /// NVIDIA's management library: a name that the loader looks up, or a path.
    pub nvml_library: PathBuf,
    /// Huawei's management library for NPUs: a name that the loader looks up, or a path.
    pub dcmi_library: PathBuf,
    /// Huawei's tool for the ports on the NPUs.
    pub hccn_tool: PathBuf,
    /// Where the helper's records of the kernel's log arrive; `None`: the helper is not used.
    pub kmsg_socket: Option<PathBuf>,
    /// Where the helper's reports of disks arrive; `None`: the helper is not used.
    pub disk_socket: Option<PathBuf>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            sysfs_root: "/sys".into(),
            procfs_root: "/proc".into(),
            nvml_library: "libnvidia-ml.so.1".into(),
            dcmi_library: "/usr/local/dcmi/libdcmi.so".into(),
            hccn_tool: "/usr/local/Ascend/driver/tools/hccn_tool".into(),
            kmsg_socket: None,
            disk_socket: None,
        }
    }
}

/// The sources.
pub struct HealthSources {
    /// For [`railwatch_sampling::Sampler::start`], each.
    pub sources: Vec<Box<dyn Source>>,
}

impl HealthSources {
    /// All health sources. None is read before the sampler probes it.
    #[must_use]
    pub fn new(config: &HealthConfig) -> Self {
        let HealthConfig {
            sysfs_root: sysfs,
            procfs_root: procfs,
            nvml_library,
            dcmi_library,
            hccn_tool,
            kmsg_socket,
            disk_socket,
        } = config;
        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(PsiSource::new(procfs.clone(), sysfs.clone())),
            Box::new(DiskSource::new(procfs.clone(), sysfs.clone())),
            Box::new(EdacSource::new(sysfs)),
            Box::new(MceSource::new(procfs.clone())),
            Box::new(ThermalSource::new(sysfs.clone())),
            Box::new(PcieSource::new(sysfs)),
            Box::new(NvmeSource::new(sysfs)),
            Box::new(NvmlSource::new(nvml_library.clone())),
            Box::new(DcmiSource::new(dcmi_library.clone())),
            Box::new(HccnSource::new(hccn_tool.clone())),
            Box::new(ClockSource::new(procfs.clone(), sysfs.clone())),
        ];
        if let Some(socket) = kmsg_socket {
            sources.push(Box::new(KmsgSource::new(socket.clone())));
        }
        if let Some(socket) = disk_socket {
            sources.push(Box::new(SmartSource::new(socket.clone())));
        }
        Self { sources }
    }
}
