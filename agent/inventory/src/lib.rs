//! What is installed and set on this host: firmware, drivers, kernel, libraries, links, flow control, buses.
//!
//! In: sysfs and procfs under configurable roots, netlink (through `railwatch-nic`), NVML (through `railwatch-health`), and what
//! other rooms know of mapped libraries and optical modules ([`Known`]). Out: the source `inventory` for the sampler, which
//! hands on the whole inventory when it changed, and a signal `config.changed` for each value that became another. The keys
//! are those of [`railwatch_wire::inventory`]. Never: a setting changed, a serial number of the host or its boards, the kernel's
//! whole command line, or a thread.
#![forbid(unsafe_code)]

mod devices;
mod files;
mod gpus;
mod host;
mod interrupts;
mod items;
mod libraries;
mod links;
mod pci_config;
mod source;

pub use items::{Change, Item, Items};
pub use source::{InventoryConfig, InventorySource, Known, ModuleFacts, SIGNALS};
