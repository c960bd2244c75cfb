//! Fault modes and actions as data: what each fault costs while it lasts, and what cures it at what price.
//!
//! Figures are in GPU-seconds and seconds. They rank actions; they are not measurements.

/// An action the engine can propose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Action {
    pub name: &'static str,
    /// What it costs in itself, GPU-seconds.
    pub cost_gpu_s: f64,
    /// The leading hypothesis must be at least this likely.
    pub posterior_min: f64,
    /// It must rest on at least this many independent pieces of evidence.
    pub evidence_min: usize,
    /// Orders per hour over all targets.
    pub per_hour_max: usize,
    /// At most this share of the watched hosts under this action within an hour (one is always allowed).
    pub hosts_percent_max: Option<usize>,
    /// It acts on the whole host, not on the element.
    pub on_host: bool,
}

pub(crate) const OBSERVE: &str = "observe";

pub(crate) const ACTIONS: [Action; 3] = [
    Action {
        name: OBSERVE,
        cost_gpu_s: 0.0,
        posterior_min: 0.0,
        evidence_min: 0,
        per_hour_max: usize::MAX,
        hosts_percent_max: None,
        on_host: false,
    },
    Action {
        name: "ticket",
        cost_gpu_s: 60.0,
        posterior_min: 0.3,
        evidence_min: 1,
        per_hour_max: 200,
        hosts_percent_max: None,
        on_host: false,
    },
    Action {
        name: "cordon_node",
        cost_gpu_s: 2_400.0,
        posterior_min: 0.8,
        evidence_min: 2,
        per_hour_max: 10,
        hosts_percent_max: Some(2),
        on_host: true,
    },
];

pub(crate) fn action(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

/// How well an action cures a fault mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cure {
    pub action: &'static str,
    pub probability: f64,
    pub takes_s: f64,
}

/// What a fault mode costs, and what cures it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FaultMode {
    pub name: &'static str,
    /// GPUs lost while it lasts; `None`: all of the host's.
    pub gpus: Option<f64>,
    /// Losing observations is what this fault predicts, so lossy evidence does not weaken it.
    pub loss_is_symptom: bool,
    pub cures: [Cure; 3],
}

const fn cures(observe: (f64, f64), ticket: (f64, f64), cordon: (f64, f64)) -> [Cure; 3] {
    [
        Cure { action: OBSERVE, probability: observe.0, takes_s: observe.1 },
        Cure { action: "ticket", probability: ticket.0, takes_s: ticket.1 },
        Cure { action: "cordon_node", probability: cordon.0, takes_s: cordon.1 },
    ]
}

const fn mode(name: &'static str, gpus: Option<f64>, loss_is_symptom: bool, cures: [Cure; 3]) -> FaultMode {
    FaultMode { name, gpus, loss_is_symptom, cures }
}

/// Each row: probability of a cure and seconds until it, when only observing, with a ticket, with the node cordoned.
pub(crate) const FAULT_MODES: [FaultMode; 17] = [
    // Nothing heard from one host.
    mode("agent_silent", Some(0.5), true, cures((0.3, 300.0), (0.9, 1800.0), (0.0, 0.0))),
    mode("host_down", None, true, cures((0.2, 600.0), (0.9, 1800.0), (0.95, 120.0))),
    mode("uplink_lost", Some(0.5), true, cures((0.4, 300.0), (0.9, 1800.0), (0.0, 0.0))),
    mode("agent_stalled", Some(0.5), true, cures((0.8, 120.0), (0.9, 1800.0), (0.0, 0.0))),
    // Nothing heard from many hosts at once.
    mode("collector_cut_off", Some(0.5), true, cures((0.4, 300.0), (0.9, 1800.0), (0.0, 0.0))),
    mode("shared_network_or_power", None, true, cures((0.2, 600.0), (0.9, 1800.0), (0.0, 0.0))),
    // A port.
    mode("link_down", None, true, cures((0.2, 300.0), (0.9, 1800.0), (0.95, 60.0))),
    mode("link_flapping", None, true, cures((0.1, 600.0), (0.9, 1800.0), (0.95, 60.0))),
    mode("link_errors", Some(2.0), false, cures((0.1, 600.0), (0.9, 1800.0), (0.95, 60.0))),
    mode("link_taken_down", Some(0.1), true, cures((0.8, 600.0), (0.9, 600.0), (0.0, 0.0))),
    // What probes lost on their way; a link's job slows with its loss.
    mode("path_loss", None, true, cures((0.1, 600.0), (0.9, 1800.0), (0.0, 0.0))),
    mode("path_blackhole", None, true, cures((0.05, 600.0), (0.9, 1800.0), (0.0, 0.0))),
    mode("path_long_packets_lost", None, true, cures((0.02, 600.0), (0.9, 1800.0), (0.0, 0.0))),
    // Allocations of one process.
    mode("gpu_out_of_memory", Some(1.0), false, cures((0.2, 600.0), (0.7, 1200.0), (0.0, 0.0))),
    mode("gpu_driver_unusable", Some(1.0), false, cures((0.02, 600.0), (0.9, 1800.0), (0.6, 600.0))),
    mode("gpu_memory_fault", None, false, cures((0.05, 600.0), (0.8, 1800.0), (0.95, 120.0))),
    mode("gpu_allocation_failing", Some(1.0), false, cures((0.1, 600.0), (0.7, 1800.0), (0.3, 600.0))),
];

pub(crate) fn fault_mode(name: &str) -> Option<&'static FaultMode> {
    FAULT_MODES.iter().find(|mode| mode.name == name)
}

/// What an error code of an allocation says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Code {
    pub code: &'static str,
    pub fault_mode: &'static str,
    pub meaning: &'static str,
}

const fn code(code: &'static str, fault_mode: &'static str, meaning: &'static str) -> Code {
    Code { code, fault_mode, meaning }
}

/// CUDA runtime and driver share these numbers since CUDA 10.1 (`driver_types.h`, `cuda.h`), HIP follows them
/// (`hip_runtime_api.h`); Ascend's are its own (`acl_base.h`, `rt_error_codes.h`).
pub(crate) const CODES: [Code; 20] = [
    code("1", "gpu_allocation_failing", "invalid value"),
    code("2", "gpu_out_of_memory", "out of memory"),
    code("3", "gpu_driver_unusable", "initialization error"),
    code("4", "gpu_allocation_failing", "the runtime is unloading"),
    code("35", "gpu_driver_unusable", "the driver is older than the runtime, or there is none"),
    code("36", "gpu_driver_unusable", "the driver's API is incompatible with the call"),
    code("46", "gpu_driver_unusable", "every device is busy or unavailable"),
    code("100", "gpu_driver_unusable", "no device"),
    code("101", "gpu_allocation_failing", "invalid device"),
    code("201", "gpu_allocation_failing", "invalid context"),
    code("214", "gpu_memory_fault", "uncorrectable memory error"),
    code("220", "gpu_memory_fault", "uncorrectable NVLink error"),
    code("700", "gpu_allocation_failing", "an earlier kernel read or wrote a bad address"),
    code("719", "gpu_allocation_failing", "an earlier kernel failed"),
    code("802", "gpu_driver_unusable", "the system is not ready"),
    code("803", "gpu_driver_unusable", "driver and user-space library do not match"),
    code("999", "gpu_allocation_failing", "unknown error"),
    code("200000", "gpu_out_of_memory", "out of memory"),
    code("207001", "gpu_out_of_memory", "out of device memory"),
    code("507053", "gpu_memory_fault", "memory error"),
];

pub(crate) fn code_meaning(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|row| row.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_only_what_exists_and_probabilities_are_such() {
        for mode in &FAULT_MODES {
            for (cure, known) in mode.cures.iter().zip(&ACTIONS) {
                assert_eq!(cure.action, known.name, "{}", mode.name);
                assert!((0.0..=1.0).contains(&cure.probability), "{}", mode.name);
            }
        }
        for row in &CODES {
            assert!(fault_mode(row.fault_mode).is_some(), "{}", row.code);
        }
    }

    #[test]
    fn every_fault_mode_and_every_signal_that_is_read_is_documented() {
        let table = include_str!("../../../docs/fault-modes.md");
        for FaultMode { name, cures, .. } in &FAULT_MODES {
            let row = table.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/fault-modes.md has no row for {name}"));
            let best =
                cures.iter().max_by(|a, b| a.probability.total_cmp(&b.probability)).map_or("", |cure| cure.action);
            assert!(row.contains(&format!("`{best}`")), "{name} is cured best by {best}: {row}");
        }
        let rows = table.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, FAULT_MODES.len(), "a row names a mode that is gone");
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/signals");
        for signal in [
            crate::link::DOWN,
            crate::link::UP,
            crate::link::ERRORS,
            crate::link::SATURATED,
            crate::gpu::FAILED,
            "agent-silence",
        ] {
            assert!(pages.join(format!("{signal}.md")).exists(), "docs/signals/{signal}.md is missing");
        }
    }
}
