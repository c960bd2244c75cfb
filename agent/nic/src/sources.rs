//! The NIC sources, made from one configuration.

use crate::netdev::NetdevSource;
use crate::netdev_choice::NetdevChoice;
use crate::netdev_dcb::NetdevDcbSource;
use crate::netdev_driver::NetdevDriverSource;
use crate::netdev_link::NetdevLinkSource;
use crate::netdev_queues::NetdevQueuesSource;
use crate::ports::Ports;
use crate::rdma_hw::RdmaHwSource;
use crate::rdma_link::RdmaLinkSource;
use crate::rdma_pma::RdmaPmaSource;
use nix::sys::statfs::{SYSFS_MAGIC, statfs};
use railwatch_sampling::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the NIC sources read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Where sysfs is: `/sys`, or where a container has the host's mounted. A folder that is no sysfs is the copy of another
    /// host's tree (or a test's): netlink, which can only tell of this host, is not used then.
    pub sysfs_root: PathBuf,
    /// Kinds of software interface to read beside those with a device: `veth`, `bond`, `vlan`. Not known under another
    /// sysfs root.
    pub software_interfaces: Vec<String>,
}

impl Default for NicConfig {
    fn default() -> Self {
        Self { sysfs_root: PathBuf::from("/sys"), software_interfaces: Vec::new() }
    }
}

impl NicConfig {
    /// The tree is a mount of this kernel's sysfs: what netlink says is of the same host.
    #[must_use]
    pub fn is_of_this_kernel(&self) -> bool {
        is_sysfs(&self.sysfs_root)
    }
}

/// The sources, and what they find out about ports.
pub struct NicSources {
    /// For [`railwatch_sampling::Sampler::start`], each.
    pub sources: Vec<Box<dyn Source>>,
    /// Filled as the sources probe and read.
    pub ports: Arc<Ports>,
}

impl NicSources {
    /// All NIC sources. None is read before the sampler probes it.
    #[must_use]
    pub fn new(config: &NicConfig) -> Self {
        let NicConfig { sysfs_root: root, software_interfaces } = config;
        let may_use_netlink = config.is_of_this_kernel();
        let choice = NetdevChoice { software_kinds: software_interfaces.clone(), may_use_netlink };
        let ports = Arc::new(Ports::default());
        let sources: Vec<Box<dyn Source>> = vec![
            Box::new(NetdevSource::new(root.clone(), choice.clone(), Arc::clone(&ports))),
            Box::new(NetdevLinkSource::new(root.clone(), choice.clone(), Arc::clone(&ports))),
            Box::new(RdmaHwSource::new(root.clone(), may_use_netlink)),
            Box::new(RdmaPmaSource::new(root.clone())),
            Box::new(RdmaLinkSource::new(root.clone(), Arc::clone(&ports))),
            Box::new(NetdevDriverSource::new(root.clone(), choice.clone())),
            Box::new(NetdevQueuesSource::new(root.clone(), choice.clone(), Arc::clone(&ports))),
            Box::new(NetdevDcbSource::new(root.clone(), choice)),
        ];
        Self { sources, ports }
    }
}

/// A mount of this kernel's sysfs, wherever it is mounted.
pub(crate) fn is_sysfs(root: &Path) -> bool {
    statfs(root).is_ok_and(|filesystem| filesystem.filesystem_type() == SYSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::is_sysfs;
    use std::path::Path;

    #[test]
    fn a_copy_of_a_tree_is_told_from_this_kernels_own() {
        assert!(is_sysfs(Path::new("/sys")));
        let copy = tempfile::tempdir().expect("a folder");
        assert!(!is_sysfs(copy.path()));
        assert!(!is_sysfs(Path::new("/nowhere")));
    }
}
