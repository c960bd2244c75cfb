//! The health of a host and its accelerators, as sources for the sampler.
//!
//! [`HealthSources`] makes them: `psi`, `disk`, `edac`, `mce`, `thermal`, `pcie`, `nvme`, `gpu.nvml`, `npu.dcmi`, `npu.hccn`, `clock` and, where their
//! helpers are asked for, `kmsg` and `disk.smart`. [`RULES`] says which of their series raise signals; what the kernel's log and the XID events
//! of NVML say by themselves becomes signals by [`kmsg::PATTERNS`] and [`xid::describe`]. [`kmsg::helper`] is the other half of
//! `kmsg`: it alone reads the kernel's log, in a process of its own; [`smart::helper`] that of `disk.smart`: it alone asks disks.
//!
//! Never: an act on the host (no counter cleared, no limit set, no device reset), or a value made up for an absent one.
#![deny(unsafe_code)]

mod clock;
pub mod dcmi;
mod disk;
mod edac;
mod hccn;
mod hearing;
pub mod kmsg;
#[expect(unsafe_code, reason = "the loader's own calls, for the libraries of GPUs and NPUs")]
pub mod loading;
mod mce;
mod nvme;
mod nvml;
mod pcie;
mod psi;
mod rules;
pub mod smart;
mod sources;
mod thermal;
pub mod xid;

pub use nvml::{GpuModes, NvmlModes};
pub use nvml::{NvmlGpu, gpus as nvml_gpus};
pub use pcie::kind as pci_kind;
pub use rules::RULES;
pub use sources::{HealthConfig, HealthSources};
