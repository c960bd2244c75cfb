//! GPUs, the memory that processes hold of them, NPUs and the ports on them.

use super::DIRECTION;
use crate::convention::{Convention, TEMPERATURE, VOLTAGE, errors, gpu, network};
use crate::{Board, Label, NoPanel, Proof, Section, amount, counter, fraction, gauge, label, one_of, state};

/// One of the states of `hw.status`; the others are not told apart.
const STATUS: Convention =
    Convention { name: "hw.status", unit: "1", factor: 1.0, attributes: &[("hw.type", "gpu"), ("hw.state", "ok")] };
const ENERGY: Convention = gpu("hw.energy", "J").scaled(1e-3);

/// NVML.
pub(super) const GPUS: Section = Section {
    title: "GPUs",
    sources: &["gpu.nvml"],
    entities: &["gpu"],
    entity_is: "its PCI address: `0000:10:00.0`",
    labels: &[label("gpu.index"), label("gpu.uuid").or_none()],
    board: Board::Gpu,
    proof: Proof::Whole,
    series: &[
        state("gpu.reachable", "The driver reaches the GPU").on("GPUs reachable").otel(STATUS),
        fraction("gpu.utilization", "Share of time with a kernel running")
            .on("Utilisation")
            .otel(gpu("hw.gpu.utilization", "1")),
        fraction("gpu.memory.utilization", "Share of time with memory read or written (not: memory held)")
            .on("Utilisation"),
        amount("gpu.memory.used", "By", "Memory in use, by all processes and the driver")
            .on("Memory")
            .otel(gpu("hw.gpu.memory.usage", "By")),
        amount("gpu.memory.total", "By", "Memory there is").on("Memory").otel(gpu("hw.gpu.memory.limit", "By")),
        gauge("gpu.clock.sm", "Hz", "Clock of the processors").on("Clocks"),
        gauge("gpu.clock.memory", "Hz", "Clock of the memory").on("Clocks"),
        gauge("gpu.temperature", "Cel", "Temperature of the GPU").on("Temperature").otel(TEMPERATURE),
        gauge("gpu.power", "W", "Power drawn").on("Power").otel(gpu("hw.power", "W")),
        counter("gpu.energy", "mJ", "Energy used since the driver was loaded").on("Power from energy").otel(ENERGY),
        state("gpu.throttle.thermal", "Clocks are held down by heat").on("Clocks held down"),
        state("gpu.throttle.brake", "Clocks are held down by the external power brake").on("Clocks held down"),
        state("gpu.throttle.power_cap", "Clocks are held down by the power limit: normal under load")
            .on("Clocks held down"),
        counter("gpu.ecc.corrected", "{error}", "Memory errors corrected since the driver was loaded")
            .on("ECC errors")
            .otel(errors(&[("hw.type", "gpu"), ("error.type", "corrected")])),
        counter("gpu.ecc.uncorrected", "{error}", "Memory errors not corrected since the driver was loaded")
            .on("ECC errors")
            .otel(errors(&[("hw.type", "gpu"), ("error.type", "uncorrected")])),
        counter("gpu.ecc.lifetime.corrected", "{error}", "Memory errors corrected since the GPU was made")
            .on("ECC errors, lifetime"),
        counter("gpu.ecc.lifetime.uncorrected", "{error}", "Memory errors not corrected since the GPU was made")
            .on("ECC errors, lifetime"),
        gauge("gpu.row_remap.corrected", "{row}", "Rows remapped for corrected errors").on("Row remaps"),
        gauge("gpu.row_remap.uncorrected", "{row}", "Rows remapped for uncorrected errors").on("Row remaps"),
        state("gpu.row_remap.pending", "A remap waits for a reset").on("Row remaps"),
        state("gpu.row_remap.failure", "A remap failed: the GPU is to be replaced").on("Row remaps"),
        counter("gpu.nvlink.replays", "{event}", "Packets that NVLink sent again").on("NVLink and PCIe errors"),
        counter("gpu.nvlink.recoveries", "{event}", "Times that an NVLink was brought up again")
            .on("NVLink and PCIe errors"),
        counter("gpu.nvlink.crc_errors", "{error}", "NVLink packets with a wrong checksum")
            .on("NVLink and PCIe errors")
            .otel(errors(&[("hw.type", "gpu"), ("error.type", "nvlink_crc")])),
        gauge("gpu.nvlink.active", "{link}", "NVLinks that are up").on("NVLinks up"),
        counter("gpu.pcie.replays", "{event}", "PCIe packets that the GPU sent again").on("NVLink and PCIe errors"),
    ],
};

/// Accounting at the call.
pub(super) const PROCESSES: Section = Section {
    title: "GPU memory of processes",
    sources: &["gpu.memory"],
    entities: &["process"],
    entity_is: "its PID on the host",
    labels: &[one_of("api", &["cuda", "hip", "acl"]), one_of("layer", &["driver", "runtime"]), label("device")],
    board: Board::Gpu,
    proof: Proof::Test("agent/src/gpu/memory.rs"),
    series: &[amount(
        "gpu.memory.allocated",
        "By",
        "Memory that the process holds by its own calls; layers see the same memory and are not to be added",
    )
    .unshown(NoPanel::Process)],
};

/// The scheduler's word on GPU processes.
pub(super) const RUNNING: Section = Section {
    title: "Processors of GPU processes",
    sources: &["process.sched"],
    entities: &["process"],
    entity_is: "its PID on the host",
    labels: &[],
    board: Board::Gpu,
    proof: Proof::Test("agent/src/placement/running/tests.rs"),
    series: &[counter(
        "process.cpu.wait",
        "us",
        "Time in which threads of the process could run and waited for a processor, quotas included: its first thread and those that use most time, added",
    )
    .unshown(NoPanel::Process)],
};

const BY_DIRECTION: &[Label] = &[DIRECTION];
const NPU: &[&str] = &["npu"];
const NPU_IS: &str = "the NPU: `npu0`";

/// `hw.temperature` of a place on an NPU: the module of its port has one too.
const fn temperature_at(attributes: &'static [(&'static str, &'static str)]) -> Convention {
    Convention { attributes, ..TEMPERATURE }
}

/// DCMI.
pub(super) const NPUS: Section = Section {
    title: "NPUs",
    sources: &["npu.dcmi"],
    entities: NPU,
    entity_is: NPU_IS,
    labels: &[label("pci.address").or_none()],
    board: Board::Gpu,
    proof: Proof::Whole,
    series: &[
        state("npu.reachable", "The driver reaches the NPU").on("NPUs reachable"),
        gauge("npu.health", "1", "Its worst alarm: 0 none, 1 minor, 2 major, 3 critical").on("NPUs: alarms"),
        fraction("npu.utilization", "Share of time with its cores at work").on("NPUs: utilisation"),
        fraction("npu.memory.utilization", "Share of its memory's bandwidth in use").on("NPUs: utilisation"),
        amount("npu.memory.used", "By", "Memory in use, by all processes and the driver").on("NPUs: memory"),
        amount("npu.memory.total", "By", "Memory there is").on("NPUs: memory"),
        gauge("npu.clock.core", "Hz", "Clock of its cores").on("NPUs: clock"),
        gauge("npu.temperature", "Cel", "Temperature of the NPU")
            .on("NPUs: temperature")
            .otel(temperature_at(&[("hw.type", "temperature"), ("hw.sensor_location", "chip")])),
        gauge("npu.memory.temperature", "Cel", "Temperature of its memory")
            .on("NPUs: temperature")
            .otel(temperature_at(&[("hw.type", "temperature"), ("hw.sensor_location", "memory")])),
        gauge("npu.power", "W", "Power drawn").on("NPUs: power"),
        counter("npu.ecc.corrected", "{error}", "Memory errors corrected since the driver was loaded")
            .on("NPUs: ECC errors"),
        counter("npu.ecc.uncorrected", "{error}", "Memory errors not corrected since the driver was loaded")
            .on("NPUs: ECC errors"),
        counter("npu.ecc.lifetime.corrected", "{error}", "Memory errors corrected since the NPU was made")
            .on("NPUs: ECC errors, lifetime"),
        counter("npu.ecc.lifetime.uncorrected", "{error}", "Memory errors not corrected since the NPU was made")
            .on("NPUs: ECC errors, lifetime"),
        gauge("npu.ecc.isolated_pages.corrected", "{page}", "Pages taken out of use for corrected errors")
            .on("NPUs: pages out of use"),
        gauge("npu.ecc.isolated_pages.uncorrected", "{page}", "Pages taken out of use for uncorrected errors")
            .on("NPUs: pages out of use"),
    ],
};

/// hccn_tool's statistics.
pub(super) const NPU_PORTS: Section = Section {
    title: "RoCE ports on NPUs",
    sources: &["npu.hccn"],
    entities: NPU,
    entity_is: NPU_IS,
    labels: BY_DIRECTION,
    board: Board::Gpu,
    proof: Proof::Whole,
    series: &[
        counter("npu.port.io", "By", "Bytes").on("NPU ports: traffic").otel(network("hw.network.io", "By")),
        counter("npu.port.packets", "{packet}", "Packets")
            .on("NPU ports: packets")
            .otel(network("hw.network.packets", "{packet}")),
        counter("npu.port.pause", "{frame}", "802.3x pause frames").on("NPU ports: pause and congestion"),
        counter("npu.port.pfc", "{frame}", "PFC pause frames").on("NPU ports: pause and congestion"),
        counter("npu.port.cnp", "{packet}", "Congestion notifications").on("NPU ports: pause and congestion"),
        counter("npu.port.errors", "{error}", "Bad packets").on("NPU ports: errors and loss"),
        counter("npu.port.errors.crc", "{error}", "Packets with a wrong checksum")
            .on("NPU ports: errors and loss")
            .otel(errors(&[("hw.type", "network"), ("error.type", "crc")])),
        counter("npu.port.errors.verification", "{error}", "RoCE packets that failed verification")
            .on("NPU ports: errors and loss")
            .otel(errors(&[("hw.type", "network"), ("error.type", "verification")])),
        counter("npu.port.retransmitted_packets", "{packet}", "RoCE packets sent again")
            .on("NPU ports: errors and loss"),
        counter("npu.port.out_of_sequence", "{packet}", "RoCE packets out of order").on("NPU ports: errors and loss"),
        counter("npu.port.unexpected_acks", "{packet}", "Acknowledgements that nobody waited for")
            .on("NPU ports: errors and loss"),
    ],
};

/// hccn_tool's link and module.
pub(super) const NPU_MODULES: Section = Section {
    title: "Links and modules on NPUs",
    sources: &["npu.hccn"],
    entities: NPU,
    entity_is: NPU_IS,
    labels: &[label("lane").or_none()],
    board: Board::Gpu,
    proof: Proof::Whole,
    series: &[
        state("npu.link.up", "The port's link is up")
            .on("NPU ports: link and module")
            .otel(network("hw.network.up", "1")),
        state("npu.module.present", "An optical module is plugged").on("NPU ports: link and module"),
        gauge("npu.module.temperature", "Cel", "Temperature of the module")
            .on("NPU modules: temperature")
            .otel(TEMPERATURE),
        gauge("npu.module.voltage", "V", "Supply voltage of the module")
            .on("NPU modules: supply voltage")
            .otel(VOLTAGE),
        gauge("npu.module.tx_power", "mW", "Optical power transmitted").on("NPU modules: optical power"),
        gauge("npu.module.rx_power", "mW", "Optical power received").on("NPU modules: optical power"),
        gauge("npu.module.tx_bias", "mA", "Bias current of the laser").on("NPU modules: laser bias"),
    ],
};
