//! The host: pressure, disks, memory errors, machine checks, heat, bus, NVMe, the kernel's log, clock, inventory, neighbours.

use super::INTERFACE;
use crate::convention::{TEMPERATURE, errors, system};
use crate::{Board, Label, Proof, Section, amount, counter, fraction, gauge, label, one_of, state};

/// PSI.
pub(super) const PRESSURE: Section = Section {
    title: "Pressure",
    sources: &["psi"],
    entities: &["host"],
    entity_is: "the resource: `memory`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("host.pressure.cpu.some", "us", "Time in which some task waited for a processor")
            .on("Pressure: some task waited"),
        counter("host.pressure.memory.some", "us", "Time in which some task waited for memory")
            .on("Pressure: some task waited"),
        counter("host.pressure.io.some", "us", "Time in which some task waited for a disk")
            .on("Pressure: some task waited"),
        counter(
            "host.pressure.irq.some",
            "us",
            "Time in which some task waited for interrupts; the kernel has only `full`",
        )
        .proven(Proof::Needs("a kernel that tells `some` of interrupts; none does"))
        .on("Pressure: some task waited"),
        counter("host.pressure.cpu.full", "us", "Time in which every task waited for a processor")
            .on("Pressure: every task waited"),
        counter("host.pressure.memory.full", "us", "Time in which every task waited for memory")
            .on("Pressure: every task waited"),
        counter("host.pressure.io.full", "us", "Time in which every task waited for a disk")
            .on("Pressure: every task waited"),
        counter("host.pressure.irq.full", "us", "Time in which every task waited for interrupts")
            .on("Pressure: every task waited"),
    ],
};

const BY_DIRECTION: &[Label] = &[one_of("disk.io.direction", &["read", "write"])];

/// /proc/diskstats.
pub(super) const DISKS: Section = Section {
    title: "Disks",
    sources: &["disk"],
    entities: &["disk"],
    entity_is: "the device: `nvme0n1`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("disk.io", "By", "Bytes").by(BY_DIRECTION).on("Disks: traffic").otel(system("system.disk.io", "By")),
        counter("disk.operations", "{operation}", "Operations that completed")
            .by(BY_DIRECTION)
            .on("Disks: operations")
            .otel(system("system.disk.operations", "{operation}")),
        counter("disk.operation_time", "ms", "Time of all operations, added")
            .by(BY_DIRECTION)
            .on("Disks: time of operations")
            .otel(system("system.disk.operation_time", "s").scaled(1e-3)),
        counter("disk.busy_time", "ms", "Time in which at least one operation was in flight")
            .on("Disks: busy share of time")
            .otel(system("system.disk.io_time", "s").scaled(1e-3)),
        counter("disk.queue_time", "ms", "Time of operations in the queue and at the device, added")
            .on("Disks: time of operations"),
        amount("disk.in_flight", "{operation}", "Operations in flight").on("Disks: operations in flight"),
    ],
};

/// Requests timed in the kernel.
pub(super) const DISK_REQUESTS: Section = Section {
    title: "Disks: requests",
    sources: &["disk.latency"],
    entities: &["disk"],
    entity_is: "the device: `nvme0n1`",
    labels: &[one_of("disk.io.direction", &["read", "write", "flush", "discard", "unknown"])],
    board: Board::Host,
    proof: Proof::Test("agent/disk/tests/kernel_disk.rs"),
    series: &[
        gauge(
            "disk.operation.latency",
            "us",
            "Time that the driver took for a request, of those that ended since the last reading; quantile 1 is the longest",
        )
        .by(&[one_of("issuer", &["any", "gpu"]), one_of("quantile", &["0.5", "0.99", "1"])])
        .on("Disks: time of a request"),
        counter("disk.operation.completed", "{operation}", "Requests that ended, by who gave them to the driver")
            .by(&[one_of("issuer", &["gpu", "kernel", "other"])])
            .on("Disks: operations"),
        counter("disk.operation.not_timed", "{operation}", "Requests that ended untimed, to stay within the budget of timing them")
            .on("Disks: operations"),
        counter("disk.errors", "{error}", "Requests that failed").on("Disks: failed requests"),
        amount("disk.operation.in_flight", "{operation}", "Requests that the driver holds")
            .on("Disks: operations in flight"),
    ],
};

/// The helper's reports of disks.
pub(super) const DISK_HEALTH: Section = Section {
    title: "Disks: their own health",
    sources: &["disk.smart"],
    entities: &["disk", "nvme"],
    entity_is: "the controller `nvme0`, or the device `sda`",
    labels: &[label("model").or_none(), label("serial").or_none()],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        state("disk.smart.failing", "The disk says of itself that it is failing").on("Disks: failing"),
        state("disk.smart.spare_low", "Its spare blocks are below the threshold that it states").on("Disks: failing"),
        fraction("disk.smart.spare", "Spare blocks left").on("Disks: spare left"),
        // Beyond 1 a disk goes on, outside what its maker promises.
        gauge("disk.smart.wear", "1", "Endurance used, 1 is all that its maker promises").on("Disks: endurance used"),
        counter("disk.smart.media_errors", "{error}", "Errors of the medium that the disk could not correct")
            .on("Disks: errors of their own")
            .otel(errors(&[("hw.type", "physical_disk"), ("error.type", "media")])),
        counter("disk.smart.error_log_entries", "{entry}", "Entries of its error log, in its life")
            .on("Disks: errors of their own"),
        counter("disk.smart.unsafe_shutdowns", "{event}", "Times that it lost power without notice")
            .on("Disks: errors of their own"),
        counter("disk.smart.sectors.reallocated", "{sector}", "Sectors replaced by spare ones")
            .on("Disks: errors of their own"),
        gauge("disk.smart.sectors.pending", "{sector}", "Sectors that could not be read and wait to be written")
            .on("Disks: sectors in doubt"),
        gauge("disk.smart.sectors.uncorrectable", "{sector}", "Sectors that its own test could not read")
            .on("Disks: sectors in doubt"),
        counter("disk.smart.link.crc_errors", "{error}", "Transfers with a wrong checksum between host and disk")
            .on("Disks: errors of their own")
            .otel(errors(&[("hw.type", "physical_disk"), ("error.type", "crc")])),
        // No convention: of NVMe, `nvme.temperature` is `hw.temperature` already.
        gauge("disk.temperature", "Cel", "Temperature that the disk states").on("Disks: temperature"),
    ],
};

/// EDAC.
pub(super) const MEMORY: Section = Section {
    title: "Memory errors",
    sources: &["edac"],
    entities: &["dimm"],
    entity_is: "controller and module: `mc0/dimm3`",
    labels: &[label("dimm").or_none()],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("host.memory.errors.corrected", "{error}", "Errors that the controller corrected")
            .on("Memory errors")
            .otel(errors(&[("hw.type", "memory"), ("error.type", "corrected")])),
        counter("host.memory.errors.uncorrected", "{error}", "Errors that it could not correct")
            .on("Memory errors")
            .otel(errors(&[("hw.type", "memory"), ("error.type", "uncorrected")])),
    ],
};

/// /proc/interrupts.
pub(super) const MACHINE_CHECKS: Section = Section {
    title: "Machine checks",
    sources: &["mce"],
    entities: &["host"],
    entity_is: "`cpu`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("host.machine_check.exceptions", "{interrupt}", "Machine-check exceptions").on("Machine checks"),
        counter("host.machine_check.deferred", "{interrupt}", "Interrupts for deferred errors (AMD)")
            .on("Machine checks"),
        counter(
            "host.machine_check.thresholds",
            "{interrupt}",
            "Interrupts because corrected errors reached a threshold",
        )
        .on("Machine checks"),
        counter("host.machine_check.polls", "{interrupt}", "Times the kernel looked for corrected errors")
            .on("Machine checks: polls"),
        counter("host.thermal.interrupts", "{interrupt}", "Interrupts of processors for heat")
            .on("Processors: throttling"),
    ],
};

/// Heat of processors.
pub(super) const PROCESSORS: Section = Section {
    title: "Heat of processors",
    sources: &["thermal"],
    entities: &["cpu"],
    entity_is: "the package, or the sensor by its place",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("cpu.thermal_throttles", "{event}", "Times that heat held a package or one of its cores down")
            .by(&[one_of("level", &["core", "package"])])
            .on("Processors: throttling"),
        gauge("cpu.temperature", "Cel", "Temperature of a sensor")
            .by(&[label("sensor")])
            .on("Processors: temperature")
            .otel(TEMPERATURE),
    ],
};

/// PCIe.
pub(super) const PCIE: Section = Section {
    title: "PCIe devices",
    sources: &["pcie"],
    entities: &["gpu", "nic", "npu", "nvme"],
    entity_is: "its PCI address",
    labels: &[label("driver").or_none()],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        state("pcie.device.present", "The device answers on the bus").on("PCIe: devices present"),
        gauge("pcie.link.lanes", "{lane}", "Lanes of its link now").on("PCIe: lanes"),
        gauge("pcie.link.lanes_missing", "{lane}", "Lanes that device and port could have more").on("PCIe: lanes"),
        gauge("pcie.link.speed", "{transfer}/s", "Speed of each lane; GPUs at rest lower it")
            .on("PCIe: speed of lanes"),
        counter("pcie.errors.correctable", "{error}", "Bus errors corrected (AER)").on("PCIe: errors"),
        counter("pcie.errors.nonfatal", "{error}", "Bus errors not corrected, the link goes on (AER)")
            .on("PCIe: errors"),
        counter("pcie.errors.fatal", "{error}", "Bus errors that end the link (AER)").on("PCIe: errors"),
    ],
};

/// NVMe controllers.
pub(super) const NVME: Section = Section {
    title: "NVMe controllers",
    sources: &["nvme"],
    entities: &["nvme"],
    entity_is: "the controller: `nvme0`",
    labels: &[label("model").or_none(), label("serial").or_none()],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        state("nvme.live", "The controller is live").on("NVMe: controllers live"),
        gauge("nvme.temperature", "Cel", "Temperature of the controller").on("NVMe: temperature").otel(TEMPERATURE),
    ],
};

/// The helper's records.
pub(super) const KERNEL_LOG: Section = Section {
    title: "The kernel's log",
    sources: &["kmsg"],
    entities: &["host"],
    entity_is: "`kmsg`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        counter("host.kmsg.records", "{record}", "Lines that mean something, by kind")
            .by(&[label("kind")])
            .on("Kernel log: records"),
        counter("host.kmsg.lines", "{record}", "Lines that the helper read").on("Kernel log: lines"),
        counter("host.kmsg.lost", "{record}", "Lines overwritten before the helper read them").on("Kernel log: lines"),
    ],
};

/// adjtimex(2).
pub(super) const CLOCK: Section = Section {
    title: "The host's clock",
    sources: &["clock"],
    entities: &["host"],
    entity_is: "`clock`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        state("host.clock.synchronized", "Something keeps the clock, by the kernel's word").on("Clock: states"),
        state("host.clock.ptp", "It is kept from a network card's clock").on("Clock: states"),
        gauge("host.clock.error.max", "us", "Greatest error of the clock, as its keeper told the kernel")
            .on("Clock: errors"),
        gauge("host.clock.error.estimated", "us", "Estimated error of the clock, as its keeper told the kernel")
            .on("Clock: errors"),
        gauge("host.clock.offset", "us", "Offset that the kernel is correcting").on("Clock: errors"),
        gauge("host.clock.frequency", "[ppm]", "Correction of the clock's frequency").on("Clock: frequency"),
    ],
};

/// What is installed and set.
pub(super) const INVENTORY: Section = Section {
    title: "Inventory",
    sources: &["inventory"],
    entities: &["host"],
    entity_is: "`inventory`",
    labels: &[],
    board: Board::Host,
    proof: Proof::Whole,
    series: &[
        amount("host.inventory.items", "{item}", "Versions and settings known of the host").on("Inventory: items"),
        counter("host.inventory.changes", "{change}", "Values of these that became another since the agent started")
            .on("Inventory: changes"),
    ],
};

/// LLDP by port.
pub(super) const NEIGHBOURS: Section = Section {
    title: "Neighbours (LLDP)",
    sources: &["lldp"],
    entities: &["port"],
    entity_is: "the interface: `eth0`",
    labels: &[INTERFACE],
    board: Board::Nic,
    proof: Proof::Test("agent/peers/tests/lldp.rs"),
    series: &[amount("lldp.neighbours", "{neighbour}", "Neighbours heard on the port").on("LLDP: neighbours")],
};

/// LLDP as a whole.
pub(super) const ANNOUNCEMENTS: Section = Section {
    title: "Announcements (LLDP)",
    sources: &["lldp"],
    entities: &["host"],
    entity_is: "`lldp`",
    labels: &[],
    board: Board::Nic,
    proof: Proof::Test("agent/peers/tests/lldp.rs"),
    series: &[
        counter("lldp.frames", "{frame}", "Announcements heard").on("LLDP: announcements"),
        counter("lldp.frames.discarded", "{frame}", "Of these: not to be understood").on("LLDP: announcements"),
    ],
};

/// Connections of GPU processes.
pub(super) const CONNECTIONS: Section = Section {
    title: "Connections of GPU processes",
    sources: &["tcp.flows"],
    entities: &["host"],
    entity_is: "`tcp.flows`",
    labels: &[],
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[amount("gpu.process.connections", "{connection}", "TCP connections of processes that use a GPU")
        .on("TCP connections of GPU processes")],
};
