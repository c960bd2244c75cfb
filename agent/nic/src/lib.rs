//! The agent's first sources: network interfaces and RDMA ports.
//!
//! [`NicSources`] makes the sources for the sampler: `netdev` (statistics), `netdev.link` (notifications), `netdev.driver`
//! (the driver's own statistics: priority flow control), `netdev.queues` (pause frames and FEC), `netdev.dcb` (which
//! priorities are lossless), `rdma.hw` (hardware counters, the millisecond path), `rdma.pma` (port counters) and
//! `rdma.link`. [`RULES`] says which of their series raise signals, [`Ports`] what the ports are. For the room of peers:
//! [`Interfaces`], which interfaces are read, and [`RdmaResources`], the kernel's list of queue pairs.
//!
//! All readings are of the network namespace that the agent runs in: run it in the host's.
//! Never: a write to a device, a counter cleared, a reading of an interface nobody asked for.
#![deny(unsafe_code)]

mod addresses;
mod counter_files;
mod dcb;
mod driver_vocabulary;
#[expect(unsafe_code, reason = "drivers' own statistics are told by an ioctl alone")]
mod ethtool_ioctl;
mod generic_netlink;
mod interfaces;
mod link;
mod microburst;
mod netdev;
mod netdev_choice;
mod netdev_dcb;
mod netdev_driver;
mod netdev_link;
mod netdev_queues;
pub mod netlink;
mod ports;
mod rdma;
mod rdma_hw;
mod rdma_link;
mod rdma_netlink;
mod rdma_pma;
mod rdma_resources;
mod settings;
mod sources;
mod sysfs;
mod together;
mod vocabulary;

pub use addresses::Addresses;
pub use generic_netlink::{Ethtool, GenericNetlink};
pub use interfaces::Interfaces;
pub use microburst::MICROBURST;
pub use ports::{PortInfo, PortKind, Ports};
pub use rdma_resources::{CmId, Owner, QueuePair, RdmaResources};
pub use settings::{Ets, Fec, Pause, Settings, SettingsReader};
pub use sources::{NicConfig, NicSources};
pub use vocabulary::RULES;
