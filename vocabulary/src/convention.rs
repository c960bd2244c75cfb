//! OpenTelemetry's semantic conventions, where there is one for a series.
//!
//! Source: open-telemetry/semantic-conventions, docs/hardware/{common,network,gpu,temperature,voltage,memory}.md and
//! model/system/metrics.yaml as of 2026 (all of status "Development"). The canonical names of this table stay what operators
//! type and what identifiers are made of; the OTLP export says the convention's name, unit and attributes.

/// What a convention calls a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convention {
    /// Name of the metric.
    pub name: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// So many of its units are one of ours.
    pub factor: f64,
    /// Attributes with a fixed value: `hw.type`, `error.type`.
    pub attributes: &'static [(&'static str, &'static str)],
}

impl Convention {
    /// The attribute that names the entity: `hw.id` of hardware, `system.device` of a disk.
    #[must_use]
    pub fn entity_attribute(&self) -> Option<&'static str> {
        if self.name.starts_with("hw.") {
            Some("hw.id")
        } else if self.name.starts_with("system.disk.") {
            Some("system.device")
        } else {
            None
        }
    }

    /// The same convention, counted in another unit by us.
    #[must_use]
    pub const fn scaled(self, factor: f64) -> Self {
        Self { factor, ..self }
    }
}

const fn of(name: &'static str, unit: &'static str, attributes: &'static [(&'static str, &'static str)]) -> Convention {
    Convention { name, unit, factor: 1.0, attributes }
}

/// A metric of a network adapter: `hw.network.*`.
#[must_use]
pub const fn network(name: &'static str, unit: &'static str) -> Convention {
    of(name, unit, &[("hw.type", "network")])
}

/// A metric of a GPU.
#[must_use]
pub const fn gpu(name: &'static str, unit: &'static str) -> Convention {
    of(name, unit, &[("hw.type", "gpu")])
}

/// A metric of the system: `system.*`.
#[must_use]
pub const fn system(name: &'static str, unit: &'static str) -> Convention {
    of(name, unit, &[])
}

/// `hw.temperature`, Celsius.
pub const TEMPERATURE: Convention = of("hw.temperature", "Cel", &[("hw.type", "temperature")]);
/// `hw.voltage`, volts.
pub const VOLTAGE: Convention = of("hw.voltage", "V", &[("hw.type", "voltage")]);

/// `hw.errors` with its `hw.type` and `error.type`.
#[must_use]
pub const fn errors(attributes: &'static [(&'static str, &'static str)]) -> Convention {
    of("hw.errors", "{error}", attributes)
}
