//! The health of a host and its accelerators, as sources for the sampler.
//!
//! [`HealthSources`] makes them: `psi`, `disk`, `edac`, `mce`, `thermal`, `pcie`, `nvme`, `gpu.nvml`, `npu.hccn` and, where its
//! helper is asked for, `kmsg`. [`RULES`] says which of their series raise signals; what the kernel's log and the XID events
//! of NVML say by themselves becomes signals by [`kmsg::PATTERNS`] and [`xid::describe`]. [`kmsg::helper`] is the other half of
//! `kmsg`: it alone reads the kernel's log, in a process of its own.
//!
//! Never: an act on the host (no counter cleared, no limit set, no device reset), or a value made up for an absent one.
#![deny(unsafe_code)]

mod disk;
mod edac;
mod files;
mod hccn;
pub mod kmsg;
mod mce;
mod nvme;
mod nvml;
mod pcie;
mod psi;
mod rules;
mod sources;
mod thermal;
pub mod xid;

pub use nvml::{NvmlGpu, gpus as nvml_gpus};
pub use rules::RULES;
pub use sources::{HealthConfig, HealthSources};
