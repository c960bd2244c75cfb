//! The agent's first sources: network interfaces and RDMA ports.
//!
//! [`NicSources`] makes the sources for the sampler: `netdev` (statistics), `netdev.link` (notifications), `rdma.hw`
//! (hardware counters, the millisecond path), `rdma.pma` (port counters) and `rdma.link`. [`RULES`] says which of their
//! series raise signals, [`Ports`] what the ports are, and [`NicTable`] turns windows into one row per port.
//!
//! All readings are of the network namespace that the agent runs in: run it in the host's.
//! Never: a write to a device, a counter cleared, a reading of an interface nobody asked for.
#![forbid(unsafe_code)]

mod generic_netlink;
mod link;
mod netdev;
mod netdev_choice;
mod netdev_link;
pub mod netlink;
mod ports;
mod rdma;
mod rdma_hw;
mod rdma_link;
mod rdma_netlink;
mod rdma_pma;
mod sources;
mod summary;
mod sysfs;
mod vocabulary;

pub use generic_netlink::{Ethtool, GenericNetlink};
pub use ports::{PortInfo, PortKind, Ports};
pub use sources::{NicConfig, NicSources};
pub use summary::{NicReading, NicTable};
pub use vocabulary::RULES;
