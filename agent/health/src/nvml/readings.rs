//! What is read of a GPU: one table. A group is what one or two calls bring together.

use super::library::{Code, Device, Library};
use railwatch_sampling::{Counter, Kind};

/// Corrected ECC errors since the driver was loaded.
pub(crate) const ECC_CORRECTED: &str = "gpu.ecc.corrected";
/// Uncorrected ECC errors since the driver was loaded.
pub(crate) const ECC_UNCORRECTED: &str = "gpu.ecc.uncorrected";

/// How a value behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// A value of its own, times this.
    Gauge(f64),
    /// A count of so many bits.
    Counts(u8),
}

impl Shape {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Gauge(_) => Kind::Gauge,
            Self::Counts(bits) => Kind::Counter(Counter::wrapping(bits)),
        }
    }
}

/// Values that are read together.
pub(super) struct Group {
    /// Name, unit and behaviour of each.
    pub(super) series: &'static [(&'static str, &'static str, Shape)],
    /// Dear enough to be read more rarely.
    pub(super) is_slow: bool,
    /// Reads them, in the order of `series`.
    pub(super) read: fn(&Library, Device) -> Result<[u64; 4], Code>,
}

use Shape::{Counts, Gauge};

/// nvmlClocksEventReason*: software and hardware thermal slowdown.
const THERMAL: u64 = 0x20 | 0x40;
/// Hardware slowdown by an external power brake assertion.
const POWER_BRAKE: u64 = 0x80;
/// Software power cap: the limit set for the GPU, normal under load.
const POWER_CAP: u64 = 0x4;

#[rustfmt::skip]
pub(super) const GROUPS: &[Group] = &[
    Group {
        series: &[("gpu.utilization", "1", Gauge(0.01)), ("gpu.memory.utilization", "1", Gauge(0.01))],
        is_slow: false,
        read: |nvml, gpu| nvml.utilization(gpu).map(|(gpu, memory)| [gpu, memory, 0, 0]),
    },
    Group {
        series: &[("gpu.memory.used", "By", Gauge(1.0)), ("gpu.memory.total", "By", Gauge(1.0))],
        is_slow: false,
        read: |nvml, gpu| nvml.memory(gpu).map(|(used, total)| [used, total, 0, 0]),
    },
    Group {
        series: &[("gpu.clock.sm", "Hz", Gauge(1e6)), ("gpu.clock.memory", "Hz", Gauge(1e6))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.clock_mhz(gpu, 1)?, nvml.clock_mhz(gpu, 2)?, 0, 0]),
    },
    Group {
        series: &[("gpu.temperature", "Cel", Gauge(1.0))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.temperature_c(gpu)?, 0, 0, 0]),
    },
    Group {
        series: &[("gpu.power", "W", Gauge(1e-3))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.power_mw(gpu)?, 0, 0, 0]),
    },
    Group {
        series: &[("gpu.energy", "mJ", Counts(64))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.energy_mj(gpu)?, 0, 0, 0]),
    },
    Group {
        series: &[("gpu.throttle.thermal", "1", Gauge(1.0)), ("gpu.throttle.brake", "1", Gauge(1.0)), ("gpu.throttle.power_cap", "1", Gauge(1.0))],
        is_slow: false,
        read: |nvml, gpu| {
            let reasons = nvml.throttle_reasons(gpu)?;
            let has = |mask: u64| u64::from(reasons & mask != 0);
            Ok([has(THERMAL), has(POWER_BRAKE), has(POWER_CAP), 0])
        },
    },
    Group {
        series: &[(ECC_CORRECTED, "{error}", Counts(64)), (ECC_UNCORRECTED, "{error}", Counts(64))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.ecc_errors(gpu, 0, 0)?, nvml.ecc_errors(gpu, 1, 0)?, 0, 0]),
    },
    Group {
        series: &[("gpu.ecc.lifetime.corrected", "{error}", Counts(64)), ("gpu.ecc.lifetime.uncorrected", "{error}", Counts(64))],
        is_slow: true,
        read: |nvml, gpu| Ok([nvml.ecc_errors(gpu, 0, 1)?, nvml.ecc_errors(gpu, 1, 1)?, 0, 0]),
    },
    Group {
        series: &[
            ("gpu.row_remap.corrected", "{row}", Gauge(1.0)),
            ("gpu.row_remap.uncorrected", "{row}", Gauge(1.0)),
            ("gpu.row_remap.pending", "1", Gauge(1.0)),
            ("gpu.row_remap.failure", "1", Gauge(1.0)),
        ],
        is_slow: true,
        read: |nvml, gpu| nvml.remapped_rows(gpu),
    },
    Group {
        series: &[("gpu.nvlink.replays", "{event}", Counts(64)), ("gpu.nvlink.recoveries", "{event}", Counts(64)), ("gpu.nvlink.crc_errors", "{error}", Counts(64)), ("gpu.nvlink.active", "{link}", Gauge(1.0))],
        is_slow: true,
        read: |nvml, gpu| nvml.nvlink_errors(gpu),
    },
    Group {
        series: &[("gpu.pcie.replays", "{event}", Counts(32))],
        is_slow: false,
        read: |nvml, gpu| Ok([nvml.pcie_replays(gpu)?, 0, 0, 0]),
    },
];
