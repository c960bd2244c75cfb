//! The rows that people and programs read: one plain struct per answer, whose JSON is a contract.
//!
//! Fields are added, never renamed or removed. `null` means "not known", never zero.

use crate::switches::FarEndRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A line of `railwatch hosts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRow {
    /// The name in its certificate.
    pub host: String,
    /// /proc/sys/kernel/random/boot_id of the running boot.
    pub boot_id: String,
    /// Milliseconds since anything was heard from it.
    pub last_seen_ms: u64,
    /// Its CLOCK_REALTIME less the collector's timeline, microseconds; null until the first exchange.
    pub clock_offset_us: Option<i64>,
    /// The true offset lies within ± this; null until the first exchange.
    pub clock_uncertainty_us: Option<u64>,
    /// Everything its agent ever had to report, counted at the agent; and what the collector refused on top.
    pub seen: u64,
    /// Of those, what arrived and was taken.
    pub delivered: u64,
    /// Of those, what was lost anywhere: `seen = delivered + dropped`.
    pub dropped: u64,
    /// `dropped` by reason; the collector's own refusals begin with `collector_`.
    pub dropped_by_reason: BTreeMap<String, u64>,
    /// A stream of its agent is open.
    pub connected: bool,
    /// Of an agent not heard for a second whose stream is open: milliseconds since its host's kernel acknowledged anything. Else null.
    #[serde(default)]
    pub kernel_last_seen_ms: Option<u64>,
    /// Its agent's version.
    pub agent_version: String,
    /// Its kernel, `uname -r`.
    pub kernel_release: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// What this host cannot do, and why.
    pub limitations: Vec<LimitationRow>,
    /// Steps of its CLOCK_REALTIME seen since the collector heard of this boot.
    pub clock_steps: u64,
    /// Frames refused since the collector started, by reason.
    pub rejected_frames: BTreeMap<String, u64>,
    /// Series it has defined.
    pub series: u64,
    /// Its telemetry sources.
    pub sources: Vec<SourceRow>,
}

/// Something a host cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitationRow {
    /// "gpu probes", "rdma netlink", ...
    pub what: String,
    /// Why, and what would help.
    pub why: String,
}

/// A telemetry source of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// "netdev", "rdma", ...
    pub source: String,
    /// It is read.
    pub on: bool,
    /// Why it is off.
    pub reason: String,
    /// The kernel interface it reads.
    pub kernel_path: String,
    /// Nominal interval between readings.
    pub cadence_ns: u64,
    /// Readings so far.
    pub reads: u64,
    /// Of those, failed.
    pub errors: u64,
    /// Readings that began too late.
    pub missed_deadlines: u64,
}

/// A line of `railwatch sources`: one telemetry source of one host, and what it costs there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceCostRow {
    /// Its host.
    pub host: String,
    /// "netdev", "rdma.hw", ...
    pub source: String,
    /// "on" or "off".
    pub status: String,
    /// Why it is off; empty while it is on.
    pub reason: String,
    /// The kernel interface it reads.
    pub kernel_path: String,
    /// Time between readings now, milliseconds; longer than asked for where the CPU budget made it so.
    pub cadence_ms: f64,
    /// What half of its reads took at most since the agent's start, microseconds; null before the first.
    pub read_us_p50: Option<f64>,
    /// What 99 of 100 took at most; null before the first.
    pub read_us_p99: Option<f64>,
    /// Of one core, over the last second.
    pub cpu_percent: f64,
    /// Reads so far.
    pub reads: u64,
    /// Of those, failed.
    pub errors: u64,
    /// Deadlines passed without a read.
    pub missed_deadlines: u64,
}

/// A line of `railwatch gpu processes`: one process, device and layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuProcessRow {
    /// Its host.
    pub host: String,
    /// In the host's pid namespace.
    pub pid: u32,
    /// The first 15 bytes of its name.
    pub comm: String,
    /// Its container's identifier; null outside a container.
    pub container: Option<String>,
    /// The device's ordinal as the process counts; null where not known.
    pub device: Option<i32>,
    /// Why `device` or `device_uuid` is null.
    pub device_unknown_reason: Option<String>,
    /// The device's UUID where it can be mapped.
    pub device_uuid: Option<String>,
    /// "runtime" or "driver".
    pub layer: String,
    /// "cuda", "hip" or "acl".
    pub api: String,
    /// Device memory held now, bytes.
    pub allocated_bytes: u64,
    /// The most it ever held, bytes.
    pub peak_bytes: u64,
    /// Successful allocations.
    pub allocs: u64,
    /// Successful frees.
    pub frees: u64,
    /// Allocations that returned an error.
    pub failed_allocs: u64,
    /// Frees by process exit, context destroy or device reset.
    pub implicit_frees: u64,
    /// Frees of addresses never seen allocated.
    pub unmatched_frees: u64,
    /// Pinned host memory, not in `allocated_bytes`.
    pub host_allocated_bytes: u64,
    /// IPC opens alive: memory of another process, not in `allocated_bytes`.
    pub ipc_opens: u64,
    /// RFC 3339: since then a call may have been missed; null when the figures are exact.
    pub incomplete_since: Option<String>,
    /// Why they may not be exact.
    pub incomplete_reason: Option<String>,
    /// RFC 3339.
    pub started: String,
    /// The process is gone; the row stays for a while.
    pub exited: bool,
    /// RFC 3339.
    pub exited_at: Option<String>,
    /// Events left out by the per-process cap.
    pub events_cut: u64,
    /// Calls of the process by function.
    pub calls: Vec<GpuCallRow>,
    /// Failed calls of the process by function and code.
    pub failures: Vec<GpuFailureRow>,
    /// Its communicators.
    pub communicators: Vec<CommunicatorRow>,
}

/// Calls of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuCallRow {
    /// "cudaLaunchKernel", ...
    pub function: String,
    /// Calls so far.
    pub calls: u64,
    /// Time spent inside, nanoseconds.
    pub inside_ns: u64,
    /// Of the calls, those that returned an error.
    pub failed: u64,
}

/// Failed calls of one function with one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFailureRow {
    /// "cudaMalloc", ...
    pub function: String,
    /// What it returned.
    pub code: i32,
    /// How often.
    pub count: u64,
}

/// A process's membership of a communicator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommunicatorRow {
    /// "nccl", "rccl", "hccl".
    pub library: String,
    /// 16 hex digits, equal on all ranks.
    pub identity: String,
    /// Null where not known.
    pub rank: Option<u32>,
    /// Null where not known.
    pub ranks: Option<u32>,
    /// Collectives enqueued so far.
    pub last_sequence: u64,
    /// "alive", "destroyed", "aborted".
    pub state: String,
    /// By operation.
    pub collectives: Vec<CollectiveRow>,
}

/// Collectives of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectiveRow {
    /// "AllReduce", ...
    pub operation: String,
    /// Calls so far.
    pub calls: u64,
    /// Bytes so far.
    pub bytes: u64,
}

/// A line of `railwatch gpu coverage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuCoverageRow {
    /// Its host.
    pub host: String,
    /// In the host's pid namespace.
    pub pid: u32,
    /// The first 15 bytes of its name.
    pub comm: String,
    /// The library or executable.
    pub object: String,
    /// "attached" or "unattachable".
    pub status: String,
    /// Why it is not attachable; empty when attached.
    pub reason: String,
}

/// A line of `railwatch nic`: one port with its latest rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicRow {
    /// Its host.
    pub host: String,
    /// "eth0", "mlx5_2/1".
    pub port: String,
    /// "netdev" or "rdma".
    pub kind: String,
    /// "up", "down", ...
    pub state: String,
    /// The kernel driver.
    pub driver: String,
    /// Null where the port does not say.
    pub speed_bits_per_s: Option<u64>,
    /// Of an RDMA port: its network device.
    pub netdev: Option<String>,
    /// RFC 3339 end of the newest window with a reading of this port; null before the first.
    pub window_end: Option<String>,
    /// Its series, by name and then labels.
    pub series: Vec<SeriesRow>,
    /// Errors of all kinds in the newest windows; null where nothing counts any.
    #[serde(default)]
    pub errors: Option<u64>,
    /// Priorities with flow control on; null where the port does not say.
    #[serde(default)]
    pub pfc_priorities: Option<Vec<u8>>,
    /// Pause, by direction and priority: what counts pause, whether or not it moved.
    #[serde(default)]
    pub pause: Vec<PauseRow>,
    /// Forward error correction; null where the port does not say.
    #[serde(default)]
    pub fec: Option<FecRow>,
}

/// Pause of one priority, or of the whole link, in one direction, in the newest windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseRow {
    /// 0 to 7; null: the whole link (802.3x), or all priorities together where a driver tells them so.
    pub priority: Option<u8>,
    /// "receive": this port is held back; "transmit": it holds the far end back.
    pub direction: String,
    /// "pfc" or "802.3x".
    pub kind: String,
    /// Pause frames per second; null where the driver does not say.
    pub frames_per_s: Option<f64>,
    /// Per cent of the time in pause; null where the driver does not say.
    pub time_percent: Option<f64>,
}

/// Forward error correction of a port, per second, in the newest windows; null where the driver does not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FecRow {
    /// Blocks corrected.
    pub corrected_blocks_per_s: Option<f64>,
    /// Blocks beyond correction: frames were lost.
    pub uncorrectable_blocks_per_s: Option<f64>,
    /// Bits corrected.
    pub corrected_bits_per_s: Option<f64>,
}

/// A line of `railwatch drops`: a flow that lost packets for one reason on one interface; or, with `source` null, the
/// packets of a reason and interface that are in no flow listed. All lines of a reason and interface are all its packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// Its host.
    pub host: String,
    /// The kernel's name of the reason; "TCP_RETRANSMIT".
    pub reason: String,
    /// "fault", "loss", "deliberate", "harmless", "unspecified", "retransmit".
    pub class: String,
    /// "eth0", "if4@4026532001", "none"; "other_namespaces" and "others" where `source` is null.
    pub interface: String,
    /// Inode number of the network namespace; null where not known.
    pub network_namespace: Option<u32>,
    /// "tcp", "udp", ...
    pub protocol: Option<String>,
    /// Address.
    pub source: Option<String>,
    /// Null where the protocol has none.
    pub source_port: Option<u32>,
    /// Address.
    pub destination: Option<String>,
    /// Null where the protocol has none.
    pub destination_port: Option<u32>,
    /// Packets dropped (or sent again).
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// RFC 3339.
    pub first_seen: Option<String>,
    /// RFC 3339.
    pub last_seen: Option<String>,
}

/// Where the packets of [`DropRow`]s are: `seen = delivered + the sum of dropped`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropAccountRow {
    /// Its host.
    pub host: String,
    /// Drops and retransmissions since its agent started.
    pub seen: u64,
    /// Of those, in the host's table of flows.
    pub delivered: u64,
    /// The others, by why they are not: "no_flow", "flows_full", ...
    pub dropped: BTreeMap<String, u64>,
    /// What its kernel does not tell.
    pub off: Vec<LimitationRow>,
}

/// A line of `railwatch neighbours`: what the other end of a cable says of itself by LLDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourRow {
    /// Its host.
    pub host: String,
    /// The host's port.
    pub interface: String,
    /// Null where it gives none.
    pub system_name: Option<String>,
    /// Its chassis.
    pub chassis_id: String,
    /// "mac", "local", "interface_name", ...
    pub chassis_id_subtype: String,
    /// Its port.
    pub port_id: String,
    /// "interface_name", "mac", "local", ...
    pub port_id_subtype: String,
    /// Null where it gives none.
    pub port_description: Option<String>,
    /// Null where it gives none.
    pub system_description: Option<String>,
    /// Where it can be reached.
    pub management_addresses: Vec<String>,
    /// How long what it says holds, seconds.
    pub ttl_s: u32,
    /// RFC 3339.
    pub first_heard: String,
    /// RFC 3339; told twice a minute at most.
    pub last_heard: String,
}

/// A line of `railwatch queue-pairs`: an RDMA queue pair and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePairRow {
    /// Its host.
    pub host: String,
    /// "mlx5_0".
    pub device: String,
    /// From 1; null before it has one.
    pub port: Option<u32>,
    /// Its number on the device.
    pub number: u32,
    /// The other end's; null where the type has none.
    pub remote_number: Option<u32>,
    /// "RC", "UD", ...
    #[serde(rename = "type")]
    pub kind: String,
    /// "RTS", ...
    pub state: String,
    /// In the host's pid namespace; null where it is the kernel's, or its process is not known.
    pub pid: Option<u32>,
    /// Of the process, or of the kernel's module; null where not known.
    pub comm: Option<String>,
    /// Null where the connection manager does not know.
    pub source: Option<String>,
    /// Null where the connection manager does not know.
    pub source_port: Option<u32>,
    /// Null where the connection manager does not know.
    pub destination: Option<String>,
    /// Null where the connection manager does not know.
    pub destination_port: Option<u32>,
}

/// A line of `railwatch flows`: a TCP connection of a process that uses a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Its host.
    pub host: String,
    /// In the host's pid namespace.
    pub pid: u32,
    /// The first 15 bytes of its name.
    pub comm: String,
    /// "tcp".
    pub protocol: String,
    /// Address of this end.
    pub source: String,
    /// Port of this end.
    pub source_port: u32,
    /// Address of the other end.
    pub destination: String,
    /// Port of the other end.
    pub destination_port: u32,
    /// That it leaves by, in the process's network namespace; null where its ends do not decide.
    pub interface: Option<String>,
    /// "established", ...
    pub state: String,
    /// Acknowledged by the other end; null where the process's network namespace could not be entered.
    pub sent_bytes: Option<u64>,
    /// Null likewise.
    pub received_bytes: Option<u64>,
    /// Segments; null likewise.
    pub retransmits: Option<u64>,
    /// Smoothed round trip; null likewise, and before it was measured.
    pub rtt_ns: Option<u64>,
}

/// What of a host's peers is not listed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAccountRow {
    /// Its host.
    pub host: String,
    /// Neighbours listed.
    pub neighbours: u64,
    /// Queue pairs listed.
    pub queue_pairs: u64,
    /// Flows listed.
    pub flows: u64,
    /// What is in no list because of a bound, by what it is.
    pub beyond: BTreeMap<String, u64>,
    /// What is not seen on it.
    pub off: Vec<LimitationRow>,
}

/// One series of a port in its newest window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesRow {
    /// "network.io", "rdma.hw.out_of_sequence", ...
    pub name: String,
    /// Labels that tell series of one name apart.
    pub labels: BTreeMap<String, String>,
    /// UCUM; of a counter: the unit of what is counted.
    pub unit: String,
    /// It counts; `mean`, `min`, `max` and `last` are rates per second then.
    pub monotonic: bool,
    /// Readings in the window.
    pub count: u32,
    /// Mean over the window; null without a reading.
    pub mean: Option<f64>,
    /// Least; null without a reading.
    pub min: Option<f64>,
    /// Greatest; null without a reading.
    pub max: Option<f64>,
    /// The last one; null without a reading.
    pub last: Option<f64>,
    /// Of a counter: its exact increase in the window.
    pub delta: u64,
    /// Decreases of a counter that no wrap explains.
    pub resets: u32,
    /// What else happened: "saturated" and "gap" say that `delta` is a lower bound; "restarted", that a part of it is
    /// missing; "wrapped", "baseline" (first reading), "partial" (a short window).
    pub flags: Vec<String>,
    /// Inputs were lossy since then, RFC 3339.
    pub incomplete_since: Option<String>,
}

/// A line of `railwatch optics`: one module as it was read last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpticsRow {
    /// Its host.
    pub host: String,
    /// The network interface it is behind.
    pub interface: String,
    /// "SFF-8472", "SFF-8636", "CMIS"; null where not known.
    pub standard: Option<String>,
    /// Of that standard.
    pub revision: Option<String>,
    /// Its manufacturer.
    pub vendor: Option<String>,
    /// The manufacturer's part number.
    pub part_number: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// YYMMDD and a lot code.
    pub date_code: Option<String>,
    /// "ready", "low_power", ..., "unplugged".
    pub state: Option<String>,
    /// Null where it is not measured.
    pub temperature_c: Option<f64>,
    /// Null where it is not measured.
    pub vcc_v: Option<f64>,
    /// Its lanes of light.
    pub lanes: Vec<OpticsLaneRow>,
    /// Its own thresholds, by quantity; those it does not give are not there.
    pub thresholds: BTreeMap<String, OpticsLimitsRow>,
    /// All checksums of its memory fit; null where none could be computed.
    pub checksum_ok: Option<bool>,
    /// What its memory lacks or contradicts itself in.
    pub problems: Vec<String>,
    /// The other end of its cable, where a switch says that it hears the host there.
    pub far_end: Option<FarEndRow>,
}

/// A lane of a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpticsLaneRow {
    /// From 1.
    pub lane: u32,
    /// Null where it is not measured.
    pub tx_power_mw: Option<f64>,
    /// Null where it is not measured.
    pub tx_bias_ma: Option<f64>,
    /// Null where it is not measured.
    pub rx_power_mw: Option<f64>,
    /// No signal from the host since the reading before.
    pub tx_los: Option<bool>,
    /// No light since the reading before.
    pub rx_los: Option<bool>,
    /// Its transmitter failed since the reading before.
    pub tx_fault: Option<bool>,
    /// Of the received light; null where it is not measured.
    pub snr_db: Option<f64>,
}

/// Thresholds of one quantity; null where one is not given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpticsLimitsRow {
    /// Above it is an alarm.
    pub high_alarm: Option<f64>,
    /// Below it is an alarm.
    pub low_alarm: Option<f64>,
    /// Above it is a warning.
    pub high_warning: Option<f64>,
    /// Below it is a warning.
    pub low_warning: Option<f64>,
}

/// Something that `railwatch watch` tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// A host's stream opened.
    HostConnected {
        /// Which.
        host: String,
    },
    /// A host's stream ended.
    HostDisconnected {
        /// Which.
        host: String,
    },
    /// A host's CLOCK_REALTIME was stepped.
    HostClockStepped {
        /// Which.
        host: String,
        /// By how much, microseconds.
        step_us: i64,
    },
    /// A host's GPU processes or their coverage changed.
    Gpu {
        /// Which.
        host: String,
    },
    /// A port of a host changed its state.
    Port {
        /// Which host.
        host: String,
        /// Which port.
        port: String,
        /// Its state now.
        state: String,
    },
    /// A host has not been heard for so long that its live state was let go.
    HostForgotten {
        /// Which.
        host: String,
    },
}

/// A line of `railwatch placement`: one host's devices, and how near each GPU is to the others, to NICs and to disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// Its name.
    pub host: String,
    /// GPUs, NICs, NVMe controllers, PCIe switches.
    pub devices: Vec<DeviceRow>,
    /// From GPUs.
    pub paths: Vec<PathRow>,
    /// What is not known on this host, and why.
    pub off: Vec<LimitationRow>,
}

/// A device of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// "gpu", "nic", "nvme", "pcie_switch".
    pub kind: String,
    /// "0", "eth0", "nvme0".
    pub name: String,
    /// "0000:3b:00.0".
    pub pci_address: String,
    /// Null where the firmware does not say.
    pub numa_node: Option<i32>,
    /// PCI addresses of the bridges above it, the root port last.
    pub upstream: Vec<String>,
    /// Of a GPU, where known.
    pub uuid: Option<String>,
    /// "mlx5_0/1" of a NIC.
    pub aliases: Vec<String>,
}

/// How near two devices are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathRow {
    /// "gpu/0".
    pub from: String,
    /// "nic/eth0".
    pub to: String,
    /// "nvlink", "pcie_switch", "root_port", "numa_node", "system", the nearest first.
    pub kind: String,
    /// NVLinks between the two.
    pub links: u32,
}

/// A line of `railwatch jobs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// The scheduler's identifier; "communicator:ID" or "process:HOST:PID" where nobody gave one.
    pub job: String,
    /// "slurm", "kubernetes"; null where none is known.
    pub scheduler: Option<String>,
    /// What people called it, where known.
    pub name: Option<String>,
    /// Where its processes run.
    pub hosts: Vec<String>,
    /// Its processes that use a GPU, by rank; ended ones for some minutes.
    pub ranks: Vec<JobRankRow>,
    /// As its launcher told it; else the size of its largest communicator.
    pub world_size: Option<u32>,
    /// Those whose making was seen.
    pub communicators: Vec<JobCommunicatorRow>,
}

/// A process of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRankRow {
    /// As its launcher told it; where it told none of the job, that in its largest communicator.
    pub rank: Option<u32>,
    /// Its host.
    pub host: String,
    /// In that host's pid namespace.
    pub pid: u32,
    /// Program name, at most 15 bytes.
    pub comm: String,
    /// On its host.
    pub local_rank: Option<u32>,
    /// Devices on which it holds memory, or held.
    pub gpus: Vec<RankDeviceRow>,
    /// Container id.
    pub container: Option<String>,
    /// UID of its pod.
    pub pod: Option<String>,
    /// The scheduler's part of the job.
    pub step: Option<String>,
    /// RFC 3339.
    pub started: String,
    /// RFC 3339; null while it lives.
    pub exited_at: Option<String>,
    /// Null where a signal ended it, or where it is not known.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub exit_signal: Option<i32>,
    /// Of one that a signal ended.
    pub core_dumped: Option<bool>,
    /// Chosen by the kernel's out-of-memory killer; null where its kernel does not tell.
    pub oom_killed: Option<bool>,
    /// Allow-listed variables.
    pub environment: BTreeMap<String, String>,
    /// What is said of it and cannot all be true.
    pub contradictions: Vec<String>,
}

/// A device of a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankDeviceRow {
    /// As the process counts its devices.
    pub ordinal: i32,
    /// Where no other device can be meant.
    pub uuid: Option<String>,
}

/// A communicator of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobCommunicatorRow {
    /// Alike on all ranks.
    pub identity: String,
    /// "nccl", "rccl", "hccl".
    pub library: String,
    /// How many it has.
    pub ranks: Option<u32>,
    /// Of those, on hosts that are watched.
    pub ranks_seen: u32,
    /// Of the rank that is least far.
    pub sequence_min: u64,
    /// Of the rank that is furthest.
    pub sequence_max: u64,
}
