//! What a series is: a canonical name, labels, a unit, and how its values behave.
//!
//! Names follow OpenTelemetry's style (dotted, lower case, the unit never in the name); labels use its attribute names
//! where one exists (`network.interface.name`, `network.io.direction`). All of them are rows of one table,
//! railwatch-vocabulary. The identifier is the wire's: every host and every restart gives the same series the same one.

use crate::bounds::Bounds;
use crate::clock::nanoseconds;
use railwatch_vocabulary::Declared;
use std::fmt;
use std::time::Duration;

/// Identifier of a series: stable over restarts, the same for the same name and labels on every host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u64);

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What happens to a counter at the end of its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// Starts again at zero (mlx5 queue counters).
    Wraps,
    /// Stays at its maximum until somebody clears it (InfiniBand PMA counters).
    Saturates,
}

/// How a counter behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counter {
    /// Width of the register, 1 to 64 bits.
    pub bits: u8,
    /// What happens at the end of that width.
    pub at_limit: AtLimit,
    /// Canonical units per raw step (4 for InfiniBand's data counters, which count 4-byte words).
    pub scale: u32,
    /// Raw steps per second beyond which a movement is a glitch or a reset, and never a rate.
    pub max_per_s: f64,
    /// The kernel refreshes this value only so often: no rate is computed over a shorter time (0: every read is fresh).
    pub refresh_ns: u64,
}

impl Counter {
    /// A counter that wraps; a movement of over a sixteenth of its range in a second is not believed (64 bits: over
    /// 10^13, more than any link carries in bytes).
    #[must_use]
    pub fn wrapping(bits: u8) -> Self {
        let max_per_s = if bits >= 64 { 1e13 } else { 2f64.powi(i32::from(bits)) / 16.0 };
        Self { bits, at_limit: AtLimit::Wraps, scale: 1, max_per_s, refresh_ns: 0 }
    }

    /// A counter that stops at its maximum.
    #[must_use]
    pub fn saturating(bits: u8) -> Self {
        Self { bits, at_limit: AtLimit::Saturates, scale: 1, max_per_s: 1e13, refresh_ns: 0 }
    }

    /// The same counter, each raw step worth `scale` units.
    #[must_use]
    pub fn scaled(self, scale: u32) -> Self {
        Self { scale, ..self }
    }

    /// The same counter, refreshed by the kernel or the device only so often.
    #[must_use]
    pub fn refreshed_every(self, refresh: Duration) -> Self {
        Self { refresh_ns: nanoseconds(refresh), ..self }
    }

    /// Largest value the register can hold.
    #[must_use]
    pub fn max_raw(&self) -> u64 {
        u64::MAX.checked_shr(64 - u32::from(self.bits.clamp(1, 64))).unwrap_or(u64::MAX)
    }
}

/// How the values of a series behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A value of its own at every reading.
    Gauge,
    /// A count that only grows, up to its limit; windows hold its rate per second.
    Counter(Counter),
}

/// What a series is about, in the words of the entity graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entity {
    /// Kind of entity: `port`, `host`.
    pub kind: &'static str,
    /// Its name on this host: `eth0`, `mlx5_0/1` (RDMA device and port).
    pub name: String,
}

/// Everything there is to say about a series except its values.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesDef {
    id: SeriesId,
    name: &'static str,
    labels: Vec<(&'static str, String)>,
    unit: &'static str,
    kind: Kind,
    entity: Entity,
    bounds: Option<Bounds>,
}

impl SeriesDef {
    /// A series with its canonical name, its unit as UCUM code (`By`, `{packet}`, `1`), its behaviour, the entity it
    /// tells of and its labels in any order.
    #[must_use]
    pub fn new(
        name: &'static str,
        unit: &'static str,
        kind: Kind,
        entity: Entity,
        labels: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort_unstable();
        let pairs = labels.iter().map(|(key, value)| (*key, value.as_str()));
        let id = SeriesId(railwatch_wire::series::id(name, entity.kind, &entity.name, pairs));
        Self { id, name, labels, unit, kind, entity, bounds: None }
    }

    /// The same series, with bounds that its source knows; they are no part of its identity, and a later declaration may
    /// bring others.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds: Some(bounds), ..self }
    }

    /// The bounds it was declared with.
    #[must_use]
    pub fn bounds(&self) -> Option<Bounds> {
        self.bounds
    }

    /// Stable identifier.
    #[must_use]
    pub fn id(&self) -> SeriesId {
        self.id
    }

    /// Canonical name, such as `hw.network.io`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Labels, sorted by key.
    #[must_use]
    pub fn labels(&self) -> &[(&'static str, String)] {
        &self.labels
    }

    /// The value of one label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str())
    }

    /// Unit as UCUM code. For a counter: the unit of its count; its windows hold that unit per second.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// Gauge, or which sort of counter.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the series tells of.
    #[must_use]
    pub fn entity(&self) -> &Entity {
        &self.entity
    }

    /// As the vocabulary judges it.
    #[must_use]
    pub fn declared(&self) -> Declared<'_> {
        Declared {
            name: self.name,
            unit: self.unit,
            is_counter: matches!(self.kind, Kind::Counter(_)),
            entity: self.entity.kind,
            labels: self.labels.iter().map(|(key, value)| (*key, value.as_str())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_key_and_kept_sorted() {
        let entity = Entity { kind: "port", name: "eth0".into() };
        let def = SeriesDef::new("x", "By", Kind::Gauge, entity, [("b", "2".to_owned()), ("a", "1".to_owned())]);
        assert_eq!(def.labels(), [("a", "1".to_owned()), ("b", "2".to_owned())]);
        assert_eq!((def.label("b"), def.label("c")), (Some("2"), None));
    }

    #[test]
    fn a_register_holds_what_its_width_allows() {
        for (bits, max) in [(4, 15), (8, 255), (16, 65_535), (32, u64::from(u32::MAX)), (64, u64::MAX)] {
            assert_eq!(Counter::saturating(bits).max_raw(), max);
        }
    }
}
