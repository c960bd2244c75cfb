//! The table: what the sources of an agent read, a file for each kind of thing.

mod accelerators;
mod drops;
mod host;
mod interfaces;
mod optics;
mod rdma;

use crate::{Label, Section, label, one_of};

/// Direction of traffic, OpenTelemetry's `network.io.direction`.
const DIRECTION: Label = one_of("network.io.direction", &["receive", "transmit"]);
/// Interface, OpenTelemetry's `network.interface.name`.
const INTERFACE: Label = label("network.interface.name");

/// Every section.
pub const ALL: &[&Section] = &[
    &interfaces::STATISTICS,
    &interfaces::MICROBURSTS,
    &interfaces::LINK,
    &interfaces::QUEUES,
    &interfaces::DRIVER,
    &interfaces::PRIORITIES,
    &interfaces::CLASSES,
    &interfaces::DCB,
    &rdma::LINK,
    &rdma::PORT,
    &rdma::TRANSPORT,
    &rdma::OBJECTS,
    &rdma::QUEUE_PAIRS,
    &drops::DROPS,
    &host::NEIGHBOURS,
    &host::ANNOUNCEMENTS,
    &host::CONNECTIONS,
    &optics::MODULES,
    &optics::LANES,
    &accelerators::GPUS,
    &accelerators::PROCESSES,
    &accelerators::RUNNING,
    &accelerators::NPUS,
    &accelerators::NPU_PORTS,
    &accelerators::NPU_MODULES,
    &host::PRESSURE,
    &host::DISKS,
    &host::DISK_REQUESTS,
    &host::DISK_HEALTH,
    &host::MEMORY,
    &host::MACHINE_CHECKS,
    &host::PROCESSORS,
    &host::PCIE,
    &host::NVME,
    &host::KERNEL_LOG,
    &host::CLOCK,
    &host::INVENTORY,
    &interfaces::SWITCH_QUEUES,
];
