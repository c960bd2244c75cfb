//! What the agent is told: a TOML file, every field with a default, and the flags that override it.
//!
//! In: the text of the file. Out: a [`Config`] whose every value is in range, or a [`ConfigError`] that names file, line,
//! column and field. Never: an unknown field passed over, a value corrected in silence, or a half-taken file.

mod change;
mod value;

pub use change::{Effect, changes};
pub use value::{Endpoint, Scope};

use railwatch_health::HealthConfig;
use railwatch_pki::{CredentialFiles, HostName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use value::{absolute_paths, bounded, host_name, log_filter, share_percent};

/// Where the file is unless `--config` says otherwise. This one may be absent.
pub const PATH_DEFAULT: &str = "/etc/railwatch/agent.toml";
/// Largest file read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything an agent can be told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this host; must be the one in its certificate. The kernel's host name where absent.
    #[serde(deserialize_with = "host_name")]
    pub host_name: Option<HostName>,
    /// Where the spool lies.
    pub state_dir: PathBuf,
    /// What is logged: `info`, or directives such as `warn,railwatch_agent=debug`.
    #[serde(deserialize_with = "log_filter")]
    pub log: String,
    /// `HOST:PORT` of the collector's uplink.
    pub collector: Endpoint,
    /// The name the collector's certificate must carry; the host of `collector` where absent.
    pub server_name: Option<String>,
    /// Directory with `ca.pem`, `agent.pem` and `agent.key`; each can be named by itself below.
    pub pki_dir: PathBuf,
    /// CAs to trust, PEM.
    pub tls_trust: Option<PathBuf>,
    /// Own certificate chain, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Own private key, PEM, mode 0600.
    pub tls_key: Option<PathBuf>,
    /// Where the page for Prometheus listens; port 0 takes a free one.
    pub metrics_listen: SocketAddr,
    /// GPU accounting.
    pub gpu: Gpu,
    /// Sampling of NICs.
    pub sampling: Sampling,
    /// What waits on disk for the collector.
    pub spool: Spool,
    /// Packet drops.
    pub drops: Drops,
    /// Health of the host and its accelerators.
    pub health: Health,
    /// Every reading of the last minutes, in memory.
    pub tape: Tape,
    /// Probes of other hosts.
    pub probe: Probe,
    /// Whom this host talks to.
    pub peers: Peers,
    /// What is installed and set on the host.
    pub inventory: Inventory,
    /// Times of disk requests.
    pub disk: Disk,
}

/// GPU accounting.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Whether processes are traced at all.
    pub enabled: bool,
    /// Which part of the host: `none` (all of it), `netns` (this network namespace) or `cgroup:PATH`.
    pub scope: Scope,
    /// Directory on a bpffs where maps and links survive a restart; an empty text pins nothing.
    pub pin_dir: PathBuf,
    /// Libraries to probe before any process loads them, beside those that the host's loader knows: absolute paths, in
    /// which `*` stands for any characters within one name.
    #[serde(deserialize_with = "absolute_paths")]
    pub extra_paths: Vec<String>,
    /// Events one process may send a second; the rest are counted, not sent.
    #[serde(deserialize_with = "bounded::<_, 1, 1_000_000>")]
    pub events_per_process_per_s: u64,
    /// Series of one host for memory by process and device; processes beyond it are in the table, not in the windows.
    #[serde(deserialize_with = "bounded::<_, 0, 10_000>")]
    pub series_max: u64,
}

/// Sampling of NICs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Where sysfs is mounted.
    pub sysfs_root: PathBuf,
    /// Kinds of software interface to read beside those with a device: `veth`, `bond`, `vlan`.
    pub software_interfaces: Vec<String>,
    /// Series over all sources; those beyond are refused and counted.
    #[serde(deserialize_with = "bounded::<_, 1, 20_000>")]
    pub series_max: u64,
    /// Processor time that all sources together may use, in percent of one core; beyond it the dearest is read less often.
    #[serde(deserialize_with = "share_percent")]
    pub cpu_budget_percent: f64,
    /// Time for which the reads of one source may hold RTNL, the kernel's lock on network interfaces, in percent; beyond it the
    /// source is read less often. Ten times as much in a burst.
    #[serde(deserialize_with = "share_percent")]
    pub rtnl_budget_percent: f64,
    /// Milliseconds between reads, by source; each source has its own default and range.
    pub cadence_ms: BTreeMap<SourceName, CadenceMs>,
}

/// A source that can be told a cadence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum SourceName {
    /// Statistics of network interfaces.
    #[serde(rename = "netdev")]
    Netdev,
    /// State of network interfaces.
    #[serde(rename = "netdev.link")]
    NetdevLink,
    /// Hardware counters of RDMA ports.
    #[serde(rename = "rdma.hw")]
    RdmaHw,
    /// Port counters of RDMA ports.
    #[serde(rename = "rdma.pma")]
    RdmaPma,
    /// State of RDMA ports.
    #[serde(rename = "rdma.link")]
    RdmaLink,
    /// Drivers' own statistics of network interfaces.
    #[serde(rename = "netdev.driver")]
    NetdevDriver,
    /// Pause frames, FEC and physical links.
    #[serde(rename = "netdev.queues")]
    NetdevQueues,
    /// Priority flow control by DCB.
    #[serde(rename = "netdev.dcb")]
    NetdevDcb,
    /// Packet drops.
    #[serde(rename = "drops")]
    Drops,
    /// Optical modules.
    #[serde(rename = "optics")]
    Optics,
    /// Pressure stall information.
    #[serde(rename = "psi")]
    Psi,
    /// Block devices.
    #[serde(rename = "disk")]
    Disk,
    /// Memory errors.
    #[serde(rename = "edac")]
    Edac,
    /// Machine checks.
    #[serde(rename = "mce")]
    Mce,
    /// Heat of processors.
    #[serde(rename = "thermal")]
    Thermal,
    /// PCIe devices.
    #[serde(rename = "pcie")]
    Pcie,
    /// NVMe controllers.
    #[serde(rename = "nvme")]
    Nvme,
    /// NVIDIA GPUs.
    #[serde(rename = "gpu.nvml")]
    GpuNvml,
    /// Ports on Huawei's NPUs.
    #[serde(rename = "npu.hccn")]
    NpuHccn,
    /// The kernel's log.
    #[serde(rename = "kmsg")]
    Kmsg,
    /// Neighbours by LLDP.
    #[serde(rename = "lldp")]
    Lldp,
    /// RDMA queue pairs.
    #[serde(rename = "rdma.qp")]
    RdmaQp,
    /// TCP connections of GPU processes.
    #[serde(rename = "tcp.flows")]
    TcpFlows,
    /// What is installed and set.
    #[serde(rename = "inventory")]
    Inventory,
    /// Times of disk requests.
    #[serde(rename = "disk.latency")]
    DiskLatency,
    /// Health that disks report of themselves.
    #[serde(rename = "disk.smart")]
    DiskSmart,
    /// Huawei's NPUs.
    #[serde(rename = "npu.dcmi")]
    NpuDcmi,
    /// The host's clock.
    #[serde(rename = "clock")]
    Clock,
    /// Where packets are sent.
    #[serde(rename = "routes")]
    Routes,
    /// Whether GPU processes run.
    #[serde(rename = "process.sched")]
    ProcessSched,
}

impl SourceName {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::Netdev,
        Self::NetdevLink,
        Self::RdmaHw,
        Self::RdmaPma,
        Self::RdmaLink,
        Self::NetdevDriver,
        Self::NetdevQueues,
        Self::NetdevDcb,
        Self::Drops,
        Self::Optics,
        Self::Psi,
        Self::Disk,
        Self::Edac,
        Self::Mce,
        Self::Thermal,
        Self::Pcie,
        Self::Nvme,
        Self::GpuNvml,
        Self::NpuHccn,
        Self::Kmsg,
        Self::Lldp,
        Self::RdmaQp,
        Self::TcpFlows,
        Self::Inventory,
        Self::DiskLatency,
        Self::DiskSmart,
        Self::NpuDcmi,
        Self::Clock,
        Self::Routes,
        Self::ProcessSched,
    ];

    /// As the source calls itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::NetdevLink => "netdev.link",
            Self::RdmaHw => "rdma.hw",
            Self::RdmaPma => "rdma.pma",
            Self::RdmaLink => "rdma.link",
            Self::NetdevDriver => "netdev.driver",
            Self::NetdevQueues => "netdev.queues",
            Self::NetdevDcb => "netdev.dcb",
            Self::Drops => "drops",
            Self::Optics => "optics",
            Self::Psi => "psi",
            Self::Disk => "disk",
            Self::Edac => "edac",
            Self::Mce => "mce",
            Self::Thermal => "thermal",
            Self::Pcie => "pcie",
            Self::Nvme => "nvme",
            Self::GpuNvml => "gpu.nvml",
            Self::NpuHccn => "npu.hccn",
            Self::Kmsg => "kmsg",
            Self::Lldp => "lldp",
            Self::RdmaQp => "rdma.qp",
            Self::TcpFlows => "tcp.flows",
            Self::Inventory => "inventory",
            Self::DiskLatency => "disk.latency",
            Self::DiskSmart => "disk.smart",
            Self::NpuDcmi => "npu.dcmi",
            Self::Clock => "clock",
            Self::Routes => "routes",
            Self::ProcessSched => "process.sched",
        }
    }
}

/// Milliseconds between two reads, 1 to 600,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct CadenceMs(#[serde(deserialize_with = "bounded::<_, 1, 600_000>")] u64);

impl From<CadenceMs> for Duration {
    fn from(cadence: CadenceMs) -> Self {
        Self::from_millis(cadence.0)
    }
}

/// What waits on disk for the collector.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// Bytes on disk; beyond them the oldest windows go first, then the oldest signals, all counted.
    #[serde(deserialize_with = "bounded::<_, 1_048_576, 1_099_511_627_776>")]
    pub bytes_max: u64,
}

/// Packets that the kernel drops.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drops {
    /// Whether they are counted at all.
    pub enabled: bool,
    /// Which part of the host: `none` (all of it) or `netns` (this network namespace).
    pub scope: Scope,
}

/// Times of disk requests, counted in the kernel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Whether they are timed at all.
    pub enabled: bool,
}

impl Default for Disk {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Health of the host and its accelerators.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Whether any of it is read.
    pub enabled: bool,
    /// Where procfs is mounted; sysfs is where `sampling.sysfs_root` says.
    pub procfs_root: PathBuf,
    /// NVIDIA's management library: a name that the loader looks up, or a path.
    pub nvml_library: PathBuf,
    /// Huawei's management library for its NPUs: a name that the loader looks up, or a path.
    pub dcmi_library: PathBuf,
    /// Huawei's tool for the ports on its NPUs.
    pub hccn_tool: PathBuf,
    /// Where the helper that reads the kernel's log sends to; an empty text: there is no helper.
    pub kmsg_socket: PathBuf,
    /// Where the helper that asks disks for their health sends to; an empty text: there is no helper.
    pub disk_socket: PathBuf,
}

impl Default for Health {
    fn default() -> Self {
        let HealthConfig {
            sysfs_root: _,
            procfs_root,
            nvml_library,
            dcmi_library,
            hccn_tool,
            kmsg_socket,
            disk_socket,
        } = HealthConfig::default();
        let (kmsg_socket, disk_socket) = (kmsg_socket.unwrap_or_default(), disk_socket.unwrap_or_default());
        Self { enabled: true, procfs_root, nvml_library, dcmi_library, hccn_tool, kmsg_socket, disk_socket }
    }
}

impl Config {
    /// What the health sources are told; `None` where they are off.
    pub fn health_sources(&self) -> Option<HealthConfig> {
        let Health { enabled, procfs_root, nvml_library, dcmi_library, hccn_tool, kmsg_socket, disk_socket } =
            self.health.clone();
        enabled.then(|| HealthConfig {
            sysfs_root: self.sampling.sysfs_root.clone(),
            procfs_root,
            nvml_library,
            dcmi_library,
            hccn_tool,
            kmsg_socket: Some(kmsg_socket).filter(|path| path != Path::new("")),
            disk_socket: Some(disk_socket).filter(|path| path != Path::new("")),
        })
    }
}

/// Every reading of the last minutes, in memory.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tape {
    /// Whether it is kept.
    pub enabled: bool,
    /// Memory in bytes; beyond it the oldest readings go, counted.
    #[serde(deserialize_with = "bounded::<_, { railwatch_tape::BYTES_MIN }, 1_073_741_824>")]
    pub bytes_max: u64,
}

/// Cables by LLDP, RDMA queue pairs, TCP connections of GPU processes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peers {
    /// Whether they are looked for.
    pub enabled: bool,
    /// Neighbours and routes are those of this kernel's interfaces, though `sampling.sysfs_root` is another tree: one that emulates
    /// the hardware of this host.
    pub own_interfaces: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host_name: None,
            state_dir: "/var/lib/railwatch/agent".into(),
            log: "info".into(),
            collector: Endpoint::local(7700),
            server_name: None,
            pki_dir: "/etc/railwatch/pki".into(),
            tls_trust: None,
            tls_certificate: None,
            tls_key: None,
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7703)),
            gpu: Gpu::default(),
            sampling: Sampling::default(),
            spool: Spool::default(),
            drops: Drops::default(),
            health: Health::default(),
            tape: Tape::default(),
            probe: Probe::default(),
            peers: Peers::default(),
            inventory: Inventory::default(),
            disk: Disk::default(),
        }
    }
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            enabled: true,
            scope: Scope::None,
            pin_dir: "/sys/fs/bpf/railwatch".into(),
            extra_paths: Vec::new(),
            events_per_process_per_s: 1000,
            series_max: 512,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            sysfs_root: "/sys".into(),
            software_interfaces: Vec::new(),
            series_max: 10_000,
            cpu_budget_percent: 0.7,
            rtnl_budget_percent: 1.0,
            cadence_ms: BTreeMap::new(),
        }
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self { enabled: true, scope: Scope::None }
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self { enabled: true, own_interfaces: false }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self { bytes_max: 256 * 1024 * 1024 }
    }
}

/// What is installed and set on the host. It is read where `sampling.sysfs_root` and `health.procfs_root` say.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inventory {
    /// Whether it is read.
    pub enabled: bool,
}

impl Default for Inventory {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self { enabled: true, bytes_max: railwatch_tape::BYTES_DEFAULT }
    }
}

/// Probes of other hosts, and of this one by them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probe {
    /// Whether probes are answered, and sent as the collector plans.
    pub enabled: bool,
    /// Where they come in.
    pub listen: SocketAddr,
    /// What the members of the cluster share; mode 0600.
    pub key_file: PathBuf,
    /// Probes of one address that are answered, a second.
    #[serde(deserialize_with = "bounded::<_, 1, 100_000>")]
    pub answers_per_source_per_s: u64,
    /// Probes that leave by one NIC, a second, whatever the collector plans; 0: none.
    #[serde(deserialize_with = "bounded::<_, 0, 10_000>")]
    pub packets_per_s_per_nic_max: u64,
    /// Where the helper that lends queue pairs of RDMA NICs connects; empty: nobody is lent any.
    pub verbs_socket: PathBuf,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from(([0; 4], 7704)),
            key_file: "/etc/railwatch/probe.key".into(),
            answers_per_source_per_s: 1000,
            packets_per_s_per_nic_max: 150,
            verbs_socket: PathBuf::new(),
        }
    }
}

/// A file that cannot be taken, and where in it the trouble is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read the configuration {path}: {error}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is no configuration.
    #[error("{path}:{line}:{column}: {message}; the line is `{excerpt}`")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What was expected and what was found.
        message: String,
        /// The line itself.
        excerpt: String,
    },
}

impl Config {
    /// The files of the uplink's keys and certificates.
    pub fn credential_files(&self) -> CredentialFiles {
        let of = |named: &Option<PathBuf>, name| named.clone().unwrap_or_else(|| self.pki_dir.join(name));
        CredentialFiles {
            trust: of(&self.tls_trust, "ca.pem"),
            certificate: of(&self.tls_certificate, "agent.pem"),
            key: of(&self.tls_key, "agent.key"),
            revoked: None,
        }
    }

    /// The name that the collector's certificate must carry.
    pub fn server_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(self.collector.host())
    }

    /// Reads `path`; an absent file is all defaults where it was not `named` by a person.
    pub fn read(path: &Path, named: bool) -> Result<Self, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Self::default()),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(unreadable(std::io::Error::other(format!(
                    "{} bytes; at most 1 MiB is read",
                    metadata.len()
                ))));
            }
            _ => {}
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?, path)
    }

    /// Takes the text of a file; `path` is for the error.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..start).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Refused {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: error.message().replace('\n', ", "),
                excerpt: text[line_start..].lines().next().unwrap_or_default().trim().chars().take(120).collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests;
