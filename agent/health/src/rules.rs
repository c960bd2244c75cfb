//! Which series raise signals, and when: one table.
//!
//! Limits are what an operator would act on, not what is merely unusual; each signal's page in docs/signals says why. None
//! of the counters here stops at its maximum, so that `saturated` is never raised and names the signal itself.

use railwatch_sampling::{Rule, Severity, When};
use std::time::Duration;

const fn moves(series: &'static str, what: &'static str, severity: Severity, raised: &'static str) -> Rule {
    Rule { series, what, severity, when: When::Moves { raised, saturated: raised } }
}

const fn falls(
    series: &'static str,
    what: &'static str,
    severity: Severity,
    raised: &'static str,
    cleared: &'static str,
) -> Rule {
    Rule { series, what, severity, when: When::StateFalls { raised, cleared } }
}

const fn level(
    series: &'static str,
    what: &'static str,
    severity: Severity,
    raised: &'static str,
    cleared: &'static str,
) -> Rule {
    Rule { series, what, severity, when: When::LevelAbove { raised, cleared, above: 0.0 } }
}

/// More than `count` within `seconds`.
const fn more_than(
    count: f64,
    seconds: u32,
    series: &'static str,
    what: &'static str,
    raised: &'static str,
    cleared: &'static str,
) -> Rule {
    let over = Duration::from_secs(seconds as u64);
    Rule {
        series,
        what,
        severity: Warning,
        when: When::RateAbove { raised, cleared, limit_per_s: count / seconds as f64, over },
    }
}

use Severity::{Critical, Error, Warning};

/// The rules of all health sources.
pub const RULES: &[Rule] = &[
    // Microseconds of stall: a tenth, and a third, of ten seconds in which nobody got on.
    more_than(
        1e6,
        10,
        "host.pressure.memory.full",
        "time in which every task waited for memory",
        "host.pressure.high",
        "host.pressure.normal",
    ),
    more_than(
        3e6,
        10,
        "host.pressure.io.full",
        "time in which every task waited for a disk",
        "host.pressure.high",
        "host.pressure.normal",
    ),
    moves(crate::edac::UNCORRECTED, "uncorrected memory errors", Critical, "host.memory.uncorrected"),
    more_than(
        10.0,
        600,
        crate::edac::CORRECTED,
        "corrected memory errors",
        "host.memory.corrected.high",
        "host.memory.corrected.normal",
    ),
    moves("host.machine_check.exceptions", "machine-check exceptions", Critical, "host.machine_check"),
    moves("host.machine_check.deferred", "deferred errors", Error, "host.machine_check"),
    more_than(1.0, 10, "cpu.thermal_throttles", "throttling by heat", "cpu.throttled", "cpu.unthrottled"),
    falls("pcie.device.present", "the device on the bus", Critical, "pcie.device.vanished", "pcie.device.returned"),
    level("pcie.link.lanes_missing", "lanes missing from its link", Error, "pcie.link.degraded", "pcie.link.whole"),
    moves("pcie.errors.fatal", "fatal bus errors", Critical, "pcie.errors"),
    moves("pcie.errors.nonfatal", "uncorrectable bus errors", Error, "pcie.errors"),
    more_than(
        60.0,
        60,
        "pcie.errors.correctable",
        "corrected bus errors",
        "pcie.correctable.high",
        "pcie.correctable.normal",
    ),
    falls("nvme.live", "the controller", Error, "nvme.down", "nvme.up"),
    falls("gpu.reachable", "the GPU to its driver", Critical, "gpu.lost", "gpu.back"),
    moves(crate::nvml::ECC_UNCORRECTED, "uncorrected ECC errors", Critical, "gpu.ecc.uncorrected"),
    more_than(
        100.0,
        600,
        crate::nvml::ECC_CORRECTED,
        "corrected ECC errors",
        "gpu.ecc.corrected.high",
        "gpu.ecc.corrected.normal",
    ),
    level("gpu.row_remap.failure", "failed row remaps", Critical, "gpu.row_remap.failed", "gpu.row_remap.whole"),
    level(
        "gpu.row_remap.pending",
        "row remaps that wait for a reset",
        Warning,
        "gpu.row_remap.waits",
        "gpu.row_remap.done",
    ),
    level("gpu.throttle.thermal", "clocks held down by heat", Warning, "gpu.throttled", "gpu.unthrottled"),
    level("gpu.throttle.brake", "clocks held down by the power brake", Error, "gpu.throttled", "gpu.unthrottled"),
    moves("gpu.nvlink.recoveries", "NVLink recoveries", Error, "gpu.nvlink.errors"),
    more_than(60.0, 60, "gpu.nvlink.replays", "NVLink replays", "gpu.nvlink.errors.high", "gpu.nvlink.errors.normal"),
    more_than(
        60.0,
        60,
        "gpu.nvlink.crc_errors",
        "NVLink CRC errors",
        "gpu.nvlink.errors.high",
        "gpu.nvlink.errors.normal",
    ),
    more_than(60.0, 60, "gpu.pcie.replays", "PCIe replays", "pcie.correctable.high", "pcie.correctable.normal"),
    falls("npu.reachable", "the NPU to its driver", Critical, "npu.lost", "npu.back"),
    Rule {
        series: "npu.health",
        what: "the alarm of its own health",
        severity: Error,
        when: When::LevelAbove { raised: "npu.health.bad", cleared: "npu.health.good", above: 1.0 },
    },
    moves("npu.ecc.uncorrected", "uncorrected ECC errors", Critical, "npu.ecc.uncorrected"),
    more_than(
        100.0,
        600,
        "npu.ecc.corrected",
        "corrected ECC errors",
        "npu.ecc.corrected.high",
        "npu.ecc.corrected.normal",
    ),
    falls("npu.link.up", "the link of the NPU's port", Error, "npu.link.down", "npu.link.up"),
    falls(
        "npu.module.present",
        "the optical module of the NPU's port",
        Error,
        "npu.module.absent",
        "npu.module.present",
    ),
    moves("npu.port.errors", "errors of the NPU's port", Error, "npu.port.errors"),
    moves("npu.port.errors.crc", "checksum errors of the NPU's port", Error, "npu.port.errors"),
    level("disk.smart.failing", "what the disk warns of", Critical, "disk.failing", "disk.sound"),
    level("disk.smart.spare_low", "spare capacity at its threshold", Error, "disk.spare.low", "disk.spare.enough"),
    Rule {
        series: "disk.smart.wear",
        what: "the part of its rated endurance that is used",
        severity: Warning,
        when: When::LevelAbove { raised: "disk.wear.high", cleared: "disk.wear.normal", above: 0.99 },
    },
    moves(
        "disk.smart.media_errors",
        "errors of its medium that the disk could not correct",
        Error,
        "disk.media_errors",
    ),
    moves("disk.smart.sectors.reallocated", "reallocated sectors", Warning, "disk.sectors.reallocated"),
    level(
        "disk.smart.sectors.pending",
        "sectors that cannot be read",
        Error,
        "disk.sectors.pending",
        "disk.sectors.settled",
    ),
    moves("disk.smart.link.crc_errors", "checksum errors of its cable", Warning, "disk.link.errors"),
    falls(
        "host.clock.synchronized",
        "the synchronisation of the clock",
        Warning,
        "host.clock.unsynchronized",
        "host.clock.synchronized",
    ),
    moves("host.kmsg.lost", "records of the kernel's log that were overwritten unread", Warning, "host.kmsg.lost"),
];

#[cfg(test)]
mod tests {
    use super::RULES;
    use std::collections::HashSet;

    #[test]
    fn a_series_has_one_rule() {
        let series: HashSet<_> = RULES.iter().map(|rule| rule.series).collect();
        assert_eq!(series.len(), RULES.len(), "only the first rule of a series is looked at");
    }
}
