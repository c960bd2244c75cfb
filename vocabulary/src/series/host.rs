//! The host: pressure, disks, memory errors, machine checks, heat, bus, NVMe, the kernel's log.

use crate::convention::{TEMPERATURE, errors, system};
use crate::{Board, Label, Proof, Section, amount, counter, gauge, label, one_of, state};

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
