//! Names for Prometheus: `railwatch_`, the canonical name with `_` for `.`, the base unit, `_total` for a counter.
//!
//! Base units: https://prometheus.io/docs/practices/naming/#base-units (seconds, bytes, ratios 0 to 1, never milliseconds,
//! bits or percent).

use crate::{Kind, Series};
use std::borrow::Cow;

/// A unit as Prometheus writes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaseUnit {
    /// Suffix of the name; `None` for plain counts and states.
    pub suffix: Option<&'static str>,
    /// So many base units are one of ours.
    pub factor: f64,
}

/// The base unit of a UCUM code; annotations such as `{packet}` and `1` have none.
#[must_use]
pub fn base_unit(ucum: &str) -> BaseUnit {
    let (suffix, factor) = match ucum {
        "By" => ("bytes", 1.0),
        "s" => ("seconds", 1.0),
        "ms" => ("seconds", 1e-3),
        "us" => ("seconds", 1e-6),
        "ns" => ("seconds", 1e-9),
        "By/s" => ("bytes_per_second", 1.0),
        "bit/s" => ("bytes_per_second", 0.125),
        "{transfer}/s" => ("transfers_per_second", 1.0),
        "Cel" => ("celsius", 1.0),
        "V" => ("volts", 1.0),
        "A" => ("amperes", 1.0),
        "mA" => ("amperes", 1e-3),
        "W" => ("watts", 1.0),
        "mW" => ("watts", 1e-3),
        "J" => ("joules", 1.0),
        "mJ" => ("joules", 1e-3),
        "dB" => ("decibels", 1.0),
        "[ppm]" => ("ratio", 1e-6),
        "Hz" => ("hertz", 1.0),
        _ => return BaseUnit { suffix: None, factor: 1.0 },
    };
    BaseUnit { suffix: Some(suffix), factor }
}

/// Any name with what Prometheus allows in one.
#[must_use]
pub fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl Series {
    /// Its unit for Prometheus.
    #[must_use]
    pub fn base_unit(&self) -> BaseUnit {
        match self.kind {
            Kind::Fraction => BaseUnit { suffix: Some("ratio"), factor: 1.0 },
            _ => base_unit(self.unit),
        }
    }

    /// Its name on the agent's page.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let unit = self.base_unit().suffix.map_or(Cow::Borrowed(""), |unit| format!("_{unit}").into());
        let total = if self.kind.is_counter() { "_total" } else { "" };
        format!("railwatch_{}{unit}{total}", plain(self.name))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_carry_base_unit_and_total() {
        for (name, expected) in [
            ("hw.network.io", "railwatch_hw_network_io_bytes_total"),
            ("hw.network.up", "railwatch_hw_network_up"),
            ("hw.network.speed", "railwatch_hw_network_speed_bytes_per_second"),
            ("hw.network.pfc.pause_time", "railwatch_hw_network_pfc_pause_time_seconds_total"),
            ("gpu.utilization", "railwatch_gpu_utilization_ratio"),
            ("gpu.energy", "railwatch_gpu_energy_joules_total"),
            ("hw.optics.rx_power", "railwatch_hw_optics_rx_power_watts"),
            ("rdma.port.cnp", "railwatch_rdma_port_cnp_total"),
        ] {
            assert_eq!(crate::find(name).map(crate::Series::prometheus_name).as_deref(), Some(expected));
        }
    }
}
